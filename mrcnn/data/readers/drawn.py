"""Shapes and bitmaps as COCO holds masks: rings of x, y, x, y, …, and run lengths."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mrcnn import rle
from mrcnn.data.coco_annotations import is_number
from mrcnn.data.problems import Problems

REDRAW = "draw it again or remove it"

_SAGITTA = 0.02  # pixels that a chord may stay away from its arc
_LEAST_CHORDS = 16

Size = tuple[int, int]  # (height, width)


def is_near(x: object, y: object, size: Size) -> bool:
    """Whether two values are a point that lies on an image, or off it by no more than its size."""
    height, width = size
    return is_number(x) and is_number(y) and -width <= x <= 2 * width and -height <= y <= 2 * height


def near_rule(size: Size) -> str:
    """The rule that `is_near` checks."""
    return f"be x and y in or near the image of {size[1]} x {size[0]}"


def read_points(value: object, size: Size, place: str, problems: Problems) -> list[float] | None:
    """A list of [x, y] as x, y, x, y, …; None after noting what is wrong."""
    if not isinstance(value, list):
        problems.add(place, "be a list of points", value, REDRAW)
        return None
    flat: list[float] = []
    for number, point in enumerate(value):
        if not (isinstance(point, list) and len(point) == 2 and is_near(point[0], point[1], size)):
            problems.add(f"{place}[{number}]", near_rule(size), point, REDRAW)
            return None
        flat += point
    return flat


def read_ring(value: object, size: Size, place: str, problems: Problems) -> list[float] | None:
    """A list of at least three [x, y]."""
    flat = read_points(value, size, place, problems)
    if flat is not None and len(flat) < 6:
        problems.add(place, "hold at least 3 points", f"{len(flat) // 2} points", REDRAW)
        return None
    return flat


def rectangle(x1: float, y1: float, x2: float, y2: float) -> list[float]:
    """The ring of a rectangle between two opposite corners."""
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def ellipse(
    centre: tuple[float, float], radii: tuple[float, float], turn: float = 0.0
) -> list[float]:
    """A ring inscribed in an ellipse, whose chords stay within 0.02 pixels of it.

    Args:
        radii: along x and along y, before it is turned.
        turn: radians, from x towards y.
    """
    longer = max(radii)
    chords = math.pi / math.acos(1 - min(1.0, _SAGITTA / longer)) if longer > 0 else 0
    angles = np.linspace(0, 2 * np.pi, max(_LEAST_CHORDS, math.ceil(chords)), endpoint=False)
    x, y = radii[0] * np.cos(angles), radii[1] * np.sin(angles)
    cos, sin = math.cos(turn), math.sin(turn)
    points = np.stack([centre[0] + cos * x - sin * y, centre[1] + sin * x + cos * y], axis=1)
    ring: list[float] = points.ravel().tolist()
    return ring


def merged(parts: list[Any], size: Size) -> Any:
    """The segmentation of one instance drawn in several parts, each a segmentation."""
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(part, list) for part in parts):
        return [ring for part in parts for ring in part]
    return rle.union([rle.from_segmentation(part, *size) for part in parts])
