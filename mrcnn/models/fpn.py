"""Necks: a feature pyramid over the maps of a backbone, or only its last map.

N images, H x W padded pixels.
"""

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
    """Feature pyramid network (Lin et al., 2017): fine maps with the semantics of coarse ones.

    Each level is the map of a backbone stage plus the next coarser level, upsampled. One more
    level on top is made from the coarsest.

    Args:
        body: a backbone, which returns one map per stage and has `strides` and `channels`.
        channels: of every level.
        norm: of the convolutions, a key of `NORMS` or "none".
        top: makes the level on top: "max_pool" takes every second cell, "conv" is a 3 x 3
            convolution of stride 2 with a bias and no norm.
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
        """Return the levels of the pyramid, {"p2": (N, channels, H / 4, W / 4), …}, fine to coarse.

        Args:
            pixels: (N, 3, H, W), normalised.
        """
        return self.merge(self.body(pixels))

    def merge(self, stages: list[Tensor]) -> dict[str, Tensor]:
        """Return the levels of the pyramid, given the map of each stage, fine to coarse."""
        merged: list[Tensor] = []  # coarse to fine
        for x, lateral in zip(stages[::-1], reversed(self.lateral), strict=True):
            above = F.interpolate(merged[-1], x.shape[-2:], mode="nearest") if merged else None
            merged.append(conv(x, lateral, add=above))
        maps = [conv(x, output) for x, output in zip(merged[::-1], self.output, strict=True)]
        maps.append(self.top(maps[-1]))
        return dict(zip(self.levels, maps, strict=True))


class SingleLevel(nn.Module):
    """The last map of a backbone alone: conv5_3 of VGG (Faster R-CNN), C4 or dilated C5 of ResNets.

    Args:
        body: a backbone, which returns one map per stage and has `strides` and `channels`.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.channels: int = list(body.channels)[-1]  # type: ignore[arg-type]
        self.strides: list[int] = list(body.strides)[-1:]  # type: ignore[arg-type]
        self.levels = ["c"]

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return the one map, {"c": (N, channels, H / stride, W / stride)}.

        Args:
            pixels: (N, 3, H, W), normalised.
        """
        return {"c": self.body(pixels)[-1]}
