"""Feature pyramid network (Lin et al., 2017): semantics of the coarse levels on the fine ones."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class FPN(nn.Module):
    """A backbone with lateral connections, and one coarser level subsampled from the last.

    Args:
        body: returns one map a stage and states `strides` and `channels`.
        channels: of every level.
    """

    def __init__(self, body: nn.Module, channels: int) -> None:
        super().__init__()
        strides: list[int] = list(body.strides)  # type: ignore[arg-type]
        self.body, self.channels = body, channels
        self.strides = [*strides, strides[-1] * 2]
        self.levels = [f"p{stride.bit_length() - 1}" for stride in self.strides]
        body_channels: list[int] = list(body.channels)  # type: ignore[arg-type]
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in body_channels)
        self.output = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in body_channels
        )
        for conv in [*self.lateral, *self.output]:
            assert isinstance(conv, nn.Conv2d)
            assert conv.bias is not None
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) to {"p2": (N, channels, H / 4, W / 4), …}, fine to coarse."""
        laterals = [conv(x) for conv, x in zip(self.lateral, self.body(pixels), strict=True)]
        for fine, coarse in zip(laterals[-2::-1], laterals[:0:-1], strict=True):
            fine += F.interpolate(coarse, size=fine.shape[-2:], mode="nearest")
        maps = [conv(x) for conv, x in zip(self.output, laterals, strict=True)]
        maps.append(F.max_pool2d(maps[-1], 1, 2))
        return dict(zip(self.levels, maps, strict=True))
