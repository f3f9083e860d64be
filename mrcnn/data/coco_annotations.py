"""The annotations of a COCO file, checked one by one and flattened."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrcnn.data import instances
from mrcnn.data.coco_tables import Classes, Images, Records, is_id
from mrcnn.data.problems import Problems
from mrcnn.ops.mask_targets import InstanceMasks
from mrcnn.rle import parse_counts

_REMOVE = "correct it or remove the annotation"
_NO_COUNTS = np.zeros(0, np.int32)


@dataclass
class Flat:
    """Annotations in the order of the file; a broken one holds its place with an empty mask."""

    places: list[str] = field(default_factory=list)  # for messages
    image: list[int] = field(default_factory=list)  # position in the image table
    id: list[int] = field(default_factory=list)
    label: list[int] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    points: array[float] = field(default_factory=lambda: array("d"))  # x, y, x, y, …
    ring_end: list[int] = field(default_factory=list)
    instance_ring_end: list[int] = field(default_factory=list)
    counts: list[NDArray[np.int32]] = field(default_factory=list)

    def masks(self, table: Images) -> InstanceMasks:
        """The masks of all annotations, each with the frame of its image."""
        sizes = torch.tensor(table.sizes, dtype=torch.int64).view(-1, 2)
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
    records: Records,
    table: Images,
    classes: Classes,
    problems: Problems,
    called: Sequence[str] = (),
) -> Flat:
    """Check every annotation record and flatten it.

    Args:
        called: what messages call each record; by default its position and id.
    """
    flat = Flat()
    seen: dict[int, int] = {}
    for position, record in records:
        id = record.get("id")
        place = called[position] if called else f"annotations[{position}] (id {id!r:.30})"
        if not is_id(id):
            problems.add(f"{place}: id", "be a whole number >= 0", id, "number the annotations")
        elif (first := seen.setdefault(id, position)) != position:
            problems.add(f"{place}: id", "be unique", id, f"annotations[{first}] has it too")

        image_id, category = record.get("image_id"), record.get("category_id")
        image = table.index.get(image_id, -1) if is_id(image_id) else -1
        if image < 0:
            problems.add(f"{place}: image_id", "be the id of an image", image_id, _REMOVE)
        label = classes.label_of.get(category, -1) if is_id(category) else -1
        if label < 0 and not (is_id(category) and category in classes.broken):
            problems.add(f"{place}: category_id", "be the id of a category", category, _REMOVE)
        crowd = record.get("iscrowd", 0)
        if crowd not in (0, 1):
            problems.add(f"{place}: iscrowd", "be 0 or 1", crowd, _REMOVE)

        counts = _NO_COUNTS
        size = table.sizes[image] if image >= 0 else (0, 0)
        if size != (0, 0):  # else nothing can be judged, and that is a problem noted already
            if "bbox" in record:
                _check_bbox(record["bbox"], size, place, problems)
            counts = _read_mask(record.get("segmentation"), size, flat, place, problems)
        flat.counts.append(counts)
        flat.instance_ring_end.append(len(flat.ring_end))
        flat.places.append(place)
        flat.image.append(max(image, 0))
        flat.id.append(id if is_id(id) else 0)
        flat.label.append(label)
        flat.crowd.append(bool(crowd))
    return flat


def mask_bounds(masks: InstanceMasks, flat: Flat, problems: Problems) -> Tensor:
    """(I, 4) float64 bounds of the masks in their files; an empty mask is a problem."""
    far = _far_points(masks, flat, problems)
    boxes = instances.mask_boxes(masks)
    stated = (masks.instance_ring.diff() > 0) | (masks.instance_count.diff() > 0)
    empty = (boxes[:, 2:] <= boxes[:, :2]).any(1)
    for i in torch.nonzero(stated & empty & ~far).flatten().tolist():
        rule = "enclose some of the image"
        problems.add(f"{flat.places[i]}: segmentation", rule, "an empty mask", _REMOVE)
    return boxes


def _far_points(masks: InstanceMasks, flat: Flat, problems: Problems) -> Tensor:
    """(I,) bool: masks with a point that is NaN or far away; the first of each ring is noted.

    A point may lie outside of the image, as some tools write, by at most the image's own size.
    """
    far = torch.zeros(len(masks), dtype=torch.bool)
    owner = torch.repeat_interleave(torch.arange(len(masks)), masks.instance_ring.diff())  # (Q,)
    ring = torch.repeat_interleave(torch.arange(len(owner)), masks.ring_start.diff())  # (V,)
    size = masks.frame[owner[ring]].flip(1)  # (V, 2)
    bad = ~((masks.points >= -size) & (masks.points <= 2 * size)).all(1)  # NaN is bad
    told = -1
    for v in torch.nonzero(bad).flatten().tolist():
        if (q := int(ring[v])) == told:
            continue
        told, i = q, int(owner[q])
        far[i] = True
        place = f"{flat.places[i]}: segmentation[{q - int(masks.instance_ring[i])}]"
        width, height = size[v].tolist()
        rule = f"hold points in or near its image of {width} x {height}"
        problems.add(place, rule, masks.points[v].tolist(), _REMOVE)
    return far


def _check_bbox(bbox: object, size: tuple[int, int], place: str, problems: Problems) -> None:
    """Note a `bbox` that is no box (x, y, width, height) in or near the image."""
    height, width = size
    if not (isinstance(bbox, list) and len(bbox) == 4 and all(map(is_number, bbox))):
        rule = "be four finite numbers (x, y, width, height)"
    elif bbox[2] <= 0 or bbox[3] <= 0:
        rule = "have a width and height > 0"
    elif not (-width <= bbox[0] < width and -height <= bbox[1] < height) or not (
        0 < bbox[0] + bbox[2] <= 2 * width and 0 < bbox[1] + bbox[3] <= 2 * height
    ):
        rule = f"lie on its image of {width} x {height}"
    else:
        return
    problems.add(f"{place}: bbox", rule, bbox, _REMOVE)


def is_number(value: object) -> TypeGuard[float]:
    """A finite number; True and False are not numbers."""
    return type(value) in (int, float) and abs(value) < math.inf  # type: ignore[arg-type]


def _read_mask(
    segmentation: Any, size: tuple[int, int], flat: Flat, place: str, problems: Problems
) -> NDArray[np.int32]:
    """Append the rings of a polygon mask to `flat`, or return the run lengths of another."""
    place = f"{place}: segmentation"
    if isinstance(segmentation, dict):
        return _read_runs(segmentation, size, place, problems)
    if not isinstance(segmentation, list) or not segmentation:
        rule = "be a list of polygons or a run-length object"
        problems.add(place, rule, segmentation, "draw its mask or remove the annotation")
        return _NO_COUNTS
    for number, ring in enumerate(segmentation):
        if not isinstance(ring, list):
            problems.add(f"{place}[{number}]", "be a list of numbers", ring, _REMOVE)
        elif len(ring) < 6 or len(ring) % 2:
            rule = "hold x and y of at least 3 points"
            problems.add(f"{place}[{number}]", rule, f"{len(ring)} numbers", _REMOVE)
        else:
            before = len(flat.points)
            try:
                flat.points.extend(ring)
            except (TypeError, OverflowError):
                del flat.points[before:]
                wrong = next(value for value in ring if not is_number(value) or abs(value) > 1e300)
                problems.add(f"{place}[{number}]", "hold numbers only", wrong, _REMOVE)
                continue
            flat.ring_end.append(len(flat.points) // 2)
    return _NO_COUNTS


def _read_runs(
    segmentation: dict[str, Any], size: tuple[int, int], place: str, problems: Problems
) -> NDArray[np.int32]:
    """Run lengths, from text or list, that fill the image exactly."""
    counts = segmentation.get("counts")
    if segmentation.get("size") != [*size]:
        rule = f"be {[*size]}, the [height, width] of the image"
        problems.add(f"{place}.size", rule, segmentation.get("size"), "encode the mask again")
        return _NO_COUNTS
    try:
        if not isinstance(counts, str | list):
            raise TypeError("it is neither a text nor a list")
        return parse_counts(counts, *size)
    except (TypeError, ValueError, OverflowError) as error:
        rule = f"be run lengths of a {size[1]} x {size[0]} mask ({error})"
        problems.add(f"{place}.counts", rule, counts, "encode the mask again")
        return _NO_COUNTS
