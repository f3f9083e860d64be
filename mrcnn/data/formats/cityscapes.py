"""Cityscapes: `leftImg8bit/` and `gtFine/` with one folder per split and city."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mrcnn.data.formats.folder import Listing
from mrcnn.data.formats.mask_files import read_mask
from mrcnn.data.formats.outlines import check_stated_size, read_ring
from mrcnn.data.formats.records import ImageRecord, ObjectRecord, ParsedFolder, read_in_threads
from mrcnn.data.image_files import Size, read_sizes
from mrcnn.data.problems import Problems
from mrcnn.ops.rle import encode_values

# The classes that are evaluated as instances, by the ids of cityscapesScripts' labels.py.
CLASSES = {
    24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train", 32: "motorcycle",
    33: "bicycle",
}  # fmt: skip

# All labels of that table: an object of any label hides what is behind it.
_STUFF = (
    "unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground",
    "road", "sidewalk", "parking", "rail track", "building", "wall", "fence", "guard rail",
    "bridge", "tunnel", "pole", "polegroup", "traffic light", "traffic sign", "vegetation",
    "terrain", "sky",
)  # fmt: skip
_IDS = {name: i for i, name in enumerate(_STUFF)}
_IDS |= {"caravan": 29, "trailer": 30, "license plate": -1, **{n: i for i, n in CLASSES.items()}}
_COUNTED = {*CLASSES, 29, 30}

_FILE = re.compile(r"gtFine/([^/]+)/([^/]+)/([^/]+)_gtFine_(instanceIds\.png|polygons\.json)")


def matches(listing: Listing) -> bool:
    """Return whether the folder has annotations under the names of Cityscapes."""
    return any(_FILE.fullmatch(file) for file in listing.files)


def read(listing: Listing, problems: Problems) -> ParsedFolder:
    """Read instanceIds.png, else polygons.json, of the images of train and val.

    A region of several instances (`cargroup`) is a crowd region.
    """
    source: dict[str, tuple[str, str]] = {}  # image -> split, annotation; the PNG comes first
    for file in listing.files:
        if match := _FILE.fullmatch(file):
            split, city, base, _ = match.groups()
            image = f"leftImg8bit/{split}/{city}/{base}_leftImg8bit.png"
            if split in ("train", "val"):
                source.setdefault(image, (split, file))
    labels = {name: file for name, (_, file) in source.items()}
    sizes = read_sizes(listing.root, labels, problems)

    def read_one(name: str, problems: Problems) -> list[ObjectRecord]:
        read_ids = _painted if labels[name].endswith(".json") else _stored
        values = read_ids(listing, labels[name], sizes[name], problems)
        return [] if values is None else _objects(values, labels[name])

    parsed = ParsedFolder(CLASSES, has_lists=True)
    for name, objects in zip(sizes, read_in_threads(read_one, sizes, problems), strict=True):
        split, file = source[name]
        parsed.images.append(ImageRecord(name, file, sizes[name], objects, (split,)))
    of_splits = ("leftImg8bit/train/", "leftImg8bit/val/")
    images = {name for name in listing.images() if name.startswith(of_splits)}
    if without := sorted(images - set(source)):
        rule = "have annotations in gtFine/"
        problems.add(without[0], rule, f"{len(without)} images", "add them")
    return parsed


def _objects(values: NDArray[Any], file: str) -> list[ObjectRecord]:
    """Return the instances: values of 1000 * class id + number. The id alone is a crowd region."""
    objects = []
    for value, rle in encode_values(values).items():
        class_id = value // 1000 if value >= 1000 else value
        if class_id in CLASSES:
            label = f"{file}: instance {value}"
            objects.append(ObjectRecord(label, CLASSES[class_id], rle, crowd=value < 1000))
    return objects


def _stored(listing: Listing, file: str, size: Size, problems: Problems) -> NDArray[Any] | None:
    values = read_mask(listing, file, size, problems)
    if values is not None and (values.ndim != 2 or values.dtype.itemsize < 2):
        fix = "take instanceIds, not labelIds or color, and save them with 16 bits"
        problems.add(file, "hold one number of 16 bits per pixel", f"{values.dtype}", fix)
        return None
    return values


def _painted(listing: Listing, file: str, size: Size, problems: Problems) -> NDArray[Any] | None:
    """Paint polygons over each other, as cityscapesScripts' json2instanceImg does."""
    if (content := listing.json_object(file, problems)) is None:
        return None
    check_stated_size(content, ("imgHeight", "imgWidth"), size, file, problems)
    objects = content.get("objects")
    if not isinstance(objects, list):
        problems.add(f"{file}: objects", "be a list", objects, "restore the file")
        return None
    canvas = Image.new("I", (size[1], size[0]), 0)
    painter, counts = ImageDraw.Draw(canvas), Counter[int]()
    for number, drawn in enumerate(objects):
        label = f"{file}: objects[{number}]"
        if not isinstance(drawn, dict):
            problems.add(label, "be an object", drawn, "remove it")
            continue
        if drawn.get("deleted"):
            continue
        name = drawn.get("label")
        id = _IDS.get(name) if isinstance(name, str) else None
        is_single = id in _COUNTED
        if id is None and isinstance(name, str):
            id = _IDS.get(name.removesuffix("group"))
        if id is None:
            problems.add(f"{label}.label", "be a label of Cityscapes", name, "correct it")
            continue
        ring = read_ring(drawn.get("polygon"), size, f"{label}.polygon", problems)
        if ring is None or id < 0:
            continue
        value = id
        if is_single:
            value = 1000 * id + counts[id]
            counts[id] += 1
        painter.polygon(ring, fill=value)
    return np.array(canvas)
