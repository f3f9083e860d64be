"""Which files of a folder are the training and the validation data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mrcnn.data.problems import Problems
from mrcnn.data.readers import READERS, recognise
from mrcnn.data.readers.division import Division, divide
from mrcnn.data.readers.listing import Listing, list_files
from mrcnn.data.readers.pictures import Content, as_records
from mrcnn.errors import UserError

_LAYOUTS = """\
  train.json, val.json, images/
  annotations/instances_train*.json, annotations/instances_val*.json, and image folders of the
    same names (train2017/, val2017/; also below images/)
  lvis_*_train.json, lvis_*_val.json (also below annotations/), train2017/, val2017/
  train/_annotations.coco.json, valid/_annotations.coco.json, images beside them
  annotations.json, images/ (one set for training and validation; CVAT's
    annotations/instances_default.json likewise)
""" + "\n".join(f"  {reader.layout}" for reader in READERS.values())

# One COCO file -> where its images may lie: plain, Roboflow's, CVAT's.
_SINGLE = {
    "annotations.json": ("images",),
    "_annotations.coco.json": (".",),
    "annotations/instances_default.json": ("images/default", "images"),
}


@dataclass(frozen=True)
class Split:
    """One annotation file and the folder of its images.

    In other formats than COCO, both are the folder of the data, and `content` is what it holds.
    """

    annotations: Path
    images: Path
    note: str = ""  # what the user should know about the choice
    content: Content | None = None


def find_splits(
    folder: Path,
    needs: Sequence[str] = ("train", "val"),
    division: Division = Division(),  # noqa: B008  it is frozen
    problems: Problems | None = None,
) -> dict[str, Split]:
    """The splits of a data set, by the first known layout that the folder has.

    COCO files are found, not read; annotations in other formats are read.

    Args:
        needs: keys that must be there.
        division: how validation images are drawn where a format has no lists of splits.
        problems: takes what is wrong in annotations of another format than COCO, and what is right
            in them is returned; None makes it an error.
    Returns:
        "train" and "val", as far as they exist.
    Raises:
        UserError: if the folder is missing, holds no known layout, or lacks a split.
        DatasetError: listing all that is wrong in annotations of another format than COCO.
    """
    if not folder.is_dir():
        problem = "is a file, not a folder" if folder.exists() else "does not exist"
        raise UserError(f"--data {folder}: {problem}; name the folder of a data set")
    for layout in (_plain, _coco, _lvis, _roboflow, _single):
        if splits := layout(folder):
            break
    else:
        listing = list_files(folder)
        if (name := recognise(listing)) is None:
            raise UserError(_unknown(listing))
        splits = _read(listing, name, division, problems)
    if lacking := [name for name in needs if name not in splits]:
        has = ", ".join(f"{name}: {split.annotations}" for name, split in splits.items())
        raise UserError(
            f"--data {folder}: has no {' and no '.join(lacking)} annotations (found {has});\n"
            f"  add them; one of these is looked for:\n{_LAYOUTS}"
        )
    for split in splits.values():
        if not split.images.is_dir():
            raise UserError(
                f"--data {folder}: {split.annotations.relative_to(folder)} is there, but not its "
                f"images: no folder {split.images}"
            )
    return splits


def _unknown(listing: Listing) -> str:
    entries = sorted(path.name for path in listing.folder.iterdir())
    found = ", ".join(entries[:10]) + (", …" if len(entries) > 10 else "")
    links = f"\n  links are not followed: {', '.join(listing.links[:10])}" if listing.links else ""
    return (
        f"--data {listing.folder}: holds no data set; one of these is looked for:\n{_LAYOUTS}\n"
        f"  found: {found or 'an empty folder'}{links}"
    )


def _read(
    listing: Listing, name: str, division: Division, told: Problems | None
) -> dict[str, Split]:
    """The splits of a folder in another format than COCO."""
    folder, problems = listing.folder, told or Problems(listing.folder)
    found = READERS[name].read(listing, problems)
    for link in listing.links:
        problems.add(link, "be no link to a folder or out of it", link, "copy what it leads to")
    if told is None or not found.pictures or not found.classes:
        problems.raise_any()
    if not found.pictures or not found.classes:
        what = "images" if not found.pictures else "labelled objects"
        raise UserError(f"--data {folder}: looks like {name}, but holds no {what}; add some")
    chosen, note = divide(found, folder, division)
    return {
        split: Split(folder, folder, note, as_records(found, positions))
        for split, positions in chosen.items()
    }


def _plain(folder: Path) -> dict[str, Split]:
    files = {name: folder / f"{name}.json" for name in ("train", "val")}
    images = folder / "images"
    return {name: Split(path, images) for name, path in files.items() if path.is_file()}


def _coco(folder: Path) -> dict[str, Split]:
    splits = {}
    for name in ("train", "val"):
        files = sorted((folder / "annotations").glob(f"instances_{name}*.json"))
        _check_one(files, folder, name)
        for path in files:
            own = path.stem.removeprefix("instances_")
            places = [folder / own, folder / "images" / own, folder / "images"]
            images = next((place for place in places if place.is_dir()), places[0])
            splits[name] = Split(path, images)
    return splits


def _lvis(folder: Path) -> dict[str, Split]:
    splits = {}
    for name in ("train", "val"):
        files = [
            path for place in (folder, folder / "annotations")
            for path in sorted(place.glob(f"lvis_*_{name}.json"))
        ]  # fmt: skip
        _check_one(files, folder, name)
        for path in files:
            places = [folder / "images", folder / "coco", folder]  # around train2017/, val2017/
            images = next((p for p in places if any(p.glob("*2017/"))), folder)
            splits[name] = Split(path, images)
    return splits


def _check_one(files: list[Path], folder: Path, name: str) -> None:
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise UserError(
            f"--data {folder}: annotations/ holds several files for {name}: {names};\n"
            "  keep one of them there"
        )


def _roboflow(folder: Path) -> dict[str, Split]:
    splits = {}
    for name, places in {"train": ("train",), "val": ("valid", "val")}.items():
        for place in places:
            path = folder / place / "_annotations.coco.json"
            if path.is_file() and name not in splits:
                splits[name] = Split(path, path.parent)
    return splits


def _single(folder: Path) -> dict[str, Split]:
    for file, places in _SINGLE.items():
        if (folder / file).is_file():
            note = (
                f"{folder / file} serves for training and validation: figures show memory only; "
                "`mrcnn convert-data` divides it"
            )
            images = next((folder / p for p in places if (folder / p).is_dir()), folder / places[0])
            split = Split(folder / file, images, note)
            return {"train": split, "val": split}
    return {}
