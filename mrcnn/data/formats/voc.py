"""Pascal VOC: instances and classes as two label maps per image, splits as lists of names."""

from __future__ import annotations

import posixpath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.data.formats.folder import Listing
from mrcnn.data.formats.mask_files import read_mask
from mrcnn.data.formats.records import (
    ImageRecord,
    ObjectRecord,
    ParsedFolder,
    numbered,
    read_in_threads,
)
from mrcnn.data.image_files import Size, file_name_rule, read_sizes
from mrcnn.data.problems import Problems
from mrcnn.ops.rle import encode_values

NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip

_VOID = 255  # borders between instances, and what is hard to tell


def matches(listing: Listing) -> bool:
    """Return whether the folder, or one in it, has the label maps of instances."""
    return bool(_roots(listing))


def _roots(listing: Listing) -> set[str]:
    """Return the folders around SegmentationObject/."""
    folders = {posixpath.dirname(file) for file in listing.ending(".png")}
    return {
        posixpath.dirname(folder)
        for folder in folders
        if posixpath.basename(folder) == "SegmentationObject"
    }


def read(listing: Listing, problems: Problems) -> ParsedFolder:
    """Read the listed images, or all if there are no lists. Void pixels are in no instance."""
    roots = _roots(listing)
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
        split: _listed(file, image_of, listing, problems)
        for split in ("train", "val")
        if (file := f"{root}ImageSets/Segmentation/{split}.txt") in files
    }
    if lists:
        keys = sorted(set().union(*lists.values()))
    else:
        keys = [key for key in image_of if f"{root}SegmentationObject/{key}.png" in files]
    sizes = read_sizes(listing.root, {image_of[key]: image_of[key] for key in keys}, problems)
    keys = [key for key in keys if image_of[key] in sizes]

    def read_one(key: str, problems: Problems) -> list[ObjectRecord]:
        maps = [f"{root}Segmentation{kind}/{key}.png" for kind in ("Object", "Class")]
        return _objects(listing, maps, sizes[image_of[key]], names, problems)

    parsed = ParsedFolder(numbered(names), has_lists=bool(lists))
    for key, objects in zip(keys, read_in_threads(read_one, keys, problems), strict=True):
        name = image_of[key]
        splits = tuple(split for split, listed in lists.items() if key in listed)
        parsed.images.append(ImageRecord(name, name, sizes[name], objects, splits))
    return parsed


def _listed(file: str, image_of: dict[str, str], listing: Listing, problems: Problems) -> set[str]:
    """Return the images that a list names, one per line."""
    keys = set()
    for label, key in listing.lines(file, problems):
        if rule := file_name_rule(key):
            problems.add(label, rule, key, "correct it or remove the line")
        elif key not in image_of:
            fix = "add it to JPEGImages or remove the line"
            problems.add(label, "be the name of an image", key, fix)
        else:
            keys.add(key)
    return keys


def _objects(
    listing: Listing, maps: list[str], size: Size, names: list[str], problems: Problems
) -> list[ObjectRecord]:
    """Return the instances of an image, each with the class of most of its pixels."""
    instances, classes = (_label_map(listing, file, size, problems) for file in maps)
    if instances is None or classes is None:
        return []
    objects = []
    for number, rle in encode_values(instances).items():
        if number == _VOID:
            continue
        counts = np.bincount(classes[instances == number].astype(np.int64))
        class_index = int(counts.argmax())
        label = f"{maps[1]}: instance {number}"
        if 2 * counts[class_index] <= counts.sum():
            fix = "paint it in one class"
            problems.add(label, "be of one class", np.flatnonzero(counts).tolist(), fix)
        elif not 0 < class_index <= len(names):
            rule = f"be of a class from 1 to {len(names)}"
            fix = "paint its class, or list the classes in class_names.txt"
            problems.add(label, rule, class_index, fix)
        else:
            label = f"{maps[0]}: instance {number}"
            objects.append(ObjectRecord(label, names[class_index - 1], rle))
    return objects


def _label_map(listing: Listing, file: str, size: Size, problems: Problems) -> NDArray[Any] | None:
    """Read a label map; return None after adding what is wrong."""
    values = read_mask(listing, file, size, problems)
    if values is not None and (values.ndim != 2 or values.dtype != np.uint8):
        kind = f"{values.dtype}, {values.shape[2] if values.ndim == 3 else 1} channels"
        fix = "save indices, with a palette or in grey"
        problems.add(file, "hold one number of 8 bits per pixel", kind, fix)
        return None
    return values
