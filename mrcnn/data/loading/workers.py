"""Batches from worker processes, with unchanged errors and a report of processes that die."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import resource
import signal
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from mrcnn.errors import UserError

SHARED_MEMORY = "/dev/shm"
# Sent by a terminal or a job system, which may send them to all processes of a job.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_REMEDY = "lower --workers or --batch-size"
# At most: each of two batches has 13 tensors, which are open files in shared memory; and pipes.
FILES_PER_WORKER = 32


def batches(
    items: Dataset[Any],
    keys: Iterable[list[Any]],
    collate: Callable[[list[Any]], Any],
    workers: int,
) -> Iterator[Any]:
    """Yield the collated items of each list of keys, in order.

    Every worker process keeps two batches ready. Workers ignore `STOP_SIGNALS`; this process
    handles them. With a GPU, tensors are in pinned memory. PyTorch's global random state does not
    change.

    Raises:
        UserError: if an item raises it, if a process dies, if shared memory is full, or if too few
            open files are allowed.
    """
    _allow_open_files(workers)
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
        # The DataLoader's own handler would raise in the middle of a training step. `_next` detects
        # dead processes anyway.
        signal.signal(signal.SIGCHLD, on_child)
    processes = set(multiprocessing.active_children()) - before

    def stop() -> None:
        for process in processes:
            process.kill()

    atexit.register(stop)  # workers ignore the SIGTERM that would end them at exit
    try:
        while (batch := _next(iterator, processes)) is not None:
            if isinstance(batch, UserError):
                raise batch
            yield batch
    finally:
        del iterator  # ends the workers in order
        stop()
        atexit.unregister(stop)


def _allow_open_files(workers: int) -> None:
    """Raise the soft limit of open files if the workers need it.

    Beyond the limit a thread of PyTorch fails, and the main process would wait forever.

    Raises:
        UserError: if the system does not allow as many.
    """
    if not workers:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(os.listdir("/dev/fd")) + FILES_PER_WORKER * workers
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    except (ValueError, OSError):
        raise UserError(
            f"--workers {workers}: may need {needed} open files, {hard} are allowed; lower "
            f"--workers, or raise the limit with `ulimit -n {needed}`"
        ) from None


def _next(iterator: Iterator[Any], processes: Collection[BaseProcess]) -> Any:
    """Return the next batch, or None after the last; raise a `UserError` if a process died."""
    try:
        return next(iterator, None)
    except (RuntimeError, OSError, EOFError) as error:
        # A process closes its files, and with them its sentinel, before it has an exit code.
        sentinels = [process.sentinel for process in processes]
        ready = wait(sentinels, timeout=1) if sentinels else []
        for process in processes:
            if process.sentinel in ready:
                process.join(timeout=10)
            if (code := process.exitcode) is not None:  # workers do not end by themselves
                raise UserError(_death(process, code, len(processes))) from error
        raise


class _Batches(Dataset[Any]):
    """A data set of whole batches, which returns a `UserError` as a value.

    An error raised in a worker process would arrive as the text of a traceback.
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

    The queue between processes would do so later, in a thread that hides its errors. The batch
    would be lost, and the main process would wait forever.
    """
    if isinstance(value, Tensor):
        try:
            value.share_memory_()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise UserError(
                f"a batch finds no shared memory ({error}); {_free_memory()}: {_REMEDY}, or "
                "enlarge it, for example with `docker run --shm-size=8g`"
            ) from error
    elif is_dataclass(value):
        for field in fields(value):
            _share(getattr(value, field.name))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for part in value:
            _share(part)


def _ignore_signals(worker: int) -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _death(process: BaseProcess, code: int, workers: int) -> str:
    """Describe which process ended, how, and how to fix it."""
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    causes = {
        -signal.SIGKILL: f"most often the machine has run out of memory (see `dmesg`): {_REMEDY}",
        -signal.SIGBUS: f"most often shared memory is full; {_free_memory()}: {_REMEDY}",
    }
    unknown = "see its output above; with --workers 0 the error appears in this process"
    return (
        f"process {process.pid}, one of {workers} that read images, {how}; "
        f"{causes.get(code, unknown)}"
    )


def _free_memory() -> str:
    """Describe the size of shared memory, and how much of it is free."""
    try:
        system = os.statvfs(SHARED_MEMORY)
    except OSError:
        return f"{SHARED_MEMORY} cannot be read"
    blocks = 2**20 / system.f_frsize  # in a mebibyte
    total, free = system.f_blocks / blocks, system.f_bavail / blocks
    return f"{SHARED_MEMORY} has {total:,.0f} MiB, of which {free:,.0f} MiB are free"
