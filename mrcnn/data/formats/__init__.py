"""Formats of data sets: which one a folder has, and its training and validation data.

The reader of each format other than COCO is a module here, with two functions: `matches(listing)`,
and `read(listing, problems)`, which adds what is wrong to `problems`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from mrcnn.data.coco.tables import CocoRecords
from mrcnn.data.formats import cityscapes, labelme, mask_files, via, voc, yolo
from mrcnn.data.formats.coco_files import (
    CocoFiles,
    divide_records,
    find_coco_files,
    has_image_folder,
    image_folder,
    looks_like_coco,
    read_records,
)
from mrcnn.data.formats.folder import Listing, list_files
from mrcnn.data.formats.native import recognize_native
from mrcnn.data.formats.records import ParsedFolder, as_coco_records
from mrcnn.data.formats.split import DrawOptions, assign_splits, draw_splits
from mrcnn.data.problems import DatasetError, Problems, listed
from mrcnn.errors import UserError

# What messages list. `find_coco_files` and `_OTHERS`, below, find these layouts.
_LAYOUTS = """\
  train.json, val.json, images/
  annotations/instances_train*.json, annotations/instances_val*.json, and image folders of the
    same names (train2017/, val2017/; also below images/)
  lvis_*_train.json, lvis_*_val.json (also below annotations/), train2017/, val2017/
  train/_annotations.coco.json, valid/_annotations.coco.json, images beside them
  any COCO file, images beside it or in images/ or data/ (Label Studio's result.json, FiftyOne's
    labels.json, CVAT's annotations/instances_*.json); `--data FILE.json` names one of several
  leftImg8bit/{train,val}/CITY/*.png, gtFine/ likewise (instanceIds or polygons)
  JPEGImages/, SegmentationObject/, SegmentationClass/,
    ImageSets/Segmentation/{train,val}.txt
  NAME/images/NAME.png, NAME/masks/*.png (one instance each), or PNGImages/NAME.png,
    PedMasks/NAME_mask.png (also images/, masks/; pixels count the instances)
  data.yaml, images/{train,val}/, labels/{train,val}/*.txt (polygons; also train/images/,
    train/labels/)
  *.json of labelme beside their images, in any folders
  via_region_data.json (VGG Image Annotator 1 or 2) beside its images"""


_ARCHIVES = (".zip", ".gz", ".tgz", ".tar", ".7z", ".rar")


@dataclass(frozen=True)
class Split:
    """One annotation file and the folder of its images.

    In formats other than COCO, both are the folder of the data. `records` holds their contents, and
    those of a COCO file that is divided.
    """

    annotations: Path
    images: Path
    notes: tuple[str, ...] = ()  # what the user should know about the choice
    records: CocoRecords | None = None


def find_splits(
    data: Path,
    needs: Sequence[str] = ("train", "val"),
    options: DrawOptions | None = DrawOptions(),  # noqa: B008  it is frozen
    problems: Problems | None = None,
    images: Path | None = None,
) -> dict[str, Split]:
    """Find the splits of a data set, by the first format that the folder has.

    COCO files of several splits are found, not read. A single one, and annotations in other formats
    are read, and divided.

    Args:
        data: The folder of the data set, or a COCO file.
        needs: Splits that must exist.
        options: How validation images are drawn where a format has no lists of splits. None draws
            none from a COCO file: it is both splits.
        problems: Takes what is wrong in annotations that are read; the valid ones are returned.
            None raises an error instead.
        images: The folder of the images of a COCO file. None means one beside it.

    Returns:
        "train" and "val", as far as they exist.

    Raises:
        UserError: If the folder is missing, holds no known format, or lacks a split.
        DatasetError: Lists all that is wrong in annotations that are read.

    Example:
        >>> find_splits(Path("birds"))["val"].annotations  # doctest: +SKIP
        PosixPath('birds/val.json')
    """
    if not data.exists():
        raise UserError(f"--data {data}: does not exist; name the folder of a data set")
    if data.is_dir():
        folder, files = find_coco_files(data)
    elif data.is_file() and looks_like_coco(data):
        folder, files = data.parent, CocoFiles({"": data})
        if not has_image_folder(folder) and has_image_folder(folder.parent):
            folder = folder.parent  # the file is in annotations/ beside images/
    else:
        listing = Listing(data.parent, data.parent.resolve(), [data.name], [])
        fix = recognize_native(listing) or "name the folder of a data set"
        if data.suffix.lower() in _ARCHIVES:
            fix = "unpack it, and name its folder"
        raise UserError(f"--data {data}: is not a COCO file; {fix}")
    notes = files.notes(folder)
    if not files.splits:
        splits = _read_other(list_files(data), options or DrawOptions(), problems, notes)
    else:
        splits = {
            name: Split(path, images or image_folder(path, folder), notes)
            for name, path in files.splits.items()
        }
    if lacking := [name for name in needs if name not in splits and not {"", "train"} & {*splits}]:
        existing = ", ".join(f"{name}: {split.annotations}" for name, split in splits.items())
        fix = "add them, or list images for both"
        if files.splits:
            fix = f"add them, or let one file be divided: --data {files.splits['val']}"
        more = "".join(f"\n  {note}" for note in notes)
        raise UserError(
            f"--data {data}: has no {' and no '.join(lacking)} annotations (found {existing});\n"
            f"  {fix}; known formats are:\n{_LAYOUTS}{more}"
        )
    for split in splits.values():
        if not split.images.is_dir():
            raise UserError(
                f"--data {data}: {split.annotations} exists, but not its images: no folder "
                f"{split.images}"
            )
    if files.splits and splits.keys() <= {"", "train"}:
        return _divided(next(iter(splits.values())), options, problems)
    return splits


def _divided(
    split: Split, options: DrawOptions | None, collected: Problems | None
) -> dict[str, Split]:
    """Divide a COCO file that has no other for validation."""
    if options is None:
        return {"train": split, "val": split}
    problems = collected or Problems(split.annotations)
    records = read_records(split.annotations, problems, images=split.images)
    if collected is None:
        problems.raise_any()
    names = [str(record.get("file_name")) for record in records.images.records]
    chosen, note = draw_splits(names, split.annotations, options)
    split = replace(split, notes=(note, *split.notes))
    if chosen["train"] == chosen["val"]:
        return {name: replace(split, records=records) for name in chosen}
    return {
        name: replace(split, records=own)
        for name, own in divide_records(records, chosen["val"]).items()
    }


class _Format(NamedTuple):
    """A format other than COCO."""

    matches: Callable[[Listing], bool]
    read: Callable[[Listing, Problems], ParsedFolder]


def _read_other(
    listing: Listing, options: DrawOptions, collected: Problems | None, coco_notes: Sequence[str]
) -> dict[str, Split]:
    """Read the splits of a folder in another format than COCO."""
    folder, problems = listing.folder, collected or Problems(listing.folder)
    name = next((name for name, format in _OTHERS.items() if format.matches(listing)), "")
    if not name:
        raise _unknown(listing, coco_notes)
    parsed = _OTHERS[name].read(listing, problems)
    for link in listing.links:
        problems.add(
            link, "not be a link to a folder or out of it", link, "copy the target into the folder"
        )
    if unread := listing.unread_images:
        parsed.notes.append(
            f"{len(unread)} images in formats that are not read are left out ({listed(unread)}): "
            "convert them to PNG or JPEG"
        )
    is_empty = not parsed.images or not parsed.classes
    if collected is None or is_empty:
        problems.raise_any()
    if is_empty:
        missing = "labelled objects" if parsed.images else "images"
        raise UserError(
            f"--data {folder}: looks like {name}, but holds no {missing}; add some"
            + "".join(f"\n  {note}" for note in parsed.notes)
        )
    others = [other for other, format in _OTHERS.items() if format.matches(listing)]
    if len(others) > 1:
        rest = ", ".join(other for other in others if other != name)
        parsed.notes.append(f"{folder}: is read as {name}; annotations of {rest} are left out")
    chosen, notes = assign_splits(parsed, folder, options)
    return {
        split: Split(folder, folder, notes, as_coco_records(parsed, positions))
        for split, positions in chosen.items()
    }


def _unknown(listing: Listing, notes: Sequence[str]) -> UserError:
    """Return the error for a folder in no known format, or with JSON that cannot be read."""
    if native := recognize_native(listing):
        return UserError(f"--data {listing.folder}: holds no data set that is read: {native}")
    _, problems = listing.json_samples
    if problems.items:
        return DatasetError(listing.folder, problems.items)
    entries = sorted(path.name for path in listing.folder.iterdir())
    found = ", ".join(entries[:10]) + (", …" if len(entries) > 10 else "")
    links = f"\n  links are not followed: {', '.join(listing.links[:10])}" if listing.links else ""
    return UserError(
        f"--data {listing.folder}: holds no data set; known formats are:\n{_LAYOUTS}\n"
        f"  found: {found or 'an empty folder'}{links}" + "".join(f"\n  {note}" for note in notes)
    )


_OTHERS: dict[str, _Format] = {
    "Cityscapes": _Format(cityscapes.matches, cityscapes.read),
    "Pascal VOC": _Format(voc.matches, voc.read),
    "mask files": _Format(mask_files.matches, mask_files.read),
    "YOLO": _Format(yolo.matches, yolo.read),
    "labelme": _Format(labelme.matches, labelme.read),
    "VIA": _Format(via.matches, via.read),
}
