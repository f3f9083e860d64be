"""Box arithmetic on tensors: areas, overlaps, deltas, clipping.

Boxes are xyxy, right and bottom exclusive; a reversed box is empty. All functions take any leading
dimensions, are differentiable, and let NaN through.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_LOG_GROWTH = math.log(1000 / 16)  # dw, dh are limited to it, so that exp cannot overflow


def box_area(boxes: Tensor) -> Tensor:
    """Areas (...) of boxes (..., 4)."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).unbind(-1)
    return width * height


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Overlap of every pair, intersection over union; as `torchvision.ops.box_iou`.

    Computed in float32 (float64 for float64). Two boxes without area overlap by 0.

    Args:
        boxes1: (..., A, 4) xyxy.
        boxes2: (..., B, 4) xyxy.
    Returns:
        (..., A, B) in [0, 1].
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
    """Deltas that turn each reference into its target (R-CNN, appendix C).

    Without extent, a target gives -inf and a reference inf or NaN.

    Args:
        targets: (..., 4) xyxy.
        references: (..., 4) xyxy, anchors or RoIs.
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
    """Boxes from references and deltas, the inverse of `encode_boxes`.

    A side grows by at most 1000 / 16, as in both peers.

    Args:
        deltas: (..., 4) as (dx, dy, dw, dh).
        references: (..., 4) xyxy, anchors or RoIs.
        weights: factors of dx, dy, dw, dh, the same as for encoding.
    Returns:
        (..., 4) xyxy.
    """
    dx, dy, dw, dh = (delta / w for delta, w in zip(deltas.unbind(-1), weights, strict=True))
    center, extent = _center_extent(references)
    center = center + torch.stack([dx, dy], dim=-1) * extent
    half = 0.5 * extent * torch.stack([dw, dh], dim=-1).clamp(max=MAX_LOG_GROWTH).exp()
    return torch.cat([center - half, center + half], dim=-1)


def clip_boxes(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes cut off at the borders of their images.

    Args:
        boxes: (..., K, 4) xyxy in image pixels.
        sizes: (..., 2) (height, width) in pixels.
    Returns:
        (..., K, 4); a box outside its image keeps no area.
    """
    width_height = sizes.flip(-1).to(boxes.dtype)
    high = torch.cat([width_height, width_height], dim=-1)[..., None, :]  # (..., 1, 4)
    return boxes.clamp(min=0).minimum(high)


def _center_extent(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centres and (width, height) of boxes (..., 4), each (..., 2)."""
    extent = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * extent, extent
