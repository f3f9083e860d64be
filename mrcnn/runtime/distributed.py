"""Processes of a run that `torchrun` started: their ranks and what they exchange."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
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
from mrcnn.runtime.device import find_device

_VARIABLES = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_STEP_TIMEOUT = timedelta(seconds=60)  # of gradients; a process later than this is dead
_WAIT_TIMEOUT = timedelta(hours=2)  # of slow work in one process, such as scoring


@dataclass(frozen=True)
class World:
    """The processes of a run; without `torchrun`, only this one."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on this machine
    # CPU groups for messages: `control` waits for slow work, `keeping_step` has the step timeout.
    control: Any = None
    keeping_step: Any = None

    @property
    def is_main(self) -> bool:
        """Return whether this process writes files and prints messages."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over all processes, in each of them, on the device of `values`."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process. Does not use the GPU."""
        if self.size == 1:
            return flag
        flags = torch.tensor([float(flag)])
        dist.all_reduce(flags, group=self.keeping_step)
        return bool(flags.item())

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes by rank in the main process, [] in the others."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.is_main else None
        dist.gather_object(value, values, group=self.control)
        return values or []

    def from_main(self, value: Any) -> Any:
        """Return the value of the main process, in each process."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, group=self.control)
        return values[0]

    def device(self, name: str) -> torch.device:
        """Return a device by its name; that of this process, if a GPU has no number."""
        device = find_device(name)
        is_open = device.type == "cuda" and device.index is None
        return find_device(f"cuda:{self.local_rank}") if is_open else device

    def wait(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier(group=self.control)


ALONE = World()


def _join(device: str) -> World:
    if "WORLD_SIZE" not in os.environ:
        return ALONE
    if lacking := [name for name in _VARIABLES if name not in os.environ]:
        raise UserError(
            f"WORLD_SIZE is set, but {', '.join(lacking)} is not: start several processes with "
            "torchrun, which sets all of them, or unset WORLD_SIZE to use one process"
        )
    store, rank, size = next(rendezvous("env://", timeout=_WAIT_TIMEOUT))
    # After a restart the store may still hold the addresses of the processes that died.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    local = int(os.environ["LOCAL_RANK"])
    on_gpu = find_device(device).type == "cuda"
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
    """Wrap the model, so that gradients are the mean over all processes.

    Buffers are not exchanged: they belong to frozen norms, or are statistics of each process.
    """
    options = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in options else "broadcast_buffers"
    return DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        **{name: False},  # type: ignore[arg-type]
    )


@contextmanager
def connected(device: str) -> Iterator[World]:
    """Connect to the other processes that `torchrun` started, if any, inside this context.

    Gradients are exchanged by NCCL on GPUs and by gloo on CPUs.

    Raises:
        UserError: if some of the environment variables of `torchrun` are not set, or another
            process has stopped responding.
    """
    world = _join(device)
    try:
        yield world
    except RuntimeError as error:
        if world.size == 1 or not (ranks := unresponsive_ranks(world)):
            raise
        raise UserError(
            f"process {world.rank}: rank {', '.join(map(str, ranks))} has stopped responding, so "
            "the run cannot continue. Check its output or the system log. --resume continues "
            "the run."
        ) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def already_reported(message: str) -> bool:
    """Return whether another process has reported this message; if not, mark it as reported."""
    key = hashlib.sha256(message.encode()).hexdigest()
    try:
        return _get_default_store().add(f"mrcnn/said/{key}", 1) > 1
    except (RuntimeError, ValueError):  # the store is gone, or there never was one
        return False


def unresponsive_ranks(world: World, seconds: float = 10.0) -> list[int]:
    """Return the ranks that no longer respond, after a failed exchange.

    Every process that is alive sets a key in the store, which `torchrun`, or else rank 0, keeps.
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
                seconds = 0.1  # the others had the same time
    except dist.DistNetworkError:  # the store is gone, with the process that kept it
        return [] if dist.is_torchelastic_launched() else [0]
    return silent
