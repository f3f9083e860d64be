"""Selection of proposals from the outputs of the RPN.

N images, L levels, A anchors per cell, P proposals.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mrcnn.ops import library  # noqa: F401  registers the ops
from mrcnn.ops.check import FLOATING, check_at_least, check_dtype, check_same_device, check_shape


def select_proposals(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    cell_anchors: Tensor,
    strides: Sequence[tuple[int, int]],
    sizes: Tensor,
    *,
    pre_nms_top_k: int,
    post_nms_top_k: int,
    nms_threshold: float,
    min_side: float,
) -> tuple[Tensor, Tensor]:
    """Select the proposals of each image (Faster R-CNN, section 3.1).

    On each level, the best logits are chosen (ties go to the lower index; NaN and -inf are never
    chosen). Only these are decoded, from anchors computed from their index, and clipped to the
    image. Boxes with a side of at most `min_side` are dropped, and NMS thins the rest. Then the
    best of all levels are kept. Not differentiable.

    Args:
        logits: per level (N, A, H_l, W_l) objectness, any floating dtype.
        deltas: per level (N, 4 A, H_l, W_l): (dx, dy, dw, dh) of anchor 0, then of anchor 1, …
        cell_anchors: (L, A, 4) xyxy around a cell's corner, image pixels.
        strides: per level, image pixels per cell, (y, x).
        sizes: (N, 2) int64 (height, width) of the images before padding.
        pre_nms_top_k: upper bound on the boxes per level that enter NMS.
        post_nms_top_k: P, upper bound on the proposals per image.
        nms_threshold: IoU above which NMS drops the worse of two boxes.
        min_side: both sides of a box must be longer, in image pixels.

    Returns:
        Boxes (N, P, 4) float32 in image pixels and logits (N, P) float32, best first; padded slots
        are 0 and -inf.

    Raises:
        ValueError: if a shape, device or count does not fit.
        TypeError: if a dtype does not fit.

    Example:
        >>> logits, deltas = [torch.randn(2, 3, 25, 38)], [torch.randn(2, 12, 25, 38)]
        >>> anchors = torch.tensor([[[-16.0, -16, 16, 16], [-23, -11, 23, 11], [-11, -23, 11, 23]]])
        >>> sizes = torch.tensor([[800, 1200], [736, 1216]])
        >>> boxes, scores = select_proposals(
        ...     logits, deltas, anchors, [(32, 32)], sizes, pre_nms_top_k=1000, post_nms_top_k=100,
        ...     nms_threshold=0.7, min_side=0.0,
        ... )
    """
    op, levels = "select_proposals", len(logits)
    if not levels or len(deltas) != levels or len(strides) != levels:
        raise ValueError(
            f"{op}: logits, deltas and strides must have one entry per level, "
            f"got {levels}, {len(deltas)}, {len(strides)}"
        )
    check_shape(op, "logits[0]", logits[0], ("N", "A", "H", "W"))
    images, anchors = logits[0].shape[:2]
    check_shape(op, "cell_anchors", cell_anchors, (levels, anchors, 4))
    check_shape(op, "sizes", sizes, (images, 2))
    maps: dict[str, Tensor] = {}
    for level in range(levels):
        check_shape(op, f"logits[{level}]", logits[level], (images, anchors, "H", "W"))
        height, width = logits[level].shape[2:]
        check_shape(op, f"deltas[{level}]", deltas[level], (images, 4 * anchors, height, width))
        maps |= {f"logits[{level}]": logits[level], f"deltas[{level}]": deltas[level]}
    for name, tensor in (*maps.items(), ("cell_anchors", cell_anchors)):
        check_dtype(op, name, tensor, FLOATING)
    check_dtype(op, "sizes", sizes, (torch.int64,))
    check_same_device(op, **maps, cell_anchors=cell_anchors, sizes=sizes)
    check_at_least(op, 0, pre_nms_top_k=pre_nms_top_k, post_nms_top_k=post_nms_top_k)
    boxes, scores = torch.ops.mrcnn.select_proposals(
        [level.detach() for level in logits],
        [level.detach() for level in deltas],
        cell_anchors.detach(),
        [step for stride in strides for step in stride],
        sizes,
        pre_nms_top_k,
        post_nms_top_k,
        nms_threshold,
        min_side,
    )
    return boxes, scores


@torch.library.register_fake("mrcnn::select_proposals")
def _(logits, deltas, cell_anchors, strides, sizes, pre, post, *_):  # type: ignore[no-untyped-def]
    images = logits[0].shape[0]
    return (
        logits[0].new_empty((images, post, 4), dtype=torch.float32),
        logits[0].new_empty((images, post), dtype=torch.float32),
    )
