"""Checks of the objects of an image. Each takes a `DecodedImage` and yields its violations."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mrcnn import rle
from mrcnn.data.checks.decoded import DecodedImage, DecodedObject
from mrcnn.data.checks.findings import Violation, Violations
from mrcnn.data.coco_annotations import is_number
from mrcnn.data.problems import Problem

FEW_PIXELS = 4  # a smaller mask is more likely a slip of the hand than an object
LOOSE = 0.05  # fraction of its side (and 2 pixels) that a stated box may be off the mask
SAME_BOX = 0.5  # IoU of a stated box with that of the mask, below which it is another object's
OFF_IMAGE = 1.0  # pixels: rounding of tools puts points this far outside
NEARLY_SAME = 0.9  # IoU of two masks that are likely drawn twice

_ROWS = 256  # rows of a matrix of pairs that are held at a time


def box_of_mask(image: DecodedImage) -> Violations:
    """The `bbox` fits the mask: AP of boxes is measured with it."""
    for instance in image.objects:
        if _iou(instance.stated_box, instance.box) < SAME_BOX:
            rule = f"be that of its mask, {_xywh(instance.box)}"
            fix = "correct the box, or draw the mask again"
            yield _violation(image, instance, "bbox", rule, instance.record["bbox"], fix)


def tight_box(image: DecodedImage) -> Violations:
    """The `bbox` is tight: training takes the box of the mask, evaluation the stated one."""
    for instance in image.objects:
        sides = np.tile(instance.box[2:] - instance.box[:2], 2)
        off = np.abs(instance.stated_box - instance.box) > np.maximum(2, LOOSE * sides)
        if off.any() and _iou(instance.stated_box, instance.box) >= SAME_BOX:
            rule, fix = f"be tight around its mask, {_xywh(instance.box)}", "use the mask's box"
            yield _violation(image, instance, "bbox", rule, instance.record["bbox"], fix)


def area_value(image: DecodedImage) -> Violations:
    """The `area` is a number: AP of small, medium and large objects depends on it."""
    for instance in image.objects:
        area = instance.record.get("area", 0)
        if not (is_number(area) and area >= 0):
            fix = f"state the {instance.area:.0f} pixels of the mask"
            yield _violation(image, instance, "area", "be a number >= 0", area, fix)


def area_of_mask(image: DecodedImage) -> Violations:
    """The `area` fits the mask, and is not that of the box."""
    for instance in image.objects:
        area = instance.record.get("area")
        allowed = max(16, 0.5 * instance.area)
        if is_number(area) and area >= 0 and abs(area - instance.area) > allowed:
            rule = f"be about the {instance.area:.0f} pixels of its mask"
            yield _violation(image, instance, "area", rule, area, "correct it")


def covers_pixels(image: DecodedImage) -> Violations:
    """The mask covers a pixel: one between pixel centres can be neither learned nor detected."""
    for instance in image.objects:
        if instance.area == 0:
            rule, fix = "cover the centre of a pixel", "draw it again or remove the annotation"
            value = f"box {_xywh(instance.box)}"
            yield _violation(image, instance, "segmentation", rule, value, fix)


def enough_pixels(image: DecodedImage) -> Violations:
    """The mask has more than a few pixels."""
    for instance in image.objects:
        if 0 < instance.area < FEW_PIXELS:
            rule, fix = f"cover at least {FEW_PIXELS} pixels", "draw it again or remove it"
            value = f"{instance.area:.0f} pixels"
            yield _violation(image, instance, "segmentation", rule, value, fix)


def inside_image(image: DecodedImage) -> Violations:
    """All points are on the image, whose border cuts the mask."""
    height, width = image.size
    for instance in image.objects:
        for number, ring in _rings(instance):
            off = np.maximum(-ring, ring - (width, height)).max(1)
            if off.max() > OFF_IMAGE:
                rule = f"be inside its image of {width} x {height}"
                fix = "draw it inside; the border cuts it"
                point = ring[off.argmax()].tolist()
                yield _violation(image, instance, f"segmentation[{number}]", rule, point, fix)


def rings_with_area(image: DecodedImage) -> Violations:
    """No ring is a line or a point."""
    for instance in image.objects:
        for number, ring in _rings(instance) if instance.area > 0 else ():
            x, y = (ring - ring[0]).T
            if abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) < 1e-6:
                value = f"{len(ring)} points on a line, or in a figure of eight"
                field, fix = f"segmentation[{number}]", "remove the ring"
                yield _violation(image, instance, field, "enclose an area", value, fix)


def not_everything(image: DecodedImage) -> Violations:
    """The mask is not the whole image: such a mask is inverted, or filled by accident."""
    height, width = image.size
    for instance in image.objects:
        if instance.area >= 0.999 * height * width:
            rule = "leave out some of the image"
            fix = "is it the background, or inverted? draw it again or remove it"
            yield _violation(image, instance, "segmentation", rule, "all of it", fix)


def crowds_as_rle(image: DecodedImage) -> Violations:
    """Crowds are RLE: COCO draws single objects as polygons, and only crowds as RLE."""
    for instance in image.objects:
        if instance.crowd and isinstance(instance.segmentation, list):
            rule = "be 0 where the mask is a polygon"
            fix = "is it a crowd? if it is one object, set it to 0"
            yield _violation(image, instance, "iscrowd", rule, 1, fix)


def drawn_once(image: DecodedImage) -> Violations:
    """No other object has the same mask and class: one of the two can never be detected."""
    for instance, first in _identical(image):
        if instance.label == first.label:
            rule, fix = "be drawn once", f"{first.place} has it too, remove one"
            value = "the same mask and class"
            yield _violation(image, instance, "segmentation", rule, value, fix)


def one_class_each(image: DecodedImage) -> Violations:
    """No object of another class has the same mask."""
    for instance, first in _identical(image):
        if instance.label != first.label:
            value = instance.record.get("category_id")
            fix = f"{first.place} has the same mask as another class, remove one"
            rule = "be the only class of the mask"
            yield _violation(image, instance, "category_id", rule, value, fix)


def not_nearly_twice(image: DecodedImage) -> Violations:
    """No other object of the class has a mask that differs by a few pixels."""
    singles = [instance for instance in image.objects if not instance.crowd and instance.area > 0]
    for i, j, iou in _near_pairs(singles):
        instance, first = singles[j], singles[i]
        if instance.label == first.label and instance.mask != first.mask:
            value, fix = f"IoU {iou:.2f} with {first.place}", "remove one of them"
            yield _violation(image, instance, "segmentation", "be drawn once", value, fix)


def _violation(
    image: DecodedImage, instance: DecodedObject, field: str, rule: str, value: object, fix: str
) -> Violation:
    problem = Problem(instance.place, rule, value, fix, "annotations", field=field)
    return Violation(problem, image.id, instance.id)


def _rings(instance: DecodedObject) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yield the rings of a polygon, (V, 2) each; none for RLE."""
    if isinstance(instance.segmentation, list):
        for number, ring in enumerate(instance.segmentation):
            yield number, np.array(ring, np.float64).reshape(-1, 2)


def _xywh(box: NDArray[np.float64]) -> list[float]:
    """Return a box as files state it."""
    x1, y1, x2, y2 = (round(value, 1) for value in box.tolist())
    return [x1, y1, round(x2 - x1, 1), round(y2 - y1, 1)]


def _iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the IoU of boxes, by broadcasting."""
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    common = sides.clip(0).prod(-1)
    areas = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1)
    ratio: NDArray[np.float64] = common / np.maximum(areas - common, 1e-9)
    return ratio


def _identical(image: DecodedImage) -> Iterator[tuple[DecodedObject, DecodedObject]]:
    """Yield objects with the mask of an earlier one, and that one; crowds are left out."""
    first_of: dict[bytes, DecodedObject] = {}
    for instance in image.objects:
        if not instance.crowd and instance.area > 0:
            first = first_of.setdefault(instance.mask["counts"], instance)
            if first is not instance:
                yield instance, first


def _near_pairs(objects: list[DecodedObject]) -> Iterator[tuple[int, int, float]]:
    """Yield pairs i < j of objects with masks of IoU `NEARLY_SAME` or more, and the IoU."""
    if len(objects) < 2:
        return
    boxes = np.stack([instance.box for instance in objects])
    for start in range(0, len(objects), _ROWS):
        # Masks this close have boxes nearly as close: each side moves by what is not shared.
        near = _iou(boxes[start : start + _ROWS, None], boxes[None]) > NEARLY_SAME / 2
        for row, j in np.argwhere(near).tolist():
            if (i := start + row) < j:
                iou = float(rle.iou([objects[i].mask], [objects[j].mask])[0, 0])
                if iou >= NEARLY_SAME:
                    yield i, j, iou
