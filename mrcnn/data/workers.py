"""Batches made by worker processes: errors arrive as they are, and a process that dies is told."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from mrcnn.errors import UserError

SHARED_MEMORY = "/dev/shm"
_REMEDY = "lower --workers or --batch-size"


def batches(
    items: Dataset[Any],
    keys: Iterable[list[Any]],
    collate: Callable[[list[Any]], Any],
    workers: int,
) -> Iterator[Any]:
    """Collated items for each list of keys, in order.

    Every worker process keeps two batches ready. They ignore SIGINT and SIGTERM, which a terminal
    or a job system sends to all processes of a job: what is to happen then is decided here. Where
    there is a GPU, tensors come in pinned memory. PyTorch's global random numbers stay untouched.

    Raises:
        UserError: if an item raises it, if a process dies, or if shared memory is full.
    """
    before = set(multiprocessing.active_children())
    on_child = signal.getsignal(signal.SIGCHLD)
    iterator = iter(
        DataLoader(
            _Batches(items, collate),
            sampler=keys,
            batch_size=None,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_ignore_signals,
            generator=torch.Generator(),
        )
    )
    if threading.current_thread() is threading.main_thread():
        # The DataLoader's own handler would raise in the middle of a training step. A death is
        # found in any case by who waits for the next batch.
        signal.signal(signal.SIGCHLD, on_child)
    processes = set(multiprocessing.active_children()) - before
    stop = partial(_kill, processes)
    atexit.register(stop)  # a program that ends waits for its workers, and these ignore its SIGTERM
    try:
        while (batch := _next(iterator, processes)) is not None:
            if isinstance(batch, UserError):
                raise batch
            yield batch
    finally:
        del iterator  # ends them in good order
        stop()
        atexit.unregister(stop)


def _next(iterator: Iterator[Any], processes: Collection[BaseProcess]) -> Any:
    """The next batch, None after the last; the end of a process becomes a `UserError`."""
    try:
        return next(iterator, None)
    except (RuntimeError, OSError, EOFError) as error:
        if sentinels := [process.sentinel for process in processes]:
            wait(sentinels, timeout=1)  # until the end of one is known
        for process in processes:
            if (code := process.exitcode) is not None:  # none ends before it is told to
                raise UserError(_death(process, code, len(processes))) from error
        raise


def _kill(processes: Collection[BaseProcess]) -> None:
    for process in processes:
        process.kill()


class _Batches(Dataset[Any]):
    """A data set of whole batches, so that a `UserError` can travel as a value.

    Raised in a worker process it would arrive as the text of a traceback.
    """

    def __init__(self, items: Dataset[Any], collate: Callable[[list[Any]], Any]) -> None:
        self.items, self.collate = items, collate

    def __getitem__(self, keys: list[Any]) -> Any:
        try:
            batch = self.collate([self.items[key] for key in keys])
            if get_worker_info() is not None:
                _share(batch)
        except UserError as error:
            return error
        return batch


def _share(value: Any) -> None:
    """Move the tensors of a batch to shared memory.

    The queue between processes would do so later, in a thread whose errors nobody sees: the batch
    would be lost, and waited for without end.
    """
    if isinstance(value, Tensor):
        try:
            value.share_memory_()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise UserError(
                f"a batch finds no shared memory ({error}); {_free_memory()}: {_REMEDY}, or give "
                "it more, as by `docker run --shm-size=8g`"
            ) from error
    elif is_dataclass(value):
        for field in fields(value):
            _share(getattr(value, field.name))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for part in value:
            _share(part)


def _ignore_signals(worker: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _death(process: BaseProcess, code: int, workers: int) -> str:
    """Which process ended, how, and what can be done."""
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    causes = {
        -signal.SIGKILL: f"most often the machine has run out of memory (see `dmesg`): {_REMEDY}",
        -signal.SIGBUS: f"most often shared memory is full; {_free_memory()}: {_REMEDY}",
    }
    unknown = "what it printed above may say why; with --workers 0 the error shows where it is"
    return (
        f"process {process.pid}, one of {workers} that read images, {how}; "
        f"{causes.get(code, unknown)}"
    )


def _free_memory() -> str:
    """How large shared memory is, and how much of it is left."""
    try:
        system = os.statvfs(SHARED_MEMORY)
    except OSError:
        return f"{SHARED_MEMORY} cannot be read"
    total, free = (
        blocks * system.f_frsize / 2**20 for blocks in (system.f_blocks, system.f_bavail)
    )
    return f"{SHARED_MEMORY} holds {total:,.0f} MiB, {free:,.0f} MiB of them are free"
