"""Copy-paste augmentation: instances of one image pasted over another (Ghiasi et al., 2021).

Edges are not blended, because the paper found no effect. Images of h x w pixels, G instances.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrcnn.ops import instance_masks, rle
from mrcnn.ops.instance_masks import InstanceMasks

Bools = NDArray[np.bool_]
Bounds = tuple[int, int, int, int]  # (x1, y1, x2, y2), whole pixels

MIN_LEFT = 0.1  # an instance is dropped if a smaller fraction of its pixels stays visible


@dataclass(frozen=True)
class NetworkImage:
    """A view of an image as network input, with its G instances."""

    pixels: Tensor  # (3, h, w) float32 RGB, normalised
    boxes: Tensor  # (G, 4) in pixels of this view
    labels: Tensor  # (G,) int64
    masks: InstanceMasks  # G instances, transform set


def select(image: NetworkImage, index: Tensor) -> NetworkImage:
    """Keep only the instances at `index` (K,) int64."""
    masks = instance_masks.select(image.masks, index)
    return NetworkImage(image.pixels, image.boxes[index], image.labels[index], masks)


def paste(below: NetworkImage, above: NetworkImage) -> NetworkImage:
    """Paste the instances of `above` over `below`, with the upper left corners aligned.

    Instances of `below` lose the covered pixels, and their masks become RLE in the frame of the
    result. Instances of `above` keep their masks.

    Returns:
        An image with the larger height and the larger width of both, zero where neither has pixels.
    """
    size = height, width = (
        max(below.pixels.shape[1], above.pixels.shape[1]),
        max(below.pixels.shape[2], above.pixels.shape[2]),
    )
    covered = np.zeros(size, bool)
    for i, (x1, y1, x2, y2) in enumerate(_bounds(above, size)):
        covered[y1:y2, x1:x2] |= bitmap(above.masks, i, (x1, y1, x2, y2))

    pixels = torch.zeros(height, width, 3).permute(2, 0, 1)
    pixels[:, : below.pixels.shape[1], : below.pixels.shape[2]] = below.pixels
    shown = pixels[:, : above.pixels.shape[1], : above.pixels.shape[2]]
    replaced = torch.from_numpy(covered[: shown.shape[1], : shown.shape[2]])
    shown.copy_(torch.where(replaced, above.pixels, shown))

    changed: list[int] = []  # instances of `below` that are partly covered
    runs: list[NDArray[np.int64]] = []
    boxes, kept = below.boxes.clone(), torch.ones(len(below.labels), dtype=torch.bool)
    for i, bounds in enumerate(_bounds(below, size)):
        x1, y1, x2, y2 = bounds
        hidden = covered[y1:y2, x1:x2]
        if not hidden.any() or not (hidden & (before := bitmap(below.masks, i, bounds))).any():
            continue
        left = before & ~hidden
        if left.sum() < max(1, MIN_LEFT * before.sum()):
            kept[i] = False
            continue
        rows, columns = np.flatnonzero(left.any(1)), np.flatnonzero(left.any(0))
        edges = (x1 + columns[0], y1 + rows[0], x1 + columns[-1] + 1, y1 + rows[-1] + 1)
        boxes[i] = torch.tensor(edges)
        changed.append(i)
        runs.append(_counts(left, x1, y1, size))

    masks = instance_masks.concatenate([below.masks, _from_runs(runs, size), above.masks])
    order = torch.arange(len(below.labels))
    order[changed] = len(below.labels) + torch.arange(len(changed))
    pasted = len(below.labels) + len(changed) + torch.arange(len(above.labels))
    return NetworkImage(
        pixels=pixels,
        boxes=torch.cat([boxes[kept], above.boxes]),
        labels=torch.cat([below.labels[kept], above.labels]),
        masks=instance_masks.select(masks, torch.cat([order[kept], pasted])),
    )


def bitmap(masks: InstanceMasks, i: int, bounds: Bounds) -> Bools:
    """Draw mask i inside `bounds`, which contain all of it, in the frame of its view.

    Polygons are drawn as by COCO's `frPyObjects`. RLE is sampled at pixel centres.
    """
    x1, y1, x2, y2 = bounds
    scale_x, scale_y, shift_x, shift_y = masks.transform[i].tolist()
    ends = masks.ring_start[int(masks.instance_ring[i]) : int(masks.instance_ring[i + 1]) + 1]
    if len(ends) > 1:
        scale, shift = np.array([scale_x, scale_y]), np.array([shift_x - x1, shift_y - y1])
        polygons = [
            masks.points[first:last].numpy() * scale + shift
            for first, last in pairwise(ends.tolist())
        ]
        rings = [ring.ravel().tolist() for ring in polygons]
        return rle.decode(rle.from_polygons(rings, y2 - y1, x2 - x1))
    counts = masks.counts[int(masks.instance_count[i]) : int(masks.instance_count[i + 1])].numpy()
    file_height, file_width = masks.frame[i].tolist()
    whole = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(file_width, file_height)
    x = np.floor((np.arange(x1, x2) + 0.5 - shift_x) / scale_x).astype(int)
    y = np.floor((np.arange(y1, y2) + 0.5 - shift_y) / scale_y).astype(int)
    inside = ((x >= 0) & (x < file_width))[:, None] & ((y >= 0) & (y < file_height))
    taken: Bools = whole[np.ix_(x.clip(0, file_width - 1), y.clip(0, file_height - 1))] & inside
    return taken.T


def _bounds(image: NetworkImage, size: tuple[int, int]) -> list[Bounds]:
    """Return the whole pixels that each box touches, at least one."""
    limit = torch.tensor([size[1], size[0]])
    low = torch.minimum(image.boxes[:, :2].floor().long(), limit - 1).clamp(min=0)
    high = torch.maximum(torch.minimum(image.boxes[:, 2:].ceil().long(), limit), low + 1)
    return [tuple(bounds) for bounds in torch.cat([low, high], dim=1).tolist()]


def _counts(part: Bools, x: int, y: int, size: tuple[int, int]) -> NDArray[np.int64]:
    """Encode the part of a mask at (x, y) as RLE counts in a frame of `size`."""
    steps = np.diff(np.pad(part, ((1, 1), (0, 0))).astype(np.int8), axis=0).T  # (w, h + 1)
    column, row = np.nonzero(steps)  # starts and ends alternate
    edges, times = np.unique((x + column) * size[0] + y + row, return_counts=True)
    edges = edges[times == 1]  # an end at the bottom and a start at the next top cancel
    lengths: NDArray[np.int64] = np.diff(np.concatenate([[0], edges, [size[0] * size[1]]]))
    return lengths


def _from_runs(runs: list[NDArray[np.int64]], size: tuple[int, int]) -> InstanceMasks:
    """Make masks from RLE counts in a frame of `size`."""
    count = len(runs)
    empty = instance_masks.empty()
    return InstanceMasks(
        points=empty.points,
        ring_start=empty.ring_start,
        instance_ring=torch.zeros(count + 1, dtype=torch.int64),
        counts=torch.from_numpy(np.concatenate([np.zeros(0, np.int32), *runs]).astype(np.int32)),
        instance_count=torch.from_numpy(np.cumsum([0, *map(len, runs)])),
        frame=torch.tensor([size] * count, dtype=torch.int64).view(-1, 2),
        transform=torch.tensor([[1.0, 1.0, 0.0, 0.0]] * count, dtype=torch.float64).view(-1, 4),
    )
