"""Batch norm over processes equals batch norm on the whole batch."""

from pathlib import Path

import torch
from torch import Tensor, nn

from mrcnn.models.layers import SyncBatchNorm, live_batch_norm

PROCESSES = 2
FIRST_ROW = [0, 3, 8]  # of each process, and the end: their shares of the batch differ


def whole_batch() -> tuple[Tensor, Tensor, Tensor]:
    """Features (N, C, H, W), the gradient of what is made of them, and which rows are valid."""
    generator = torch.Generator().manual_seed(0)
    x, grad = torch.randn(2, 8, 6, 5, 4, generator=generator)
    valid = torch.tensor([True, False, True, True, True, False, False, True])
    return x * 3 + torch.arange(6.0)[:, None, None], grad, valid


def normalise(norm: nn.BatchNorm2d, x: Tensor, grad: Tensor, valid: Tensor | None = None) -> list:
    """Of one training step: the output and its gradients, then the running statistics."""
    norm.weight.data = torch.linspace(0.5, 1.5, 6, dtype=x.dtype)
    x = x.clone().requires_grad_()
    y = norm(x) if valid is None else live_batch_norm(x, norm, valid)
    y.backward(grad)
    found = [y, x.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var]
    return [value.detach() for value in found]


def of_a_process(rank: int, folder: str) -> None:
    """What one of the processes does; its results go to a file."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES
    )
    x, grad, valid = (part[FIRST_ROW[rank] : FIRST_ROW[rank + 1]] for part in whole_batch())
    every = normalise(SyncBatchNorm(6), x, grad)
    used = torch.where(valid[:, None, None, None], grad, 0.0)  # no gradient reaches padding
    torch.save([every, normalise(SyncBatchNorm(6), x, used, valid)], Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_batch_norm_of_two_processes_is_that_of_the_whole_batch(tmp_path):
    torch.multiprocessing.spawn(of_a_process, (str(tmp_path),), PROCESSES)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(PROCESSES))
    x, grad, valid = whole_batch()
    for one, other, rows in zip(first, second, [valid | True, valid], strict=True):
        exact = normalise(nn.BatchNorm2d(6).double(), x[rows].double(), grad[rows].double())
        pairs = list(zip(one, other, strict=True))
        found = [torch.cat(pair)[rows] for pair in pairs[:2]]
        found += [sum(pair) for pair in pairs[2:4]]
        assert all(torch.equal(*pair) for pair in pairs[4:])
        found += one[4:]
        for value, expected in zip(found, exact, strict=True):
            assert (value - expected).abs().max() <= 1e-6 * expected.abs().max().clamp(min=1)


def test_batch_norm_of_one_process_is_batch_norm():
    x, grad, _ = whole_batch()
    ours, theirs = SyncBatchNorm(6), nn.BatchNorm2d(6)
    results = normalise(ours, x, grad), normalise(theirs, x, grad)
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert torch.equal(ours.eval()(x), theirs.eval()(x))
