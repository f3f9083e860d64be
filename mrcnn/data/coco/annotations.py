"""Annotations of a COCO file, checked one by one and flattened."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrcnn.data.coco.tables import ID_RULE, Classes, Images, Record, RecordTable, is_id
from mrcnn.data.image_files import Size
from mrcnn.data.problems import Problems
from mrcnn.io.json_files import is_number
from mrcnn.ops import instance_masks
from mrcnn.ops.instance_masks import InstanceMasks
from mrcnn.ops.rle import parse_counts

MAX_OUTLINE = 10_000_000  # pixels around all polygons of an annotation
MOST_EMPTY = 0.01  # of the masks, which are left out; COCO's own files have a few

_REMOVE = "correct it or remove the annotation"
_NO_COUNTS = np.zeros(0, np.int32)


@dataclass
class FlatAnnotations:
    """Annotations in the order of the file. A broken one keeps its row, with an empty mask."""

    image: list[int] = field(default_factory=list)  # index in the image table
    id: list[int] = field(default_factory=list)
    label: list[int] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    points: array[float] = field(default_factory=lambda: array("d"))  # x, y, x, y, …
    ring_end: list[int] = field(default_factory=list)
    instance_ring_end: list[int] = field(default_factory=list)
    counts: list[NDArray[np.int32]] = field(default_factory=list)

    def masks(self, images: Images) -> InstanceMasks:
        """Return the masks of all annotations, each with the frame of its image."""
        sizes = torch.tensor(images.sizes, dtype=torch.int64).view(-1, 2)
        frame = sizes[torch.tensor(self.image, dtype=torch.int64)]
        identity = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
        return InstanceMasks(
            points=torch.from_numpy(np.array(self.points).reshape(-1, 2)),
            ring_start=torch.tensor([0, *self.ring_end]),
            instance_ring=torch.tensor([0, *self.instance_ring_end]),
            counts=torch.from_numpy(np.concatenate([_NO_COUNTS, *self.counts])),
            instance_count=torch.from_numpy(np.cumsum([0, *map(len, self.counts)])),
            frame=frame,
            transform=identity.repeat(len(frame), 1),
        )


def read_annotations(
    table: RecordTable, images: Images, classes: Classes, problems: Problems
) -> FlatAnnotations:
    """Check every annotation record and flatten it."""
    flat = FlatAnnotations()
    seen: dict[int, int] = {}
    for index, (record, label) in enumerate(zip(table.records, table.labels, strict=True)):
        add = problems.of_record("annotations", index, label)
        id = record.get("id")
        if not is_id(id):
            add("id", ID_RULE, id, "number the annotations")
        elif (first := seen.setdefault(id, index)) != index:
            add("id", "be unique", id, f"{table.labels[first]} has it too")

        image_id, category = record.get("image_id"), record.get("category_id")
        image = images.index.get(image_id, -1) if is_id(image_id) else -1
        if image < 0:
            add("image_id", "be the id of an image", image_id, _REMOVE)
        class_index = classes.label_of.get(category, -1) if is_id(category) else -1
        if class_index < 0 and not (is_id(category) and category in classes.broken):
            add("category_id", "be the id of a category", category, _REMOVE)
        crowd = record.get("iscrowd", 0)
        if crowd not in (0, 1):
            add("iscrowd", "be 0 or 1", crowd, _REMOVE)
        area = record.get("area", 0)
        if not (is_number(area) and area >= 0):
            add("area", "be a number >= 0", area, "state the pixels of the mask, or leave it out")

        counts = _NO_COUNTS
        size = images.sizes[image] if image >= 0 else (0, 0)
        if size != (0, 0):  # else the image is a problem, and nothing can be checked against it
            if "bbox" in record:
                _check_bbox(record["bbox"], size, add)
            counts = _read_mask(record.get("segmentation"), size, flat, add)
        flat.counts.append(counts)
        flat.instance_ring_end.append(len(flat.ring_end))
        flat.image.append(max(image, 0))
        flat.id.append(id if is_id(id) else 0)
        flat.label.append(class_index)
        flat.crowd.append(bool(crowd))
    return flat


def check_segmentation(segmentation: Any, size: Size, label: str, problems: Problems) -> None:
    """Check the polygons or the RLE of one mask on an image of the (height, width) `size`."""
    flat, images = FlatAnnotations(image=[0]), Images(sizes=[size])
    add = problems.of_record("annotations", 0, label)
    flat.counts.append(_read_mask(segmentation, size, flat, add))
    flat.instance_ring_end.append(len(flat.ring_end))
    if flat.ring_end:
        _bad_outlines(flat.masks(images), RecordTable([{}], [label]), problems)


def mask_bounds(
    masks: InstanceMasks, table: RecordTable, problems: Problems, keep_all: bool
) -> tuple[Tensor, list[int]]:
    """Return the (I, 4) float64 bounds of the masks in file pixels, and the masks to leave out.

    An empty mask is left out if there are few among many, as in COCO itself; otherwise, or with
    `keep_all`, it is a problem.
    """
    bad = _bad_outlines(masks, table, problems)
    boxes = torch.zeros(len(masks), 4, dtype=torch.float64)
    good = torch.nonzero(~bad).squeeze(1)
    drawn = instance_masks.select(masks, good) if bad.any() else masks
    boxes[good] = instance_masks.mask_boxes(drawn)
    stated = (masks.instance_ring.diff() > 0) | (masks.instance_count.diff() > 0)
    empty = torch.nonzero(stated & ~bad & (boxes[:, 2:] <= boxes[:, :2]).any(1)).flatten().tolist()
    if not keep_all and len(empty) <= MOST_EMPTY * len(masks):
        return boxes, empty
    for i in empty:
        add = problems.of_record("annotations", i, table.labels[i])
        add("segmentation", "enclose some of the image", "an empty mask", _REMOVE)
    return boxes, []


def _bad_outlines(masks: InstanceMasks, table: RecordTable, problems: Problems) -> Tensor:
    """Return (I,) bool, the masks whose polygons cannot be drawn on their images.

    A point may be outside of the image, as some tools write it, by at most the image's own size.
    """
    bad = torch.zeros(len(masks), dtype=torch.bool)
    owner = torch.repeat_interleave(torch.arange(len(masks)), masks.instance_ring.diff())  # (Q,)
    ring = torch.repeat_interleave(torch.arange(len(owner)), masks.ring_start.diff())  # (V,)
    instance = owner[ring]
    size = masks.frame[instance].flip(1)  # (V, 2)

    def add(v: int, rule: str, value: object, fix: str = _REMOVE) -> None:
        i = int(instance[v])
        bad[i] = True
        part = f"[{int(ring[v]) - int(masks.instance_ring[i])}]"
        of_record = problems.of_record("annotations", i, table.labels[i])
        of_record("segmentation", rule, value, fix, part)

    far = ~((masks.points >= -size) & (masks.points <= 2 * size)).all(1)  # NaN is far
    for v in torch.nonzero(far).flatten().tolist():
        width, height = size[v].tolist()
        add(v, f"hold points in or near its image of {width} x {height}", masks.points[v].tolist())
    in_pixels = torch.zeros(len(masks), dtype=torch.bool)
    beyond = ((masks.points < 0) | (masks.points > 1) | (size <= 2)).any(1)
    in_pixels[instance[beyond]] = True
    first = masks.ring_start[masks.instance_ring]  # (I + 1,) point of each mask
    for i in torch.nonzero((first.diff() > 0) & ~in_pixels & ~bad).flatten().tolist():
        value = masks.points[first[i]].tolist()
        add(int(first[i]), "be in pixels", value, "multiply fractions by the width and height")
    # Points are near the image now, so that few of them cannot make a long outline.
    longest = first.diff() * 3 * masks.frame.sum(1)
    for i in torch.nonzero((longest > MAX_OUTLINE) & ~bad).flatten().tolist():
        points = masks.points[int(first[i]) : int(first[i + 1])]
        length = int(points.diff(dim=0).norm(dim=1).sum())
        if length > MAX_OUTLINE:
            rule = f"have outlines of at most {MAX_OUTLINE:,} pixels"
            add(int(first[i]), rule, f"{length:,} pixels", "draw it again with fewer points")
    return bad


def _check_bbox(bbox: object, size: Size, add: Callable[..., None]) -> None:
    """Add a `bbox` that is not a box (x, y, width, height) in or near the image."""
    height, width = size
    if not (isinstance(bbox, list) and len(bbox) == 4 and all(map(is_number, bbox))):
        rule = "be four finite numbers (x, y, width, height)"
    elif bbox[2] <= 0 or bbox[3] <= 0:
        rule = "have a width and height > 0"
    elif not (-width <= bbox[0] < width and -height <= bbox[1] < height) or not (
        0 < bbox[0] + bbox[2] <= 2 * width and 0 < bbox[1] + bbox[3] <= 2 * height
    ):
        rule = f"be inside its image of {width} x {height}"
    else:
        return
    add("bbox", rule, bbox, "correct it or leave it out")


def _read_mask(
    segmentation: Any, size: Size, flat: FlatAnnotations, add: Callable[..., None]
) -> NDArray[np.int32]:
    """Append the rings of a polygon mask to `flat`, or return the counts of an RLE mask."""
    if isinstance(segmentation, dict):
        return _read_rle(segmentation, size, add)
    if not isinstance(segmentation, list) or not any(segmentation):
        fix = "draw its mask or remove the annotation"
        add("segmentation", "be a list of polygons or an RLE object", segmentation, fix)
        return _NO_COUNTS
    for number, ring in enumerate(segmentation):
        part = f"[{number}]"
        if not isinstance(ring, list):
            add("segmentation", "be a list of numbers", ring, _REMOVE, part)
        elif len(ring) < 6 or len(ring) % 2:
            rule = "hold x and y of at least 3 points"
            add("segmentation", rule, f"{len(ring)} numbers", _REMOVE, part)
        else:
            before = len(flat.points)
            try:
                flat.points.extend(ring)
            except (TypeError, OverflowError):
                del flat.points[before:]
                wrong = next(value for value in ring if not is_number(value))
                add("segmentation", "hold numbers only", wrong, _REMOVE, part)
                continue
            flat.ring_end.append(len(flat.points) // 2)
    return _NO_COUNTS


def _read_rle(segmentation: Record, size: Size, add: Callable[..., None]) -> NDArray[np.int32]:
    """Return the counts of an RLE mask, given as text or list, that fill the image exactly."""
    counts, fix = segmentation.get("counts"), "encode the mask again"
    if segmentation.get("size") != [*size]:
        if segmentation.get("size") == [*size[::-1]]:
            fix = "it is [width, height]; turn the mask, too, if it was encoded row by row"
        rule = f"be {[*size]}, the [height, width] of the image"
        add("segmentation", rule, segmentation.get("size"), fix, ".size")
        return _NO_COUNTS
    try:
        if not isinstance(counts, str | list):
            raise TypeError("it is neither a text nor a list")
        return parse_counts(counts, *size)
    except (TypeError, ValueError, OverflowError) as error:
        rule = f"be the RLE of a mask of {size[1]} x {size[0]} ({error})"
        add("segmentation", rule, counts, fix, ".counts")
        return _NO_COUNTS
