"""Overlapping tiles for large images: their windows, and the merging of their detections.

D detections, T tiles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from mrcnn.inference.inputs import InputImage
from mrcnn.inference.results import Result
from mrcnn.ops import rle

Window = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels of the image

MIN_TILE = 32  # side in pixels; smaller ones would be too many, and show nothing whole
SAME = 0.5  # two masks show one object if they share at least this fraction
# Fraction of a tile's side: a box this close to a border inside the image may be cut by it.
MARGIN = 0.05


def tile_windows(height: int, width: int, size: int, overlap: float) -> list[Window]:
    """Cover an image with evenly spaced tiles of one size, row by row.

    Args:
        height: of the image.
        width: of the image.
        size: side of a tile, pixels. A shorter side of the image is taken whole.
        overlap: fraction of their side that neighbours share at least; below 1.
    """
    shared = math.floor(size * overlap)

    def starts(length: int) -> list[int]:
        count = max(1, -(-(length - shared) // (size - shared)))
        return [round(i * (length - size) / max(1, count - 1)) for i in range(count)]

    tile_height, tile_width = min(size, height), min(size, width)
    return [
        (x, y, x + tile_width, y + tile_height)
        for y in (starts(height) if height > size else [0])
        for x in (starts(width) if width > size else [0])
    ]


def merge_tiles(image: InputImage, windows: Sequence[Window], results: Sequence[Result]) -> Result:
    """Merge the detections of the tiles of an image, best first.

    A detection that the border of its tile may cut is dropped if another tile shows all of it and
    what is behind the border, whatever its class there. Then masks of one class are compared in the
    area that both their tiles show. An object that is whole in some tile is taken from there; if
    several tiles show it whole, the best detection is kept. Parts of an object that is whole in no
    tile are joined: the union of their masks and boxes, with their best score. Without masks, boxes
    are compared instead.

    Args:
        image: the whole image.
        windows: T tiles, in its pixels.
        results: detections in each tile, in pixels of the tile.
    """
    height, width = image.size
    tile = np.arange(len(windows)).repeat([len(result) for result in results])  # (D,)
    corners = np.array(windows)[tile]  # (D, 4)
    boxes = np.concatenate([result.boxes for result in results]) + corners[:, [0, 1, 0, 1]]
    scores = np.concatenate([result.scores for result in results])
    labels = np.concatenate([result.labels for result in results])
    masks = [
        rle.shift(mask, x, y, height, width)
        for result, (x, y, *_) in zip(results, windows, strict=True)
        for mask in result.rles
    ]
    has_masks = any(result.rles for result in results)
    if not has_masks:
        masks = [rle.from_box(box, height, width) for box in boxes]
    # The inner area of each tile; it has no margin at the sides of the image.
    low, high = np.array(windows, np.float64).reshape(-1, 2, 2).swapaxes(0, 1)  # (T, 2) each
    margin = MARGIN * (high - low)
    low, high = (
        np.where(low > 0, low + margin, -np.inf),
        np.where(high < (width, height), high - margin, np.inf),
    )
    is_inside = ((boxes[:, None, :2] >= low) & (boxes[:, None, 2:] <= high)).all(2)  # (D, T)
    is_cut = ~is_inside[np.arange(len(tile)), tile]
    is_shown_whole = is_inside.any(1)

    @cache
    def shared_window(a: int, b: int) -> rle.Rle:
        (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = windows[a], windows[b]
        both = (max(ax1, bx1), max(ay1, by1), min(ax2, bx2), min(ay2, by2))
        return rle.from_box(np.array(both), height, width)

    def is_same(i: int, j: int) -> bool:
        """Return whether detections i and j show one object."""
        window = shared_window(*sorted((int(tile[i]), int(tile[j]))))
        visible = [rle.intersection([masks[k], window]) for k in (i, j)]
        common, union = rle.area(rle.intersection(visible)), rle.area(rle.union(visible))
        if common >= SAME * union > 0:
            return True
        smaller = [k for k in (i, j) if is_cut[k]]  # a part may be inside the whole
        return any(common >= SAME * rle.area(masks[k]) > 0 for k in smaller)

    order = np.lexsort((-scores, is_cut))
    order = order[~(is_cut & is_shown_whole)[order]]
    kept: list[int] = []
    groups: dict[int, list[int]] = {}  # parts of one object, by the last part added
    group_of: dict[int, int] = {}
    for i in order.tolist():
        others = np.array(kept, np.int64)
        near = (
            (tile[others] != tile[i])
            & (labels[others] == labels[i])
            & (boxes[others, :2] < boxes[i, 2:]).all(1)
            & (boxes[others, 2:] > boxes[i, :2]).all(1)
        )
        same = [j for j in others[near].tolist() if is_same(i, j)]
        if any(not is_cut[j] for j in same):
            continue
        kept.append(i)
        if is_cut[i]:
            members = [i]
            for group in {group_of[j] for j in same}:
                members = groups.pop(group) + members
            groups[i] = members
            group_of.update(dict.fromkeys(members, i))
    chosen = [[i] for i in kept if not is_cut[i]] + list(groups.values())
    chosen.sort(key=lambda members: -scores[members].max())
    return Result(
        image=image.pixels,
        boxes=np.array(
            [[*boxes[m, :2].min(0), *boxes[m, 2:].max(0)] for m in chosen], np.float32
        ).reshape(-1, 4),
        scores=np.array([scores[m].max() for m in chosen], np.float32),
        labels=np.array([labels[m[0]] for m in chosen], np.int64),
        rles=[rle.union([masks[i] for i in m]) for m in chosen] if has_masks else [],
        class_names=results[0].class_names,
        category_ids=results[0].category_ids,
        path=image.path,
    )
