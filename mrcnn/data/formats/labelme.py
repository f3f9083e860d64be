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
from mrcnn.data.formats.outlines import (
    REDRAW,
    check_stated_size,
    ellipse,
    merged,
    read_points,
    read_ring,
    rectangle,
)
from mrcnn.data.formats.records import ImageRecord, ObjectRecord, ParsedFolder, numbered
from mrcnn.data.image_files import Size, file_name_rule, joined, read_sizes
from mrcnn.data.problems import Problems
from mrcnn.ops.rle import encode_values

SHAPES = ("polygon", "rectangle", "circle", "mask")


def matches(listing: Listing) -> bool:
    """Return whether one of the first JSON files looks like one of labelme."""
    contents, _ = listing.json_samples
    return any("shapes" in content and "imagePath" in content for content in contents)


def read(listing: Listing, problems: Problems) -> ParsedFolder:
    """Read all JSON files. An image that none names is left out, with a note."""
    contents: dict[str, dict[str, Any]] = {}  # by image
    file_of: dict[str, str] = {}
    for file in listing.ending(".json"):
        if (content := listing.json_object(file, problems)) is None:
            continue
        content.pop("imageData", None)  # the image again, as text
        path, folder = content.get("imagePath"), posixpath.dirname(file)
        name = path.replace("\\", "/") if isinstance(path, str) else path  # as Windows writes it
        if rule := file_name_rule(name, folder):
            fix = f"name an image file inside {listing.folder}"
            problems.add(f"{file}: imagePath", rule, path, fix)
        elif (name := joined(folder, str(name))) in file_of:
            fix = f"{file_of[name]} names it too, merge the two"
            problems.add(f"{file}: imagePath", "be that of no other file", path, fix)
        else:
            file_of[name], contents[name] = file, content
    labels = {name: f"{file}: imagePath" for name, file in file_of.items()}
    sizes = read_sizes(listing.root, labels, problems)

    known = listing.class_names()
    images = []
    for name, size in sizes.items():
        file, content = file_of[name], contents[name]
        check_stated_size(content, ("imageHeight", "imageWidth"), size, file, problems)
        objects = _objects(content.get("shapes"), size, file, known, problems)
        images.append(ImageRecord(name, file, size, objects))
    names = known or sorted({instance.class_name for image in images for instance in image.objects})
    parsed = ParsedFolder(numbered(names), images)
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
        problems.add(f"{file}: shapes", "be a list", shapes, "save the file again with labelme")
        return []
    segmentations: dict[tuple[object, ...], list[Any]] = {}
    first: dict[tuple[object, ...], tuple[str, str]] = {}  # label in messages, class
    for number, shape in enumerate(shapes):
        label = f"{file}: shapes[{number}]"
        if not isinstance(shape, dict):
            problems.add(label, "be an object", shape, "remove it")
            continue
        class_name, group = shape.get("label"), shape.get("group_id")
        if not isinstance(class_name, str) or not class_name.strip():
            problems.add(f"{label}.label", "be a non-empty text", class_name, "name its class")
        elif known and class_name not in known:
            fix = "correct it, or add it to the list of classes"
            problems.add(f"{label}.label", "be a listed class", class_name, fix)
        elif group is not None and not is_id(group):
            fix = "give all shapes of an object the same number"
            problems.add(f"{label}.group_id", "be a whole number >= 0 or null", group, fix)
        elif (segmentation := _segmentation(shape, size, label, problems)) is not None:
            key = ("shape", number) if group is None else (class_name, group)
            segmentations.setdefault(key, []).append(segmentation)
            first.setdefault(key, (label, class_name))
    return [ObjectRecord(*first[key], merged(shape, size)) for key, shape in segmentations.items()]


def _segmentation(shape: dict[str, Any], size: Size, label: str, problems: Problems) -> Any:
    """Return the rings or RLE of a shape, None after adding what is wrong."""
    kind = shape.get("shape_type", "polygon")
    if kind not in SHAPES:
        problems.add(f"{label}.shape_type", f"be one of {', '.join(SHAPES)}", kind, REDRAW)
        return None
    if kind == "polygon":
        ring = read_ring(shape.get("points"), size, f"{label}.points", problems)
        return None if ring is None else [ring]
    points = read_points(shape.get("points"), size, f"{label}.points", problems)
    if points is None:
        return None
    if kind == "rectangle" and len(points) == 8:  # four corners, as newer versions write it
        return [points]
    if len(points) != 4:
        rule = f"hold the two points of a {kind}"
        problems.add(f"{label}.points", rule, f"{len(points) // 2} points", REDRAW)
        return None
    x1, y1, x2, y2 = points
    if kind == "rectangle":
        return [rectangle(x1, y1, x2, y2)]
    if kind == "circle":  # its centre, and a point on it
        radius = math.hypot(x2 - x1, y2 - y1)
        return [ellipse((x1, y1), (radius, radius))]
    return _bitmap(shape.get("mask"), (int(x1), int(y1)), size, f"{label}.mask", problems)


def _bitmap(
    text: object, corner: tuple[int, int], size: Size, label: str, problems: Problems
) -> dict[str, Any] | None:
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
                problems.add(label, rule, f"{w} x {h} pixels at x {x}, y {y}", REDRAW)
                return None
            pixels = np.asarray(image.convert("L")) != 0
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        problems.add(label, f"be a PNG in base64 ({error})", text, REDRAW)
        return None
    values = np.zeros(size, bool)
    values[y : y + h, x : x + w] = pixels
    if not pixels.any():
        problems.add(label, "hold some foreground", "zeros only", REDRAW)
        return None
    return encode_values(values)[1]
