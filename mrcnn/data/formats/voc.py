"""Pascal VOC: instances and classes as two label maps per image, splits as lists of names."""

from __future__ import annotations

import posixpath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.data.formats.folder import Listing
from mrcnn.data.formats.label_maps import check_sharp
from mrcnn.data.formats.records import ObjectRecord, ParsedFolder, numbered, read_images
from mrcnn.data.image_files import Size, file_name_rule
from mrcnn.data.images import read_stored
from mrcnn.data.problems import Problems, RuleError
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
        around for around, base in map(posixpath.split, folders) if base == "SegmentationObject"
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
    maps_of = {
        name: [f"{root}Segmentation{kind}/{key}.png" for kind in ("Object", "Class")]
        for key, name in image_of.items()
    }
    if lists:
        chosen = sorted(set().union(*lists.values()), key=posixpath.splitext)
    else:
        chosen = [name for name, maps in maps_of.items() if maps[0] in files]

    def read_objects(name: str, size: Size, problems: Problems) -> list[ObjectRecord]:
        return _objects(listing, maps_of[name], size, names, problems)

    labels = {name: name for name in chosen}
    images = read_images(listing.root, labels, read_objects, problems)
    return ParsedFolder(numbered(names), images, lists)


def _listed(file: str, image_of: dict[str, str], listing: Listing, problems: Problems) -> set[str]:
    """Return the images that a list names, one per line."""
    names = set()
    with problems.collect():
        for label, key in listing.lines(file):
            if rule := file_name_rule(key):
                problems.add(label, rule, key, "correct it or remove the line")
            elif key not in image_of:
                fix = "add it to JPEGImages or remove the line"
                problems.add(label, "be the name of an image", key, fix)
            else:
                names.add(image_of[key])
    return names


def _objects(
    listing: Listing, maps: list[str], size: Size, names: list[str], problems: Problems
) -> list[ObjectRecord]:
    """Return the instances of an image, each with the class of most of its pixels."""
    instances, classes = (_label_map(listing, file, size) for file in maps)
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


def _label_map(listing: Listing, file: str, size: Size) -> NDArray[Any]:
    """Read the (h, w) uint8 pixels of a label map."""
    values = read_stored(listing.checked(file), size)
    if values.ndim != 2 or values.dtype != np.uint8:
        kind = f"{values.dtype}, {values.shape[2] if values.ndim == 3 else 1} channels"
        fix = "save indices, with a palette or in grey"
        raise RuleError(file, "hold one number of 8 bits per pixel", kind, fix)
    check_sharp(values, file)
    return values
