"""Annotations of a COCO file, checked one by one and flattened."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrcnn.data.coco.tables import Classes, Images, Record, RecordTable, is_id
from mrcnn.data.image_files import Size
from mrcnn.data.problems import Problems
from mrcnn.ops import instance_masks
from mrcnn.ops.instance_masks import InstanceMasks
from mrcnn.ops.rle import parse_counts

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
            add("id", "be a whole number >= 0", id, "number the annotations")
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


def mask_bounds(masks: InstanceMasks, table: RecordTable, problems: Problems) -> Tensor:
    """Return the (I, 4) float64 bounds of the masks in file pixels. An empty mask is a problem."""
    far = _far_points(masks, table, problems)
    boxes = instance_masks.mask_boxes(masks)
    stated = (masks.instance_ring.diff() > 0) | (masks.instance_count.diff() > 0)
    empty = (boxes[:, 2:] <= boxes[:, :2]).any(1)
    for i in torch.nonzero(stated & empty & ~far).flatten().tolist():
        add = problems.of_record("annotations", i, table.labels[i])
        add("segmentation", "enclose some of the image", "an empty mask", _REMOVE)
    return boxes


def _far_points(masks: InstanceMasks, table: RecordTable, problems: Problems) -> Tensor:
    """Return (I,) bool, the masks with a point that is NaN or far away.

    A point may be outside of the image, as some tools write it, by at most the image's own size.
    The first such point of each ring is a problem.
    """
    far = torch.zeros(len(masks), dtype=torch.bool)
    owner = torch.repeat_interleave(torch.arange(len(masks)), masks.instance_ring.diff())  # (Q,)
    ring = torch.repeat_interleave(torch.arange(len(owner)), masks.ring_start.diff())  # (V,)
    size = masks.frame[owner[ring]].flip(1)  # (V, 2)
    bad = ~((masks.points >= -size) & (masks.points <= 2 * size)).all(1)  # NaN is bad
    reported = -1
    for v in torch.nonzero(bad).flatten().tolist():
        if (q := int(ring[v])) == reported:
            continue
        reported, i = q, int(owner[q])
        far[i] = True
        width, height = size[v].tolist()
        rule = f"hold points in or near its image of {width} x {height}"
        add = problems.of_record("annotations", i, table.labels[i])
        part = f"[{q - int(masks.instance_ring[i])}]"
        add("segmentation", rule, masks.points[v].tolist(), _REMOVE, part)
    return far


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
    add("bbox", rule, bbox, _REMOVE)


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a finite number; booleans are not."""
    return type(value) in (int, float) and abs(value) < math.inf  # type: ignore[arg-type]


def _read_mask(
    segmentation: Any, size: Size, flat: FlatAnnotations, add: Callable[..., None]
) -> NDArray[np.int32]:
    """Append the rings of a polygon mask to `flat`, or return the counts of an RLE mask."""
    if isinstance(segmentation, dict):
        return _read_rle(segmentation, size, add)
    if not isinstance(segmentation, list) or not segmentation:
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
                wrong = next(value for value in ring if not is_number(value) or abs(value) > 1e300)
                add("segmentation", "hold numbers only", wrong, _REMOVE, part)
                continue
            flat.ring_end.append(len(flat.points) // 2)
    return _NO_COUNTS


def _read_rle(segmentation: Record, size: Size, add: Callable[..., None]) -> NDArray[np.int32]:
    """Return the counts of an RLE mask, given as text or list, that fill the image exactly."""
    counts, fix = segmentation.get("counts"), "encode the mask again"
    if segmentation.get("size") != [*size]:
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
