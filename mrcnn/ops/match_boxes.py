"""Matching of anchors and proposals to ground-truth boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from mrcnn.ops import library  # noqa: F401  registers the ops
from mrcnn.ops.check import FLOATING, check_dtype, check_same_device, check_shape


def match_boxes(
    boxes: Tensor,
    targets: Tensor,
    valid: Tensor,
    *,
    low_threshold: float,
    high_threshold: float,
    low_quality: bool,
) -> tuple[Tensor, Tensor]:
    """Match boxes to the target that they overlap most (Faster R-CNN, section 3.1.2).

    The (boxes x targets) matrix of overlaps is never stored. Ties go to the lower target. A box
    with NaN matches nothing. Overlaps are float32, and thresholds are rounded to it. Not
    differentiable.

    Args:
        boxes: (N, A, 4) xyxy in image pixels, or (1, A, 4) for all images; any floating dtype.
        targets: (N, G, 4) xyxy in image pixels, any floating dtype.
        valid: (N, G) bool, False in padded slots.
        low_threshold: boxes with a lower IoU are negative.
        high_threshold: boxes with at least this IoU are positive.
        low_quality: also make those boxes positive that overlap a target most, however little.
            Their target is still the one that they overlap most.

    Returns:
        The target of each box, (N, A) int64, 0 if none overlaps it; and its role, (N, A) int8:
        1 positive, 0 negative, -1 neither.

    Raises:
        ValueError: if a shape or device does not fit.
        TypeError: if a dtype does not fit.

    Example:
        >>> anchors = torch.tensor([[[0.0, 0, 10, 10], [50, 50, 60, 60]]])
        >>> targets = torch.tensor([[[0.0, 0, 9, 10]]])
        >>> valid = torch.tensor([[True]])
        >>> match_boxes(anchors, targets, valid, low_threshold=0.3, high_threshold=0.7,
        ...             low_quality=True)
        (tensor([[0, 0]]), tensor([[1, 0]], dtype=torch.int8))
    """
    op = "match_boxes"
    check_shape(op, "targets", targets, ("N", "G", 4))
    check_shape(op, "boxes", boxes, ("N", "A", 4))
    if boxes.shape[0] != 1:
        check_shape(op, "boxes", boxes, (targets.shape[0], "A", 4))
    check_shape(op, "valid", valid, tuple(targets.shape[:2]))
    check_dtype(op, "boxes", boxes, FLOATING)
    check_dtype(op, "targets", targets, FLOATING)
    check_dtype(op, "valid", valid, (torch.bool,))
    check_same_device(op, boxes=boxes, targets=targets, valid=valid)
    matched, role = torch.ops.mrcnn.match_boxes(
        boxes, targets, valid, low_threshold, high_threshold, low_quality
    )
    return matched, role


@torch.library.register_fake("mrcnn::match_boxes")
def _(boxes, targets, valid, low, high, low_quality):  # type: ignore[no-untyped-def]
    shape = (targets.shape[0], boxes.shape[1])
    return boxes.new_empty(shape, dtype=torch.int64), boxes.new_empty(shape, dtype=torch.int8)
