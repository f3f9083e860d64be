"""Convolutions with the norm, sum and ReLU that follow them; norms and how to fold them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeGuard

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from mrcnn.ops.fused import conv2d


class FrozenBatchNorm(nn.Module):
    """Batch norm whose statistics, scale and shift are fixed, as detectors use in fine-tuning."""

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
        """Normalise (N, C, H, W)."""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


def _group_norm(channels: int, eps: float) -> nn.Module:
    return nn.GroupNorm(32, channels, eps)  # 32 groups throughout: Wu and He, 2018


def _group_norm_of_8(channels: int, eps: float) -> nn.Module:
    return nn.GroupNorm(channels // 8, channels, eps)


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch norm whose training statistics cover the images of all processes, on CPU and GPU.

    In inference, or with one process, it equals `nn.BatchNorm2d`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, H, W)."""
        if self.training and _many_processes():
            return live_batch_norm(x, self)
        return super().forward(x)


NORMS: dict[str, Callable[[int, float], nn.Module]] = {
    "frozen_batch": FrozenBatchNorm,
    "batch": nn.BatchNorm2d,
    "sync_batch": SyncBatchNorm,
    "group": _group_norm,
    # Narrow groups are slow on CPUs. With 2 channels per group (64 channels in 32 groups), the
    # backward pass of the norm takes five times as long as with 8.
    "group_of_8": _group_norm_of_8,
}


def check_choice(argument: str, value: str, known: Iterable[str]) -> None:
    """Raise a ValueError that lists the known names if `value` is not among them."""
    if value not in known:
        raise ValueError(f"{argument} must be one of {', '.join(known)}, got {value!r}")


class Conv(nn.Conv2d):
    """A convolution that keeps the size of its map, and the norm that follows it, if any.

    Args:
        channels_in: of the input.
        channels: of the output.
        kernel: height and width.
        norm: a key of `NORMS`, or "none", which gives the convolution a bias instead.
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
    """Return `relu(norm(layer(x)) + add)`, where norm, sum and ReLU are optional.

    A norm with fixed statistics is folded into the weights at every call. Scaling the weights costs
    little next to the convolution, they are never out of date, and gradients reach the weights of
    the layer. `fold_norms` folds once and for all, for inference.

    Args:
        x: (N, C, H, W).
        layer: an `nn.Conv2d`, or a `Conv`, whose norm is then used.
        norm: the norm, or None.
        add: (N, channels, H', W'), added to the result. It may be overwritten.
        relu: apply a ReLU.
        valid: (N,) bool. In training, batch norm computes its statistics from these rows only.
    """
    assert isinstance(layer, nn.Conv2d)
    assert isinstance(layer.padding, tuple)
    if isinstance(layer, Conv):
        norm = layer.norm
    weight, bias = layer.weight, layer.bias
    if _has_fixed_statistics(norm):
        weight, bias = _folded(layer, norm)
        norm = None
    options = (layer.stride, layer.padding, layer.dilation, layer.groups)
    if norm is None:
        return conv2d(x, weight, bias, *options, add=add, relu=relu)
    y = conv2d(x, weight, bias, *options)
    if valid is not None and isinstance(norm, nn.BatchNorm2d) and norm.training:
        y = live_batch_norm(y, norm, valid)
    else:
        if isinstance(norm, nn.GroupNorm):
            _subtract_means(y, norm.num_groups)
        y = norm(y)
    if add is not None:
        y += add
    return F.relu(y, inplace=True) if relu else y


def _subtract_means(x: Tensor, groups: int) -> None:
    """Subtract from each group about its mean, in place, where group norm would lose digits.

    That does not change the result of the norm. But for channels_last maps on CPU, PyTorch takes
    the variance as E[x^2] - E[x]^2 in float32. Training is left alone, to save its time.
    """
    if (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.shape[2] * x.shape[3] >= 1024
        and not x.is_contiguous()
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    ):
        means = x[:, :, ::8, ::8].reshape(len(x), groups, -1).mean(2)
        x.sub_(means.repeat_interleave(x.shape[1] // groups, 1)[:, :, None, None])


def _has_fixed_statistics(norm: nn.Module | None) -> TypeGuard[FrozenBatchNorm | nn.BatchNorm2d]:
    if isinstance(norm, nn.BatchNorm2d):
        return not norm.training
    return isinstance(norm, FrozenBatchNorm)


def _folded(layer: nn.Conv2d, norm: FrozenBatchNorm | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return weight and bias of one convolution that equals the layer and its norm."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    bias = shift if layer.bias is None else layer.bias * scale + shift
    return layer.weight * scale[:, None, None, None], bias


@torch.no_grad()
def fold_norms(model: nn.Module) -> None:
    """Fold norms with fixed statistics into the convolutions before them, in place.

    The model computes the same without the norms. It can no longer be trained.

    Args:
        model: in evaluation mode.
    """
    before: nn.Module | None = None
    # A norm is registered directly after its convolution, or inside it.
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
    """Apply batch norm in training, with statistics that ignore padded rows.

    With fixed shapes, an image with few RoIs has padded slots, which must not count as features.
    For a `SyncBatchNorm` the statistics cover all processes.

    Args:
        x: (N, C, H, W).
        norm: its running statistics are updated.
        valid: (N,) bool. None counts every row.
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
    """Sum over all processes. The gradient is summed, too, since every process uses the sum."""

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
