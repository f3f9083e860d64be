"""Large images by overlapping tiles: where they lie, and what was found in them put together.

D objects of an image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mrcnn import rle
from mrcnn.results import Result

Window = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels of the image

SAME = 0.5  # share of two masks in common from which on they are of one object
MARGIN = 0.05  # of a tile's side: a box as near to a border inside the image may be cut by it


def windows(height: int, width: int, size: int, overlap: float) -> list[Window]:
    """Tiles of one size, evenly spread row by row, that cover an image.

    Args:
        size: side of a tile, pixels; a smaller side of the image is taken whole.
        overlap: of neighbours, as a part of their side, at least; below 1.
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


def merged(
    image: NDArray[np.uint8], path: Path | None, tiles: Sequence[Window], found: Sequence[Result]
) -> Result:
    """The objects of an image from those of its tiles, best first.

    What may be cut by the border of its tile is left out where another tile shows all of it and
    what comes behind the border, whatever it is taken for there. Then two masks of one class are
    compared in the part of the image that both their tiles show. An object that is whole in some
    tile is taken from there, the best where it is in several. Parts of an object that is whole in
    none are joined: the union of their masks and boxes, the best of their scores. Without masks,
    boxes stand in for them.

    Args:
        image: (h, w, 3), of which the tiles are windows.
        found: in each tile, in its own pixels.
    """
    height, width = image.shape[:2]
    tile = np.arange(len(tiles)).repeat([len(one) for one in found])  # (D,)
    corners = np.array(tiles)[tile]  # (D, 4)
    boxes = np.concatenate([one.boxes for one in found]) + corners[:, [0, 1, 0, 1]]
    scores = np.concatenate([one.scores for one in found])
    labels = np.concatenate([one.labels for one in found])
    masks = [
        rle.shift(mask, x, y, height, width)
        for one, (x, y, *_) in zip(found, tiles, strict=True)
        for mask in one.rles
    ]
    has_masks = any(one.rles for one in found)
    if not has_masks:
        masks = [rle.from_box(box, height, width) for box in boxes]
    # Of each tile what lies well inside; a side of the image ends nothing.
    low, high = np.array(tiles, np.float64).reshape(-1, 2, 2).swapaxes(0, 1)  # (T, 2) each
    margin = MARGIN * (high - low)
    low, high = (
        np.where(low > 0, low + margin, -np.inf),
        np.where(high < (width, height), high - margin, np.inf),
    )
    shown = ((boxes[:, None, :2] >= low) & (boxes[:, None, 2:] <= high)).all(2)  # (D, T)
    is_cut = ~shown[np.arange(len(tile)), tile]
    is_shown_whole = shown.any(1)

    @cache
    def shared_window(a: int, b: int) -> rle.Rle:
        (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = tiles[a], tiles[b]
        both = (max(ax1, bx1), max(ay1, by1), min(ax2, bx2), min(ay2, by2))
        return rle.from_box(np.array(both), height, width)

    def is_same(i: int, j: int) -> bool:
        """Whether i and j, of which i is cut if one of them is, show one object."""
        window = shared_window(*sorted((int(tile[i]), int(tile[j]))))
        seen = [rle.intersection([masks[k], window]) for k in (i, j)]
        common, union = rle.area(rle.intersection(seen)), rle.area(rle.union(seen))
        if common >= SAME * union > 0:
            return True
        smaller = [k for k in (i, j) if is_cut[k]]  # a part may lie in the whole
        return any(common >= SAME * rle.area(masks[k]) > 0 for k in smaller)

    order = np.lexsort((-scores, is_cut))
    order = order[~(is_cut & is_shown_whole)[order]]
    kept: list[int] = []
    groups: dict[int, list[int]] = {}  # of kept objects that are cut, by their first
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
        image=image,
        boxes=np.array(
            [[*boxes[m, :2].min(0), *boxes[m, 2:].max(0)] for m in chosen], np.float32
        ).reshape(-1, 4),
        scores=np.array([scores[m].max() for m in chosen], np.float32),
        labels=np.array([labels[m[0]] for m in chosen], np.int64),
        rles=[_union([masks[i] for i in m]) for m in chosen] if has_masks else [],
        class_names=found[0].class_names,
        category_ids=found[0].category_ids,
        path=path,
    )


def _union(masks: Sequence[rle.Rle]) -> rle.Rle:
    return masks[0] if len(masks) == 1 else rle.union(masks)
