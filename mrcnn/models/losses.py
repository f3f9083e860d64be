"""Sums over samples from which all losses are made.

N images, S samples per image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mrcnn.ops.boxes import box_area, decode_boxes, encode_boxes

BOX_LOSSES = ("smooth_l1", "giou")

# Takes the number of samples of one kind in this batch (a scalar) and returns the number that sums
# of losses over them are divided by. If a batch is split into micro-batches or over processes, that
# is the mean count over all of them: the mean of their losses is then the loss of the whole batch.
Normalizer = Callable[[Tensor], Tensor]


def local_count(count: Tensor) -> Tensor:
    """Return the count itself, at least 1: the normalizer of a batch that is not split."""
    return count.clamp(min=1)


def box_loss(
    deltas: Tensor,
    references: Tensor,
    targets: Tensor,
    weight: Tensor,
    *,
    kind: str,
    beta: float,
    giou_weight: float,
    delta_weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
) -> Tensor:
    """Sum the distances of refined boxes from their targets.

    Args:
        deltas: (N, S, 4), predicted for `references`.
        references: (N, S, 4) xyxy, anchors or RoIs.
        targets: (N, S, 4) xyxy, ground truth.
        weight: (N, S) bool or float. Slots of weight 0 are ignored.
        kind: "smooth_l1" compares deltas, "giou" compares boxes.
        beta: of `smooth_l1_loss`.
        giou_weight: factor of `giou_loss`.
        delta_weights: factors of dx, dy, dw, dh.

    Returns:
        A scalar.
    """
    if kind == "giou":
        # Clear unused slots first, and not by a product: padding is a box of no extent, whose
        # gradient may be NaN.
        used = weight[..., None] > 0
        boxes = decode_boxes(torch.where(used, deltas.float(), 0.0), references, delta_weights)
        return giou_weight * giou_loss(boxes, targets, weight)
    return smooth_l1_loss(deltas, encode_boxes(targets, references, delta_weights), weight, beta)


def smooth_l1_loss(deltas: Tensor, targets: Tensor, weight: Tensor, beta: float) -> Tensor:
    """Sum the smooth L1 distances of box deltas (Fast R-CNN, equation 3).

    Args:
        deltas: (N, S, 4), predicted.
        targets: (N, S, 4), of the ground truth.
        weight: (N, S) bool or float. Slots of weight 0 are ignored.
        beta: the distance at which the square meets the line. 0 is the plain L1 distance.

    Returns:
        A scalar.
    """
    # Clear unused slots first, and not by a product: they may hold NaN or infinity, and the
    # gradient of the square of infinity is NaN even where it is multiplied by 0.
    distance = torch.where(weight[..., None] > 0, deltas.float() - targets, 0.0).abs()
    if beta > 0:
        square = 0.5 * distance**2 / beta
        distance = torch.where(distance < beta, square, distance - 0.5 * beta)
    return distance.sum()


def giou_loss(boxes: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    """Sum 1 - generalized IoU over pairs of boxes (Rezatofighi et al., 2019, algorithm 1).

    Boxes of no extent have finite gradients: denominators are at least 1e-7.

    Args:
        boxes: (N, S, 4) xyxy, predicted.
        targets: (N, S, 4) xyxy, ground truth.
        weight: (N, S) bool or float. Slots of weight 0 are ignored.

    Returns:
        A scalar; each used slot adds 0 to 2.
    """
    used = weight[..., None] > 0
    boxes, targets = torch.where(used, boxes, 0.0), torch.where(used, targets, 0.0)
    low = torch.maximum(boxes[..., :2], targets[..., :2])
    high = torch.minimum(boxes[..., 2:], targets[..., 2:])
    overlap = box_area(torch.cat([low, high], dim=-1))
    union = box_area(boxes) + box_area(targets) - overlap
    low = torch.minimum(boxes[..., :2], targets[..., :2])
    high = torch.maximum(boxes[..., 2:], targets[..., 2:])
    hull = box_area(torch.cat([low, high], dim=-1))
    # Two quotients instead of one: the hull of a distant box may be infinite, and then only its own
    # quotient becomes 0.
    loss = 2 - overlap / union.clamp(min=1e-7) - union / hull.clamp(min=1e-7)
    return torch.where(weight > 0, loss, 0.0).sum()


def binary_loss(logits: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    """Sum the binary cross-entropy where `weight`, which broadcasts against `logits`, is set."""
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        logits.float(), targets.float(), reduction="none"
    )
    return torch.where(weight > 0, loss, 0.0).sum()
