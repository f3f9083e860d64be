"""Convolutions and matrix products that end in a sum or a ReLU, in one pass where PyTorch has it.

Without gradients, in eager mode, in float32 on CPU, oneDNN applies what follows a product while the
result is in registers. PyTorch offers that to its compiler as `torch.ops.mkldnn`; everywhere else
the same is computed step by step.
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
    """`relu(conv2d(x, weight, bias) + add)`.

    Args:
        x: (N, C, H, W).
        weight: (channels, C / groups, h, w).
        bias: (channels,) or None.
        add: of the result's shape, a value that nobody needs afterwards: it may be overwritten.
    """
    if _fuses(x, weight, bias, add):
        how = (weight, bias, padding, stride, dilation, groups)
        mkldnn = torch.ops.mkldnn
        fused: Tensor
        if add is None:
            fused = mkldnn._convolution_pointwise(x, *how, "relu" if relu else "none", [], None)
        else:
            last = "relu" if relu else None
            fused = mkldnn._convolution_pointwise_(add, x, *how, "add", 1.0, last, [], None)
        return fused
    y = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    if add is not None:
        y += add
    return F.relu(y, inplace=True) if relu else y


def linear(x: Tensor, weight: Tensor, bias: Tensor, *, relu: bool = False) -> Tensor:
    """`relu(x @ weight.T + bias)`.

    Args:
        x: (rows, inputs).
        weight: (outputs, inputs).
        bias: (outputs,).
    """
    if _fuses(x, weight, bias):
        last = "relu" if relu else "none"
        fused: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, last, [], None)
        return fused
    y = F.linear(x, weight, bias)
    return F.relu(y, inplace=True) if relu else y


def _fuses(x: Tensor, *others: Tensor | None) -> bool:
    """Whether oneDNN can take `x`; fake tensors, which have no values, are of another type."""
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
