"""Test-time augmentation: detections of one image, combined over several scaled and mirrored views.

As in Detectron2's `GeneralizedRCNNWithTTA`: the boxes of all views pass through one NMS. Then every
view predicts masks for the remaining boxes, and the mask probabilities are averaged. D detections.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrcnn.config import ModelConfig
from mrcnn.data.images import empty_batch, network_size, unpadded_views, write_view
from mrcnn.models import MaskRCNN
from mrcnn.ops.nms import segmented_nms
from mrcnn.structures import DetectionBatch

# (factor on the usual network size, mirrored)
VIEWS = tuple((scale, mirrored) for scale in (0.75, 1.0, 1.25) for mirrored in (False, True))


def detect_views(
    model: MaskRCNN,
    image: NDArray[np.uint8],
    config: ModelConfig,
    device: torch.device,
    views: tuple[tuple[float, bool], ...] = VIEWS,
) -> DetectionBatch:
    """Detect the objects of an image with test-time augmentation.

    The feature maps of all views are in memory at the same time.

    Args:
        model: the network, in inference mode.
        image: (h, w, 3) RGB.
        config: configuration of the model.
        device: of the model.
        views: factors on the usual network size, and whether the view is mirrored.

    Returns:
        A batch of one: the best D detections, in pixels of the image.
    """
    height, width = image.shape[:2]
    usual_height, usual_width = network_size(height, width, config)
    frames, maps, detections = [], [], []
    for scale, mirrored in views:
        size = max(1, round(usual_height * scale)), max(1, round(usual_width * scale))
        batch = empty_batch([size], config.size_multiple)
        window = (0, 0, width, height)
        write_view(image, window, unpadded_views(batch)[0], config, mirror_x=mirrored)
        batch = batch.to(device)
        features = model.backbone(batch.pixels)
        logits, deltas = model.rpn(features)
        proposals = model.rpn.propose(logits, deltas, batch.sizes, training=False)
        frame = _Frame((height, width), size, mirrored, config)
        in_view = model.box_head.detect(features, proposals, batch.sizes)
        detections.append(replace(in_view, boxes=frame.to_image(in_view.boxes)))
        frames.append(frame)
        maps.append(features)

    boxes, scores, labels = (
        torch.cat([getattr(one, name) for one in detections], dim=1)
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
    position = indices.clamp(min=0)
    corners = position[..., None].expand(-1, -1, 4)
    best = DetectionBatch(
        boxes=torch.where(used[..., None], boxes.gather(1, corners), 0),
        scores=torch.where(used, scores.gather(1, position), 0),
        labels=torch.where(used, labels.gather(1, position), -1),
        counts=counts,
        masks=boxes.new_empty(*position.shape, 0, 0),
    )
    if model.mask_head is None:
        return best
    total: Tensor | float = 0.0
    for frame, features in zip(frames, maps, strict=True):
        in_view = replace(best, boxes=frame.to_view(best.boxes))
        masks = model.mask_head.detect(features, in_view).masks
        total = total + (masks.flip(-1) if frame.mirrored else masks)
    assert isinstance(total, Tensor)
    return replace(best, masks=total / len(views))


class _Frame:
    """Conversion of boxes between a view and the image; sizes are (height, width)."""

    def __init__(
        self, image: tuple[int, int], view: tuple[int, int], mirrored: bool, config: ModelConfig
    ) -> None:
        self.mirrored, self.width = mirrored, view[1]
        self.scale = torch.tensor([image[1] / view[1], image[0] / view[0]]).repeat(2)
        # Under some numerics boxes end at the last pixel; `to_detections` allows for it, too.
        self.beyond = torch.tensor([0.0, 0, 1, 1]) * config.conventions.last_pixel

    def to_image(self, boxes: Tensor) -> Tensor:
        """Convert boxes (..., 4) from pixels of the view to pixels of the image."""
        beyond, scale = self.beyond.to(boxes), self.scale.to(boxes)
        return (self._mirror(boxes) - beyond) * scale + beyond

    def to_view(self, boxes: Tensor) -> Tensor:
        """Convert boxes (..., 4) from pixels of the image to pixels of the view."""
        beyond, scale = self.beyond.to(boxes), self.scale.to(boxes)
        return self._mirror((boxes - beyond) / scale + beyond)

    def _mirror(self, boxes: Tensor) -> Tensor:
        if not self.mirrored:
            return boxes
        x1, y1, x2, y2 = boxes.unbind(-1)
        return torch.stack([self.width - x2, y1, self.width - x1, y2], dim=-1)
