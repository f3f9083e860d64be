"""A convolution with what follows it: norm, sum, ReLU."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeGuard

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from mrcnn.ops.fused import conv2d


class FrozenBatchNorm(nn.Module):
    """Batch norm with fixed statistics and fixed affine values, as detectors fine-tune with."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


def _group_norm(channels: int, eps: float) -> nn.Module:
    return nn.GroupNorm(32, channels, eps)  # 32 groups throughout: Wu and He, 2018


def _group_norm_of_8(channels: int, eps: float) -> nn.Module:
    return nn.GroupNorm(channels // 8, channels, eps)


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch norm whose statistics in training are those of the images of all processes.

    On CPU as on GPU; `nn.BatchNorm2d` in inference, and where there is one process.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and _many_processes():
            return live_batch_norm(x, self)
        return super().forward(x)


NORMS: dict[str, Callable[[int, float], nn.Module]] = {
    "frozen_batch": FrozenBatchNorm,
    "batch": nn.BatchNorm2d,
    "sync_batch": SyncBatchNorm,
    "group": _group_norm,
    # Narrow groups are slow on CPUs: with 2 channels a group, as 64 channels in 32 groups have,
    # the backward of the norm takes five times as long as with 8.
    "group_of_8": _group_norm_of_8,
}


def check_choice(argument: str, value: str, known: Iterable[str]) -> None:
    """Refuse a name that is not known, with a ValueError that tells those that are."""
    if value not in known:
        raise ValueError(f"{argument} must be one of {', '.join(known)}, got {value!r}")


class Conv(nn.Conv2d):
    """A convolution that keeps the size of its map, with the norm that follows it, if any.

    Args:
        norm: a key of `NORMS`, or "none": then the convolution has a bias.
    """

    def __init__(self, channels_in: int, channels: int, kernel: int, norm: str = "none") -> None:
        check_choice("Conv: norm", norm, ("none", *NORMS))
        bare = norm == "none"
        super().__init__(channels_in, channels, kernel, padding=kernel // 2, bias=bare)
        self.norm = None if bare else NORMS[norm](channels, 1e-5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


def conv(
    x: Tensor,
    layer: nn.Module,
    norm: nn.Module | None = None,
    *,
    add: Tensor | None = None,
    relu: bool = False,
    valid: Tensor | None = None,
) -> Tensor:
    """`relu(norm(layer(x)) + add)`, each part as asked for.

    A norm with fixed statistics is folded into the weights anew at every call: scaling them is
    little beside the convolution, they can never be out of date, and gradients reach the layer's
    own weights. `fold_norms` does it once.

    Args:
        x: (N, C, H, W).
        layer: `nn.Conv2d`, or `Conv`, which brings its norm.
        norm: of fixed statistics or not; None where there is none any more.
        add: (N, channels, H', W'), a value of the result's shape that nobody needs afterwards: it
            may be overwritten.
        valid: (N,) bool; the statistics of a live batch norm are those of these rows.
    """
    assert isinstance(layer, nn.Conv2d)
    assert isinstance(layer.padding, tuple)
    if isinstance(layer, Conv):
        norm = layer.norm
    weight, bias = layer.weight, layer.bias
    if _has_fixed_statistics(norm):
        weight, bias = _folded(layer, norm)
        norm = None
    how = (layer.stride, layer.padding, layer.dilation, layer.groups)
    if norm is None:
        return conv2d(x, weight, bias, *how, add=add, relu=relu)
    y = conv2d(x, weight, bias, *how)
    if valid is not None and isinstance(norm, nn.BatchNorm2d) and norm.training:
        y = live_batch_norm(y, norm, valid)
    else:
        y = norm(y)
    if add is not None:
        y += add
    return F.relu(y, inplace=True) if relu else y


def _has_fixed_statistics(norm: nn.Module | None) -> TypeGuard[FrozenBatchNorm | nn.BatchNorm2d]:
    if isinstance(norm, nn.BatchNorm2d):
        return not norm.training
    return isinstance(norm, FrozenBatchNorm)


def _folded(layer: nn.Conv2d, norm: FrozenBatchNorm | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that does what both do."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    bias = shift if layer.bias is None else layer.bias * scale + shift
    return layer.weight * scale[:, None, None, None], bias


@torch.no_grad()
def fold_norms(model: nn.Module) -> None:
    """Take norms of fixed statistics into the convolutions before them, for inference alone.

    In place: the model computes the same, without the norms, and can be trained no more.

    Args:
        model: in evaluation mode.
    """
    before: nn.Module | None = None
    # A norm is registered right after its convolution, or in it.
    for name, module in list(model.named_modules()):
        if _has_fixed_statistics(module):
            assert isinstance(before, nn.Conv2d), name
            weight, bias = _folded(before, module)
            before.weight = nn.Parameter(weight, requires_grad=False)
            before.bias = nn.Parameter(bias, requires_grad=False)
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, None)
        before = module


def live_batch_norm(x: Tensor, norm: nn.BatchNorm2d, valid: Tensor | None = None) -> Tensor:
    """A training step of batch norm whose statistics leave out the rows that are padding.

    Fixed shapes need it: of an image with few RoIs the other slots would count as features. The
    statistics are those of all processes for a `SyncBatchNorm`.

    Args:
        x: (N, C, H, W).
        valid: (N,) bool; None counts every row.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    wide = x if x.dtype == torch.float64 else x.float()
    if valid is None:
        valid = torch.ones(len(x), dtype=torch.bool, device=x.device)
    total = isinstance(norm, SyncBatchNorm) and _many_processes()
    rows = valid[:, None, None, None]
    cells = (valid.sum() * x.shape[2] * x.shape[3]).to(wide.dtype)
    sums = torch.cat([torch.where(rows, wide, 0.0).sum((0, 2, 3)), cells[None]])
    sums = _sum_over_processes(sums) if total else sums
    count = sums[-1].clamp(min=1)
    mean = sums[:-1] / count
    centered = wide - mean[:, None, None]
    squares = torch.where(rows, centered**2, 0.0).sum((0, 2, 3))
    variance = (_sum_over_processes(squares) if total else squares) / count
    with torch.no_grad():
        unbiased = variance * (count / (count - 1).clamp(min=1))
        share = norm.momentum * (sums[-1] > 0)
        norm.running_mean.lerp_(mean, share)
        norm.running_var.lerp_(unbiased, share)
        norm.num_batches_tracked += 1
    scale = norm.weight * (variance + norm.eps).rsqrt()
    return (centered * scale[:, None, None] + norm.bias[:, None, None]).to(x.dtype)


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes. So is its gradient, as each of them used the sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone()
        dist.all_reduce(total)
        return total


def _sum_over_processes(x: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(x)  # type: ignore[no-untyped-call]
    return total


def _many_processes() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
