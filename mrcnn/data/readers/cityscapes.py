"""Cityscapes: `leftImg8bit/` and `gtFine/` with a folder a split and a folder a city."""

from __future__ import annotations

import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mrcnn.data.coco_tables import read_sizes
from mrcnn.data.problems import Problems
from mrcnn.data.readers.drawn import Size, read_ring
from mrcnn.data.readers.listing import Listing
from mrcnn.data.readers.mask_files import read_mask
from mrcnn.data.readers.pictures import Object, Picture, Pictures
from mrcnn.errors import UserError
from mrcnn.rle import encode_values

# The classes that are evaluated as instances, by the ids of cityscapesScripts' labels.py.
CLASSES = {
    24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train", 32: "motorcycle",
    33: "bicycle",
}  # fmt: skip

# All labels of that table. What stands in front of an instance hides it, of whatever label it is.
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
_THREADS = 8


def is_cityscapes(listing: Listing) -> bool:
    """Whether the folder has annotations under the names of Cityscapes."""
    return any(_FILE.fullmatch(file) for file in listing.files)


def read(listing: Listing, problems: Problems) -> Pictures:
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
    sizes = read_sizes(listing.root, [(name, source[name][1]) for name in source], problems)

    def task(name: str) -> tuple[list[Object], list[str]]:
        own = Problems(listing.folder)
        file, size = source[name][1], sizes[name]
        read_ids = _painted if file.endswith(".json") else _stored
        values = read_ids(listing, file, size, own)
        return [] if values is None else _objects(values, file), own.lines

    found = Pictures(CLASSES, listed=True)
    with ThreadPoolExecutor(_THREADS) as pool:
        for name, (objects, lines) in zip(sizes, pool.map(task, sizes), strict=True):
            problems.lines += lines
            split, file = source[name]
            found.pictures.append(Picture(name, file, sizes[name], objects, (split,)))
    if without := sorted({n for n in listing.images() if _is_split_image(n)} - set(source)):
        problems.add(
            without[0], "have annotations in gtFine/", f"{len(without)} images", "add them"
        )
    return found


def _is_split_image(name: str) -> bool:
    return name.startswith(("leftImg8bit/train/", "leftImg8bit/val/"))


def _objects(values: NDArray[Any], file: str) -> list[Object]:
    """Instances have 1000 times the id of their class, plus a number; crowd regions the id."""
    objects = []
    for value, mask in encode_values(values).items():
        label = value // 1000 if value >= 1000 else value
        if label in CLASSES:
            place = f"{file}: instance {value}"
            objects.append(Object(place, CLASSES[label], mask, crowd=value < 1000))
    return objects


def _stored(listing: Listing, file: str, size: Size, problems: Problems) -> NDArray[Any] | None:
    try:
        values = read_mask(listing, file, size)
    except UserError as error:
        problems.lines.append(str(error))
        return None
    if values.ndim != 2 or values.dtype.itemsize < 2:
        fix = "take instanceIds, not labelIds or color, and save them with 16 bits"
        problems.add(file, "hold one number of 16 bits a pixel", f"{values.dtype}", fix)
        return None
    return values


def _painted(listing: Listing, file: str, size: Size, problems: Problems) -> NDArray[Any] | None:
    """Polygons painted one over the other, as cityscapesScripts' json2instanceImg does."""
    try:
        content = listing.json_object(file)
    except UserError as error:
        problems.lines.append(str(error))
        return None
    for key, actual in (("imgHeight", size[0]), ("imgWidth", size[1])):
        if content.get(key, actual) != actual:
            fix = "put the right image there"
            problems.add(f"{file}: {key}", f"be {actual}, as its image has", content[key], fix)
    objects = content.get("objects")
    if not isinstance(objects, list):
        problems.add(f"{file}: objects", "be a list", objects, "restore the file")
        return None
    canvas = Image.new("I", (size[1], size[0]), 0)
    painter, counts = ImageDraw.Draw(canvas), Counter[int]()
    for number, drawn in enumerate(objects):
        place = f"{file}: objects[{number}]"
        if not isinstance(drawn, dict):
            problems.add(place, "be an object", drawn, "remove it")
            continue
        if drawn.get("deleted"):
            continue
        label = drawn.get("label")
        id = _IDS.get(label) if isinstance(label, str) else None
        single = id in _COUNTED
        if id is None and isinstance(label, str):
            id = _IDS.get(label.removesuffix("group"))
        if id is None:
            problems.add(f"{place}.label", "be a label of Cityscapes", label, "correct it")
            continue
        ring = read_ring(drawn.get("polygon"), size, f"{place}.polygon", problems)
        if ring is None or id < 0:
            continue
        value = id
        if single:
            value = 1000 * id + counts[id]
            counts[id] += 1
        painter.polygon(ring, fill=value)
    return np.array(canvas)
