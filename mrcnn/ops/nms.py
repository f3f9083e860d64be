"""Non-maximum suppression: of boxes that overlap, keep the one with the best score."""

from __future__ import annotations

import torch
from torch import Tensor

from mrcnn.ops import library  # noqa: F401  registers the ops
from mrcnn.ops.check import (
    FLOATING,
    check_at_least,
    check_dtype,
    check_same_device,
    check_shape,
)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes that survive, best score first; as `torchvision.ops.nms`.

    A box is dropped if a better one overlaps it by more than the threshold; an overlap of exactly
    the threshold, both rounded to the type of the boxes, is kept. Ties go to the lower index. A
    NaN score or coordinate drops its box. Boxes without area are all kept.

    Args:
        boxes: (K, 4) xyxy, any floating dtype; compared in float32 (float64 for float64).
        scores: (K,)
        iou_threshold: in [0, 1].
    Returns:
        (kept,) int64.
    Raises:
        ValueError: if a shape or device does not fit.
        TypeError: if a dtype does not fit.
    """
    return batched_nms(boxes, scores, boxes.new_empty(0, dtype=torch.int64), iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """NMS within each group; as `torchvision.ops.batched_nms`, without its coordinate offsets.

    Args:
        boxes: (K, 4) xyxy.
        scores: (K,)
        idxs: (K,) int64, the group of each box; empty puts all in one.
        iou_threshold: in [0, 1].
    Returns:
        (kept,) int64, best score first.
    Raises:
        ValueError: if a shape or device does not fit.
        TypeError: if a dtype does not fit.
    """
    check_shape("nms", "boxes", boxes, ("K", 4))
    check_shape("nms", "scores", scores, (boxes.shape[0],))
    if idxs.numel():
        check_shape("nms", "idxs", idxs, (boxes.shape[0],))
    indices, counts = segmented_nms(
        boxes[None], scores[None], idxs.long()[None], iou_threshold, boxes.shape[0]
    )
    return indices[0, : int(counts)]


def segmented_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, max_keep: int
) -> tuple[Tensor, Tensor]:
    """NMS of S independent segments, with outputs whose shape does not depend on the values.

    Args:
        boxes: (S, K, 4) xyxy.
        scores: (S, K); -inf marks a padded slot.
        groups: (S, K) int64, boxes of different groups never compete; (S, 0) for one group.
        iou_threshold: in [0, 1].
        max_keep: at most so many survive in a segment.
    Returns:
        (S, max_keep) int64 indices into K, best score first, -1 in padded slots; and their
        counts, (S,) int64.
    Raises:
        ValueError: if a shape, the device or `max_keep` does not fit.
        TypeError: if a dtype does not fit.
    """
    check_shape("nms", "boxes", boxes, ("S", "K", 4))
    check_shape("nms", "scores", scores, tuple(boxes.shape[:2]))
    check_shape("nms", "groups", groups, (boxes.shape[0], "K"))
    check_dtype("nms", "boxes", boxes, FLOATING)
    check_dtype("nms", "scores", scores, FLOATING)
    check_dtype("nms", "groups", groups, (torch.int64,))
    check_same_device("nms", boxes=boxes, scores=scores, groups=groups)
    if groups.shape[1] not in (0, boxes.shape[1]):
        raise ValueError(
            f"nms: groups must have shape {tuple(boxes.shape[:2])} or ({boxes.shape[0]}, 0), "
            f"got {tuple(groups.shape)}"
        )
    check_at_least("nms", 0, max_keep=max_keep)
    indices, counts = torch.ops.mrcnn.nms(boxes, scores, groups, iou_threshold, max_keep)
    return indices, counts


@torch.library.register_fake("mrcnn::nms")
def _(boxes, scores, groups, iou_threshold, max_keep):  # type: ignore[no-untyped-def]
    segments = boxes.shape[0]
    return (
        boxes.new_empty((segments, max_keep), dtype=torch.int64),
        boxes.new_empty((segments,), dtype=torch.int64),
    )
