"""Checks of an object, and of the objects of an image against each other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mrcnn.data.checks.decoded import DecodedImage, DecodedObject
from mrcnn.data.checks.findings import Violations
from mrcnn.ops import rle

FEW_PIXELS = 4  # a smaller mask is more likely a slip of the hand than an object
LOOSE = 0.05  # fraction of its side (and 2 pixels) that a stated box may be off the mask
SAME_BOX = 0.5  # IoU of a stated box with that of the mask, below which it is another object's
OFF_IMAGE = 1.0  # pixels: rounding of tools puts points this far outside
NEARLY_SAME = 0.9  # IoU of two masks that are likely drawn twice

_ROWS = 256  # rows of a matrix of pairs that are held at a time


def box_of_mask(instance: DecodedObject) -> Violations:
    """Check that `bbox` fits the mask: AP of boxes is measured with it."""
    if _iou(instance.stated_box, instance.box) < SAME_BOX:
        rule = f"be that of its mask, {_xywh(instance.box)}"
        fix = "correct the box, or draw the mask again"
        if _iou(np.array(instance.record["bbox"], np.float64), instance.box) >= SAME_BOX:
            fix = "it holds two corners: write x, y, width, height"
        yield instance.violation("bbox", rule, instance.record["bbox"], fix)


def tight_box(instance: DecodedObject) -> Violations:
    """Check that `bbox` is tight: training uses the box of the mask, evaluation the stated one."""
    sides = np.tile(instance.box[2:] - instance.box[:2], 2)
    off = np.abs(instance.stated_box - instance.box) > np.maximum(2, LOOSE * sides)
    if off.any() and _iou(instance.stated_box, instance.box) >= SAME_BOX:
        rule = f"be tight around its mask, {_xywh(instance.box)}"
        yield instance.violation("bbox", rule, instance.record["bbox"], "use the mask's box")


def area_of_mask(instance: DecodedObject) -> Violations:
    """Check that `area` fits the mask, and is not that of the box."""
    area, allowed = instance.record.get("area", instance.area), max(16, 0.5 * instance.area)
    if abs(area - instance.area) > allowed:
        rule = f"be about the {instance.area:.0f} pixels of its mask"
        yield instance.violation("area", rule, area, "correct it")


def covers_pixels(instance: DecodedObject) -> Violations:
    """Check that the mask covers a pixel centre; otherwise it can be neither learned nor found."""
    if instance.area == 0:
        fix = "draw it again or remove the annotation"
        value = f"box {_xywh(instance.box)}"
        yield instance.violation("segmentation", "cover the centre of a pixel", value, fix)


def enough_pixels(instance: DecodedObject) -> Violations:
    """Check that the mask has more than a few pixels."""
    if 0 < instance.area < FEW_PIXELS:
        rule, fix = f"cover at least {FEW_PIXELS} pixels", "draw it again or remove it"
        yield instance.violation("segmentation", rule, f"{instance.area:.0f} pixels", fix)


def inside_image(instance: DecodedObject) -> Violations:
    """Check that all points are on the image, whose border cuts the mask."""
    height, width = instance.image_size
    for field, ring in _rings(instance):
        off = np.maximum(-ring, ring - (width, height)).max(1)
        if off.max() > OFF_IMAGE:
            rule, fix = f"be inside its image of {width} x {height}", "draw it inside the border"
            yield instance.violation(field, rule, ring[off.argmax()].tolist(), fix)


def rings_with_area(instance: DecodedObject) -> Violations:
    """Check that no ring is a line or a point."""
    for field, ring in _rings(instance) if instance.area > 0 else ():
        x, y = (ring - ring[0]).T
        if abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) < 1e-6:
            value = f"{len(ring)} points on a line, or in a figure of eight"
            yield instance.violation(field, "enclose an area", value, "remove the ring")


def not_everything(instance: DecodedObject) -> Violations:
    """Check that the mask is not the whole image: such a mask is inverted, or a mistake."""
    height, width = instance.image_size
    if instance.area >= 0.999 * height * width:
        fix = "is it the background, or inverted? draw it again or remove it"
        yield instance.violation("segmentation", "leave out some of the image", "all of it", fix)


def crowds_as_rle(instance: DecodedObject) -> Violations:
    """Check that crowds are RLE: COCO draws single objects as polygons, and only crowds as RLE."""
    if instance.crowd and isinstance(instance.segmentation, list):
        fix = "is it a crowd? if it is one object, set it to 0"
        yield instance.violation("iscrowd", "be 0 where the mask is a polygon", 1, fix)


def drawn_once(image: DecodedImage) -> Violations:
    """Check that masks of a class differ: one of two equal ones can never be detected."""
    for instance, first in _identical(image):
        if instance.label == first.label:
            fix, value = f"{first.place} has it too, remove one", "the same mask and class"
            yield instance.violation("segmentation", "be drawn once", value, fix)


def one_class_each(image: DecodedImage) -> Violations:
    """Check that no object of another class has the same mask."""
    for instance, first in _identical(image):
        if instance.label != first.label:
            value = instance.record.get("category_id")
            fix = f"{first.place} has the same mask as another class, remove one"
            yield instance.violation("category_id", "be the only class of the mask", value, fix)


def not_nearly_twice(image: DecodedImage) -> Violations:
    """Check that masks of a class differ by more than a few pixels."""
    singles = [instance for instance in image.objects if not instance.crowd and instance.area > 0]
    for i, j, iou in _near_pairs(singles):
        instance, first = singles[j], singles[i]
        if instance.label == first.label and instance.mask != first.mask:
            value, fix = f"IoU {iou:.2f} with {first.place}", "remove one of them"
            yield instance.violation("segmentation", "be drawn once", value, fix)


def _rings(instance: DecodedObject) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Yield the field and (V, 2) points of each ring of a polygon; none for RLE."""
    if isinstance(instance.segmentation, list):
        for number, ring in enumerate(instance.segmentation):
            yield f"segmentation[{number}]", np.array(ring, np.float64).reshape(-1, 2)


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
