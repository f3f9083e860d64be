"""Cityscapes: `leftImg8bit/` and `gtFine/` with one folder per split and city."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mrcnn.data.formats.folder import Listing
from mrcnn.data.formats.outlines import check_stated_size, read_points
from mrcnn.data.formats.records import ObjectRecord, ParsedFolder, read_images
from mrcnn.data.image_files import Size
from mrcnn.data.images import read_stored
from mrcnn.data.problems import Problems, RuleError
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
    lists: dict[str, set[str]] = {"train": set(), "val": set()}
    file_of: dict[str, str] = {}  # image -> annotation; the PNG comes first
    for file in listing.files:
        if (match := _FILE.fullmatch(file)) and match[1] in lists:
            image = f"leftImg8bit/{match[1]}/{match[2]}/{match[3]}_leftImg8bit.png"
            lists[match[1]].add(image)
            file_of.setdefault(image, file)

    def read_objects(name: str, size: Size, problems: Problems) -> list[ObjectRecord]:
        file = file_of[name]
        if file.endswith(".json"):
            return _objects(_painted(listing, file, size, problems), file)
        values = read_stored(listing.checked(file), size)
        if values.ndim != 2 or values.dtype.itemsize < 2:
            fix = "take instanceIds, not labelIds or color, and save them with 16 bits"
            raise RuleError(file, "hold one number of 16 bits per pixel", f"{values.dtype}", fix)
        return _objects(values, file)

    images = read_images(listing.root, file_of, read_objects, problems)
    of_splits = ("leftImg8bit/train/", "leftImg8bit/val/")
    without = [
        name for name in listing.images() if name.startswith(of_splits) and name not in file_of
    ]
    if without:
        rule = "have annotations in gtFine/"
        problems.add(without[0], rule, f"{len(without)} images", "add them")
    return ParsedFolder(CLASSES, images, lists)


def _objects(values: NDArray[Any], file: str) -> list[ObjectRecord]:
    """Return the instances: values of 1000 * class id + number. The id alone is a crowd region."""
    objects = []
    for value, rle in encode_values(values).items():
        class_id = value // 1000 if value >= 1000 else value
        if class_id in CLASSES:
            label = f"{file}: instance {value}"
            objects.append(ObjectRecord(label, CLASSES[class_id], rle, crowd=value < 1000))
    return objects


def _painted(listing: Listing, file: str, size: Size, problems: Problems) -> NDArray[Any]:
    """Paint polygons over each other, as cityscapesScripts' json2instanceImg does."""
    content = listing.json_object(file)
    check_stated_size(content, ("imgHeight", "imgWidth"), size, file, problems)
    objects = content.get("objects")
    if not isinstance(objects, list):
        raise RuleError(f"{file}: objects", "be a list", objects, "restore the file")
    canvas = Image.new("I", (size[1], size[0]), 0)
    painter, counts = ImageDraw.Draw(canvas), Counter[int]()
    for number, drawn in enumerate(objects):
        with problems.collect():
            label = f"{file}: objects[{number}]"
            if not isinstance(drawn, dict):
                raise RuleError(label, "be an object", drawn, "remove it")
            if drawn.get("deleted"):
                continue
            name = drawn.get("label")
            if not isinstance(name, str) or {name, name.removesuffix("group")}.isdisjoint(_IDS):
                raise RuleError(f"{label}.label", "be a label of Cityscapes", name, "correct it")
            ring = read_points(drawn.get("polygon"), size, f"{label}.polygon", least=3)
            id = _IDS[name if name in _IDS else name.removesuffix("group")]
            value = id
            if name in _IDS and id in _COUNTED:
                value = 1000 * id + counts[id]
                counts[id] += 1
            if id >= 0:
                painter.polygon(ring, fill=value)
    return np.array(canvas)
