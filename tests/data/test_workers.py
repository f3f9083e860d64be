"""Worker processes: order, signals, random state, and reports of those that die."""

import multiprocessing
import os
import resource
import signal
import time

import pytest
import torch
from torch.utils.data import Dataset

from mrcnn.data.loading import workers
from mrcnn.data.loading.workers import batches
from mrcnn.errors import UserError
from mrcnn.ops.instance_masks import InstanceMasks
from mrcnn.structures import ImageBatch, Targets

NUMBERS = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11], [12, 13], [14, 15]]


class Items(Dataset):
    """Item i is (i, threads of PyTorch where it is made)."""

    def __getitem__(self, index):
        return index, torch.get_num_threads()


class Large(Dataset):
    def __getitem__(self, index):
        return torch.zeros(2**18)  # a mebibyte


@pytest.mark.parametrize("count", [0, 1, 2])
def test_batches_come_in_order_and_global_random_numbers_stay(count):
    state = torch.get_rng_state()
    made = list(batches(Items(), NUMBERS, list, count))
    assert [[index for index, _ in batch] for batch in made] == NUMBERS
    assert torch.equal(torch.get_rng_state(), state)
    assert all(threads == 1 for batch in made for _, threads in batch)


def test_workers_leave_signals_to_the_trainer():
    made = batches(Items(), NUMBERS, list, 2)
    seen = [next(made) for _ in range(4)]  # two of each, so both have started
    for process in multiprocessing.active_children():
        os.kill(process.pid, signal.SIGINT)
        os.kill(process.pid, signal.SIGTERM)
    assert [[index for index, _ in batch] for batch in seen + list(made)] == NUMBERS


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (signal.SIGKILL, "run out of memory"),
        pytest.param(signal.SIGBUS, "/dev/shm has .* MiB", marks=pytest.mark.slow),
    ],
)
def test_a_worker_that_is_killed_is_named_when_the_next_batch_is_due(number, cause):
    made = batches(Items(), NUMBERS * 10, list, 2)
    next(made)
    process = multiprocessing.active_children()[0]
    os.kill(process.pid, number)
    time.sleep(0.2)  # here a trainer would be in the middle of a step: nothing is raised
    with pytest.raises(UserError) as caught:
        list(made)
    message = f"process {process.pid}, one of 2 that read images, was killed by {number.name}; .*"
    assert caught.match(message + cause + ".*lower --workers or --batch-size")


def test_a_worker_that_dies_slowly_is_named(monkeypatch):
    """Its files, and so its sentinel, close before it has an exit code."""

    class Dying:
        pid, exitcode = 7, None

        def join(self, timeout):
            self.exitcode = -signal.SIGKILL

    reading, writing = os.pipe()
    os.close(writing)
    Dying.sentinel = reading

    def broken():
        raise ConnectionResetError
        yield

    with pytest.raises(UserError, match=r"process 7, one of 1 .* was killed by SIGKILL"):
        workers._next(broken(), {Dying()})
    os.close(reading)


def test_the_limit_of_open_files_is_raised_or_named():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        assert len(list(batches(Items(), NUMBERS, list, 3))) == len(NUMBERS)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 3 * workers.FILES_PER_WORKER
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with pytest.raises(UserError, match=r"may need .* open files, .* allowed; .*ulimit -n"):
        next(batches(Items(), NUMBERS, list, 2**40))


class Leaving(Dataset):
    def __getitem__(self, index):
        os._exit(3)


@pytest.mark.slow
def test_a_worker_that_ends_by_itself_is_named():
    with pytest.raises(UserError, match=r"ended with code 3; .* --workers 0 the error appears"):
        list(batches(Leaving(), NUMBERS, list, 1))


def test_full_shared_memory_is_reported_at_once():
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, hard))  # of files in shared memory, too
    try:
        with pytest.raises(UserError, match=r"no shared memory \(.*\); /dev/shm .* --shm-size"):
            list(batches(Large(), NUMBERS, list, 1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Failing(Dataset):
    def __getitem__(self, index):
        raise RuntimeError("a bug")


@pytest.mark.parametrize("count", [0, 1])
def test_other_errors_are_raised_unchanged(count):
    with pytest.raises(RuntimeError, match="a bug"):
        list(batches(Failing(), NUMBERS, list, count))


def test_every_tensor_of_a_batch_is_pinned(monkeypatch):
    """There is no pinned memory without a GPU, so that what is asked to be pinned is counted."""
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self + 0)
    masks = InstanceMasks(*(torch.zeros(1) + i for i in range(7)))
    targets = Targets(*(torch.zeros(1) + 7 + i for i in range(3)), masks, torch.tensor([10.0]))
    images = ImageBatch(torch.tensor([11.0]), torch.tensor([12.0])).pin_memory()
    moved = targets.pin_memory()
    assert sorted(int(tensor) for tensor in pinned) == list(range(13))
    assert float(moved.seeds) == 10
    assert float(moved.masks.transform) == 6
    assert float(images.sizes) == 12


def test_unreadable_shared_memory_is_described(monkeypatch):
    monkeypatch.setattr(workers, "SHARED_MEMORY", "/no/such/folder")
    assert workers._free_memory() == "/no/such/folder cannot be read"
