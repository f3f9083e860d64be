"""Which anchors and proposals the losses see: fixed numbers of them, drawn at random.

N images, A boxes to draw from, S drawn, P proposals, G ground-truth slots, R RoIs, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrcnn.ops import match_boxes
from mrcnn.structures import Proposals, SampledRois, Targets

_BITS = 0xFFFFFFFF


def random_keys(boxes: int, seeds: Tensor, stream: int) -> Tensor:
    """Numbers in [0, 1) that look random and follow from their image's seed and their place alone.

    So a step draws the same boxes on any device, in any process, in any part of a batch, and after
    a restart; and it needs no generator, whose state a captured graph would have to keep.

    Args:
        boxes: A, how many an image.
        seeds: (N,) int64.
        stream: tells the draws of a step apart.
    Returns:
        (N, A) float32, multiples of 2^-24.
    """
    place = torch.arange(boxes, device=seeds.device) * 0x9E3779B1 & _BITS  # 2^32 / golden ratio
    seeds = _mixed(_mixed(seeds & _BITS) ^ (seeds >> 32 & _BITS) ^ stream)
    return (_mixed(place ^ seeds[:, None]) >> 8).float() * 2**-24


def _mixed(x: Tensor) -> Tensor:
    """A bijection of 32-bit numbers in which every bit of the input changes half of the output.

    The multipliers are known for that (C. Wellons' hash-prospector; T. Mueller); being below 2^31
    they keep products within int64.
    """
    x = ((x >> 16) ^ x) * 0x7FEB352D & _BITS
    x = ((x >> 15) ^ x) * 0x45D9F3B & _BITS
    return (x >> 16) ^ x


def draw_samples(
    role: Tensor,
    count: int,
    positive_fraction: float,
    seeds: Tensor | None = None,
    stream: int = 0,
) -> tuple[Tensor, Tensor]:
    """Draw positives up to a share of `count`, and negatives to fill it, without replacement.

    Shapes depend on the arguments alone: every box gets a random key, and the largest keys win.

    Args:
        role: (N, A): 1 positive, 0 negative, -1 never drawn.
        count: S, at most A are drawn.
        positive_fraction: of `count`, at most.
        seeds, stream: as for `random_keys`; without seeds, PyTorch's generator draws.
    Returns:
        index (N, S) into A, positives first; and the role of each, (N, S), -1 where too few
        boxes could be drawn.
    """
    count = min(count, role.shape[1])
    if seeds is None:
        key = torch.rand(role.shape, device=role.device)
    else:
        key = random_keys(role.shape[1], seeds, stream)
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
    index, drawn = draw_samples(role, count, positive_fraction, targets.seeds, stream=1)  # (N, R)
    matched = matched.gather(1, index)
    labels = targets.labels.gather(1, matched)
    labels = torch.where(drawn == 1, labels, torch.where(drawn == 0, num_classes, -1))
    return SampledRois(take(boxes, index), labels, matched)


def take(values: Tensor, index: Tensor) -> Tensor:
    """Rows of (N, A, D) at (N, S), as (N, S, D)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
