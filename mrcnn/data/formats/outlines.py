"""Shapes of annotation tools as COCO masks: rings of x, y, x, y and so on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mrcnn.data.coco.annotations import is_number
from mrcnn.data.image_files import Size
from mrcnn.data.problems import Problems
from mrcnn.ops import rle

REDRAW = "draw it again or remove it"

_SAGITTA = 0.02  # pixels that a chord may be away from its arc
_LEAST_CHORDS = 16


def is_near(x: object, y: object, size: Size) -> bool:
    """Return whether two values are a point on an image, or off it by at most its size."""
    height, width = size
    return is_number(x) and is_number(y) and -width <= x <= 2 * width and -height <= y <= 2 * height


def near_rule(size: Size) -> str:
    """Return the rule that `is_near` checks."""
    return f"be x and y in or near the image of {size[1]} x {size[0]}"


def read_points(value: object, size: Size, label: str, problems: Problems) -> list[float] | None:
    """Flatten a list of [x, y] to x, y, x, y, …; return None after adding what is wrong."""
    if not isinstance(value, list):
        problems.add(label, "be a list of points", value, REDRAW)
        return None
    flat: list[float] = []
    for number, point in enumerate(value):
        if not (isinstance(point, list) and len(point) == 2 and is_near(point[0], point[1], size)):
            problems.add(f"{label}[{number}]", near_rule(size), point, REDRAW)
            return None
        flat += point
    return flat


def read_ring(value: object, size: Size, label: str, problems: Problems) -> list[float] | None:
    """Flatten a list of at least three [x, y], as `read_points` does."""
    flat = read_points(value, size, label, problems)
    if flat is not None and len(flat) < 6:
        problems.add(label, "hold at least 3 points", f"{len(flat) // 2} points", REDRAW)
        return None
    return flat


def rectangle(x1: float, y1: float, x2: float, y2: float) -> list[float]:
    """Return the ring of a rectangle between two opposite corners."""
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def ellipse(
    centre: tuple[float, float], radii: tuple[float, float], angle: float = 0.0
) -> list[float]:
    """Return a ring inscribed in an ellipse, with chords within 0.02 pixels of it.

    Args:
        centre: x and y.
        radii: Along x and along y, before the rotation.
        angle: Rotation in radians, from x towards y.
    """
    longer = max(radii)
    chords = math.pi / math.acos(1 - min(1.0, _SAGITTA / longer)) if longer > 0 else 0
    angles = np.linspace(0, 2 * np.pi, max(_LEAST_CHORDS, math.ceil(chords)), endpoint=False)
    x, y = radii[0] * np.cos(angles), radii[1] * np.sin(angles)
    cos, sin = math.cos(angle), math.sin(angle)
    points = np.stack([centre[0] + cos * x - sin * y, centre[1] + sin * x + cos * y], axis=1)
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
