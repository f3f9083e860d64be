"""COCO run-length encoding (RLE) of masks.

Masks are drawn, parsed and combined here, with counts that are checked. Only their IoU is
computed by pycocotools, whose other functions trust their input.

An RLE is {"size": [height, width], "counts": text}. The counts are the lengths of alternating runs
of background and foreground down the columns, background first. Functions accept counts as text or
bytes and return text.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as _codec

from mrcnn.ops import library

_host = library.load("mrcnn_host")

Rle = dict[str, Any]
Box = tuple[float, float, float, float]  # x, y, width, height


def encode(mask: NDArray[Any]) -> Rle:
    """Encode the nonzero pixels of a mask (h, w)."""
    down = (mask != 0).ravel(order="F")
    edges = np.flatnonzero(np.diff(down, prepend=False, append=False))
    return _from_edges(edges, *mask.shape)


def encode_values(values: NDArray[Any]) -> dict[int, Rle]:
    """Encode the mask of each nonzero value of an integer bitmap (h, w), in ascending order."""
    down = values.ravel(order="F")
    starts = np.flatnonzero(np.concatenate([[True], down[1:] != down[:-1]]))
    ends = np.append(starts[1:], down.size)
    value = down[starts].astype(np.int64)
    order = np.argsort(value, kind="stable")
    order = order[value[order] != 0]
    starts, ends, value = starts[order], ends[order], value[order]
    bounds = np.flatnonzero(np.diff(value, prepend=0, append=0))
    return {
        int(value[first]): _from_edges(
            np.stack([starts[first:last], ends[first:last]], axis=1).ravel(), *values.shape
        )
        for first, last in pairwise(bounds)
    }


def decode(rle: Rle) -> NDArray[np.bool_]:
    """Decode a mask to (h, w)."""
    height, width = rle["size"]
    counts = parse_counts(rle["counts"], height, width)
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T


def decode_all(rles: Sequence[Rle], height: int, width: int) -> NDArray[np.bool_]:
    """Decode D masks of one size to (D, height, width)."""
    if not rles:
        return np.zeros((0, height, width), bool)
    return np.stack([decode(rle) for rle in rles])


def decode_tight(rle: Rle) -> tuple[int, int, NDArray[np.bool_]]:
    """Decode only the smallest rectangle that contains a mask.

    Returns:
        x and y of its corner, and its pixels (rows, columns); 0 x 0 pixels for an empty mask.
    """
    columns, tops, bottoms = _runs_by_column(rle)
    if not len(columns):
        return 0, 0, np.zeros((0, 0), bool)
    x, y = int(columns[0]), int(tops.min())
    steps = np.zeros((int(columns[-1]) - x + 1, int(bottoms.max()) - y + 1), np.int8)
    np.add.at(steps, (columns - x, tops - y), 1)
    np.add.at(steps, (columns - x, bottoms - y), -1)
    return x, y, steps.cumsum(1, dtype=np.int8)[:, :-1].T.astype(bool)


def parse_counts(counts: str | bytes | Sequence[int], height: int, width: int) -> NDArray[np.int32]:
    """Parse and check the counts of an RLE.

    Raises:
        ValueError: if they are malformed or do not fill height x width pixels.
        TypeError, OverflowError: if a list contains something other than 64-bit integers.
    """
    if isinstance(counts, str | bytes):
        text = counts.decode() if isinstance(counts, bytes) else counts
        return np.asarray(_host.rle_from_string(text, height, width))
    return np.asarray(_host.rle_from_counts(np.array(array("q", counts)), height, width))


def compress(counts: NDArray[np.int32], starts: NDArray[np.int64]) -> list[str]:
    """Compress the counts of many masks; mask i has counts[starts[i] : starts[i + 1]]."""
    texts: list[str] = _host.rle_to_strings(counts, starts)
    return texts


def from_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> Rle:
    """Draw polygons, each x, y, x, y, …, as COCO's `frPyObjects` does, and return their union.

    Memory is bounded by the image, whatever the length of the outlines.
    """
    rings = [np.asarray(ring, np.float64).reshape(-1, 2) for ring in polygons]
    points = np.concatenate([np.zeros((0, 2)), *rings])
    starts = np.cumsum([0, *map(len, rings)])
    return _from_edges(_host.polygon_edges(points, starts, height, width), height, width)


def from_segmentation(segmentation: Any, height: int, width: int) -> Rle:
    """Return the RLE of a COCO segmentation: polygons, a list of counts, or RLE already."""
    if isinstance(segmentation, list):
        return from_polygons(segmentation, height, width)
    if isinstance(segmentation["counts"], list):
        counts = parse_counts(segmentation["counts"], height, width)
        return {"size": [height, width], "counts": _host.rle_to_string(counts)}
    rle: Rle = segmentation
    return rle


def from_box(box: NDArray[Any], height: int, width: int) -> Rle:
    """Return the mask of the pixels whose centres are inside a box (x1, y1, x2, y2)."""
    x1, y1, x2, y2 = np.clip(np.ceil(box - 0.5), 0, (width, height, width, height)).astype(int)
    columns = np.arange(x1, max(x1, x2)) * height
    return _from_runs(columns + y1, columns + max(y1, y2), height, width)


def area(rle: Rle) -> int:
    """Return the number of pixels of a mask."""
    return int(parse_counts(rle["counts"], *rle["size"])[1::2].sum())


def bounding_box(rle: Rle) -> Box:
    """Return x, y, width and height of the smallest rectangle that contains a mask."""
    counts = parse_counts(rle["counts"], *rle["size"])
    x1, y1, x2, y2 = _host.rle_box(counts, *rle["size"])
    return x1, y1, x2 - x1, y2 - y1


def iou(
    detections: Sequence[Any], truth: Sequence[Any], crowd: Sequence[bool | int] | None = None
) -> NDArray[np.float64]:
    """Compute the IoU of every pair of masks, or of boxes, (len(detections), len(truth)).

    Args:
        detections: masks of one image, or boxes (x, y, width, height).
        truth: masks or boxes of the same image.
        crowd: which masks of `truth` are crowd regions. For these, the intersection is divided by
            the area of the detection, as COCO does.
    """
    if not detections or not truth:
        return np.zeros((len(detections), len(truth)))
    is_crowd = [0] * len(truth) if crowd is None else [int(value) for value in crowd]
    return np.asarray(_codec.iou(list(detections), list(truth), is_crowd))


def union(rles: Sequence[Rle]) -> Rle:
    """Return the pixels that are in any of the masks, which have one size."""
    return _in_several(rles, 1)


def intersection(rles: Sequence[Rle]) -> Rle:
    """Return the pixels that are in all of the masks, which have one size."""
    return _in_several(rles, len(rles))


def shift(rle: Rle, x: int, y: int, height: int, width: int) -> Rle:
    """Move a mask from the frame of a window with corner (x, y) to that of a height x width image.

    Pixels are never decoded.

    Raises:
        ValueError: if the window leaves the image.
    """
    rows, window_columns = rle["size"]
    if not (0 <= x <= width - window_columns and 0 <= y <= height - rows):
        raise ValueError(
            f"shift: a window of {rows} x {window_columns} pixels at x {x}, y {y} must be inside "
            f"the image of {height} x {width}"
        )
    columns, tops, bottoms = _runs_by_column(rle)
    before = (columns + x) * height + y
    return _from_runs(before + tops, before + bottoms, height, width)


def to_polygons(rle: Rle) -> list[NDArray[np.float32]]:
    """Trace polygons around a mask along the edges of its pixels; holes are filled.

    Pixels that touch only at a corner are separate. Filling the polygons restores the mask exactly,
    except for its holes.

    Returns:
        For each connected part a (V, 2) array of (x, y), clockwise on the screen. The first point
        is not repeated.
    """
    x, y, mask = decode_tight(rle)
    mask = np.pad(mask, 1)
    # The four pixels around each grid point.
    nw, ne, sw, se = mask[:-1, :-1], mask[:-1, 1:], mask[1:, :-1], mask[1:, 1:]
    crossing = (nw == se) & (ne == sw) & (nw != ne)
    corner = (nw ^ ne ^ sw ^ se) | crossing
    points = np.argwhere(corner)  # (V, 2) of (y, x), row by row
    points = points.repeat(1 + crossing[corner], axis=0)  # two outlines pass a crossing
    # Horizontal edges join the corners of a row in pairs; vertical edges those of a column. The
    # first copy of a crossing ends the edge from the left. It continues upwards if that is the
    # edge of the pixel above it, otherwise downwards.
    is_second = np.zeros(len(points), bool)
    is_second[1:] = (points[1:] == points[:-1]).all(1)
    turned = ~nw[points[:, 0], points[:, 1]] & crossing[points[:, 0], points[:, 1]]
    by_column = np.lexsort((is_second ^ turned, points[:, 0], points[:, 1]))
    across = np.arange(len(points)) ^ 1
    down = np.empty(len(points), np.int64)
    down[by_column[0::2]], down[by_column[1::2]] = by_column[1::2], by_column[0::2]
    rings, visited = [], np.zeros(len(points), bool)
    for start in range(len(points)):
        if visited[start]:
            continue
        ring, corner_index = [], start  # the leftmost of the topmost corners: go right from it
        while not visited[corner_index]:
            ring += [corner_index, across[corner_index]]
            visited[ring[-2:]] = True
            corner_index = down[across[corner_index]]
        if se[tuple(points[start])]:  # otherwise the ring is the edge of a hole
            rings.append((points[ring][:, ::-1] + (x, y)).astype(np.float32))
    return rings


def _in_several(rles: Sequence[Rle], least: int) -> Rle:
    """Return the pixels that are in at least `least` of the masks."""
    height, width = rles[0]["size"]
    edges = [np.cumsum(parse_counts(r["counts"], height, width), dtype=np.int64) for r in rles]
    steps = np.concatenate([1 - 2 * (np.arange(len(own)) % 2) for own in edges])
    positions, at = np.unique(np.concatenate(edges), return_inverse=True)
    masks = np.bincount(at, steps, len(positions)).cumsum()  # that cover the pixels behind
    changes = np.flatnonzero(np.diff(masks >= least, prepend=False))
    changed = positions[changes]
    return _from_edges(changed[changed < height * width], height, width)


def _runs_by_column(
    rle: Rle,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Split the foreground runs at columns; return columns, tops and exclusive bottoms."""
    height, width = rle["size"]
    edges = np.cumsum(parse_counts(rle["counts"], height, width), dtype=np.int64)
    starts, ends = edges[0::2], edges[1::2]
    starts = starts[: len(ends)]
    starts, ends = starts[ends > starts], ends[ends > starts]
    first = starts // height
    count = (ends - 1) // height - first + 1  # columns of each run
    run = np.arange(len(starts)).repeat(count)
    columns = first[run] + np.arange(len(run)) - (count.cumsum() - count)[run]
    tops = np.maximum(starts[run] - columns * height, 0)
    return columns, tops, np.minimum(ends[run] - columns * height, height)


def _from_runs(starts: NDArray[np.int64], ends: NDArray[np.int64], height: int, width: int) -> Rle:
    """Encode foreground runs in ascending order; runs that touch are joined."""
    if len(starts):
        apart = starts[1:] != ends[:-1]
        starts, ends = starts[np.r_[True, apart]], ends[np.r_[apart, True]]
    return _from_edges(np.stack([starts, ends], axis=1).ravel(), height, width)


def _from_edges(edges: NDArray[np.int64], height: int, width: int) -> Rle:
    """Encode a mask from the positions at which it changes, counted down the columns."""
    counts = np.diff(edges, prepend=0, append=height * width)
    if len(edges) and edges[-1] == height * width:
        counts = counts[:-1]
    return {"size": [height, width], "counts": _host.rle_to_string(counts)}
