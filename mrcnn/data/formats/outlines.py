"""Shapes of annotation tools as COCO masks: rings of x, y, x, y and so on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mrcnn.data.image_files import Size
from mrcnn.data.problems import Problems, RuleError
from mrcnn.io.json_files import is_number
from mrcnn.ops import rle

REDRAW = "draw it again or remove it"

_SAGITTA = 0.02  # pixels that a chord may be away from its arc
_LEAST_CHORDS = 16


def check_point(point: object, size: Size, label: str) -> None:
    """Refuse what is not a list [x, y] on an image, or off it by at most the image's size."""
    height, width = size
    if not (
        isinstance(point, list) and len(point) == 2 and all(map(is_number, point))
        and -width <= point[0] <= 2 * width and -height <= point[1] <= 2 * height
    ):  # fmt: skip
        rule = f"be x and y in or near the image of {width} x {height}"
        raise RuleError(label, rule, point, REDRAW)


def read_points(value: object, size: Size, label: str, least: int = 0) -> list[float]:
    """Flatten a list of at least `least` points [x, y] to a ring of coordinates."""
    if not isinstance(value, list):
        raise RuleError(label, "be a list of points", value, REDRAW)
    for number, point in enumerate(value):
        check_point(point, size, f"{label}[{number}]")
    if len(value) < least:
        raise RuleError(label, f"hold at least {least} points", f"{len(value)} points", REDRAW)
    return [coordinate for point in value for coordinate in point]


def rectangle(x1: float, y1: float, x2: float, y2: float) -> list[float]:
    """Return the ring of a rectangle between two opposite corners."""
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def ellipse(x: float, y: float, rx: float, ry: float, angle: float = 0.0) -> list[float]:
    """Return a ring inscribed in an ellipse, with chords within 0.02 pixels of it.

    The radii are along x and y, before a rotation by `angle` radians from x towards y.
    """
    longer = max(rx, ry)
    chords = math.pi / math.acos(1 - min(1.0, _SAGITTA / longer)) if longer > 0 else 0
    angles = np.linspace(0, 2 * np.pi, max(_LEAST_CHORDS, math.ceil(chords)), endpoint=False)
    along, across = rx * np.cos(angles), ry * np.sin(angles)
    cos, sin = math.cos(angle), math.sin(angle)
    points = np.stack([x + cos * along - sin * across, y + sin * along + cos * across], axis=1)
    ring: list[float] = points.ravel().tolist()
    return ring


def merged(segmentations: list[Any], size: Size) -> Any:
    """Return the segmentation of one instance that was drawn in several shapes."""
    if len(segmentations) == 1:
        return segmentations[0]
    if all(isinstance(shape, list) for shape in segmentations):
        return [ring for rings in segmentations for ring in rings]
    return rle.union([rle.from_segmentation(shape, *size) for shape in segmentations])


def check_stated_size(
    content: dict[str, Any], keys: tuple[str, str], size: Size, file: str, problems: Problems
) -> None:
    """Add the fields of the image's height and width that state another size than its file has."""
    for key, actual in zip(keys, size, strict=True):
        if (stated := content.get(key)) is not None and stated != actual:
            fix = "correct it, put the right image there, or save a rotated image upright"
            problems.add(f"{file}: {key}", f"be {actual}, as its image has", stated, fix)
