"""Specification of the mask ops in slow, plain float64 PyTorch, for tests and benchmarks only.

R RoIs, D detections, M the side of a target or predicted mask.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrcnn.ops.instance_masks import InstanceMasks

TIE = 1e-9  # a coverage within rounding of one half counts as one half


def mask_targets(masks: InstanceMasks, boxes: Tensor, instance: Tensor, size: int) -> Tensor:
    """Compute the (R, M, M) float32 targets of `mask_targets`."""
    targets = torch.zeros(len(boxes), size, size)
    for target, box, i in zip(targets, boxes.double(), instance.tolist(), strict=True):
        if i < 0 or not box.isfinite().all() or (box[2:] <= box[:2]).any():
            continue
        if masks.instance_count[i] < masks.instance_count[i + 1]:
            target.copy_(rle_coverage(masks, box, i, size) >= 0.5 - TIE)
        for q in range(int(masks.instance_ring[i]), int(masks.instance_ring[i + 1])):
            ring = masks.points[masks.ring_start[q] : masks.ring_start[q + 1]]
            scale, shift = masks.transform[i].view(2, 2)
            extent = (box[2:] - box[:2]).clamp(min=0.1)
            target.logical_or_(draw_ring((ring * scale + shift - box[:2]) * (size / extent), size))
    return targets


def draw_ring(ring: Tensor, size: int) -> Tensor:
    """Draw a closed ring of corners (V, 2) in target pixels as COCO does, (M, M) bool.

    Corners are rounded to fifths of a pixel and joined by a point for every fifth along the
    longer axis. Two neighbours on both sides of a column's centre line toggle all pixels of the
    column from the upper point down.
    """
    inside = torch.zeros(size, size, dtype=torch.bool)
    corners = (5 * ring + 0.5).long()
    for a, b in zip(corners, corners.roll(-1, 0), strict=True):
        longer = 0 if abs(b[0] - a[0]) >= abs(b[1] - a[1]) else 1
        if a[longer] > b[longer]:
            a, b = b, a
        steps = torch.arange(int(b[longer] - a[longer]) + 1)
        slope = (b[1 - longer] - a[1 - longer]).double() / (b[longer] - a[longer])
        points = torch.empty(len(steps), 2, dtype=torch.int64)
        points[:, longer] = a[longer] + steps
        points[:, 1 - longer] = (a[1 - longer] + slope * steps + 0.5).long()
        left = torch.minimum(points[:-1, 0], points[1:, 0])
        upper = torch.minimum(points[:-1, 1], points[1:, 1])
        crossing = (points[:-1, 0] != points[1:, 0]) & (left % 5 == 2)
        for x, y in zip(left[crossing].tolist(), upper[crossing].tolist(), strict=True):
            if 0 <= x // 5 < size:
                inside[max(0, -((2 - y) // 5)) :, x // 5].logical_not_()
    return inside


def rle_coverage(masks: InstanceMasks, box: Tensor, i: int, size: int) -> Tensor:
    """Compute the share of each bin of `box` (4,) that instance `i` covers, (M, M) float64."""
    height, width = masks.frame[i].tolist()
    runs = masks.counts[masks.instance_count[i] : masks.instance_count[i + 1]]
    values = torch.arange(len(runs)) % 2
    bitmap = values.repeat_interleave(runs).view(width, height).T.double()
    scale, shift = masks.transform[i].view(2, 2)
    (x1, y1), (x2, y2) = ((box.view(2, 2) - shift) / scale).tolist()
    return bin_weights(y1, y2, size, height) @ bitmap @ bin_weights(x1, x2, size, width).T


def bin_weights(start: float, stop: float, bins: int, cells: int) -> Tensor:
    """Compute the (bins, cells) weights of aligned RoIAlign with adaptive sampling along one axis.

    If `stop` is below `start`, bins run from the far end to the near one.
    """
    bin_size = (stop - start) / bins
    samples = max(1, torch.tensor(abs(bin_size)).ceil().int().item())
    offsets = (torch.arange(samples, dtype=torch.float64) + 0.5) / samples
    edges = start + bin_size * torch.arange(bins, dtype=torch.float64)
    positions = edges[:, None] + bin_size * offsets - 0.5  # (bins, samples)
    inside = (positions >= -1) & (positions <= cells)
    weights = tent(positions.clamp(0, cells - 1), cells) * inside[..., None]
    return weights.mean(dim=1)


def tent(positions: Tensor, cells: int) -> Tensor:
    """Compute the (..., cells) weights of linear interpolation at `positions` (...); 0 outside."""
    centres = torch.arange(cells, dtype=torch.float64)
    return (1 - (positions[..., None] - centres).abs()).clamp(min=0)


def paste_values(masks: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """Compute the (D, height, width) probabilities of `paste_masks` before the threshold."""
    values = torch.zeros(len(boxes), height, width, dtype=torch.float64)
    cells = masks.shape[-1]
    for value, mask, box in zip(values, masks.double(), boxes.double(), strict=True):
        if not box.isfinite().all() or (box[2:] <= box[:2]).any():
            continue
        x, y = (
            (torch.arange(pixels, dtype=torch.float64) + 0.5 - low) / (high - low) * cells - 0.5
            for pixels, low, high in ((width, box[0], box[2]), (height, box[1], box[3]))
        )
        value.copy_(tent(y, cells) @ mask @ tent(x, cells).T)
    return values


def paste_masks(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5
) -> Tensor:
    """Compute the (D, height, width) bool masks of `paste_masks`."""
    return paste_values(masks, boxes, height, width) >= threshold
