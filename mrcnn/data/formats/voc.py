"""Pascal VOC: instances and classes as two label maps per image, splits as lists of names.

The maps hold indices, or colours: those of VOC's palette, or of labelmap.txt, which CVAT writes.
"""

from __future__ import annotations

import posixpath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.data.formats.folder import NO_CLASSES, Listing
from mrcnn.data.formats.label_maps import check_sharp
from mrcnn.data.formats.records import ObjectRecord, ParsedFolder, numbered, read_images
from mrcnn.data.formats.split import split_of
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
_VOID_COLOUR = 0xE0E0C0
_BACKGROUND = ("background", *NO_CLASSES)


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
    class_of = {colour: i for i, colour in enumerate(_palette())}
    if (file := f"{root}labelmap.txt") in listing.files:
        with problems.collect():
            names, class_of = _label_colours(listing, file)
    files = set(listing.files)
    image_of = {
        posixpath.splitext(posixpath.basename(file))[0]: file
        for file in listing.images()
        if posixpath.dirname(file) == f"{root}JPEGImages"
    }
    lists = {
        split: _listed(file, image_of, listing, problems)
        for file in listing.ending(".txt")
        if posixpath.dirname(file) == f"{root}ImageSets/Segmentation"
        and (split := split_of(posixpath.basename(file).removesuffix(".txt"))) in ("train", "val")
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
        return _objects(listing, maps_of[name], size, names, class_of, problems)

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


def _palette() -> list[int]:
    """Return VOC's 256 colours: the bits of an index go in turn to red, green and blue."""
    return [
        sum(
            (i >> (3 * bit + c) & 1) << (16 - 8 * c + 7 - bit) for bit in range(3) for c in range(3)
        )
        for i in range(256)
    ]


def _label_colours(listing: Listing, file: str) -> tuple[list[str], dict[int, int]]:
    """Return the classes of labelmap.txt, and the class numbers of its colours."""
    names, class_of = list[str](), {_VOID_COLOUR: _VOID}
    for label, line in listing.lines(file):
        name, _, rest = line.partition(":")
        values = rest.split(":")[0].split(",")
        if line.startswith("#"):
            continue
        if len(values) != 3 or not all(v.isdecimal() and len(v) < 4 for v in values):
            raise RuleError(label, "be name:r,g,b::", line, "write the colour of the class")
        if name not in _BACKGROUND:
            names.append(name)
        number = 0 if name in _BACKGROUND else len(names)
        class_of[int(values[0]) << 16 | int(values[1]) << 8 | int(values[2])] = number
    return names, class_of


def _objects(
    listing: Listing,
    maps: list[str],
    size: Size,
    names: list[str],
    class_of: dict[int, int],
    problems: Problems,
) -> list[ObjectRecord]:
    """Return the instances of an image, each with the class of most of its pixels."""
    instances, classes = (_label_map(listing, file, size) for file in maps)
    instances[instances == (_VOID if instances.dtype == np.uint8 else _VOID_COLOUR)] = 0
    if classes.dtype != np.uint8:
        colours, classes = np.unique(classes, return_inverse=True)
        if unknown := [f"{c:06x}" for c in colours.tolist() if c not in class_of]:
            fix = "list it in labelmap.txt as name:r,g,b::, or save indices"
            raise RuleError(maps[1], "hold the colours of classes", unknown[:5], fix)
        classes = np.array([class_of[c] for c in colours.tolist()])[classes].reshape(size)
    objects = []
    for number, rle in encode_values(instances).items():
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
    """Read the (h, w) pixels of a label map: uint8 indices, or colours 0xrrggbb."""
    values = read_stored(listing.checked(file), size)
    channels = values.shape[2] if values.ndim == 3 else 1
    if values.dtype != np.uint8 or channels not in (1, 3):
        fix = "save indices, with a palette or in grey, or colours"
        raise RuleError(file, "hold 8 bits per pixel", f"{values.dtype}, {channels} channels", fix)
    if channels == 1:
        check_sharp(values, file)
        return values
    check_sharp(values[:, :, 0], file)
    red, green, blue = np.moveaxis(values.astype(np.int64), 2, 0)
    colours: NDArray[Any] = red << 16 | green << 8 | blue
    return colours
