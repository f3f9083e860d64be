"""Convolutions and matrix products fused with a following sum or ReLU, if PyTorch supports it.

For float32 on CPU, in eager mode and without gradients, oneDNN applies the following operations
while the result is in registers. PyTorch offers that to its compiler as `torch.ops.mkldnn`. In all
other cases, the same result is computed step by step.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...] = (1, 1),
    groups: int = 1,
    *,
    add: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Compute `relu(conv2d(x, weight, bias) + add)`.

    Args:
        x: (N, C, H, W).
        weight: (channels, C / groups, h, w).
        bias: (channels,) or None.
        stride: (vertical, horizontal), like `padding` and `dilation`.
        padding: zeros on each side.
        dilation: steps between the cells of the kernel.
        groups: number of channel groups.
        add: a tensor with the shape of the result; it may be overwritten.
        relu: whether to apply the ReLU.
    """
    if _fuses(x, weight, bias, add):
        arguments = (weight, bias, padding, stride, dilation, groups)
        mkldnn = torch.ops.mkldnn
        fused: Tensor
        if add is None:
            fused = mkldnn._convolution_pointwise(
                x, *arguments, "relu" if relu else "none", [], None
            )
        else:
            last = "relu" if relu else None
            fused = mkldnn._convolution_pointwise_(add, x, *arguments, "add", 1.0, last, [], None)
        return fused
    y = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    if add is not None:
        y += add
    return F.relu(y, inplace=True) if relu else y


def linear(x: Tensor, weight: Tensor, bias: Tensor, *, relu: bool = False) -> Tensor:
    """Compute `relu(x @ weight.T + bias)`.

    Args:
        x: (rows, inputs).
        weight: (outputs, inputs).
        bias: (outputs,).
        relu: whether to apply the ReLU.
    """
    if _fuses(x, weight, bias):
        last = "relu" if relu else "none"
        fused: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, last, [], None)
        return fused
    y = F.linear(x, weight, bias)
    return F.relu(y, inplace=True) if relu else y


def _fuses(x: Tensor, *others: Tensor | None) -> bool:
    """Return whether oneDNN can fuse these tensors; fake tensors have a different type."""
    needs_grad = any(tensor is not None and tensor.requires_grad for tensor in (x, *others))
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > 0
        and not (needs_grad and torch.is_grad_enabled())
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )
