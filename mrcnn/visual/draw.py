"""Instances over their image: masks, boxes, names and scores.

D instances of an image of h x w pixels; the canvas may be larger by a whole factor.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as rle_codec

from mrcnn.structures import Detections

Pixels = NDArray[np.uint8]  # (h, w, 3) RGB
Colour = tuple[int, int, int]

SMALLEST_CANVAS = 512  # longer side, pixels: a smaller image is enlarged so that text fits
FEW, MANY = 12, 40  # instances: up to FEW all is written, from MANY on only what covers no other

_FILL = 0.35  # of the colour, in a mask
_GOLDEN = 0.618034  # of a turn of hue: any number of steps stays spread out
_DARKEST = 85  # lightness of a colour at least, so that it shows on dark images
_WHITE_INK = 108  # lightness up to which white text has more contrast than black


def draw_detections(image: Pixels, found: Detections, class_names: Sequence[str]) -> Pixels:
    """Draw what a model found; see `draw_instances`."""
    return draw_instances(
        image,
        found.boxes.numpy(),
        found.labels.numpy(),
        found.masks,
        class_names,
        found.scores.numpy(),
    )


def draw_instances(
    image: Pixels,
    boxes: NDArray[Any],
    labels: NDArray[Any],
    masks: Sequence[dict[str, Any]],
    class_names: Sequence[str],
    scores: NDArray[Any] | None = None,
) -> Pixels:
    """Draw instances, the first on top.

    Colours tell classes apart, or instances where there is one class. With many instances, boxes
    are left out where masks show the same, the name of an only class is too, and so are labels
    that would cover more than their own instance.

    Args:
        image: (h, w, 3) RGB.
        boxes: (D, 4) xyxy, pixels of the image.
        labels: (D,) in [0, C).
        masks: D COCO run lengths of the size of the image, or none.
        class_names: C names.
        scores: (D,) in [0, 1].
    Returns:
        (f h, f w, 3), f = 1 unless the image is small.
    """
    height, width = image.shape[:2]
    factor = max(1, -(-SMALLEST_CANVAS // max(height, width)))
    size = (width * factor, height * factor)
    canvas = np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    line = max(1, round(max(size) / 700))
    colours = instance_colours(labels, len(class_names))
    few, many = len(labels) <= FEW, len(labels) > MANY

    for mask, colour in reversed(list(zip(masks, colours, strict=False))):
        _draw_mask(canvas, mask, colour, factor, line)
    drawing = Image.fromarray(canvas)
    pen = ImageDraw.Draw(drawing)
    corners = [[round(float(v) * factor) for v in box] for box in boxes]
    for (x1, y1, x2, y2), colour in reversed(list(zip(corners, colours, strict=True))):
        if not (many and len(masks)):
            pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=line)

    font = ImageFont.load_default(min(20, max(11, max(size) // 50)))
    parts = [[_text(class_names[int(label)])] for label in labels]
    if len(class_names) == 1 and not few:
        parts = [[] for _ in labels]
    if scores is not None:
        parts = [[*part, f"{score:.2f}"] for part, score in zip(parts, scores, strict=True)]
    room = 0.0 if few else 1.0 if many else 0.4  # width of a box per width of its label, at least
    taken: list[tuple[int, int, int, int]] = []
    for corner, part, colour in zip(corners, parts, colours, strict=True):
        _draw_label(pen, font, " ".join(part), corner, colour, size, taken, room)
    return np.array(drawing)


def instance_colours(labels: NDArray[Any], num_classes: int) -> list[Colour]:
    """Of each of D instances: that of its class, or its own where there is one class.

    Args:
        labels: (D,) in [0, num_classes).
    """
    keys = labels if num_classes > 1 else np.arange(len(labels))
    return [_colour(int(key)) for key in keys]


def _draw_mask(canvas: Pixels, rle: dict[str, Any], colour: Colour, factor: int, line: int) -> None:
    """Tint a mask, and trace its edge from inside."""
    x, y, w, h = (int(v) for v in rle_codec.toBbox(rle))
    if not (w and h):
        return
    mask = rle_codec.decode(rle)[y : y + h, x : x + w].astype(bool)
    mask = mask.repeat(factor, axis=0).repeat(factor, axis=1)
    inner = np.pad(mask, 1)
    for _ in range(line):
        inner[1:-1, 1:-1] &= inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
    inner = inner[1:-1, 1:-1]
    under = canvas[y * factor : (y + h) * factor, x * factor : (x + w) * factor]
    under[inner] = (under[inner] * (1 - _FILL) + np.array(colour) * _FILL).astype(np.uint8)
    under[mask & ~inner] = colour


def _draw_label(
    pen: ImageDraw.ImageDraw,
    font: Any,
    text: str,
    corner: Sequence[int],
    colour: Colour,
    size: tuple[int, int],
    taken: list[tuple[int, int, int, int]],
    room: float,
) -> None:
    """Write above the box, or inside or below it, where no label stands; else nowhere."""
    x1, y1, x2, y2 = corner
    left, top, right, bottom = font.getbbox(text)
    w, h = right - left + 6, bottom - top + 5
    if not text or x2 - x1 < room * w or y2 - y1 < room * 2 * h:
        return
    x = max(0, min(x1, size[0] - w))
    for y in (y1 - h, y1, y2 - h, y2):
        place = (x, y, x + w, y + h)
        inside = y >= 0 and y + h <= size[1] and w <= size[0]
        if inside and not any(_overlap(place, other) for other in taken):
            taken.append(place)
            pen.rectangle((x, y, x + w - 1, y + h - 1), fill=colour)
            ink = "white" if _lightness(colour) < _WHITE_INK else "black"
            pen.text((x + 3 - left, y + 2 - top), text, ink, font)
            return


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _text(name: str, longest: int = 24) -> str:
    """A class name on one line."""
    name = " ".join(name.split())
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _colour(key: int) -> Colour:
    """The colour of a class or an instance: hues a golden section apart, three strengths."""
    hue = (0.6 + key * _GOLDEN) % 1
    saturation, value = ((0.9, 1.0), (0.5, 1.0), (0.9, 0.75))[key // 5 % 3]
    red, green, blue = (round(255 * v) for v in colorsys.hsv_to_rgb(hue, saturation, value))
    lift = max(0.0, _DARKEST - _lightness((red, green, blue)))
    white = lift / (255 - _DARKEST + lift)  # the part of white that brings it about there
    return (_mix(red, white), _mix(green, white), _mix(blue, white))


def _mix(channel: int, white: float) -> int:
    return round(channel + (255 - channel) * white)


def _lightness(colour: Colour) -> float:
    """0 to 255, the root of the relative luminance of sRGB with gamma 2."""
    red, green, blue = colour
    return math.sqrt(0.2126 * red**2 + 0.7152 * green**2 + 0.0722 * blue**2)
