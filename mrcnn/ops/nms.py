"""Non-maximum suppression (NMS): among boxes that overlap, keep the one with the best score."""

from __future__ import annotations

import torch
from torch import Tensor

from mrcnn.ops import library  # noqa: F401  registers the ops
from mrcnn.ops.check import FLOATING, check_at_least, check_dtype, check_same_device, check_shape


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Drop boxes that overlap a better one; drop-in replacement for `torchvision.ops.nms`.

    A box is dropped if its IoU with a better box that is kept exceeds the threshold. It is kept if
    both are equal, rounded to the dtype of the boxes. Ties of scores go to the lower index. NaN is
    the best score, as in `torch.sort`, and -inf the worst. Boxes without area, and boxes with NaN,
    are all kept. Works under `torch.func.vmap` if as many boxes are kept in all slices.

    Args:
        boxes: (K, 4) xyxy, any floating dtype; compared in float32 (float64 for float64).
        scores: (K,) any floating dtype.
        iou_threshold: in [0, 1].

    Returns:
        (kept,) int64 indices into `boxes`, best score first.

    Raises:
        ValueError: if a shape or device does not fit.
        TypeError: if a dtype does not fit.

    Example:
        >>> boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 10, 10], [20, 0, 30, 10]])
        >>> nms(boxes, torch.tensor([0.8, 0.9, 0.7]), iou_threshold=0.5)
        tensor([1, 2])
    """
    return batched_nms(boxes, scores, boxes.new_empty(0, dtype=torch.int64), iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Run NMS within each group; drop-in replacement for `torchvision.ops.batched_nms`.

    Boxes of different groups never compete. Coordinates are not offset per group, so they are not
    rounded. Ties and NaN are handled as in `nms`.

    Args:
        boxes: (K, 4) xyxy, any floating dtype.
        scores: (K,) any floating dtype.
        idxs: (K,) integer, the group of each box; an empty tensor puts all in one group.
        iou_threshold: in [0, 1].

    Returns:
        (kept,) int64 indices into `boxes`, best score first.

    Raises:
        ValueError: if a shape or device does not fit.
        TypeError: if a dtype does not fit.

    Example:
        >>> boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 10, 10]])
        >>> batched_nms(boxes, torch.tensor([0.8, 0.9]), torch.tensor([0, 1]), iou_threshold=0.5)
        tensor([1, 0])
    """
    if boxes.shape == (0,):  # how `torch.tensor([])` gives no boxes
        return boxes.new_empty(0, dtype=torch.int64)
    check_shape("nms", "boxes", boxes, ("K", 4))
    check_shape("nms", "scores", scores, (boxes.shape[0],))
    check_shape("nms", "idxs", idxs, ("K",))
    if idxs.shape[0]:
        check_shape("nms", "idxs", idxs, (boxes.shape[0],))
    check_dtype("nms", "boxes", boxes, FLOATING)
    check_dtype("nms", "scores", scores, FLOATING)
    check_same_device("nms", boxes=boxes, scores=scores, idxs=idxs)
    kept: Tensor = torch.ops.mrcnn.nms_indices(boxes, scores, idxs.long(), iou_threshold)
    return kept


def segmented_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, max_keep: int
) -> tuple[Tensor, Tensor]:
    """Run NMS on S independent segments, with output shapes that do not depend on the values.

    Overlaps and ties are handled as in `nms`.

    Args:
        boxes: (S, K, 4) xyxy, any floating dtype; a slot with NaN is dropped.
        scores: (S, K); -inf or NaN marks a padded slot, which is dropped.
        groups: (S, K) int64, boxes of different groups never compete; (S, 0) for one group.
        iou_threshold: in [0, 1].
        max_keep: upper bound on the boxes kept per segment.

    Returns:
        Indices into K, (S, max_keep) int64, best score first, -1 in padded slots; and the number of
        boxes kept, (S,) int64.

    Raises:
        ValueError: if a shape, the device or `max_keep` does not fit.
        TypeError: if a dtype does not fit.

    Example:
        >>> boxes, scores = torch.rand(2, 100, 4), torch.rand(2, 100)
        >>> one_group = torch.empty(2, 0, dtype=torch.int64)
        >>> indices, counts = segmented_nms(boxes, scores, one_group, 0.5, max_keep=10)
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
def _(boxes, scores, groups, iou_threshold, max_keep, padded=True):  # type: ignore[no-untyped-def]
    segments = boxes.shape[0]
    return (
        boxes.new_empty((segments, max_keep), dtype=torch.int64),
        boxes.new_empty((segments,), dtype=torch.int64),
    )


@torch.library.register_fake("mrcnn::nms_indices")
def _(boxes, scores, groups, iou_threshold):  # type: ignore[no-untyped-def]
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)
