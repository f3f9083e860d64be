"""Features of RoIs: every head pools from the pyramid through this one module.

N images, R RoIs an image, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from mrcnn.boxes import box_area
from mrcnn.models.layers import check_choice
from mrcnn.numerics import NUMERICS, Numerics
from mrcnn.ops import multiscale_roi_align, roi_pool
from mrcnn.ops.roi_align import CANONICAL_LEVEL

ROI_OPS = ("align", "pool")


class RoIPooler(nn.Module):
    """RoIAlign or RoIPool over the levels that have a backbone stage of their own.

    Args:
        channels: of the features.
        size: bins a side.
        strides: per level, pixels per cell; the features may have coarser levels beyond.
        numerics: whose sampling to follow.
        op: "align", or "pool" as in Fast R-CNN, which rounds boxes to whole cells.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        strides: Sequence[int],
        numerics: Numerics = NUMERICS["detectron2"],
        op: str = "align",
    ) -> None:
        super().__init__()
        check_choice("RoIPooler: op", op, ROI_OPS)
        self.channels, self.op = channels, op
        self.size, self.strides, self.numerics = size, list(strides), numerics

    def forward(self, features: dict[str, Tensor], boxes: Tensor, valid: Tensor) -> Tensor:
        """Pool every RoI of the batch, in one op where all levels can be.

        Args:
            features: per level (N, C, H_l, W_l), fine to coarse.
            boxes: (N, R, 4) xyxy in image pixels.
            valid: (N, R) bool; padded slots pool to zero.
        Returns:
            (N * R, C, size, size), channels_last.
        """
        numerics, maps = self.numerics, list(features.values())[: len(self.strides)]
        images, rois = valid.shape
        image_index = torch.arange(images, device=valid.device)[:, None].expand(-1, rois)
        image_index = torch.where(valid, image_index, -1).reshape(-1)
        boxes = boxes.reshape(-1, 4)
        align = partial(
            multiscale_roi_align,
            size=(self.size, self.size),
            sampling_ratio=numerics.roi_sampling_ratio,
            aligned=numerics.roi_aligned,
        )
        scales = [1 / stride for stride in self.strides]
        finest = self.strides[0].bit_length() - 1  # its level
        if self.op == "align" and not numerics.last_pixel:
            return align(
                maps,
                boxes,
                image_index,
                scales=scales,
                canonical_size=numerics.canonical_side,
                canonical_level=CANONICAL_LEVEL - finest,
            )
        # RoIPool has no form for many levels; that of RoIAlign would choose them by the size up to
        # the last pixel, not by the whole one.
        level = torch.log2(box_area(boxes).sqrt() / numerics.canonical_side + 1e-6)
        level = (level + CANONICAL_LEVEL).floor().clamp(finest, finest + len(maps) - 1) - finest
        if numerics.last_pixel:
            boxes = torch.cat([boxes[:, :2], boxes[:, 2:] - 1], dim=1)
        pooled = []
        for i, (x, scale) in enumerate(zip(maps, scales, strict=True)):
            index = torch.where(level == i, image_index, -1)
            if self.op == "align":
                pooled.append(align([x], boxes, index, scales=[scale]))
            else:
                pooled.append(roi_pool(x, _rois(boxes, index), self.size, scale))
        return sum(pooled[1:], pooled[0])  # of a RoI all but one are zero


def _rois(boxes: Tensor, image_index: Tensor) -> Tensor:
    """Boxes (K, 4) and image indices (K,), -1 in padded slots, as RoIPool takes them, (K, 5).

    A box of NaN pools to zero.
    """
    used = (image_index >= 0)[:, None]
    index = image_index.clamp(min=0)[:, None].to(boxes.dtype)
    return torch.cat([index, torch.where(used, boxes, torch.nan)], dim=1)


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
