"""labelme: one JSON file an image, wherever in the folder."""

from __future__ import annotations

import base64
import io
import math
import posixpath
from typing import Any

import numpy as np
from PIL import Image

from mrcnn.data.coco_tables import file_name_rule, is_id, joined, read_sizes
from mrcnn.data.problems import Problems
from mrcnn.data.readers.drawn import (
    REDRAW,
    Size,
    ellipse,
    merged,
    read_points,
    read_ring,
    rectangle,
)
from mrcnn.data.readers.listing import Listing
from mrcnn.data.readers.pictures import Object, Picture, Pictures, numbered
from mrcnn.errors import UserError
from mrcnn.rle import encode_values

SHAPES = ("polygon", "rectangle", "circle", "mask")


def is_labelme(content: dict[str, Any]) -> bool:
    """Whether the content of a JSON file looks like one of labelme."""
    return "shapes" in content and "imagePath" in content


def read(listing: Listing, problems: Problems) -> Pictures:
    """Read all JSON files; an image that none names is left out, and a note says so."""
    contents: dict[str, dict[str, Any]] = {}  # by image
    file_of: dict[str, str] = {}
    for file in listing.ending(".json"):
        try:
            content = listing.json_object(file)
        except UserError as error:
            problems.lines.append(str(error))
            continue
        content.pop("imageData", None)  # the image again, in text
        path = content.get("imagePath")
        name = path.replace("\\", "/") if isinstance(path, str) else path  # as Windows writes it
        if rule := file_name_rule(name, posixpath.dirname(file)):
            fix = f"name an image file inside {listing.folder}"
            problems.add(f"{file}: imagePath", rule, path, fix)
            continue
        name = joined(posixpath.dirname(file), str(name))
        if name in file_of:
            fix = f"{file_of[name]} names it too, merge the two"
            problems.add(f"{file}: imagePath", "be that of no other file", path, fix)
            continue
        file_of[name], contents[name] = file, content
    places = [(name, f"{file}: imagePath") for name, file in file_of.items()]
    sizes = read_sizes(listing.root, places, problems)

    known = listing.class_names()
    pictures = []
    for name, size in sizes.items():
        file, content = file_of[name], contents[name]
        _check_size(content, size, file, problems)
        objects = _objects(content.get("shapes"), size, file, known, problems)
        pictures.append(Picture(name, file, size, objects))
    names = known or sorted({drawn.name for picture in pictures for drawn in picture.objects})
    found = Pictures(numbered(names), pictures)
    if without := sorted(set(listing.images()) - set(file_of)):
        found.notes.append(
            f"{len(without)} images have no JSON file and are left out ({without[0]}, …): "
            "save one without shapes for an image without objects"
        )
    return found


def _check_size(content: dict[str, Any], size: Size, file: str, problems: Problems) -> None:
    for field, actual in (("imageHeight", size[0]), ("imageWidth", size[1])):
        if (stated := content.get(field)) is not None and stated != actual:
            rule = f"be {actual}, as its image has"
            fix = "correct it, put the right image there, or save a turned image upright"
            problems.add(f"{file}: {field}", rule, stated, fix)


def _objects(
    shapes: object, size: Size, file: str, known: list[str], problems: Problems
) -> list[Object]:
    """The instances of an image; shapes of the same label and group are one."""
    if not isinstance(shapes, list):
        problems.add(f"{file}: shapes", "be a list", shapes, "save the file again with labelme")
        return []
    parts: dict[tuple[object, ...], list[Any]] = {}
    first: dict[tuple[object, ...], tuple[str, str]] = {}  # place and label
    for number, shape in enumerate(shapes):
        place = f"{file}: shapes[{number}]"
        if not isinstance(shape, dict):
            problems.add(place, "be an object", shape, "remove it")
            continue
        label, group = shape.get("label"), shape.get("group_id")
        if not isinstance(label, str) or not label.strip():
            problems.add(f"{place}.label", "be a non-empty text", label, "name its class")
        elif known and label not in known:
            fix = "correct it, or add it to the list of classes"
            problems.add(f"{place}.label", "be a listed class", label, fix)
        elif group is not None and not is_id(group):
            fix = "give the parts of an object one number"
            problems.add(f"{place}.group_id", "be a whole number >= 0 or null", group, fix)
        elif (part := _segmentation(shape, size, place, problems)) is not None:
            key = ("shape", number) if group is None else (label, group)
            parts.setdefault(key, []).append(part)
            first.setdefault(key, (place, label))
    return [Object(*first[key], merged(part, size)) for key, part in parts.items()]


def _segmentation(shape: dict[str, Any], size: Size, place: str, problems: Problems) -> Any:
    """Rings or run lengths of a shape; None after noting what is wrong."""
    kind = shape.get("shape_type", "polygon")
    if kind not in SHAPES:
        rule = f"be one of {', '.join(SHAPES)}"
        problems.add(f"{place}.shape_type", rule, kind, REDRAW)
        return None
    if kind == "polygon":
        ring = read_ring(shape.get("points"), size, f"{place}.points", problems)
        return None if ring is None else [ring]
    points = read_points(shape.get("points"), size, f"{place}.points", problems)
    if points is None:
        return None
    if kind == "rectangle" and len(points) == 8:  # four corners, as newer versions write it
        return [points]
    if len(points) != 4:
        rule = f"hold the two points of a {kind}"
        problems.add(f"{place}.points", rule, f"{len(points) // 2} points", REDRAW)
        return None
    x1, y1, x2, y2 = points
    if kind == "rectangle":
        return [rectangle(x1, y1, x2, y2)]
    if kind == "circle":  # its centre, and a point on it
        radius = math.hypot(x2 - x1, y2 - y1)
        return [ellipse((x1, y1), (radius, radius))]
    return _bitmap(shape.get("mask"), (int(x1), int(y1)), size, f"{place}.mask", problems)


def _bitmap(
    text: object, corner: tuple[int, int], size: Size, place: str, problems: Problems
) -> dict[str, Any] | None:
    """Run lengths of a PNG in base64 whose first pixel lies at `corner` (x, y) of the image."""
    (x, y), (height, width) = corner, size
    try:
        if not isinstance(text, str):
            raise ValueError("it is no text")
        data = base64.b64decode(text, validate=True)
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            w, h = image.size
            if x < 0 or y < 0 or x + w > width or y + h > height:
                rule = f"lie on its image of {width} x {height}"
                problems.add(place, rule, f"{w} x {h} pixels at x {x}, y {y}", REDRAW)
                return None
            pixels = np.asarray(image.convert("L")) != 0
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        problems.add(place, f"be a PNG in base64 ({error})", text, REDRAW)
        return None
    values = np.zeros(size, bool)
    values[y : y + h, x : x + w] = pixels
    if not pixels.any():
        problems.add(place, "hold some foreground", "zeros only", REDRAW)
        return None
    return encode_values(values)[1]
