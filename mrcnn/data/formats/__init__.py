"""Formats of data sets: which one a folder has, and its training and validation data.

The reader of each format other than COCO is a module here, with two functions: `matches(listing)`,
and `read(listing, problems)`, which adds what is wrong to `problems`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mrcnn.data.coco.tables import CocoRecords
from mrcnn.data.formats import cityscapes, labelme, mask_files, via, voc, yolo
from mrcnn.data.formats.folder import Listing, list_files
from mrcnn.data.formats.records import ParsedFolder, as_coco_records
from mrcnn.data.formats.split import DrawOptions, assign_splits, memorization_note
from mrcnn.data.problems import DatasetError, Problems
from mrcnn.errors import UserError

# What messages list. `_COCO` and `_OTHERS`, below, find these layouts.
_LAYOUTS = """\
  train.json, val.json, images/
  annotations/instances_train*.json, annotations/instances_val*.json, and image folders of the
    same names (train2017/, val2017/; also below images/)
  lvis_*_train.json, lvis_*_val.json (also below annotations/), train2017/, val2017/
  train/_annotations.coco.json, valid/_annotations.coco.json, images beside them
  annotations.json, images/ (one set for training and validation; also CVAT's
    annotations/instances_default.json)
  leftImg8bit/{train,val}/CITY/*.png, gtFine/ likewise (instanceIds or polygons)
  JPEGImages/, SegmentationObject/, SegmentationClass/,
    ImageSets/Segmentation/{train,val}.txt
  NAME/images/NAME.png, NAME/masks/*.png (one instance each), or PNGImages/NAME.png,
    PedMasks/NAME_mask.png (also images/, masks/; pixels count the instances)
  data.yaml, images/{train,val}/, labels/{train,val}/*.txt (polygons; also train/images/,
    train/labels/)
  *.json of labelme beside their images, in any folders
  via_region_data.json (VGG Image Annotator 1 or 2) beside its images"""

# One COCO file -> where its images may be: plain, Roboflow's, CVAT's.
_SINGLE = {
    "annotations.json": ("images",),
    "_annotations.coco.json": (".",),
    "annotations/instances_default.json": ("images/default", "images"),
}


@dataclass(frozen=True)
class Split:
    """One annotation file and the folder of its images.

    In formats other than COCO, both are the folder of the data, and `records` holds its contents.
    """

    annotations: Path
    images: Path
    note: str = ""  # what the user should know about the choice
    records: CocoRecords | None = None


def find_splits(
    folder: Path,
    needs: Sequence[str] = ("train", "val"),
    options: DrawOptions = DrawOptions(),  # noqa: B008  it is frozen
    problems: Problems | None = None,
) -> dict[str, Split]:
    """Find the splits of a data set, by the first format that the folder has.

    COCO files are found, not read. Annotations in other formats are read.

    Args:
        folder: The folder of the data set.
        needs: Splits that must exist.
        options: How validation images are drawn where a format has no lists of splits.
        problems: Takes what is wrong in annotations of another format than COCO; the valid ones
            are returned. None raises an error instead.

    Returns:
        "train" and "val", as far as they exist.

    Raises:
        UserError: If the folder is missing, holds no known format, or lacks a split.
        DatasetError: Lists all that is wrong in annotations of another format than COCO.

    Example:
        >>> find_splits(Path("birds"))["val"].annotations  # doctest: +SKIP
        PosixPath('birds/val.json')
    """
    if not folder.is_dir():
        problem = "is a file, not a folder" if folder.exists() else "does not exist"
        raise UserError(f"--data {folder}: {problem}; name the folder of a data set")
    splits = next(filter(None, (find(folder) for find in _COCO)), None)
    splits = splits or _read_other(list_files(folder), options, problems)
    if lacking := [name for name in needs if name not in splits]:
        existing = ", ".join(f"{name}: {split.annotations}" for name, split in splits.items())
        raise UserError(
            f"--data {folder}: has no {' and no '.join(lacking)} annotations (found {existing});\n"
            f"  add them; known formats are:\n{_LAYOUTS}"
        )
    for split in splits.values():
        if not split.images.is_dir():
            raise UserError(
                f"--data {folder}: {split.annotations.relative_to(folder)} exists, but not its "
                f"images: no folder {split.images}"
            )
    return splits


class _Format(NamedTuple):
    """A format other than COCO."""

    matches: Callable[[Listing], bool]
    read: Callable[[Listing, Problems], ParsedFolder]


def _read_other(
    listing: Listing, options: DrawOptions, collected: Problems | None
) -> dict[str, Split]:
    """Read the splits of a folder in another format than COCO."""
    folder, problems = listing.folder, collected or Problems(listing.folder)
    name = next((name for name, format in _OTHERS.items() if format.matches(listing)), "")
    if not name:
        raise _unknown(listing)
    parsed = _OTHERS[name].read(listing, problems)
    for link in listing.links:
        problems.add(
            link, "not be a link to a folder or out of it", link, "copy the target into the folder"
        )
    is_empty = not parsed.images or not parsed.classes
    if collected is None or is_empty:
        problems.raise_any()
    if is_empty:
        missing = "labelled objects" if parsed.images else "images"
        raise UserError(f"--data {folder}: looks like {name}, but holds no {missing}; add some")
    chosen, note = assign_splits(parsed, folder, options)
    return {
        split: Split(folder, folder, note, as_coco_records(parsed, positions))
        for split, positions in chosen.items()
    }


def _unknown(listing: Listing) -> UserError:
    """Return the error for a folder in no known format, or with JSON that cannot be read."""
    _, problems = listing.json_samples
    if problems.items:
        return DatasetError(listing.folder, problems.items)
    entries = sorted(path.name for path in listing.folder.iterdir())
    found = ", ".join(entries[:10]) + (", …" if len(entries) > 10 else "")
    links = f"\n  links are not followed: {', '.join(listing.links[:10])}" if listing.links else ""
    return UserError(
        f"--data {listing.folder}: holds no data set; known formats are:\n{_LAYOUTS}\n"
        f"  found: {found or 'an empty folder'}{links}"
    )


def _plain(folder: Path) -> dict[str, Split]:
    files = {name: folder / f"{name}.json" for name in ("train", "val")}
    images = folder / "images"
    return {name: Split(path, images) for name, path in files.items() if path.is_file()}


def _published(folder: Path) -> dict[str, Split]:
    """Find the files of COCO as published."""
    splits = {}
    for name in ("train", "val"):
        files = sorted((folder / "annotations").glob(f"instances_{name}*.json"))
        if path := _only(files, folder, name):
            year = path.stem.removeprefix("instances_")  # train2017
            candidates = [folder / year, folder / "images" / year, folder / "images"]
            images = next((path for path in candidates if path.is_dir()), candidates[0])
            splits[name] = Split(path, images)
    return splits


def _lvis(folder: Path) -> dict[str, Split]:
    splits = {}
    for name in ("train", "val"):
        files = [
            path for parent in (folder, folder / "annotations")
            for path in sorted(parent.glob(f"lvis_*_{name}.json"))
        ]  # fmt: skip
        if path := _only(files, folder, name):
            candidates = [folder / "images", folder / "coco", folder]  # around train2017/
            images = next((p for p in candidates if any(p.glob("*2017/"))), folder)
            splits[name] = Split(path, images)
    return splits


def _only(files: list[Path], folder: Path, name: str) -> Path | None:
    """Return the only file, None if there is none, and refuse several."""
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise UserError(
            f"--data {folder}: annotations/ holds several files for {name}: {names};\n"
            "  keep one of them there"
        )
    return files[0] if files else None


def _roboflow(folder: Path) -> dict[str, Split]:
    splits = {}
    for name, places in {"train": ("train",), "val": ("val", "valid")}.items():
        for place in places:
            path = folder / place / "_annotations.coco.json"
            if path.is_file():
                splits[name] = Split(path, path.parent)
    return splits


def _single(folder: Path) -> dict[str, Split]:
    for file, places in _SINGLE.items():
        if (folder / file).is_file():
            note = f"{memorization_note(folder / file)}; `mrcnn convert-data` divides it"
            images = next((folder / p for p in places if (folder / p).is_dir()), folder / places[0])
            split = Split(folder / file, images, note)
            return {"train": split, "val": split}
    return {}


# The first that a folder has is taken.
_COCO = (_plain, _published, _lvis, _roboflow, _single)
_OTHERS: dict[str, _Format] = {
    "Cityscapes": _Format(cityscapes.matches, cityscapes.read),
    "Pascal VOC": _Format(voc.matches, voc.read),
    "mask files": _Format(mask_files.matches, mask_files.read),
    "YOLO": _Format(yolo.matches, yolo.read),
    "labelme": _Format(labelme.matches, labelme.read),
    "VIA": _Format(via.matches, via.read),
}
