"""A detector as exporters want it: tensors in, a tuple of tensors out.

N images, H x W padded pixels, D detections, M mask side.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrcnn.models import MaskRCNN
from mrcnn.models.postprocess import to_originals
from mrcnn.numerics import Numerics
from mrcnn.structures import DetectionBatch

OUTPUTS = ("boxes", "scores", "labels", "counts", "masks")


class Detector(nn.Module):
    """From pixels to padded detections; see `DetectionBatch` for what comes out.

    Args:
        cut: compute masks for as many slots as the fullest image of a batch has detections, not
            for all D. That number is read from the detections, so shapes inside depend on them.
    """

    def __init__(self, model: MaskRCNN, numerics: Numerics, *, cut: bool) -> None:
        super().__init__()
        self.model, self.numerics, self.cut = model, numerics, cut

    def forward(
        self, pixels: Tensor, sizes: Tensor, original_sizes: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Boxes (N, D, 4), scores (N, D), labels (N, D), counts (N,), masks (N, D, M, M).

        The masks are left out of a model without a mask head.

        Args:
            pixels: (N, 3, H, W) float32, normalised.
            sizes: (N, 2) int64 (height, width) before padding.
            original_sizes: (N, 2) int64 (height, width) of the images as they were read. With
                them boxes are in the pixels of those images, as `to_detections` gives them.
        """
        features = self.model.backbone(pixels)
        logits, deltas = self.model.rpn(features)
        proposals = self.model.rpn.propose(logits, deltas, sizes, training=False)
        found = self.model.box_head.detect(features, proposals, sizes)
        boxes = found.boxes
        if original_sizes is not None:
            boxes, kept = to_originals(found, sizes, original_sizes, self.numerics)
            boxes, found = _front(boxes, found, kept)
        outputs = (boxes, found.scores, found.labels, found.counts)
        if self.model.mask_head is None:
            return outputs
        return *outputs, self._masks(features, found)

    def _masks(self, features: dict[str, Tensor], found: DetectionBatch) -> Tensor:
        assert self.model.mask_head is not None
        boxes, labels = found.boxes, found.labels
        if not self.cut:
            masks: Tensor = self.model.mask_head(features, boxes, labels).sigmoid()
            return masks
        all_slots = labels.shape[1]
        slots: int = found.counts.max().clamp(min=1).item()  # type: ignore[assignment]
        torch._check(slots >= 1)  # type: ignore[no-untyped-call]
        torch._check(slots <= all_slots)  # type: ignore[no-untyped-call]
        masks = self.model.mask_head(features, boxes[:, :slots], labels[:, :slots]).sigmoid()
        return F.pad(masks, (0, 0, 0, 0, 0, all_slots - slots))


def _front(boxes: Tensor, found: DetectionBatch, kept: Tensor) -> tuple[Tensor, DetectionBatch]:
    """Those that are kept, (N, D) bool, before padding, in the order they have."""
    slots = kept.shape[1]
    rank = torch.where(kept, slots, 0) - torch.arange(slots, device=kept.device)
    order = rank.topk(slots, dim=1).indices
    kept = kept.gather(1, order)
    corners = order[..., None].expand(-1, -1, 4)
    there = kept[..., None]
    return torch.where(there, boxes.gather(1, corners), 0), replace(
        found,
        boxes=torch.where(there, found.boxes.gather(1, corners), 0),
        scores=torch.where(kept, found.scores.gather(1, order), 0),
        labels=torch.where(kept, found.labels.gather(1, order), -1),
        counts=kept.sum(1),
    )
