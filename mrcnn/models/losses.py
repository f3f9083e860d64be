"""The two sums that all losses are made of."""

from __future__ import annotations

import torch
from torch import Tensor


def box_loss(deltas: Tensor, wanted: Tensor, weight: Tensor, beta: float) -> Tensor:
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


def binary_loss(logits: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """Binary cross-entropy, summed where `weight`, which broadcasts against `logits`, is set."""
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        logits.float(), wanted.float(), reduction="none"
    )
    return torch.where(weight > 0, loss, 0.0).sum()
