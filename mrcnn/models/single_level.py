"""One map instead of a pyramid: conv5_3 of VGG (Faster R-CNN), C4 and dilated C5 of ResNets."""

from __future__ import annotations

from torch import Tensor, nn


class SingleLevel(nn.Module):
    """A backbone whose last map alone is used.

    Args:
        body: returns one map a stage and states `strides` and `channels`.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.channels: int = list(body.channels)[-1]  # type: ignore[arg-type]
        self.strides: list[int] = list(body.strides)[-1:]  # type: ignore[arg-type]
        self.levels = ["c"]

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) to {"c": (N, channels, H / stride, W / stride)}."""
        return {"c": self.body(pixels)[-1]}
