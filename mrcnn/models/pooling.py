"""Features of RoIs: every head pools from the pyramid through this one module.

N images, R RoIs an image, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mrcnn.numerics import Numerics
from mrcnn.ops import multiscale_roi_align
from mrcnn.ops.roi_align import CANONICAL_LEVEL


class RoIPooler(nn.Module):
    """RoIAlign over the levels that have a backbone stage of their own.

    Args:
        channels: of the features.
        size: bins a side.
        strides: per level, pixels per cell; the features may have coarser levels beyond.
        numerics: whose sampling to follow.
    """

    def __init__(
        self, channels: int, size: int, strides: Sequence[int], numerics: Numerics
    ) -> None:
        super().__init__()
        self.channels = channels
        self.size, self.strides, self.numerics = size, list(strides), numerics

    def forward(self, features: dict[str, Tensor], boxes: Tensor, valid: Tensor) -> Tensor:
        """Pool every RoI of the batch in one op.

        Args:
            features: per level (N, C, H_l, W_l), fine to coarse.
            boxes: (N, R, 4) xyxy in image pixels.
            valid: (N, R) bool; padded slots pool to zero.
        Returns:
            (N * R, C, size, size), channels_last.
        """
        images, rois = valid.shape
        image_index = torch.arange(images, device=valid.device)[:, None].expand(-1, rois)
        return multiscale_roi_align(
            list(features.values())[: len(self.strides)],
            boxes.reshape(-1, 4),
            torch.where(valid, image_index, -1).reshape(-1),
            scales=[1 / stride for stride in self.strides],
            size=(self.size, self.size),
            sampling_ratio=self.numerics.roi_sampling_ratio,
            aligned=self.numerics.roi_aligned,
            canonical_level=CANONICAL_LEVEL - (self.strides[0].bit_length() - 1),
        )


class Conv5Pooler(nn.Module):
    """Pools RoIs and runs the last stage of the backbone on each of them, as C4 models do.

    Args:
        pooler: gives (N * R, channels of conv4, 2 * size, 2 * size).
        conv5: halves the map.
        channels: of conv5.
    """

    def __init__(self, pooler: RoIPooler, conv5: nn.Module, channels: int) -> None:
        super().__init__()
        self.pooler, self.conv5, self.channels = pooler, conv5, channels
        self.size, self.numerics = pooler.size // 2, pooler.numerics

    def forward(self, features: dict[str, Tensor], boxes: Tensor, valid: Tensor) -> Tensor:
        """Of boxes (N, R, 4), (N * R, channels, size, size); see `RoIPooler`."""
        pooled: Tensor = self.conv5(self.pooler(features, boxes, valid))
        return pooled


Pooler = RoIPooler | Conv5Pooler
