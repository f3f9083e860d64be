"""Overlays of instances on their image: masks, boxes, names and scores.

D instances of an image of h x w pixels; the canvas may be larger by a whole factor, or smaller.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from mrcnn.ops import rle
from mrcnn.visual.names import short_name

Pixels = NDArray[np.uint8]  # (h, w, 3) RGB
Colour = tuple[int, int, int]
Color = str | Sequence[int]  # such as "red", "#ff8800" or (255, 136, 0)
Colors = (
    Color | Sequence[Color] | NDArray[np.integer[Any]] | Mapping[str, Color] | None
)  # see `chosen_colours`
Area = tuple[int, int, int, int]  # x1, y1, x2, y2 on the canvas

SMALLEST_CANVAS = 512  # longer side, pixels: a smaller image is enlarged so that text fits
FEW, MANY = 12, 40  # instances: up to FEW have all labels, above MANY only those that hide no other

FILL = 0.35  # of the colour, in a mask
_GOLDEN = 0.618034  # of a turn of hue: any number of steps stays spread out
_DARKEST = 85  # least lightness of a colour, so that it shows on dark images
_WHITE_TEXT = 108  # lightness up to which white text has more contrast than black


def draw_instances(
    image: Pixels,
    boxes: NDArray[Any],
    labels: NDArray[Any],
    masks: Sequence[dict[str, Any]],
    class_names: Sequence[str],
    scores: NDArray[Any] | None = None,
    *,
    colours: Sequence[Colour] | None = None,
    alpha: float = FILL,
    line_width: int | None = None,
    with_boxes: bool = True,
    with_labels: bool = True,
    legend: bool = False,
    longest_side: int | None = None,
) -> Pixels:
    """Draw instances, the first on top.

    Each class has its colour, or each instance if there is one class. Labels are placed where they
    hide least. With many instances, three things are left out: boxes that have a mask, the name of
    the only class, and labels that would hide other instances.

    Args:
        image: (h, w, 3) RGB.
        boxes: (D, 4) xyxy, pixels of the image.
        labels: (D,) in [0, C).
        masks: D COCO RLE masks of the size of the image, or an empty sequence.
        class_names: of the C classes.
        scores: (D,) in [0, 1].
        colours: of the D instances, instead of `instance_colours`.
        alpha: opacity of the masks, in [0, 1]; their edges are opaque.
        line_width: of boxes and edges, pixels of the overlay; 1/700 of its longer side by default.
        with_boxes: draw the boxes.
        with_labels: write class names and scores.
        legend: list the classes with their colours and counts in a corner.
        longest_side: of the overlay, pixels; a larger image is reduced to it.

    Returns:
        (f h, f w, 3) RGB; f = 1 unless the image is small or larger than `longest_side`.
    """
    height, width = image.shape[:2]
    scale: float = max(1, -(-SMALLEST_CANVAS // max(height, width)))
    if longest_side and longest_side < max(height, width):
        scale = longest_side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    resample = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    canvas = np.array(Image.fromarray(image).resize(size, resample))
    line = line_width or max(1, round(max(size) / 700))
    colours = colours or instance_colours(labels, len(class_names))
    few, many = len(labels) <= FEW, len(labels) > MANY

    for mask, colour in reversed(list(zip(masks, colours, strict=False))):
        _draw_mask(canvas, mask, colour, scale, line, alpha)
    drawing = Image.fromarray(canvas)
    pen = ImageDraw.Draw(drawing)
    corners = np.array(boxes, np.float64).reshape(-1, 4) * scale
    corners = corners.round().clip(-max(size), 2 * max(size)).astype(int)
    for (x1, y1, x2, y2), colour in reversed(list(zip(corners.tolist(), colours, strict=True))):
        if with_boxes and not (many and len(masks)):
            pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=line)

    font = ImageFont.load_default(max(11, round(max(size) / 55)))
    taken: list[Area] = []
    if legend and len(labels):
        taken.append(_draw_legend(pen, font, labels, class_names, colours, size, corners))
    parts = [[short_name(class_names[int(label)])] for label in labels]
    if len(class_names) == 1 and not few:
        parts = [[] for _ in labels]
    if scores is not None:
        parts = [[*part, f"{score:.2f}"] for part, score in zip(parts, scores, strict=True)]
    room = 0.0 if few else 1.0 if many else 0.4  # width of a box per width of its label, at least
    for i, (part, colour) in enumerate(zip(parts, colours, strict=True) if with_labels else ()):
        _draw_label(pen, font, " ".join(part), i, corners, colour, size, taken, room)
    return np.array(drawing)


def draw_marked(
    image: Pixels,
    boxes: NDArray[Any],
    labels: NDArray[Any],
    masks: Sequence[dict[str, Any]],
    is_marked: NDArray[np.bool_],
    class_names: Sequence[str],
    word: str,
    scores: NDArray[Any] | None = None,
    longest_side: int = 800,
) -> Pixels:
    """Draw instances with the marked ones on top, in other colours.

    `word` precedes the class names of marked instances; if there is one class, it replaces them.
    The arguments are those of `draw_instances`, and `is_marked` is (D,).
    """
    marked_names = [f"{word} {name}" for name in class_names] if len(class_names) > 1 else [word]
    order = np.argsort(~is_marked, kind="stable")
    return draw_instances(
        image,
        boxes[order],
        (labels + len(class_names) * is_marked)[order],
        [masks[i] for i in order] if len(masks) else [],
        [*class_names, *marked_names],
        None if scores is None else scores[order],
        longest_side=longest_side,
    )


def instance_colours(labels: NDArray[Any], num_classes: int) -> list[Colour]:
    """Return the colour of each instance: that of its class, or its own if there is one class.

    For labels (D,) in [0, num_classes), D colours (red, green, blue) from 0 to 255.
    """
    keys = labels if num_classes > 1 else np.arange(len(labels))
    return [_colour(int(key)) for key in keys]


def chosen_colours(
    colors: Colors, labels: NDArray[Any], class_names: Sequence[str]
) -> list[Colour]:
    """Return the colour of each instance that a user chose.

    Args:
        colors: one colour, one for each instance, or those of some classes by name; None for those
            of `instance_colours`.
        labels: (D,) in [0, C).
        class_names: of the C classes.

    Raises:
        ValueError: if a colour, their number, or a class name is not valid.
    """
    if isinstance(colors, np.ndarray):
        colors = colors.tolist()
    each: list[Any] = list(instance_colours(labels, len(class_names)))
    if isinstance(colors, Mapping):
        if unknown := sorted(set(colors) - set(class_names)):
            raise ValueError(
                f"colors: {unknown[0]!r} is not a class of the model ({', '.join(class_names)})"
            )
        names = [class_names[label] for label in labels]
        each = [colors.get(name, own) for name, own in zip(names, each, strict=True)]
    elif isinstance(colors, str) or (colors and all(isinstance(value, int) for value in colors)):
        each = [colors] * len(labels)
    elif colors is not None:
        each = list(colors)
    each = [ImageColor.getrgb(c) if isinstance(c, str) else tuple(c) for c in each]
    is_colour = all(
        len(colour) == 3 and all(isinstance(value, int) and 0 <= value <= 255 for value in colour)
        for colour in each
    )
    if len(each) != len(labels) or not is_colour:
        raise ValueError(
            f"colors: must be one color such as 'red' or (255, 0, 0), {len(labels)} of them, or a "
            f"dict from class names to colors; got {colors!r:.80}"
        )
    return each


def _draw_mask(
    canvas: Pixels, mask: rle.Rle, colour: Colour, scale: float, line: int, alpha: float
) -> None:
    """Tint a mask, and draw its edge inside it."""
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
    under[inner] = (under[inner] * (1 - alpha) + np.array(colour) * alpha).astype(np.uint8)
    under[shown & ~inner] = colour


def _draw_label(
    pen: ImageDraw.ImageDraw,
    font: Any,
    text: str,
    own: int,
    boxes: NDArray[Any],
    colour: Colour,
    size: tuple[int, int],
    taken: list[Area],
    room: float,
) -> None:
    """Write a label beside its box, where it hides least of all boxes and no other label.

    A label that fits nowhere is left out; `taken` gets the area of one that is written.
    """
    x1, y1, x2, y2 = boxes[own].tolist()
    left, top, right, bottom = font.getbbox(text)
    pad = max(2, round(font.size / 5))
    w, h = round(right - left) + 2 * pad, round(bottom - top) + 2 * pad
    if not text or x2 - x1 < room * w or y2 - y1 < room * 2 * h:
        return
    x, y = max(0, min(x1, size[0] - w)), max(0, min(y1, size[1] - h))
    corners = {  # with a bias: how much more another corner must hide for this one to be better
        (x, y1 - h): 0.0,
        (x, y1): 0.05,
        (x, y2): 0.1,
        (x, y2 - h): 0.1,
        (x2, y): 0.3,
        (x1 - w, y): 0.3,
    }
    areas = {
        (a, b, a + w, b + h): bias
        for (a, b), bias in corners.items()
        if a >= 0 and b >= 0 and a + w <= size[0] and b + h <= size[1]
        if not any(_overlap((a, b, a + w, b + h), other) for other in taken)
    }
    if areas:
        area = min(areas, key=lambda area: areas[area] + _hidden(area, boxes))
        taken.append(area)
        pen.rectangle((area[0], area[1], area[2] - 1, area[3] - 1), fill=colour)
        position = (area[0] + pad - left, area[1] + pad - top)
        ink = "white" if _lightness(colour) < _WHITE_TEXT else "black"
        pen.text(position, text, ink, font)


def _draw_legend(
    pen: ImageDraw.ImageDraw,
    font: Any,
    labels: NDArray[Any],
    class_names: Sequence[str],
    colours: Sequence[Colour],
    size: tuple[int, int],
    boxes: NDArray[Any],
) -> Area:
    """List the classes, the most frequent first, in the corner where least is hidden."""
    present, counts = np.unique(labels, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    row = round(font.size * 1.4)
    order = order[: max(1, (size[1] - row) // row)]
    texts = [f"{short_name(class_names[present[i]])}  {counts[i]}" for i in order]
    w, h = round(max(font.getlength(text) for text in texts)) + 2 * row, row * len(texts) + row // 2
    areas = [(x, y, x + w, y + h) for y in (0, size[1] - h) for x in (size[0] - w, 0)]
    area = min(areas, key=lambda area: _hidden(area, boxes))
    pen.rectangle((area[0], area[1], area[2] - 1, area[3] - 1), fill="black")
    for number, (i, text) in enumerate(zip(order, texts, strict=True)):
        x, y = area[0] + row // 4, area[1] + row // 4 + number * row
        if len(class_names) > 1:  # colours of a single class distinguish instances
            swatch = (x + row // 4, y + row // 4, x + row - row // 4, y + row - row // 4)
            pen.rectangle(swatch, fill=colours[list(labels).index(present[i])])
        pen.text((x + row, y + row // 2), text, "white", font, anchor="lm")
    return area


def _hidden(area: Area, boxes: NDArray[Any]) -> float:
    """Return how much of the boxes (D, 4) an area hides, as a sum of fractions of each box."""
    low, high = np.maximum(boxes[:, :2], area[:2]), np.minimum(boxes[:, 2:], area[2:])
    common = (high - low).clip(0).prod(1)
    return float((common / (boxes[:, 2:] - boxes[:, :2]).clip(1).prod(1)).sum())


def _overlap(a: Area, b: Area) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _colour(key: int) -> Colour:
    """Return the colour of a class or an instance: hues a golden section apart, three strengths."""
    hue = (0.6 + key * _GOLDEN) % 1
    saturation, value = ((0.9, 1.0), (0.5, 1.0), (0.9, 0.75))[key // 5 % 3]
    red, green, blue = (round(255 * v) for v in colorsys.hsv_to_rgb(hue, saturation, value))
    lift = max(0.0, _DARKEST - _lightness((red, green, blue)))
    white = lift / (255 - _DARKEST + lift)  # the fraction of white that gives this lightness
    red, green, blue = (round(v + (255 - v) * white) for v in (red, green, blue))
    return red, green, blue


def _lightness(colour: Colour) -> float:
    """Return the root of the relative luminance of sRGB with gamma 2, 0 to 255."""
    red, green, blue = colour
    return math.sqrt(0.2126 * red**2 + 0.7152 * green**2 + 0.0722 * blue**2)
