"""Masks as COCO run lengths: their pixels, their place in a larger image, their outlines.

Run lengths go down the columns, background first: {"size": [height, width], "counts": text}.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.ops import library

_host = library.load("mrcnn_host")

Rle = dict[str, Any]


def pixels(rle: Rle) -> tuple[int, int, NDArray[np.bool_]]:
    """The smallest rectangle that holds a mask; nothing larger is ever decoded.

    Returns:
        x, y of its corner, and its pixels (rows, columns); (0, 0) of them if the mask is empty.
    """
    columns, tops, bottoms = _pieces(rle)
    if not len(columns):
        return 0, 0, np.zeros((0, 0), bool)
    x, y = int(columns[0]), int(tops.min())
    steps = np.zeros((int(columns[-1]) - x + 1, int(bottoms.max()) - y + 1), np.int8)
    np.add.at(steps, (columns - x, tops - y), 1)
    np.add.at(steps, (columns - x, bottoms - y), -1)
    return x, y, steps.cumsum(1, dtype=np.int8)[:, :-1].T.astype(bool)


def shifted(rle: Rle, x: int, y: int, height: int, width: int) -> Rle:
    """The mask of a part of an image as one of the image, found without visiting the pixels.

    Args:
        x, y: where in the image the part has its corner.
        height, width: of the image.
    Raises:
        ValueError: if the part leaves the image.
    """
    rows, part_columns = rle["size"]
    if not (0 <= x <= width - part_columns and 0 <= y <= height - rows):
        raise ValueError(
            f"shifted: a part of {rows} x {part_columns} pixels at x {x}, y {y} must lie in the "
            f"image of {height} x {width}"
        )
    columns, tops, bottoms = _pieces(rle)
    before = (columns + x) * height + y
    return _encoded(before + tops, before + bottoms, height, width)


def rectangle(box: NDArray[Any], height: int, width: int) -> Rle:
    """The pixels of an image whose centres a box (x1, y1, x2, y2) holds, as a mask."""
    x1, y1, x2, y2 = np.clip(np.ceil(box - 0.5), 0, (width, height, width, height)).astype(int)
    columns = np.arange(x1, max(x1, x2)) * height
    return _encoded(columns + y1, columns + max(y1, y2), height, width)


def outlines(rle: Rle) -> list[NDArray[np.float32]]:
    """Polygons around a mask along the edges of its pixels; holes are filled.

    Pixels that only touch at a corner are apart. Filling the polygons gives the mask back exactly.

    Returns:
        For each part a (V, 2) array of (x, y), clockwise on the screen, the first not repeated.
    """
    x, y, mask = pixels(rle)
    mask = np.pad(mask, 1)
    # The four pixels around each point of the grid.
    nw, ne, sw, se = mask[:-1, :-1], mask[:-1, 1:], mask[1:, :-1], mask[1:, 1:]
    crossing = (nw == se) & (ne == sw) & (nw != ne)
    corner = (nw ^ ne ^ sw ^ se) | crossing
    points = np.argwhere(corner)  # (V, 2) of (y, x), row by row
    points = points.repeat(1 + crossing[corner], axis=0)  # two outlines pass a crossing
    # In a row, horizontal edges join the corners two by two, in a column vertical edges. Of a
    # crossing the first copy ends the edge from the left, and goes on up if that is the edge of
    # the pixel above it, else down.
    is_second = np.zeros(len(points), bool)
    is_second[1:] = (points[1:] == points[:-1]).all(1)
    turned = ~nw[points[:, 0], points[:, 1]] & crossing[points[:, 0], points[:, 1]]
    by_column = np.lexsort((is_second ^ turned, points[:, 0], points[:, 1]))
    across = np.arange(len(points)) ^ 1
    down = np.empty(len(points), np.int64)
    down[by_column[0::2]], down[by_column[1::2]] = by_column[1::2], by_column[0::2]
    rings, seen = [], np.zeros(len(points), bool)
    for start in range(len(points)):
        if seen[start]:
            continue
        ring, at = [], start  # the leftmost of the topmost corners: the ring goes right from it
        while not seen[at]:
            ring += [at, across[at]]
            seen[ring[-2:]] = True
            at = down[across[at]]
        if se[tuple(points[start])]:  # else it is the rim of a hole
            rings.append((points[ring][:, ::-1] + (x, y)).astype(np.float32))
    return rings


def _pieces(rle: Rle) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Runs of the mask cut at columns, from left to right: columns, tops, bottoms (exclusive)."""
    height, width = rle["size"]
    text = rle["counts"]
    text = text.decode() if isinstance(text, bytes) else text
    edges = np.cumsum(_host.rle_from_string(text, height, width), dtype=np.int64)
    starts, ends = edges[0::2], edges[1::2]
    starts = starts[: len(ends)]
    starts, ends = starts[ends > starts], ends[ends > starts]
    first = starts // height
    count = (ends - 1) // height - first + 1  # columns of each run
    run = np.arange(len(starts)).repeat(count)
    columns = first[run] + np.arange(len(run)) - (count.cumsum() - count)[run]
    tops = np.maximum(starts[run] - columns * height, 0)
    return columns, tops, np.minimum(ends[run] - columns * height, height)


def _encoded(starts: NDArray[np.int64], ends: NDArray[np.int64], height: int, width: int) -> Rle:
    """Of runs of the mask in ascending order, from `starts` up to `ends`."""
    if len(starts):
        apart = starts[1:] != ends[:-1]
        starts, ends = starts[np.r_[True, apart]], ends[np.r_[apart, True]]
    edges = np.stack([starts, ends], axis=1).ravel()
    counts = np.diff(np.r_[0, edges, height * width])
    if len(edges) and edges[-1] == height * width:
        counts = counts[:-1]
    return {"size": [height, width], "counts": _host.rle_to_string(counts)}
