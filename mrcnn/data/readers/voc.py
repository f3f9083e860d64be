"""Pascal VOC: instances and classes as two label maps an image, splits as lists of names."""

from __future__ import annotations

import posixpath
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.data.coco_tables import file_name_rule, read_sizes
from mrcnn.data.problems import Problems
from mrcnn.data.readers.drawn import Size
from mrcnn.data.readers.listing import Listing
from mrcnn.data.readers.mask_files import read_mask
from mrcnn.data.readers.pictures import Object, Picture, Pictures, numbered
from mrcnn.errors import UserError
from mrcnn.rle import encode_values

NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip

_VOID = 255  # borders between instances, and what is hard to tell
_THREADS = 8


def is_voc(listing: Listing) -> bool:
    """Whether the folder, or one in it, has the label maps of instances."""
    return any(posixpath.basename(posixpath.dirname(f)) == "SegmentationObject"
               for f in listing.ending(".png"))  # fmt: skip


def read(listing: Listing, problems: Problems) -> Pictures:
    """Read the listed images, all if there are no lists; void pixels belong to no instance."""
    roots = {
        posixpath.dirname(posixpath.dirname(file))
        for file in listing.ending(".png")
        if posixpath.basename(posixpath.dirname(file)) == "SegmentationObject"
    }
    if len(roots) > 1:
        fix = "name one of them as the data"
        problems.add("SegmentationObject", "be in one folder", sorted(roots), fix)
    root = f"{min(roots)}/".lstrip("/")
    names = listing.class_names() or list(NAMES)
    files = set(listing.files)
    image_of = {
        posixpath.splitext(posixpath.basename(file))[0]: file
        for file in listing.images()
        if posixpath.dirname(file) == f"{root}JPEGImages"
    }
    lists = {
        split: _listed(f"{root}ImageSets/Segmentation/{split}.txt", image_of, listing, problems)
        for split in ("train", "val")
        if f"{root}ImageSets/Segmentation/{split}.txt" in files
    }
    if lists:
        wanted = sorted(set().union(*lists.values()))
    else:
        wanted = [key for key in image_of if f"{root}SegmentationObject/{key}.png" in files]
    sizes = read_sizes(listing.root, [(image_of[k], image_of[k]) for k in wanted], problems)
    wanted = [key for key in wanted if image_of[key] in sizes]

    def task(key: str) -> tuple[list[Object], list[str]]:
        own = Problems(listing.folder)
        maps = [f"{root}Segmentation{kind}/{key}.png" for kind in ("Object", "Class")]
        return _objects(listing, maps, sizes[image_of[key]], names, own), own.lines

    found = Pictures(numbered(names), listed=bool(lists))
    with ThreadPoolExecutor(_THREADS) as pool:
        for key, (objects, lines) in zip(wanted, pool.map(task, wanted), strict=True):
            problems.lines += lines
            name = image_of[key]
            splits = tuple(split for split, keys in lists.items() if key in keys)
            found.pictures.append(Picture(name, name, sizes[name], objects, splits))
    return found


def _listed(file: str, image_of: dict[str, str], listing: Listing, problems: Problems) -> set[str]:
    """The images that a list names, one a line."""
    try:
        lines = listing.text(file).splitlines()
    except UserError as error:
        problems.lines.append(str(error))
        return set()
    keys = set()
    for number, line in enumerate(lines, start=1):
        if not (key := line.strip()):
            continue
        if rule := file_name_rule(key):
            problems.add(f"{file}: line {number}", rule, key, "correct it or remove the line")
        elif key not in image_of:
            fix = "add it to JPEGImages or remove the line"
            problems.add(f"{file}: line {number}", "be the name of an image", key, fix)
        else:
            keys.add(key)
    return keys


def _objects(
    listing: Listing, maps: list[str], size: Size, names: list[str], problems: Problems
) -> list[Object]:
    """The instances of an image; the class of one is that of most of its pixels."""
    values = [_map(listing, file, size, problems) for file in maps]
    instances, classes = values
    if instances is None or classes is None:
        return []
    objects = []
    for number, mask in encode_values(instances).items():
        if number == _VOID:
            continue
        counts = np.bincount(classes[instances == number].astype(np.int64))
        label = int(counts.argmax())
        place = f"{maps[1]}: instance {number}"
        if 2 * counts[label] <= counts.sum():
            fix = "paint it in one class"
            problems.add(place, "be of one class", np.flatnonzero(counts).tolist(), fix)
        elif not 0 < label <= len(names):
            rule = f"be of a class from 1 to {len(names)}"
            fix = "paint its class, or list the classes in class_names.txt"
            problems.add(place, rule, label, fix)
        else:
            objects.append(Object(f"{maps[0]}: instance {number}", names[label - 1], mask))
    return objects


def _map(listing: Listing, file: str, size: Size, problems: Problems) -> NDArray[Any] | None:
    """A label map, None after noting what is wrong."""
    try:
        values = read_mask(listing, file, size)
    except UserError as error:
        problems.lines.append(str(error))
        return None
    if values.ndim != 2 or values.dtype != np.uint8:
        kind = f"{values.dtype}, {values.shape[2] if values.ndim == 3 else 1} channels"
        fix = "save indices, with a palette or in grey"
        problems.add(file, "hold one number of 8 bits a pixel", kind, fix)
        return None
    return values
