"""Masks as image files: `images/` and `masks/` side by side, anywhere in the folder.

Either each image lies in a folder of its own and each of its masks is one instance (as in the Data
Science Bowl 2018), or each image has one mask of its name whose pixels count the instances from 1
(as in Penn-Fudan).
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from numpy.typing import NDArray

from mrcnn.data.coco_tables import file_name_rule, read_sizes
from mrcnn.data.images import read_stored
from mrcnn.data.problems import Problems, shown
from mrcnn.data.readers.drawn import Size
from mrcnn.data.readers.listing import Listing
from mrcnn.data.readers.pictures import Object, Picture, Pictures, numbered
from mrcnn.errors import UserError
from mrcnn.rle import encode_values

MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")

_IMAGES, _MASKS = ("images", "PNGImages"), ("masks", "PedMasks")
_THREADS = 8  # decoding holds no lock
_CLASS = "object"

Key = tuple[str, str]  # the folder around images/ and masks/, the rest of the name without suffix


def is_mask_files(listing: Listing) -> bool:
    """Whether the folder has image files below `images/`, and others below `masks/` beside it."""
    around = {key[0] for key in _keys(listing, _IMAGES)}
    return any(key[0] in around for key in _keys(listing, _MASKS))


def read(listing: Listing, problems: Problems) -> Pictures:
    """Read all masks. There is one class: the line of classes.txt, or `object`."""
    names = listing.class_names() or [_CLASS]
    if len(names) > 1:
        problems.add("the list of classes", "hold one name", names, "masks tell no classes")
    images, masks = _keys(listing, _IMAGES), _keys(listing, _MASKS)
    beside = {folder: _has_masks(listing, folder) for folder in {key[0] for key in images}}
    without = [name for key, name in images.items() if not beside[key[0]]]
    images = {key: name for key, name in images.items() if beside[key[0]]}
    sizes = read_sizes(listing.root, [(name, name) for name in images.values()], problems)
    found = Pictures(numbered(names[:1]))
    if all(_owner(key, images) for key in masks) or len({key[0] for key in images}) < len(images):
        masks_of = _indexed(images, masks, problems)
        read_one = _read_indexed
    else:
        masks_of = _one_a_file(images, masks, problems)
        read_one = _read_files
    if without:
        found.notes.append(
            f"{len(without)} images have no folder of masks and are left out ({without[0]}, …): "
            "make an empty one for an image without objects"
        )

    def task(name: str) -> tuple[list[Object], list[str]]:
        own = Problems(listing.folder)
        files = masks_of.get(name, [])
        objects = read_one(listing, files, sizes[name], names[0], own) if files else []
        return objects, own.lines

    with ThreadPoolExecutor(_THREADS) as pool:
        for name, (objects, lines) in zip(sizes, pool.map(task, sizes), strict=True):
            problems.lines += lines
            found.pictures.append(Picture(name, name, sizes[name], objects))
    return found


def read_mask(listing: Listing, file: str, size: Size) -> NDArray[Any]:
    """The pixels of a mask as they are stored: (h, w), or (h, w, channels).

    Raises:
        UserError: if it is no image of that size, or a link out of the folder.
    """
    if rule := file_name_rule(file):
        raise UserError(f"{file} must {rule}, got {shown(file)}; rename it")
    if not (listing.root / file).resolve().is_relative_to(listing.root):
        raise UserError(f"{file} must not be a link out of {listing.folder}; copy the file there")
    return read_stored(listing.folder / file, size)


def _keys(listing: Listing, folders: Iterable[str]) -> dict[Key, str]:
    """The image files below one of these folders."""
    keys = {}
    for file in listing.images():
        parts = posixpath.splitext(file)[0].split("/")
        if at := next((i for i in range(len(parts) - 1, 0, -1) if parts[i - 1] in folders), 0):
            keys["/".join(parts[: at - 1]), "/".join(parts[at:])] = file
    return keys


def _has_masks(listing: Listing, folder: str) -> bool:
    return any((listing.root / folder / name).is_dir() for name in _MASKS)


def _owner(mask: Key, images: dict[Key, str]) -> str | None:
    """The image that a mask is named after: NAME, or NAME_mask."""
    around, rest = mask
    return images.get(mask) or images.get((around, rest.removesuffix("_mask")))


def _indexed(
    images: dict[Key, str], masks: dict[Key, str], problems: Problems
) -> dict[str, list[str]]:
    """The mask of each image."""
    masks_of: dict[str, list[str]] = {}
    for key, file in masks.items():
        if (owner := _owner(key, images)) is None:
            problems.add(file, "be named after an image", file, "rename or remove it")
        else:
            masks_of.setdefault(owner, []).append(file)
    for name in images.values():
        if len(files := masks_of.get(name, [])) != 1:
            fix = "add one (all 0 where there is no object), or remove the others or the image"
            problems.add(f"{name}: its masks", "be one file", files, fix)
    return masks_of


def _one_a_file(
    images: dict[Key, str], masks: dict[Key, str], problems: Problems
) -> dict[str, list[str]]:
    """The masks of each image, each in a folder of its own."""
    around: dict[str, list[str]] = {}
    for key, name in images.items():
        around.setdefault(key[0], []).append(name)
    files: dict[str, list[str]] = {}
    for key, file in masks.items():
        files.setdefault(key[0], []).append(file)
    masks_of: dict[str, list[str]] = {}
    for folder, names in around.items():
        if len(names) > 1:
            fix = "give every image its own folder, or every image one mask of its name"
            problems.add(f"{folder}/images", "hold one image", names, fix)
        masks_of[names[0]] = files.get(folder, [])
    for key, file in masks.items():
        if key[0] not in around:
            fix = "add it, or remove the mask"
            problems.add(file, "have an image beside its folder", file, fix)
    return masks_of


def _read_indexed(
    listing: Listing, files: list[str], size: Size, name: str, problems: Problems
) -> list[Object]:
    """The instances that the pixels of one file count."""
    file = files[0]
    values = _values(listing, file, size, problems)
    if values is None:
        return []
    if values.ndim != 2:
        fix = "save it in grey, instances counted 1, 2, …"
        problems.add(file, "hold one number a pixel", f"{values.shape[2]} channels", fix)
        return []
    if values.dtype == bool:
        fix = "save it in grey, instances counted 1, 2, …, or each instance as a file"
        problems.add(file, "count its instances", "1 bit a pixel", fix)
        return []
    runs = encode_values(values)
    if [*runs] == [255]:
        fix = "save instances as 1, 2, …, or each instance as a file"
        problems.add(file, "count its instances from 1", "0 and 255 only", fix)
        return []
    return [Object(f"{file}: instance {i}", name, mask) for i, mask in runs.items()]


def _read_files(
    listing: Listing, files: list[str], size: Size, name: str, problems: Problems
) -> list[Object]:
    """Of each file one instance: what is not black."""
    objects = []
    for file in files:
        values = _values(listing, file, size, problems)
        if values is None:
            continue
        if values.ndim == 3:
            colours = values.shape[2] - (values.shape[2] in (2, 4))  # without alpha
            values = values[:, :, :colours].max(2)
        if (runs := encode_values(values != 0)) == {}:
            problems.add(file, "hold some foreground", "zeros only", "draw it or remove the file")
            continue
        objects.append(Object(file, name, runs[1]))
    return objects


def _values(listing: Listing, file: str, size: Size, problems: Problems) -> NDArray[Any] | None:
    if not file.lower().endswith(MASK_SUFFIXES):
        fix = "save it as PNG; others blur the borders"
        problems.add(file, "be a file without loss", posixpath.splitext(file)[1], fix)
        return None
    try:
        return read_mask(listing, file, size)
    except UserError as error:
        problems.lines.append(str(error))
        return None
