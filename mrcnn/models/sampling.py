"""Which anchors and proposals the losses see: fixed numbers of them, drawn at random.

N images, A boxes to draw from, S drawn, P proposals, G ground-truth slots, R RoIs, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrcnn.ops import match_boxes
from mrcnn.structures import Proposals, SampledRois, Targets


def draw_samples(role: Tensor, count: int, positive_fraction: float) -> tuple[Tensor, Tensor]:
    """Draw positives up to a share of `count`, and negatives to fill it, without replacement.

    Shapes depend on the arguments alone: every box gets a random key, and the largest keys win.

    Args:
        role: (N, A): 1 positive, 0 negative, -1 never drawn.
        count: S, at most A are drawn.
        positive_fraction: of `count`, at most.
    Returns:
        index (N, S) into A, positives first; and the role of each, (N, S), -1 where too few
        boxes could be drawn.
    """
    count = min(count, role.shape[1])
    key = torch.rand(role.shape, device=role.device)
    positive_key = torch.where(role == 1, key, -1.0)
    limit = max(int(count * positive_fraction), 1)
    smallest = positive_key.topk(limit).values[:, -1:]  # -1 with fewer positives than the limit
    drawn_positive = (role == 1) & (key >= smallest)
    priority = torch.where(drawn_positive, 2 + key, torch.where(role == 0, key, -1.0))
    value, index = priority.topk(count)
    drawn = torch.where(value >= 2, 1, torch.where(value >= 0, 0, -1))
    return index, drawn


def sample_rois(
    proposals: Proposals, targets: Targets, num_classes: int, count: int, positive_fraction: float
) -> SampledRois:
    """RoIs for the losses of the heads: proposals and the ground truth itself (Fast R-CNN, 2.3).

    A RoI is positive from an IoU of 0.5 on.
    """
    present = targets.labels >= 0
    boxes = torch.cat([proposals.boxes, targets.boxes], dim=1)  # (N, P + G, 4)
    usable = torch.cat([proposals.scores > -torch.inf, present], dim=1)
    matched, role = match_boxes(
        boxes, targets.boxes, present, low_threshold=0.5, high_threshold=0.5, low_quality=False
    )
    role = torch.where(usable, role, -1)
    index, drawn = draw_samples(role, count, positive_fraction)  # (N, R)
    matched = matched.gather(1, index)
    labels = targets.labels.gather(1, matched)
    labels = torch.where(drawn == 1, labels, torch.where(drawn == 0, num_classes, -1))
    return SampledRois(take(boxes, index), labels, matched)


def take(values: Tensor, index: Tensor) -> Tensor:
    """Rows of (N, A, D) at (N, S), as (N, S, D)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
