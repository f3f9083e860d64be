"""One training run in many processes, started by `torchrun`: who is who, and what they exchange."""

from __future__ import annotations

import hashlib
import inspect
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, _get_default_store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from mrcnn.errors import UserError

_VARIABLES = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_STEP_TIMEOUT = timedelta(seconds=60)  # of gradients: a process that is late by this is dead
_WAIT_TIMEOUT = timedelta(hours=2)  # of what others wait for, as one process scoring results


@dataclass(frozen=True)
class World:
    """The processes of a run; without `torchrun`, this one alone."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on this machine
    # Groups on the CPU for messages: one that waits for slow work, one whose processes keep step.
    control: Any = None
    keeping_step: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in each of them; on the device of `values`."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process, for use between steps. Touches no GPU."""
        if self.size == 1:
            return flag
        flags = torch.tensor([float(flag)])
        dist.all_reduce(flags, group=self.keeping_step)
        return bool(flags.item())

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in the order of ranks; in the main one, [] in others."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.is_main else None
        dist.gather_object(value, values, group=self.control)
        return values or []

    def from_main(self, value: Any) -> Any:
        """The value of the main process, in each of them."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, group=self.control)
        return values[0]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier(group=self.control)


ALONE = World()


def join(device: str) -> World:
    """The processes that `torchrun` started, connected; alone where it started none.

    Gradients travel by NCCL on GPUs, by gloo on CPUs.

    Raises:
        UserError: if only some of the variables that `torchrun` sets are there.
    """
    if "WORLD_SIZE" not in os.environ:
        return ALONE
    if lacking := [name for name in _VARIABLES if name not in os.environ]:
        raise UserError(
            f"WORLD_SIZE is set, and {', '.join(lacking)} is not: start many processes with "
            "torchrun, which sets all of them, or unset WORLD_SIZE for one"
        )
    store, rank, size = next(rendezvous("env://", timeout=_WAIT_TIMEOUT))
    # After a restart the store may still hold the addresses of the processes that died.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    local = int(os.environ["LOCAL_RANK"])
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(local)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=PrefixStore(f"mrcnn/{attempt}", store),
        rank=rank,
        world_size=size,
        timeout=_STEP_TIMEOUT,
    )
    control = dist.new_group(backend="gloo", timeout=_WAIT_TIMEOUT)
    return World(rank, size, local, control, dist.new_group(backend="gloo", timeout=_STEP_TIMEOUT))


def distribute(model: nn.Module, device: torch.device) -> DistributedDataParallel:
    """The model with gradients that are the mean over all processes.

    Buffers belong to frozen norms, or are statistics of each process's batches: neither travels.
    """
    options = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in options else "broadcast_buffers"
    return DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        **{name: False},  # type: ignore[arg-type]
    )


def leave() -> None:
    """Disconnect from the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def is_said(message: str) -> bool:
    """Whether another process has said the same to the user; if not, it is now up to this one."""
    key = hashlib.sha256(message.encode()).hexdigest()
    try:
        return _get_default_store().add(f"mrcnn/said/{key}", 1) > 1
    except (RuntimeError, ValueError):  # the store is gone, or was never there
        return False


def missing(world: World, seconds: float = 10.0) -> list[int]:
    """After a failed exchange: the ranks that do not answer any more.

    Every process that is alive leaves its mark in the store that `torchrun` keeps, or else the
    process of rank 0.
    """
    silent = []
    try:
        store = _get_default_store()
        store.set(f"mrcnn/alive/{world.rank}", "1")
        for rank in range(world.size):
            try:
                store.wait([f"mrcnn/alive/{rank}"], timedelta(seconds=seconds))
            except dist.DistStoreError:
                silent.append(rank)
                seconds = 0.1  # all had the same time
    except dist.DistNetworkError:  # the store is gone, with the process that kept it
        return [] if dist.is_torchelastic_launched() else [0]
    return silent
