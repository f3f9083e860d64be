"""Masks as image files: `images/` and `masks/` side by side, anywhere in the folder.

Either each image is in its own folder and each of its masks is one instance (as in the Data
Science Bowl 2018), or each image has one mask of its name with pixels that number the instances
from 1 (as in Penn-Fudan).
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.data.formats.folder import Listing
from mrcnn.data.formats.label_maps import check_sharp, has_shaded_borders, single_channel
from mrcnn.data.formats.records import ObjectRecord, ParsedFolder, numbered, read_images
from mrcnn.data.image_files import Size
from mrcnn.data.images import read_stored
from mrcnn.data.problems import Problems, RuleError
from mrcnn.ops.rle import encode_values

MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")

_IMAGES, _MASKS = ("images", "PNGImages"), ("masks", "PedMasks")
_CLASS = "object"
_SPARSE = 8  # times the number of instances; numbers beyond may be grey levels
_MANY = 128  # instances; where there are fewer, the largest number (255) does not count them

Key = tuple[str, str]  # the folder around images/ and masks/, the rest of the name without suffix


def matches(listing: Listing) -> bool:
    """Return whether there are image files below `images/`, and others below `masks/` beside it."""
    around = {key[0] for key in _keys(listing, _IMAGES)}
    return any(key[0] in around for key in _keys(listing, _MASKS))


def read(listing: Listing, problems: Problems) -> ParsedFolder:
    """Read all masks. There is one class: the line of classes.txt, or `object`."""
    names = listing.class_names() or [_CLASS]
    if len(names) > 1:
        problems.add("the list of classes", "hold one name", names, "masks have no classes")
    images, masks = _keys(listing, _IMAGES), _keys(listing, _MASKS)
    with_masks = {
        folder
        for folder in {key[0] for key in images}
        if any((listing.root / folder / name).is_dir() for name in _MASKS)
    }
    without = [name for key, name in images.items() if key[0] not in with_masks]
    images = {key: name for key, name in images.items() if key[0] in with_masks}
    seen: dict[str, list[str]] = {"shaded": [], "corners": [], "gaps": []}  # for notes
    numbered_pixels = all(_owner(key, images) for key in masks)
    if numbered_pixels or len({key[0] for key in images}) < len(images):
        numbered_pixels = True
        masks_of = _one_mask_per_image(images, masks, problems)
    else:
        masks_of = _one_folder_per_image(images, masks, problems)

    def read_objects(name: str, size: Size, problems: Problems) -> list[ObjectRecord]:
        files = masks_of.get(name, [])
        if numbered_pixels:
            return _read_label_map(listing, files[0], size, names[0], seen) if files else []
        objects = []
        for file in files:
            with problems.collect():
                objects.append(_read_instance_file(listing, file, size, names[0], seen))
        return objects

    labels = {name: name for name in images.values()}
    parsed = ParsedFolder(numbered(names[:1]))
    parsed.images = read_images(listing.root, labels, read_objects, problems)
    if shaded := seen["shaded"]:
        parsed.notes.append(
            f"{len(shaded)} masks have shaded borders ({min(shaded)}, …): their objects are the "
            "pixels brighter than half of the brightest"
        )
    if (corners := seen["corners"]) and 2 * len(corners) > len(masks):
        parsed.notes.append(
            f"{len(corners)} of {len(masks)} masks hold all corners of their image "
            f"({min(corners)}, …): pixels that are not black are the object; are they inverted?"
        )
    if gaps := seen["gaps"]:
        parsed.notes.append(
            f"{len(gaps)} masks have numbers far from 1, 2, … ({min(gaps)}, …): each number counts "
            "as one object; are they classes, or levels of grey?"
        )
    if numbered_pixels and all(len(image.objects) < 2 for image in parsed.images):
        parsed.notes.append(
            "no mask numbers more than one object; where there are several, number them 1, 2, …"
        )
    if without:
        parsed.notes.append(
            f"{len(without)} images have no folder of masks and are left out ({without[0]}, …): "
            "make an empty one for an image without objects"
        )
    return parsed


def _keys(listing: Listing, folders: Iterable[str]) -> dict[Key, str]:
    """Return the image files below one of these folders."""
    keys = {}
    for file in listing.images():
        parts = posixpath.splitext(file)[0].split("/")
        if at := next((i for i in range(len(parts) - 1, 0, -1) if parts[i - 1] in folders), 0):
            keys["/".join(parts[: at - 1]), "/".join(parts[at:])] = file
    return keys


def _owner(mask: Key, images: dict[Key, str]) -> str | None:
    """Return the image that a mask is named after: NAME, or NAME_mask."""
    around, rest = mask
    return images.get(mask) or images.get((around, rest.removesuffix("_mask")))


def _one_mask_per_image(
    images: dict[Key, str], masks: dict[Key, str], problems: Problems
) -> dict[str, list[str]]:
    """Return the mask of each image."""
    masks_of: dict[str, list[str]] = {name: [] for name in images.values()}
    for key, file in masks.items():
        if (owner := _owner(key, images)) is None:
            problems.add(file, "be named after an image", file, "rename or remove it")
        else:
            masks_of[owner].append(file)
    for name, files in masks_of.items():
        if len(files) != 1:
            fix = "add one (all 0 where there is no object), or remove the others or the image"
            problems.add(f"{name}: its masks", "be one file", files, fix)
    return masks_of


def _one_folder_per_image(
    images: dict[Key, str], masks: dict[Key, str], problems: Problems
) -> dict[str, list[str]]:
    """Return the masks of each image, where each image has its own folder."""
    around: dict[str, list[str]] = {}
    files: dict[str, list[str]] = {}
    for (folder, _), name in images.items():
        around.setdefault(folder, []).append(name)
    for (folder, _), file in masks.items():
        files.setdefault(folder, []).append(file)
        if folder not in around:
            fix = "add it, or remove the mask"
            problems.add(file, "have an image beside its folder", file, fix)
    for folder, names in around.items():
        if len(names) > 1:
            fix = "give every image its own folder, or every image one mask of its name"
            problems.add(f"{folder}/images", "hold one image", names, fix)
    return {names[0]: files.get(folder, []) for folder, names in around.items()}


def _read_label_map(
    listing: Listing, file: str, size: Size, class_name: str, seen: dict[str, list[str]]
) -> list[ObjectRecord]:
    """Return the instances that the pixels of one file number."""
    values = single_channel(_values(listing, file, size))
    if values.ndim != 2:
        fix = "save it in grey, instances numbered 1, 2, …"
        raise RuleError(file, "hold one number per pixel", f"{values.shape[2]} channels", fix)
    if values.dtype == bool:
        fix = "save it in grey, instances numbered 1, 2, …, or each instance as a file"
        raise RuleError(file, "number its instances", "1 bit per pixel", fix)
    check_sharp(values, file)
    rles = encode_values(values)
    if np.iinfo(values.dtype).max in rles and len(rles) < _MANY:
        fix = "save instances as 1, 2, … and the rest as 0, or each instance as a file"
        got = f"0 and {', '.join(map(str, [*rles][-5:]))} only"
        raise RuleError(file, "number its instances from 1", got, fix)
    if max(rles, default=0) > _SPARSE * len(rles):
        seen["gaps"].append(file)
    return [ObjectRecord(f"{file}: instance {i}", class_name, rle) for i, rle in rles.items()]


def _read_instance_file(
    listing: Listing, file: str, size: Size, class_name: str, seen: dict[str, list[str]]
) -> ObjectRecord:
    """Return the instance of a file: the pixels that are not black."""
    values = _values(listing, file, size)
    if values.ndim == 3:
        colours = values.shape[2] - (values.shape[2] in (2, 4))  # without alpha
        values = values[:, :, :colours].max(2)
    foreground = values != 0
    if has_shaded_borders(values):
        foreground = values > values.max() / 2
        seen["shaded"].append(file)
    if not (rles := encode_values(foreground)):
        raise RuleError(file, "hold some foreground", "zeros only", "draw it or remove the file")
    if foreground[:: size[0] - 1 or 1, :: size[1] - 1 or 1].all():  # the corners
        seen["corners"].append(file)
    return ObjectRecord(file, class_name, rles[1])


def _values(listing: Listing, file: str, size: Size) -> NDArray[Any]:
    """Read the pixels of a mask as they are stored, (h, w) or (h, w, channels)."""
    if not file.lower().endswith(MASK_SUFFIXES):
        fix = "save it as PNG; lossy formats blur the borders"
        raise RuleError(file, "be in a lossless format", posixpath.splitext(file)[1], fix)
    return read_stored(listing.checked(file), size)
