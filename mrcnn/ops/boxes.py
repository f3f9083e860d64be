"""Box arithmetic on tensors: areas, overlaps, deltas, clipping.

Boxes are xyxy, right and bottom exclusive; a reversed box is empty. All functions accept any
leading dimensions, are differentiable, and propagate NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_LOG_GROWTH = math.log(1000 / 16)  # upper limit of dw and dh, so that exp cannot overflow


def box_area(boxes: Tensor) -> Tensor:
    """Compute the areas (...) of boxes (..., 4)."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).unbind(-1)
    return width * height


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Compute the IoU of every pair of boxes; drop-in replacement for `torchvision.ops.box_iou`.

    Computed in float32 (float64 for float64). Two boxes without area have an IoU of 0.

    Args:
        boxes1: (..., A, 4) xyxy, any floating dtype.
        boxes2: (..., B, 4) xyxy, in the same frame.

    Returns:
        (..., A, B) in [0, 1].

    Example:
        >>> box_iou(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[5.0, 0, 15, 10]]))
        tensor([[0.3333]])
    """
    boxes1, boxes2 = (b if b.dtype == torch.float64 else b.float() for b in (boxes1, boxes2))
    low = torch.maximum(boxes1[..., :, None, :2], boxes2[..., None, :, :2])  # (..., A, B, 2)
    high = torch.minimum(boxes1[..., :, None, 2:], boxes2[..., None, :, 2:])
    width, height = (high - low).clamp(min=0).unbind(-1)
    overlap = width * height
    union = box_area(boxes1)[..., :, None] + box_area(boxes2)[..., None, :] - overlap
    return overlap / union.clamp(min=torch.finfo(union.dtype).tiny)


def encode_boxes(
    targets: Tensor,
    references: Tensor,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
) -> Tensor:
    """Compute the deltas that turn each reference into its target (R-CNN, appendix C).

    A target without extent gives -inf, and a reference without extent inf or NaN.

    Args:
        targets: (..., 4) xyxy.
        references: (..., 4) xyxy, anchors or RoIs in the same frame.
        weights: factors of dx, dy, dw, dh.

    Returns:
        (..., 4) as (dx, dy, dw, dh).
    """
    center, extent = _center_extent(references)
    target_center, target_extent = _center_extent(targets)
    dx, dy = ((target_center - center) / extent).unbind(-1)
    dw, dh = torch.log(target_extent / extent).unbind(-1)
    wx, wy, ww, wh = weights
    return torch.stack([wx * dx, wy * dy, ww * dw, wh * dh], dim=-1)


def decode_boxes(
    deltas: Tensor,
    references: Tensor,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
) -> Tensor:
    """Apply deltas to references, the inverse of `encode_boxes`.

    A side grows by a factor of at most 1000 / 16, as in Detectron2 and torchvision.

    Args:
        deltas: (..., 4) as (dx, dy, dw, dh).
        references: (..., 4) xyxy, anchors or RoIs.
        weights: factors of dx, dy, dw, dh, the same as for encoding.

    Returns:
        (..., 4) xyxy in the frame of `references`.
    """
    dx, dy, dw, dh = (delta / w for delta, w in zip(deltas.unbind(-1), weights, strict=True))
    center, extent = _center_extent(references)
    center = center + torch.stack([dx, dy], dim=-1) * extent
    half = 0.5 * extent * torch.stack([dw, dh], dim=-1).clamp(max=MAX_LOG_GROWTH).exp()
    return torch.cat([center - half, center + half], dim=-1)


def clip_boxes(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Clip boxes at the borders of their images.

    Args:
        boxes: (..., K, 4) xyxy in image pixels.
        sizes: (..., 2) (height, width) in pixels.

    Returns:
        (..., K, 4); a box outside its image has no area.
    """
    width_height = sizes.flip(-1).to(boxes.dtype)
    high = torch.cat([width_height, width_height], dim=-1)[..., None, :]  # (..., 1, 4)
    return boxes.clamp(min=0).minimum(high)


def _center_extent(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the centres and (width, height) of boxes (..., 4), each (..., 2)."""
    extent = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * extent, extent
