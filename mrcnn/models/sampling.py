"""Random choice of the anchors and proposals that enter the losses.

N images, A boxes to choose from, S samples, P proposals, G ground-truth slots, R RoIs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrcnn.ops import match_boxes
from mrcnn.structures import Proposals, SampledRois, Targets

POSITIVE_IOU = 0.5  # a RoI is positive from here on (Mask R-CNN, section 3.1)
_BITS = 0xFFFFFFFF


def random_keys(boxes: int, seeds: Tensor, stream: int) -> Tensor:
    """Hash the seed of an image and the index of a box to a random number in [0, 1).

    A key depends on nothing else. So a step chooses the same boxes on any device, in any process,
    for any split of the batch into micro-batches, and after a restart. There is also no generator,
    whose state a CUDA graph would have to capture.

    Args:
        boxes: A, boxes per image.
        seeds: (N,) int64.
        stream: gives several choices for one image different keys.

    Returns:
        (N, A) float32, multiples of 2^-24.
    """
    # Multiplying by 2^32 / golden ratio spreads neighbouring indices over the 32-bit numbers.
    index = torch.arange(boxes, device=seeds.device) * 0x9E3779B1 & _BITS
    seeds = _hash(_hash(seeds & _BITS) ^ (seeds >> 32 & _BITS) ^ stream)  # both halves of a seed
    return (_hash(index ^ seeds[:, None]) >> 8).float() * 2**-24


def _hash(x: Tensor) -> Tensor:
    """Map 32-bit numbers one to one, so that each input bit changes about half of the output bits.

    The multipliers are well-tested ones (C. Wellons' hash-prospector; T. Mueller). They are below
    2^31, which keeps products within int64.
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
    """Choose positives up to a fraction of `count` and fill up with negatives, without replacement.

    Every box gets a random key, and the boxes with the largest keys are chosen. So shapes depend on
    the arguments alone, not on the number of positives.

    Args:
        role: (N, A): 1 positive, 0 negative, -1 never chosen.
        count: S; it is reduced to A if there are fewer boxes.
        positive_fraction: upper bound on the fraction of positives.
        seeds: see `random_keys`. None uses PyTorch's generator.
        stream: see `random_keys`.

    Returns:
        Indices (N, S) into A, positives first; and the role of each, (N, S), which is -1 if too few
        boxes could be chosen.
    """
    count = min(count, role.shape[1])
    if seeds is None:
        key = torch.rand(role.shape, device=role.device)
    else:
        key = random_keys(role.shape[1], seeds, stream)
    positive_key = torch.where(role == 1, key, -1.0)
    limit = max(int(count * positive_fraction), 1)
    smallest = positive_key.topk(limit).values[:, -1:]  # -1 with fewer positives than the limit
    chosen_positive = (role == 1) & (key >= smallest)
    # Chosen positives rank above all negatives, and those above all boxes never to be chosen.
    priority = torch.where(chosen_positive, 2 + key, torch.where(role == 0, key, -1.0))
    value, index = priority.topk(count)
    chosen_role = torch.where(value >= 2, 1, torch.where(value >= 0, 0, -1))
    return index, chosen_role


def sample_rois(
    proposals: Proposals, targets: Targets, num_classes: int, count: int, positive_fraction: float
) -> SampledRois:
    """Choose RoIs for the losses of the heads (Fast R-CNN, section 2.3).

    They are chosen from the proposals and the ground-truth boxes.

    Args:
        proposals: of each image.
        targets: of each image.
        num_classes: C, which is also the label of background.
        count: R, RoIs per image.
        positive_fraction: upper bound on the fraction of positives.
    """
    present = targets.labels >= 0
    boxes = torch.cat([proposals.boxes, targets.boxes], dim=1)  # (N, P + G, 4)
    usable = torch.cat([proposals.scores > -torch.inf, present], dim=1)
    matched, role = match_boxes(
        boxes,
        targets.boxes,
        present,
        low_threshold=POSITIVE_IOU,
        high_threshold=POSITIVE_IOU,
        low_quality=False,
    )
    role = torch.where(usable, role, -1)
    index, role = draw_samples(role, count, positive_fraction, targets.seeds, stream=1)  # (N, R)
    matched = matched.gather(1, index)
    labels = targets.labels.gather(1, matched)
    labels = torch.where(role == 1, labels, torch.where(role == 0, num_classes, -1))
    return SampledRois(take(boxes, index), labels, matched)


def take(values: Tensor, index: Tensor) -> Tensor:
    """Return rows (N, S, D) of (N, A, D) at indices (N, S)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
