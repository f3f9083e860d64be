"""The sums that all losses are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mrcnn.boxes import box_area, decode_boxes, encode_boxes

BOX_LOSSES = ("smooth_l1", "giou")

# From how many samples of a kind this batch holds (scalar) to the number that sums of losses over
# them are divided by. Where a batch is one part of a larger one, it is the mean count of the parts:
# then the mean of their losses is the loss of the larger batch.
Normalizer = Callable[[Tensor], Tensor]


def own_count(count: Tensor) -> Tensor:
    """The normalizer of a batch that stands alone."""
    return count.clamp(min=1)


def box_loss(
    deltas: Tensor,
    references: Tensor,
    targets: Tensor,
    weight: Tensor,
    *,
    kind: str,
    beta: float,
    delta_weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
) -> Tensor:
    """How far refined boxes are from their targets, summed.

    Args:
        deltas: (N, S, 4), of the boxes `references`.
        references: (N, S, 4) xyxy, anchors or RoIs.
        targets: (N, S, 4) xyxy.
        weight: (N, S) bool or float; of slots of weight 0 nothing is looked at.
        kind: "smooth_l1" of the deltas, or "giou" of the boxes.
        beta: of `smooth_l1_loss`.
        delta_weights: factors of dx, dy, dw, dh.
    Returns:
        Scalar.
    """
    if kind == "giou":
        # where, not a product, and before all else: padding is a box without extent, of which
        # gradients may be NaN.
        used = weight[..., None] > 0
        boxes = decode_boxes(torch.where(used, deltas.float(), 0.0), references, delta_weights)
        return giou_loss(boxes, targets, weight)
    return smooth_l1_loss(deltas, encode_boxes(targets, references, delta_weights), weight, beta)


def smooth_l1_loss(deltas: Tensor, wanted: Tensor, weight: Tensor, beta: float) -> Tensor:
    """Smooth L1 distance of box deltas, summed (Fast R-CNN, equation 3).

    Args:
        deltas: (N, S, 4)
        wanted: (N, S, 4); values in slots of weight 0 are not looked at.
        weight: (N, S) bool or float.
        beta: where the square meets the line; 0 is the plain L1 distance.
    Returns:
        Scalar.
    """
    # where, not a product: an unused slot may hold NaN or infinity. And before all else: the
    # gradient of the square of infinity is NaN, even where nothing asks for it.
    distance = torch.where(weight[..., None] > 0, deltas.float() - wanted, 0.0).abs()
    if beta > 0:
        square = 0.5 * distance**2 / beta
        distance = torch.where(distance < beta, square, distance - 0.5 * beta)
    return distance.sum()


def giou_loss(boxes: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """1 - generalized IoU of pairs of boxes, summed (Rezatofighi et al., 2019, algorithm 1).

    Boxes without extent have finite gradients: areas below 1e-7 count as that in denominators.

    Args:
        boxes: (N, S, 4) xyxy.
        wanted: (N, S, 4) xyxy.
        weight: (N, S) bool or float; values in slots of weight 0 are not looked at.
    Returns:
        Scalar, of 0 to 2 for each slot used.
    """
    used = weight[..., None] > 0
    boxes, wanted = torch.where(used, boxes, 0.0), torch.where(used, wanted, 0.0)
    low = torch.maximum(boxes[..., :2], wanted[..., :2])
    high = torch.minimum(boxes[..., 2:], wanted[..., 2:])
    overlap = box_area(torch.cat([low, high], dim=-1))
    union = box_area(boxes) + box_area(wanted) - overlap
    low = torch.minimum(boxes[..., :2], wanted[..., :2])
    high = torch.maximum(boxes[..., 2:], wanted[..., 2:])
    hull = box_area(torch.cat([low, high], dim=-1))
    # As two quotients: the hull of a box far away may be infinite, which takes only its own to 0.
    loss = 2 - overlap / union.clamp(min=1e-7) - union / hull.clamp(min=1e-7)
    return torch.where(weight > 0, loss, 0.0).sum()


def binary_loss(logits: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """Binary cross-entropy, summed where `weight`, which broadcasts against `logits`, is set."""
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        logits.float(), wanted.float(), reduction="none"
    )
    return torch.where(weight > 0, loss, 0.0).sum()
