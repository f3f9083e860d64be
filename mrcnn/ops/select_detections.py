"""Selection of detections from the outputs of the box head.

N images, R RoIs, C classes, D detections.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrcnn.ops import library  # noqa: F401  registers the ops
from mrcnn.ops.check import FLOATING, check_at_least, check_dtype, check_same_device, check_shape


def select_detections(
    scores: Tensor,
    deltas: Tensor,
    boxes: Tensor,
    valid: Tensor,
    sizes: Tensor,
    *,
    delta_weights: tuple[float, float, float, float],
    score_threshold: float,
    nms_threshold: float,
    min_side: float,
    max_detections: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Select the detections of each image (Fast R-CNN, section 3.1).

    Each (RoI, class) pair above the score threshold is decoded and clipped. NMS runs within each
    class, and the best pairs of an image are kept. Not differentiable.

    Args:
        scores: (N, R, C) in [0, 1], without background, any floating dtype.
        deltas: (N, R, 4 C) class-major, or (N, R, 4) shared by all classes.
        boxes: (N, R, 4) xyxy in image pixels.
        valid: (N, R) bool, False in padded slots.
        sizes: (N, 2) int64 (height, width) of the images before padding.
        delta_weights: divisors of dx, dy, dw, dh.
        score_threshold: scores must be higher.
        nms_threshold: IoU above which NMS drops the worse of two boxes of a class.
        min_side: both sides of a box must be longer, in image pixels.
        max_detections: D, upper bound on the detections per image.

    Returns:
        Boxes (N, D, 4) float32 in image pixels, scores (N, D) float32, labels (N, D) int64, the RoI
        of each detection (N, D) int64, and the number of detections (N,) int64. Best first; padded
        slots are 0, 0, -1 and -1.

    Raises:
        ValueError: if a shape, device or count does not fit.
        TypeError: if a dtype does not fit.

    Example:
        >>> scores, deltas = torch.rand(1, 50, 3), torch.randn(1, 50, 12)
        >>> rois = torch.tensor([[[10.0, 10, 90, 60]]]).repeat(1, 50, 1)
        >>> valid, sizes = torch.ones(1, 50, dtype=torch.bool), torch.tensor([[80, 120]])
        >>> boxes, scores, labels, roi, counts = select_detections(
        ...     scores, deltas, rois, valid, sizes, delta_weights=(10.0, 10.0, 5.0, 5.0),
        ...     score_threshold=0.5, nms_threshold=0.5, min_side=0.0, max_detections=100,
        ... )
    """
    op = "select_detections"
    check_shape(op, "scores", scores, ("N", "R", "C"))
    images, rois, classes = scores.shape
    if deltas.shape[-1:] != (4,):
        check_shape(op, "deltas", deltas, (images, rois, 4 * classes))
    check_shape(op, "deltas", deltas, (images, rois, "D"))
    check_shape(op, "boxes", boxes, (images, rois, 4))
    check_shape(op, "valid", valid, (images, rois))
    check_shape(op, "sizes", sizes, (images, 2))
    for name, tensor in (("scores", scores), ("deltas", deltas), ("boxes", boxes)):
        check_dtype(op, name, tensor, FLOATING)
    check_dtype(op, "valid", valid, (torch.bool,))
    check_dtype(op, "sizes", sizes, (torch.int64,))
    check_same_device(op, scores=scores, deltas=deltas, boxes=boxes, valid=valid, sizes=sizes)
    check_at_least(op, 0, max_detections=max_detections)
    out_boxes, out_scores, labels, roi, counts = torch.ops.mrcnn.select_detections(
        scores.detach(),
        deltas.detach(),
        boxes.detach(),
        valid,
        sizes,
        list(delta_weights),
        score_threshold,
        nms_threshold,
        min_side,
        max_detections,
    )
    return out_boxes, out_scores, labels, roi, counts


@torch.library.register_fake("mrcnn::select_detections")
def _(scores, deltas, boxes, valid, sizes, weights, score, nms, side, detections):  # type: ignore[no-untyped-def]
    slots = (scores.shape[0], detections)
    return (
        scores.new_empty((*slots, 4), dtype=torch.float32),
        scores.new_empty(slots, dtype=torch.float32),
        scores.new_empty(slots, dtype=torch.int64),
        scores.new_empty(slots, dtype=torch.int64),
        scores.new_empty(slots[:1], dtype=torch.int64),
    )
