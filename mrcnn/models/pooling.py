"""Pooling of RoI features from the levels of the backbone, for both heads.

N images, R RoIs per image, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from mrcnn.models.layers import check_choice
from mrcnn.numerics import NUMERICS, Numerics
from mrcnn.ops import multiscale_roi_align
from mrcnn.ops.boxes import box_area
from mrcnn.ops.roi_align import CANONICAL_LEVEL
from mrcnn.ops.roi_pool import indexed_roi_pool

ROI_OPS = ("align", "pool")


class RoIPooler(nn.Module):
    """RoIAlign (Mask R-CNN, section 3) or RoIPool over several levels.

    Each RoI is pooled from one level, chosen by its size (Feature pyramid networks, equation 1).

    Args:
        channels: C.
        size: bins per side.
        strides: pixels per cell of the levels to pool from. Coarser levels are ignored.
        numerics: gives the sampling.
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
        """Pool every RoI of the batch, with one op for all levels if possible.

        Args:
            features: per level (N, C, H_l, W_l), fine to coarse.
            boxes: (N, R, 4) xyxy in image pixels.
            valid: (N, R) bool. Padded slots pool to zero.

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
        # Pool each level on its own. RoIPool has no op for many levels, and that of RoIAlign would
        # choose the level by the size without the last pixel, not by the whole size.
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
                size = self.size, self.size
                pooled.append(indexed_roi_pool(x, boxes, index, size, scale))
        return sum(pooled[1:], pooled[0])  # all levels but one give zeros for a RoI


class Conv5Pooler(nn.Module):
    """A pooler and the last stage of a ResNet, applied to each RoI (Mask R-CNN, figure 4 left).

    Args:
        pooler: returns features (N * R, channels of conv4, 2 * size, 2 * size).
        conv5: the stage, which halves the map.
        channels: of the map of conv5.
    """

    def __init__(self, pooler: RoIPooler, conv5: nn.Module, channels: int) -> None:
        super().__init__()
        self.pooler, self.conv5, self.channels = pooler, conv5, channels
        self.size, self.numerics = pooler.size // 2, pooler.numerics

    def forward(self, features: dict[str, Tensor], boxes: Tensor, valid: Tensor) -> Tensor:
        """Return features (N * R, channels, size, size) of boxes (N, R, 4); see `RoIPooler`."""
        pooled: Tensor = self.conv5(self.pooler(features, boxes, valid))
        return pooled


Pooler = RoIPooler | Conv5Pooler
