"""Test-time augmentation: an image seen in several ways, and what was found put together.

As Detectron2's `GeneralizedRCNNWithTTA`: the boxes of all views go through one NMS, then every view
gives masks for the boxes that are left, and their probabilities are averaged. D detections.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrcnn.config import ModelConfig
from mrcnn.data.images import empty_batch, resized, slots, write_view
from mrcnn.models import MaskRCNN
from mrcnn.numerics import NUMERICS
from mrcnn.ops.nms import segmented_nms
from mrcnn.structures import DetectionBatch

# (factor on the size that the network sees else, mirrored)
VIEWS = tuple((scale, mirrored) for scale in (0.75, 1.0, 1.25) for mirrored in (False, True))


def detect_views(
    model: MaskRCNN,
    image: NDArray[np.uint8],
    config: ModelConfig,
    device: torch.device,
    views: tuple[tuple[float, bool], ...] = VIEWS,
) -> DetectionBatch:
    """The best D detections of an image (h, w, 3), in its own pixels; a batch of one.

    The features of all views are in memory together.
    """
    height, width = image.shape[:2]
    frames, maps, found = [], [], []
    for scale, mirrored in views:
        size = [max(1, round(side * scale)) for side in resized(height, width, config)]
        batch = empty_batch([(size[0], size[1])], config.size_multiple)
        window = (0, 0, width, height)
        write_view(image, window, slots(batch)[0], config, mirror_x=mirrored)
        batch = batch.to(device)
        features = model.backbone(batch.pixels)
        logits, deltas = model.rpn(features)
        proposals = model.rpn.propose(logits, deltas, batch.sizes, training=False)
        frame = _Frame((height, width), (size[0], size[1]), mirrored, config)
        detections = model.box_head.detect(features, proposals, batch.sizes)
        found.append(replace(detections, boxes=frame.to_image(detections.boxes)))
        frames.append(frame)
        maps.append(features)

    boxes, scores, labels = (
        torch.cat([getattr(one, name) for one in found], dim=1)
        for name in ("boxes", "scores", "labels")
    )
    indices, counts = segmented_nms(
        boxes,
        torch.where(labels >= 0, scores, -torch.inf),
        labels,
        model.box_head.nms_threshold,
        model.box_head.max_detections,
    )
    used = indices >= 0  # (1, D)
    at = indices.clamp(min=0)
    best = DetectionBatch(
        boxes=torch.where(used[..., None], boxes.gather(1, at[..., None].expand(-1, -1, 4)), 0),
        scores=torch.where(used, scores.gather(1, at), 0),
        labels=torch.where(used, labels.gather(1, at), -1),
        counts=counts,
        masks=boxes.new_empty(*at.shape, 0, 0),
    )
    if model.mask_head is None:
        return best
    total: Tensor | float = 0.0
    for frame, features in zip(frames, maps, strict=True):
        seen = replace(best, boxes=frame.to_view(best.boxes))
        masks = model.mask_head.detect(features, seen).masks
        total = total + (masks.flip(-1) if frame.mirrored else masks)
    assert isinstance(total, Tensor)
    return replace(best, masks=total / len(views))


class _Frame:
    """Where the pixels of a view lie in the image.

    Args:
        image, view: (height, width).
    """

    def __init__(
        self, image: tuple[int, int], view: tuple[int, int], mirrored: bool, config: ModelConfig
    ) -> None:
        self.mirrored, self.width = mirrored, view[1]
        self.scale = torch.tensor([image[1] / view[1], image[0] / view[0]]).repeat(2)
        # Some numerics count corners up to the last pixel, as `to_detections` does.
        self.beyond = torch.tensor([0.0, 0, 1, 1]) * NUMERICS[config.numerics].last_pixel

    def to_image(self, boxes: Tensor) -> Tensor:
        """Boxes (..., 4) of the view in the pixels of the image."""
        beyond, scale = self.beyond.to(boxes), self.scale.to(boxes)
        return (self._turned(boxes) - beyond) * scale + beyond

    def to_view(self, boxes: Tensor) -> Tensor:
        """Boxes (..., 4) of the image in the pixels of the view."""
        beyond, scale = self.beyond.to(boxes), self.scale.to(boxes)
        return self._turned((boxes - beyond) / scale + beyond)

    def _turned(self, boxes: Tensor) -> Tensor:
        if not self.mirrored:
            return boxes
        x1, y1, x2, y2 = boxes.unbind(-1)
        return torch.stack([self.width - x2, y1, self.width - x1, y2], dim=-1)
