"""A convolution with what follows it: norm, sum, ReLU."""

from __future__ import annotations

import torch
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

    def affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift of each channel."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


def conv(
    x: Tensor,
    layer: nn.Module,
    norm: nn.Module | None = None,
    *,
    add: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """`relu(norm(layer(x)) + add)`, each part as asked for.

    A frozen norm is folded into the weights anew at every call: scaling them is nothing beside the
    convolution, they can never be out of date, and gradients reach the layer's own weights.

    Args:
        x: (N, C, H, W).
        layer: `nn.Conv2d`.
        norm: frozen or not.
        add: (N, channels, H', W'), a value of the result's shape that nobody needs afterwards: it
            may be overwritten.
    """
    assert isinstance(layer, nn.Conv2d)
    assert isinstance(layer.padding, tuple)
    weight, bias = layer.weight, layer.bias
    if isinstance(norm, FrozenBatchNorm):
        scale, shift = norm.affine()
        weight = weight * scale[:, None, None, None]
        bias = shift if bias is None else bias * scale + shift
        norm = None
    how = (layer.stride, layer.padding, layer.dilation, layer.groups)
    if norm is None:
        return conv2d(x, weight, bias, *how, add=add, relu=relu)
    y = norm(conv2d(x, weight, bias, *how))
    if add is not None:
        y += add
    return F.relu(y, inplace=True) if relu else y
