"""Checks of the objects of an image. Each takes a `Sample` and yields what it finds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mrcnn import rle
from mrcnn.data.checking.findings import Check, Told
from mrcnn.data.checking.samples import Object, Sample
from mrcnn.data.coco_annotations import is_number

FEW_PIXELS = 4  # of a mask that is more likely a slip of the hand than an object
LOOSE = 0.05  # of its side, and 2 pixels: so far a stated box may lie from the mask
SAME_BOX = 0.5  # IoU of a stated box with that of the mask, below which it is another object's
OFF_IMAGE = 1.0  # pixels: rounding of tools puts points this far outside
NEARLY_SAME = 0.9  # IoU of two masks that are likely drawn twice

_ROWS = 256  # of a matrix of pairs that are held at a time


def box_of_mask(sample: Sample) -> Check:
    """AP of boxes is measured with the stated `bbox`."""
    for one in sample.objects:
        if _iou(one.stated_box, one.box) < SAME_BOX:
            rule = f"be that of its mask, {_xywh(one.box)}"
            fix = "correct the box, or draw the mask again"
            yield _told(sample, one, "bbox", rule, one.record["bbox"], fix)


def tight_box(sample: Sample) -> Check:
    """A loose `bbox`: training takes the box of the mask, evaluation the stated one."""
    for one in sample.objects:
        sides = np.tile(one.box[2:] - one.box[:2], 2)
        off = np.abs(one.stated_box - one.box) > np.maximum(2, LOOSE * sides)
        if off.any() and _iou(one.stated_box, one.box) >= SAME_BOX:
            rule = f"be tight around its mask, {_xywh(one.box)}"
            yield _told(sample, one, "bbox", rule, one.record["bbox"], "take the box of the mask")


def area_value(sample: Sample) -> Check:
    """AP of small, medium and large objects goes by the stated `area`."""
    for one in sample.objects:
        area = one.record.get("area", 0)
        if not (is_number(area) and area >= 0):
            fix = f"state the {one.area:.0f} pixels of the mask"
            yield _told(sample, one, "area", "be a number >= 0", area, fix)


def area_of_mask(sample: Sample) -> Check:
    """A stated `area` of another mask, or of the box."""
    for one in sample.objects:
        area = one.record.get("area")
        if is_number(area) and area >= 0 and abs(area - one.area) > max(16, 0.5 * one.area):
            rule = f"be about the {one.area:.0f} pixels of its mask"
            yield _told(sample, one, "area", rule, area, "correct it")


def covers_pixels(sample: Sample) -> Check:
    """A mask between the centres of pixels: nothing can be learnt, and nothing found."""
    for one in sample.objects:
        if one.area == 0:
            rule, fix = "cover the centre of a pixel", "draw it again or remove the annotation"
            yield _told(sample, one, "segmentation", rule, f"box {_xywh(one.box)}", fix)


def enough_pixels(sample: Sample) -> Check:
    """A mask of hardly any pixels."""
    for one in sample.objects:
        if 0 < one.area < FEW_PIXELS:
            rule, fix = f"cover at least {FEW_PIXELS} pixels", "draw it again or remove it"
            yield _told(sample, one, "segmentation", rule, f"{one.area:.0f} pixels", fix)


def inside_image(sample: Sample) -> Check:
    """Points off the image, which the border cuts."""
    height, width = sample.size
    for one in sample.objects:
        for number, ring in _rings(one):
            off = np.maximum(-ring, ring - (width, height)).max(1)
            if off.max() > OFF_IMAGE:
                rule = f"lie on its image of {width} x {height}"
                fix = "draw it inside; the border cuts it"
                point = ring[off.argmax()].tolist()
                yield _told(sample, one, f"segmentation[{number}]", rule, point, fix)


def rings_with_area(sample: Sample) -> Check:
    """A ring that is a line or a point, beside others."""
    for one in sample.objects:
        for number, ring in _rings(one) if one.area > 0 else ():
            x, y = (ring - ring[0]).T
            if abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) < 1e-6:
                rule, fix = "enclose an area", "remove the ring"
                value = f"{len(ring)} points on a line, or in a figure of eight"
                yield _told(sample, one, f"segmentation[{number}]", rule, value, fix)


def not_everything(sample: Sample) -> Check:
    """A mask of all pixels: an inverted or an empty one, filled by accident."""
    height, width = sample.size
    for one in sample.objects:
        if one.area >= 0.999 * height * width:
            fix = "is it the background, or inverted? draw it again or remove it"
            yield _told(
                sample, one, "segmentation", "leave out some of the image", "all of it", fix
            )


def crowds_as_runs(sample: Sample) -> Check:
    """COCO draws single objects as polygons, and only crowds as run lengths."""
    for one in sample.objects:
        if one.crowd and isinstance(one.segmentation, list):
            fix = "is it a crowd? if it is one object, set it to 0"
            yield _told(sample, one, "iscrowd", "be 0 where the mask is a polygon", 1, fix)


def drawn_once(sample: Sample) -> Check:
    """The same mask and class twice: one of them can never be found."""
    for one, first in _identical(sample):
        if one.label == first.label:
            fix = f"{first.place} has it too, remove one"
            yield _told(
                sample, one, "segmentation", "be drawn once", "the same mask and class", fix
            )


def one_class_each(sample: Sample) -> Check:
    """The same mask under two classes."""
    for one, first in _identical(sample):
        if one.label != first.label:
            value = one.record.get("category_id")
            fix = f"{first.place} has the same mask as another class, remove one"
            yield _told(sample, one, "category_id", "be the only class of the mask", value, fix)


def not_nearly_twice(sample: Sample) -> Check:
    """Two masks of one class that differ by a few pixels."""
    singles = [one for one in sample.objects if not one.crowd and one.area > 0]
    for i, j, iou in _near_pairs(singles):
        one, first = singles[j], singles[i]
        if one.label == first.label and one.mask != first.mask:
            value = f"IoU {iou:.2f} with {first.place}"
            yield _told(sample, one, "segmentation", "be drawn once", value, "remove one of them")


def _told(sample: Sample, one: Object, field: str, rule: str, value: object, fix: str) -> Told:
    return Told(f"{one.place}: {field}", rule, value, fix, sample.id, one.id)


def _rings(one: Object) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """The rings of a polygon, (V, 2) each; none of run lengths."""
    if isinstance(one.segmentation, list):
        for number, ring in enumerate(one.segmentation):
            yield number, np.array(ring, np.float64).reshape(-1, 2)


def _xywh(box: NDArray[np.float64]) -> list[float]:
    """As files state boxes."""
    x1, y1, x2, y2 = (round(value, 1) for value in box.tolist())
    return [x1, y1, round(x2 - x1, 1), round(y2 - y1, 1)]


def _iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of boxes, by broadcasting."""
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    common = sides.clip(0).prod(-1)
    areas = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1)
    ratio: NDArray[np.float64] = common / np.maximum(areas - common, 1e-9)
    return ratio


def _identical(sample: Sample) -> Iterator[tuple[Object, Object]]:
    """Objects whose mask is that of an earlier one, and that one; crowds are left out."""
    first_of: dict[bytes, Object] = {}
    for one in sample.objects:
        if not one.crowd and one.area > 0:
            first = first_of.setdefault(one.mask["counts"], one)
            if first is not one:
                yield one, first


def _near_pairs(objects: list[Object]) -> Iterator[tuple[int, int, float]]:
    """Pairs i < j of objects with masks of IoU `NEARLY_SAME` or more."""
    if len(objects) < 2:
        return
    boxes = np.stack([one.box for one in objects])
    for start in range(0, len(objects), _ROWS):
        # Masks as close as that have boxes nearly as close: each side moves by what is not shared.
        near = _iou(boxes[start : start + _ROWS, None], boxes[None]) > NEARLY_SAME / 2
        for row, j in np.argwhere(near).tolist():
            if (i := start + row) < j:
                iou = float(rle.iou([objects[i].mask], [objects[j].mask])[0, 0])
                if iou >= NEARLY_SAME:
                    yield i, j, iou
