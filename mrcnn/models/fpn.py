"""Feature pyramid network (Lin et al., 2017): semantics of the coarse levels on the fine ones."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from mrcnn.models.layers import Conv, check_choice, conv


def _stride_2_conv(channels: int) -> nn.Module:
    layer = nn.Conv2d(channels, channels, 3, 2, 1)
    nn.init.kaiming_uniform_(layer.weight, a=1)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


TOPS: dict[str, Callable[[int], nn.Module]] = {
    "max_pool": lambda channels: nn.MaxPool2d(1, 2),
    "conv": _stride_2_conv,
}


class FPN(nn.Module):
    """A backbone with lateral connections, and one coarser level made from the last.

    Args:
        body: returns one map a stage and states `strides` and `channels`.
        channels: of every level.
        norm: of its convolutions, a key of `NORMS` or "none".
        top: what makes the coarser level: "max_pool", which takes every second cell, or "conv", a
            3 x 3 convolution of stride 2 with a bias and no norm.
    """

    def __init__(
        self, body: nn.Module, channels: int, norm: str = "none", top: str = "max_pool"
    ) -> None:
        super().__init__()
        strides: list[int] = list(body.strides)  # type: ignore[arg-type]
        self.body, self.channels = body, channels
        self.strides = [*strides, strides[-1] * 2]
        self.levels = [f"p{stride.bit_length() - 1}" for stride in self.strides]
        body_channels: list[int] = list(body.channels)  # type: ignore[arg-type]
        self.lateral = nn.ModuleList(Conv(c, channels, 1, norm) for c in body_channels)
        self.output = nn.ModuleList(Conv(channels, channels, 3, norm) for _ in body_channels)
        check_choice("FPN: top", top, TOPS)
        self.top = TOPS[top](channels)
        for layer in [*self.lateral, *self.output]:
            assert isinstance(layer, Conv)
            nn.init.kaiming_uniform_(layer.weight, a=1)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) to {"p2": (N, channels, H / 4, W / 4), …}, fine to coarse."""
        return self.merge(self.body(pixels))

    def merge(self, stages: list[Tensor]) -> dict[str, Tensor]:
        """Maps of the body to those of the pyramid."""
        merged: list[Tensor] = []  # coarse to fine
        for x, lateral in zip(stages[::-1], reversed(self.lateral), strict=True):
            above = F.interpolate(merged[-1], x.shape[-2:], mode="nearest") if merged else None
            merged.append(conv(x, lateral, add=above))
        maps = [conv(x, output) for x, output in zip(merged[::-1], self.output, strict=True)]
        maps.append(self.top(maps[-1]))
        return dict(zip(self.levels, maps, strict=True))
