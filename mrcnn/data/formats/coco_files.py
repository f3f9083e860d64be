"""COCO files: which files of a folder are its splits, where their images are, their records."""

from __future__ import annotations

import mmap
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mrcnn.data.coco.tables import CocoRecords, RecordTable
from mrcnn.data.coco.tidy import tidy
from mrcnn.data.formats import lvis
from mrcnn.data.formats.folder import list_files
from mrcnn.data.formats.image_names import ImageNames
from mrcnn.data.formats.records import left_out
from mrcnn.data.formats.split import split_of
from mrcnn.data.image_files import SUFFIXES, file_name_rule
from mrcnn.data.problems import Problems, listed
from mrcnn.errors import UserError
from mrcnn.io.json_files import read_json
from mrcnn.io.plain_files import open_plain

# Files of these names are COCO files, whatever they hold; of others, the contents decide.
_NAMES = re.compile(
    r"(train|val|annotations|_annotations\.coco|instances_.*|lvis_.*_(train|val))\.json", re.I
)
_OF_OTHER_TASKS = ("captions_", "person_keypoints_", "panoptic_", "stuff_", "image_info_")
_PARAMETERS = "shapes.json"  # of the generated shapes, beside their annotations
_KEYS = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
_IMAGE_FOLDERS = ("images", "data")
_MOST_PER_FOLDER = 20  # more JSON files of other names are one per image


@dataclass(frozen=True)
class CocoFiles:
    """COCO files of a folder."""

    splits: dict[str, Path] = field(default_factory=dict)  # "train", "val"; "" if it is for both
    left: tuple[Path, ...] = ()  # COCO files that are not taken
    others: tuple[Path, ...] = ()  # other JSON files

    def notes(self, folder: Path) -> tuple[str, ...]:
        """Return notes on the files that are not taken."""
        left, others = (
            [path.relative_to(folder).as_posix() for path in paths]
            for paths in (self.left, self.others)
        )
        of_left = [f"{note} (--data FILE takes one)" for note in left_out(left, "annotation file")]
        return (*of_left, *left_out(others, "other JSON file"))


def find_coco_files(folder: Path) -> tuple[Path, CocoFiles]:
    """Find the COCO files in a folder and the folders directly in it, and their splits.

    The names of files, else of their folders, tell the splits. Files in the folder itself come
    before those in `annotations/`, and those before files in other folders; in the same place,
    usual names come before others. A folder that holds nothing but a folder stands for it.

    Returns:
        The folder of the data, and its files.

    Raises:
        UserError: If several files could be taken.
    """
    files = dict(_json_files(folder))
    if not any(files.values()):
        entries = _entries(folder)
        if len(entries) == 1 and entries[0].is_dir(follow_symlinks=False):
            return find_coco_files(folder / entries[0].name)
        return folder, CocoFiles()
    taken: dict[str, Path] = {}
    of_coco = [path for path, is_coco in files.items() if is_coco]
    for name in ("train", "val"):
        place = _rank(taken["train"], folder)[0] if "train" in taken else None
        of_split = [path for path in of_coco if _split(path, folder) == name]
        of_split = [path for path in of_split if place in (None, _rank(path, folder)[0])]
        if path := _first(of_split, folder, f"for {name}"):
            taken[name] = path
    if not taken:
        of_both = [path for path in of_coco if not _split(path, folder)]
        if path := _first(of_both, folder, "that name no split"):
            taken[""] = path
    left = [path for path in of_coco if path not in taken.values()]
    others = [path for path, is_coco in files.items() if not is_coco] if taken else []
    return folder, CocoFiles(taken, tuple(left), tuple(others))


def looks_like_coco(path: Path) -> bool:
    """Return whether a file holds the three lists of a COCO file."""
    try:
        with open_plain(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            found = set()
            for match in _KEYS.finditer(text):
                found.add(match[1])
                if len(found) == 3:
                    return True
    except (OSError, ValueError):  # an empty file cannot be mapped
        pass
    return False


def image_folder(annotations: Path, folder: Path) -> Path:
    """Return the folder that is most likely that of the images of a COCO file in `folder`."""
    subset, parent = _subset(annotations), annotations.parent
    images = [folder / name for name in _IMAGE_FOLDERS]
    if subset.startswith("lvis_"):  # the names of its images begin with train2017/
        around = (folder / "images", folder / "coco", folder)
        return next((path for path in around if any(path.glob("*2017/"))), folder)
    places: tuple[Path, ...] = (folder / subset, folder / "images" / subset, *images)
    if parent == folder:
        places = (*images, folder / subset)
    elif parent.name != "annotations":
        own = [parent] if split_of(parent.name) or _holds_images(parent) else []
        places = (*(parent / name for name in _IMAGE_FOLDERS), *own, *images)
    existing = [path for path in places if path.is_dir()]
    if (found := next(filter(_holds_something, existing), None)) is not None:
        return found
    return folder if next(list_files(folder).images(), None) else [*existing, *places][0]


def read_records(
    annotations: Path, problems: Problems, parsed: Any = None, images: Path | None = None
) -> CocoRecords:
    """Read the records of a COCO file, or of its JSON value if it was `parsed` before.

    List items that are not objects are problems. Other spellings of values are put into COCO's
    form, in place. Image files are named as below `images`, if it is given. Headings of categories
    are left out.

    Raises:
        DatasetError: If the file does not hold a JSON object.
        UserError: If the file cannot be read or is not JSON.
    """
    content = read_json(annotations) if parsed is None else parsed
    if not isinstance(content, dict):
        fix = "is it a COCO annotation file?"
        if isinstance(content, list) and content and isinstance(content[0], dict):
            fix = "a list holds detections (mrcnn evaluate --results), or comes from another tool"
        problems.add("the file", "hold a JSON object", content, fix)
        problems.raise_any()
    if kind := _other_task(content):
        fix = "take the annotations of objects, such as instances_val2017.json"
        problems.add("the file", "hold masks of objects", kind, fix)
        problems.raise_any()
    records = CocoRecords(
        images=_record_table(content, "images", problems),
        annotations=_record_table(content, "annotations", problems),
        categories=_record_table(content, "categories", problems),
    )
    notes = [
        note
        for name in ("images", "annotations", "categories")
        for note in tidy(getattr(records, name).records, name)
    ]
    records = _without_headings(lvis.adapt(replace(records, notes=tuple(notes)), problems))
    if images is not None and images.is_dir():
        notes = _locate_images(records.images, images, _subset(annotations))
        records = replace(records, notes=(*records.notes, *notes))
    return records


def divide_records(records: CocoRecords, drawn: Collection[int]) -> dict[str, CocoRecords]:
    """Return the records of training, and of the images at the positions `drawn`.

    An annotation without image stays in training, where it is a problem.
    """
    images, annotations = records.images, records.annotations
    ids = {str(images.records[i].get("id")) for i in drawn}
    val_images = {i for i, record in enumerate(images.records) if str(record.get("id")) in ids}
    val_annotations = {
        i for i, record in enumerate(annotations.records) if str(record.get("image_id")) in ids
    }
    rest = (
        set(range(len(images))) - val_images,
        set(range(len(annotations))) - val_annotations,
    )
    return {
        name: replace(records, images=images.without(a), annotations=annotations.without(b))
        for name, (a, b) in {"train": (val_images, val_annotations), "val": rest}.items()
    }


def has_image_folder(folder: Path) -> bool:
    """Return whether there are images in a folder, or a usual folder of images."""
    return any((folder / name).is_dir() for name in _IMAGE_FOLDERS) or _holds_images(folder)


def _json_files(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Yield the JSON files in a folder and the folders directly in it; whether they are COCO."""
    below = sorted(entry.name for entry in _entries(folder) if os.path.isdir(entry.path))
    for parent in (folder, *(folder / name for name in below)):
        names = [entry.name for entry in _entries(parent) if _is_json(entry)]
        for name in sorted(names):
            usual = parent.name != "images" and _NAMES.fullmatch(name)
            few = len(names) <= _MOST_PER_FOLDER
            yield parent / name, bool(usual) or (few and looks_like_coco(parent / name))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries that are not hidden; none if the folder cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return [e for e in entries if not e.name.startswith(".") and e.name != "__MACOSX"]
    except OSError:  # listing the files of other formats gives the message
        return []


def _is_json(entry: os.DirEntry[str]) -> bool:
    name = entry.name.lower()
    is_named = name.endswith(".json") and not name.startswith((*_OF_OTHER_TASKS, _PARAMETERS))
    return is_named and os.path.isfile(entry.path)


def _split(path: Path, folder: Path) -> str:
    """Return the split that a file, else its folder, is named after, or nothing."""
    parent = path.parent.name if path.parent != folder else ""
    return split_of(path.stem) or (split_of(parent) if parent.isalnum() else "")


def _rank(path: Path, folder: Path) -> tuple[int, bool]:
    """Return the place of a file, and whether its name is unusual."""
    place = 0 if path.parent == folder else 1 if path.parent.name == "annotations" else 2
    return place, not _NAMES.fullmatch(path.name)


def _first(files: list[Path], folder: Path, kind: str) -> Path | None:
    """Return the file that comes first, None if there is none, and refuse several."""
    least = min((_rank(path, folder) for path in files), default=None)
    first = [path for path in files if _rank(path, folder) == least]
    if len(first) > 1:
        names = listed([path.relative_to(folder).as_posix() for path in first])
        raise UserError(
            f"--data {folder}: holds several files {kind}: {names};\n"
            f"  keep one of them there, or name one: --data {first[0]}"
        )
    return first[0] if first else None


def _subset(annotations: Path) -> str:
    return annotations.stem.removeprefix("instances_")  # train2017, Train, default


def _holds_something(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return next(entries, None) is not None


def _holds_images(folder: Path) -> bool:
    return any(entry.name.lower().endswith(SUFFIXES) for entry in _entries(folder))


def _other_task(content: dict[str, Any]) -> str:
    """Return the task of a file of COCO without objects and masks, or nothing."""
    if "annotations" not in content and "images" in content:
        return "images only, as for a test set"
    items = content.get("annotations")
    first = items[0] if isinstance(items, list) and items else None
    if not isinstance(first, dict) or "segmentation" in first:
        return ""
    kinds = {"segments_info": "panoptic segments", "caption": "captions", "keypoints": "keypoints"}
    return next((f"{kind} without masks" for key, kind in kinds.items() if key in first), "")


def _record_table(content: dict[str, Any], key: str, problems: Problems) -> RecordTable:
    """Return the objects in the list under `key`. Other items are problems."""
    table, items = RecordTable(), content.get(key)
    if not isinstance(items, list):
        fix = "is it a COCO annotation file?"
        problems.add(key, "be a list", items if key in content else "no such key", fix)
        return table
    if not items and key != "annotations":
        problems.add(key, "hold at least one object", items, "export the annotations again")
    for position, record in enumerate(items):
        if isinstance(record, dict):
            table.add(record, f"{key}[{position}] (id {record.get('id')!r:.30})")
        else:
            problems.add(f"{key}[{position}]", "be an object", record, "correct or remove it")
    return table


def _without_headings(records: CocoRecords) -> CocoRecords:
    """Leave out categories that only stand above others, as Roboflow and others write them.

    No annotation uses a heading, and another category names it as its supercategory.
    """
    categories = records.categories.records
    used = {str(record.get("category_id")) for record in records.annotations.records}
    above = [record.get("supercategory") for record in categories]
    headings = {
        i
        for i, record in enumerate(categories)
        if str(record.get("id")) not in used
        and isinstance(name := record.get("name"), str)
        and any(other == name for j, other in enumerate(above) if j != i)
    }
    if not headings or len(headings) == len(categories):
        return records
    names = listed([f"{categories[i]['name']!r:.60}" for i in sorted(headings)])
    note = f"categories without objects that only stand above others become no classes: {names}"
    notes = (*records.notes, note)
    return replace(records, categories=records.categories.without(headings), notes=notes)


def _locate_images(images: RecordTable, folder: Path, subset: str) -> list[str]:
    """Replace file names that are not paths below `folder`; return a note on them.

    A file that several records would share is given to none.
    """
    missing: dict[int, str] = {}
    names: ImageNames | None = None
    taken: Counter[str] = Counter()
    for i, record in enumerate(images.records):
        name = record.get("file_name")
        if not isinstance(name, str):
            continue
        if file_name_rule(name) is None and os.path.lexists(f"{folder}/{name}"):
            taken[name] += 1
            continue
        names = names or ImageNames(set(list_files(folder).images()))
        if (file := names.find(name, "", subset)) is not None:
            missing[i] = file
            taken[file] += 1
    for i, file in missing.items():
        if taken[file] == 1:
            images.records[i]["file_name"] = file
        elif names is not None:
            names.found.pop(images.records[i]["file_name"], None)
    return names.notes() if names else []
