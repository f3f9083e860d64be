"""labelme: one JSON file per image, anywhere in the folder."""

from __future__ import annotations

import base64
import io
import math
import posixpath
from typing import Any

import numpy as np
from PIL import Image

from mrcnn.data.coco.tables import is_id
from mrcnn.data.formats.folder import Listing
from mrcnn.data.formats.image_names import ImageNames
from mrcnn.data.formats.outlines import (
    REDRAW,
    check_stated_size,
    ellipse,
    merged,
    read_points,
    rectangle,
)
from mrcnn.data.formats.records import ObjectRecord, ParsedFolder, left_out, numbered, read_images
from mrcnn.data.image_files import Size, file_name_rule, joined
from mrcnn.data.problems import Problems, RuleError
from mrcnn.ops.rle import encode_values

_KEYS = {"shapes", "imagePath"}
SHAPES = ("polygon", "rectangle", "circle", "mask")


def matches(listing: Listing) -> bool:
    """Return whether one of the first JSON files looks like one of labelme."""
    contents, _ = listing.json_samples
    return any(content.keys() >= _KEYS for content in contents)


def read(listing: Listing, problems: Problems) -> ParsedFolder:
    """Read all JSON files of labelme. Other JSON files, and other images, are left out, with notes.

    An image is the file that `imagePath` names, else one of the same name beside the JSON file.
    """
    contents: dict[str, dict[str, Any]] = {}  # by image
    file_of: dict[str, str] = {}
    others: list[str] = []
    names = ImageNames(set(listing.files))
    for file in listing.ending(".json"):
        with problems.collect():
            content = listing.json_object(file)
            if _KEYS.isdisjoint(content):
                others.append(file)
                continue
            embedded = content.pop("imageData", None)  # the image again, as text
            path, folder = content.get("imagePath"), posixpath.dirname(file)
            name = names.find(path, folder)
            if name is None:
                rule, fix = file_name_rule(path, folder), f"name an image inside {listing.folder}"
                if embedded and not rule:
                    rule = "be a file that exists"
                if embedded:
                    fix += "; imageData holds it, `labelme_export_json` writes it to a file"
                if rule:
                    raise RuleError(f"{file}: imagePath", rule, path, fix)
                name = joined(folder, str(path))
            if name in file_of:
                fix = f"{file_of[name]} names it too, merge the two"
                raise RuleError(f"{file}: imagePath", "be that of no other file", path, fix)
            file_of[name], contents[name] = file, content
    known = listing.class_names()

    def read_objects(name: str, size: Size, problems: Problems) -> list[ObjectRecord]:
        content, file = contents[name], file_of[name]
        check_stated_size(content, ("imageHeight", "imageWidth"), size, file, problems)
        return _objects(content.get("shapes"), size, file, known, problems)

    images = read_images(listing.root, file_of, read_objects, problems, ": imagePath")
    used = {instance.class_name for image in images for instance in image.objects}
    parsed = ParsedFolder(numbered(known or sorted(used)), images)
    parsed.notes += [*names.notes(), *left_out(others, "other JSON file")]
    if unnamed := sorted(set(listing.images()) - set(file_of)):
        parsed.notes.append(
            f"{len(unnamed)} images have no JSON file and are left out ({unnamed[0]}, …): "
            "save one without shapes for an image without objects"
        )
    return parsed


def _objects(
    shapes: object, size: Size, file: str, known: list[str], problems: Problems
) -> list[ObjectRecord]:
    """Return the instances of an image. Shapes of the same label and group are one instance."""
    if not isinstance(shapes, list):
        raise RuleError(f"{file}: shapes", "be a list", shapes, "save the file again with labelme")
    instances: dict[tuple[object, ...], tuple[str, str, list[Any]]] = {}
    for number, shape in enumerate(shapes):
        label = f"{file}: shapes[{number}]"
        with problems.collect():
            if not isinstance(shape, dict):
                raise RuleError(label, "be an object", shape, "remove it")
            class_name, group = shape.get("label"), shape.get("group_id")
            if not isinstance(class_name, str) or not class_name.strip():
                rule = "be a non-empty text"
                raise RuleError(f"{label}.label", rule, class_name, "name its class")
            if known and class_name not in known:
                fix = "correct it, or add it to the list of classes"
                raise RuleError(f"{label}.label", "be a listed class", class_name, fix)
            if group is not None and not is_id(group):
                fix = "give all shapes of an object the same number"
                raise RuleError(f"{label}.group_id", "be a whole number >= 0 or null", group, fix)
            segmentation = _segmentation(shape, size, label)
            key = ("shape", number) if group is None else (class_name, group)
            instances.setdefault(key, (label, class_name, []))[2].append(segmentation)
    return [
        ObjectRecord(label, name, merged(parts, size)) for label, name, parts in instances.values()
    ]


def _segmentation(shape: dict[str, Any], size: Size, label: str) -> Any:
    """Return the rings or RLE of a shape."""
    kind = shape.get("shape_type", "polygon")
    if kind not in SHAPES:
        raise RuleError(f"{label}.shape_type", f"be one of {', '.join(SHAPES)}", kind, REDRAW)
    least = 3 if kind == "polygon" else 0
    ring = read_points(shape.get("points"), size, f"{label}.points", least)
    # Newer versions write the four corners of a rectangle.
    if kind == "polygon" or (kind == "rectangle" and len(ring) == 8):
        return [ring]
    if len(ring) != 4:
        rule = f"hold the two points of a {kind}"
        raise RuleError(f"{label}.points", rule, f"{len(ring) // 2} points", REDRAW)
    x1, y1, x2, y2 = ring
    if kind == "rectangle":
        return [rectangle(x1, y1, x2, y2)]
    if kind == "circle":  # its centre, and a point on it
        radius = math.hypot(x2 - x1, y2 - y1)
        return [ellipse(x1, y1, radius, radius)]
    return _bitmap(shape.get("mask"), (int(x1), int(y1)), size, f"{label}.mask")


def _bitmap(text: object, corner: tuple[int, int], size: Size, label: str) -> dict[str, Any]:
    """Return the RLE of a PNG in base64 with its first pixel at `corner` (x, y) of the image."""
    (x, y), (height, width) = corner, size
    try:
        if not isinstance(text, str):
            raise ValueError("it is not a text")
        data = base64.b64decode(text, validate=True)
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            w, h = image.size
            if x < 0 or y < 0 or x + w > width or y + h > height:
                rule = f"be inside its image of {width} x {height}"
                raise RuleError(label, rule, f"{w} x {h} pixels at x {x}, y {y}", REDRAW)
            pixels = np.asarray(image.convert("L")) != 0
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise RuleError(label, f"be a PNG in base64 ({error})", text, REDRAW) from error
    if not pixels.any():
        raise RuleError(label, "hold some foreground", "zeros only", REDRAW)
    values = np.zeros(size, bool)
    values[y : y + h, x : x + w] = pixels
    return encode_values(values)[1]
