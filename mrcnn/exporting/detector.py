"""A detector in the form that exporters take: tensors in, a tuple of tensors out.

N images, H x W padded pixels, D detections per image, M x M cells of a mask.
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
    """A model from pixels to padded detections, as in `DetectionBatch`.

    Args:
        model: in evaluation mode.
        numerics: of the model.
        cut: compute masks only for as many slots as the fullest image of a batch has detections,
            not for all D. Shapes then depend on the detections.
    """

    def __init__(self, model: MaskRCNN, numerics: Numerics, *, cut: bool) -> None:
        super().__init__()
        self.model, self.numerics, self.cut = model, numerics, cut

    def forward(
        self, pixels: Tensor, sizes: Tensor, original_sizes: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Return boxes, scores, labels, counts, and masks if the model has a mask head.

        Args:
            pixels: (N, 3, H, W) float32, normalised.
            sizes: (N, 2) int64 (height, width) before padding.
            original_sizes: (N, 2) int64 (height, width) before resizing. If given, boxes are in
                pixels of these images, as from `to_detections`.

        Returns:
            (N, D, 4) float32, (N, D) float32, (N, D) int64, (N,) int64, (N, D, M, M) float32.
        """
        features = self.model.backbone(pixels)
        logits, deltas = self.model.rpn(features)
        proposals = self.model.rpn.propose(logits, deltas, sizes, training=False)
        detections = self.model.box_head.detect(features, proposals, sizes)
        boxes = detections.boxes
        if original_sizes is not None:
            boxes, kept = to_originals(detections, sizes, original_sizes, self.numerics)
            boxes, detections = _compact(boxes, detections, kept)
        outputs = (boxes, detections.scores, detections.labels, detections.counts)
        if self.model.mask_head is None:
            return outputs
        return *outputs, self._masks(features, detections)

    def _masks(self, features: dict[str, Tensor], detections: DetectionBatch) -> Tensor:
        assert self.model.mask_head is not None
        boxes, labels = detections.boxes, detections.labels
        if not self.cut:
            masks: Tensor = self.model.mask_head(features, boxes, labels).sigmoid()
            return masks
        all_slots = labels.shape[1]
        slots: int = detections.counts.max().clamp(min=1).item()  # type: ignore[assignment]
        torch._check(slots >= 1)  # type: ignore[no-untyped-call]
        torch._check(slots <= all_slots)  # type: ignore[no-untyped-call]
        masks = self.model.mask_head(features, boxes[:, :slots], labels[:, :slots]).sigmoid()
        return F.pad(masks, (0, 0, 0, 0, 0, all_slots - slots))


def _compact(
    boxes: Tensor, detections: DetectionBatch, kept: Tensor
) -> tuple[Tensor, DetectionBatch]:
    """Move the slots that are kept, (N, D) bool, to the front in their order, and pad the rest."""
    slots = kept.shape[1]
    rank = torch.where(kept, slots, 0) - torch.arange(slots, device=kept.device)
    order = rank.topk(slots, dim=1).indices
    kept = kept.gather(1, order)
    corners = order[..., None].expand(-1, -1, 4)
    is_used = kept[..., None]
    return torch.where(is_used, boxes.gather(1, corners), 0), replace(
        detections,
        boxes=torch.where(is_used, detections.boxes.gather(1, corners), 0),
        scores=torch.where(kept, detections.scores.gather(1, order), 0),
        labels=torch.where(kept, detections.labels.gather(1, order), -1),
        counts=kept.sum(1),
    )
