"""Instances over their image: masks, boxes, names and scores.

D instances of an image of h x w pixels; the canvas may be larger by a whole factor, or smaller.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mrcnn import rle
from mrcnn.structures import Detections

Pixels = NDArray[np.uint8]  # (h, w, 3) RGB
Colour = tuple[int, int, int]
Place = tuple[int, int, int, int]  # x1, y1, x2, y2 on the canvas

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
    *,
    legend: bool = False,
    longest_side: int | None = None,
) -> Pixels:
    """Draw instances, the first on top.

    Colours tell classes apart, or instances where there is one class. Labels stand where they hide
    least. With many instances, boxes are left out where masks show the same, the name of an only
    class is too, and so are labels that would cover more than their own instance.

    Args:
        image: (h, w, 3) RGB.
        boxes: (D, 4) xyxy, pixels of the image.
        labels: (D,) in [0, C).
        masks: D COCO run lengths of the size of the image, or none.
        class_names: C names.
        scores: (D,) in [0, 1].
        legend: list the classes in a corner, with their colours and how many there are.
        longest_side: of the picture, pixels; a larger image is reduced to it.
    Returns:
        (f h, f w, 3), f = 1 unless the image is small or larger than `longest_side`.
    """
    height, width = image.shape[:2]
    scale: float = max(1, -(-SMALLEST_CANVAS // max(height, width)))
    if longest_side and longest_side < max(height, width):
        scale = longest_side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    resample = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    canvas = np.array(Image.fromarray(image).resize(size, resample))
    line = max(1, round(max(size) / 700))
    colours = instance_colours(labels, len(class_names))
    few, many = len(labels) <= FEW, len(labels) > MANY

    for mask, colour in reversed(list(zip(masks, colours, strict=False))):
        _draw_mask(canvas, mask, colour, scale, line)
    drawing = Image.fromarray(canvas)
    pen = ImageDraw.Draw(drawing)
    corners = np.array(boxes, np.float64).reshape(-1, 4) * scale
    corners = corners.round().clip(-max(size), 2 * max(size)).astype(int)
    for (x1, y1, x2, y2), colour in reversed(list(zip(corners.tolist(), colours, strict=True))):
        if not (many and len(masks)):
            pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=line)

    font = ImageFont.load_default(max(11, round(max(size) / 55)))
    taken: list[Place] = []
    if legend and len(labels):
        taken.append(_draw_legend(pen, font, labels, class_names, size, corners))
    parts = [[_text(class_names[int(label)])] for label in labels]
    if len(class_names) == 1 and not few:
        parts = [[] for _ in labels]
    if scores is not None:
        parts = [[*part, f"{score:.2f}"] for part, score in zip(parts, scores, strict=True)]
    room = 0.0 if few else 1.0 if many else 0.4  # width of a box per width of its label, at least
    for i, (part, colour) in enumerate(zip(parts, colours, strict=True)):
        _draw_label(pen, font, " ".join(part), i, corners, colour, size, taken, room)
    return np.array(drawing)


def instance_colours(labels: NDArray[Any], num_classes: int) -> list[Colour]:
    """Of each of D instances: that of its class, or its own where there is one class.

    Args:
        labels: (D,) in [0, num_classes).
    """
    keys = labels if num_classes > 1 else np.arange(len(labels))
    return [_colour(int(key)) for key in keys]


def _draw_mask(canvas: Pixels, mask: rle.Rle, colour: Colour, scale: float, line: int) -> None:
    """Tint a mask, and trace its edge from inside."""
    x, y, pixels = rle.decode_tight(mask)
    if not pixels.size:
        return
    rows, columns = (
        np.arange(math.floor(first * scale), min(math.ceil((first + count) * scale), limit))
        for first, count, limit in zip((y, x), pixels.shape, canvas.shape, strict=False)
    )
    from_row = ((rows + 0.5) / scale - y).astype(int).clip(0, pixels.shape[0] - 1)
    from_column = ((columns + 0.5) / scale - x).astype(int).clip(0, pixels.shape[1] - 1)
    shown = pixels[np.ix_(from_row, from_column)]
    inner = np.pad(shown, 1)
    for _ in range(line):
        inner[1:-1, 1:-1] &= inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
    inner = inner[1:-1, 1:-1]
    under = canvas[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    under[inner] = (under[inner] * (1 - _FILL) + np.array(colour) * _FILL).astype(np.uint8)
    under[shown & ~inner] = colour


def _draw_label(
    pen: ImageDraw.ImageDraw,
    font: Any,
    text: str,
    own: int,
    boxes: NDArray[Any],
    colour: Colour,
    size: tuple[int, int],
    taken: list[Place],
    room: float,
) -> None:
    """Write at the box where least of all boxes is hidden, and no label stands; else nowhere."""
    x1, y1, x2, y2 = boxes[own].tolist()
    left, top, right, bottom = font.getbbox(text)
    pad = max(2, round(font.size / 5))
    w, h = round(right - left) + 2 * pad, round(bottom - top) + 2 * pad
    if not text or x2 - x1 < room * w or y2 - y1 < room * 2 * h:
        return
    x, y = max(0, min(x1, size[0] - w)), max(0, min(y1, size[1] - h))
    spots = {  # and how much may be hidden elsewhere for each to be better
        (x, y1 - h): 0.0,
        (x, y1): 0.05,
        (x, y2): 0.1,
        (x, y2 - h): 0.1,
        (x2, y): 0.3,
        (x1 - w, y): 0.3,
    }
    places = {
        (a, b, a + w, b + h): bias
        for (a, b), bias in spots.items()
        if a >= 0 and b >= 0 and a + w <= size[0] and b + h <= size[1]
        if not any(_overlap((a, b, a + w, b + h), other) for other in taken)
    }
    if places:
        place = min(places, key=lambda place: places[place] + _hidden(place, boxes))
        taken.append(place)
        pen.rectangle((place[0], place[1], place[2] - 1, place[3] - 1), fill=colour)
        pen.text((place[0] + pad - left, place[1] + pad - top), text, _ink(colour), font)


def _draw_legend(
    pen: ImageDraw.ImageDraw,
    font: Any,
    labels: NDArray[Any],
    class_names: Sequence[str],
    size: tuple[int, int],
    boxes: NDArray[Any],
) -> Place:
    """List the classes, the most frequent first, in the corner where least is hidden; where."""
    kinds, counts = np.unique(labels, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    row = round(font.size * 1.4)
    order = order[: max(1, (size[1] - row) // row)]
    texts = [f"{_text(class_names[kinds[i]])}  {counts[i]}" for i in order]
    w, h = round(max(font.getlength(text) for text in texts)) + 2 * row, row * len(texts) + row // 2
    places = [(x, y, x + w, y + h) for y in (0, size[1] - h) for x in (size[0] - w, 0)]
    place = min(places, key=lambda place: _hidden(place, boxes))
    pen.rectangle((place[0], place[1], place[2] - 1, place[3] - 1), fill="black")
    for number, (i, text) in enumerate(zip(order, texts, strict=True)):
        x, y = place[0] + row // 4, place[1] + row // 4 + number * row
        if len(class_names) > 1:  # of an only class, colours tell instances apart
            swatch = (x + row // 4, y + row // 4, x + row - row // 4, y + row - row // 4)
            pen.rectangle(swatch, fill=_colour(int(kinds[i])))
        pen.text((x + row, y + row // 2), text, "white", font, anchor="lm")
    return place


def _hidden(place: Place, boxes: NDArray[Any]) -> float:
    """How much of the boxes (D, 4) lies under a place, each as a part of its own area."""
    low, high = np.maximum(boxes[:, :2], place[:2]), np.minimum(boxes[:, 2:], place[2:])
    common = (high - low).clip(0).prod(1)
    return float((common / (boxes[:, 2:] - boxes[:, :2]).clip(1).prod(1)).sum())


def _overlap(a: Place, b: Place) -> bool:
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


def _ink(colour: Colour) -> str:
    """Of text on it."""
    return "white" if _lightness(colour) < _WHITE_INK else "black"


def _mix(channel: int, white: float) -> int:
    return round(channel + (255 - channel) * white)


def _lightness(colour: Colour) -> float:
    """0 to 255, the root of the relative luminance of sRGB with gamma 2."""
    red, green, blue = colour
    return math.sqrt(0.2126 * red**2 + 0.7152 * green**2 + 0.0722 * blue**2)
