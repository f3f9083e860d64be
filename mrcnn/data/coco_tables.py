"""The small tables of a COCO file: its categories, and its images with their headers."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from mrcnn.data.images import MAX_PIXELS, read_size
from mrcnn.data.problems import Problems, shown
from mrcnn.errors import UserError

Records = list[tuple[int, dict[str, Any]]]  # (position in the file, record)
Sizes = dict[str, tuple[int, int]]  # file name -> (height, width)

_HEADER_THREADS = 8  # reading headers waits for the disk
_LONGEST_NAME = 1000


def is_id(value: object) -> TypeGuard[int]:
    """A whole number that fits a tensor; True and False are not numbers."""
    return type(value) is int and 0 <= value < 2**63


@dataclass(frozen=True)
class Classes:
    """The classes of a data set, and how the file refers to them."""

    names: tuple[str, ...]
    ids: tuple[int, ...]  # category ids, aligned with names
    label_of: dict[int, int]  # category id -> position in names
    broken: frozenset[int]  # ids whose category record is a problem already noted
    notes: tuple[str, ...]


@dataclass
class Images:
    """The image records of a file, in its order; size (0, 0) where the record is a problem."""

    ids: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)  # (height, width)
    names: list[str] = field(default_factory=list)
    index: dict[int, int] = field(default_factory=dict)  # id -> position in the lists


def read_categories(
    records: Records,
    used: set[int],
    class_names: Sequence[str],
    category_ids: Sequence[int],
    problems: Problems,
) -> Classes:
    """Number the categories 0 … C-1 by ascending id, or as a model with `class_names` does.

    A category 0 that no annotation uses and that every other names as its supercategory is a
    heading that Roboflow writes, not a class; a note says so.

    Args:
        used: category ids that occur in annotations.
    """
    name_of: dict[int, str] = {}
    place_of: dict[str, str] = {}
    broken: set[int] = set()
    for position, record in records:
        place, id, name = f"categories[{position}]", record.get("id"), record.get("name")
        if not is_id(id):
            problems.add(f"{place}.id", "be a whole number >= 0", id, "number the categories")
            continue
        if id in name_of or id in broken:
            problems.add(f"{place}.id", "be unique", id, "give every category its own id")
        elif not isinstance(name, str) or not name.strip():
            problems.add(f"{place}.name (id {id})", "be a non-empty text", name, "name it")
            broken.add(id)
        elif name in place_of:
            fix = f"{place_of[name]} has it too, rename one"
            problems.add(f"{place}.name (id {id})", "be unique", name, fix)
            broken.add(id)
        else:
            name_of[id], place_of[name] = name, place

    notes = []
    root = name_of.get(0)
    others = [record.get("supercategory") for _, record in records if record.get("id") != 0]
    if root is not None and 0 not in used and others and all(other == root for other in others):
        notes.append(f"category 0 {root!r} is a heading over all others, so no class is made of it")
        del name_of[0]

    if not class_names:
        ids = sorted(name_of)
        label_of = {id: label for label, id in enumerate(ids)}
        names = tuple(name_of[id] for id in ids)
        return Classes(names, tuple(ids), label_of, frozenset(broken), tuple(notes))

    label_of = {}
    for id, name in name_of.items():
        if name in class_names:
            label_of[id] = class_names.index(name)
        elif id in used:
            classes = ", ".join(class_names[:20])
            fix = f"rename or remove it; the model's classes are {classes}"
            problems.add(f"{place_of[name]}.name (id {id})", "be a class of the model", name, fix)
            broken.add(id)
        else:
            notes.append(f"category {id} {name!r} is no class of the model and has no annotations")
    ids = _model_ids(label_of, len(class_names), category_ids)
    return Classes(tuple(class_names), tuple(ids), label_of, frozenset(broken), tuple(notes))


def _model_ids(label_of: dict[int, int], classes: int, category_ids: Sequence[int]) -> list[int]:
    """Category id of each class: the file's, else the model's, else a free one."""
    id_of = {label: id for id, label in label_of.items()}
    taken = set(label_of)
    for label in range(classes):
        if label not in id_of:
            own = category_ids[label] if label < len(category_ids) else label + 1
            id_of[label] = own if own not in taken else max(taken) + 1
            taken.add(id_of[label])
    return [id_of[label] for label in range(classes)]


def read_images(
    records: Records, folder: Path | None, problems: Problems, called: Sequence[str] = ()
) -> Images:
    """Check the image records, and that each file is there and has the size that is stated.

    Args:
        folder: of the images; None looks at no files, and their names may be absent.
        called: what messages call each record; by default its position and id.
    """
    table = Images()
    if folder is not None and not folder.is_dir():
        raise UserError(f"{folder}: no such folder of images; correct the path")
    to_check: list[int] = []
    places: list[str] = []
    for position, record in records:
        id = record.get("id")
        place = called[position] if called else f"images[{position}] (id {id!r:.30})"
        places.append(place)
        if not is_id(id):
            problems.add(f"{place}: id", "be a whole number >= 0", id, "number the images")
        elif (first := table.index.setdefault(id, len(table.ids))) != len(table.ids):
            problems.add(f"{place}: id", "be unique", id, f"images[{records[first][0]}] has it too")
        size = _stated_size(record, place, problems)
        name = record.get("file_name")
        if folder is None and name is None:  # as in LVIS, whose images are those of COCO
            pass
        elif rule := file_name_rule(name):
            inside = f"name a file inside {folder or 'the folder of images'}"
            problems.add(f"{place}: file_name", rule, name, inside)
        elif size != (0, 0):
            to_check.append(len(table.ids))
        table.ids.append(id if is_id(id) else 0)
        table.sizes.append(size)
        table.names.append(name if isinstance(name, str) else "")
    if folder is None:
        return table

    root = folder.resolve()

    def check(row: int) -> tuple[int, int] | UserError:
        return stored_size(root, table.names[row], f"{places[row]}: file_name")

    with ThreadPoolExecutor(_HEADER_THREADS) as pool:
        for row, found in zip(to_check, pool.map(check, to_check), strict=True):
            if isinstance(found, UserError):
                problems.lines.append(str(found))
            elif found != table.sizes[row]:
                path = root / table.names[row]
                _note_size(table.sizes[row], found, path, places[row], problems)
    return table


def read_sizes(root: Path, names: Sequence[tuple[str, str]], problems: Problems) -> Sizes:
    """The sizes of image files, from their headers; what is wrong with one is noted.

    Args:
        root: resolved; the files lie below it.
        names: of the files, each with what messages call it.
    """
    sizes: Sizes = {}
    with ThreadPoolExecutor(_HEADER_THREADS) as pool:
        found = pool.map(lambda name: stored_size(root, *name), names)
        for (name, _), size in zip(names, found, strict=True):
            if isinstance(size, UserError):
                problems.lines.append(str(size))
            else:
                sizes[name] = size
    return sizes


def stored_size(root: Path, name: str, place: str) -> tuple[int, int] | UserError:
    """(height, width) of a file below `root`, or what is wrong with it."""
    path = root / name
    try:
        real = path.resolve()
        if not real.is_relative_to(root):
            return UserError(
                f"{place} must not be a link out of {root}, got {shown(f'{name} -> {real}')}; "
                "copy the file into the folder"
            )
        return read_size(path)
    except UserError as error:
        return UserError(f"{place}: {error}")
    except (OSError, RuntimeError) as error:  # a name too long, a circle of links
        return UserError(f"{place}: {path}: cannot be read ({error}); correct the name")


def _stated_size(record: dict[str, Any], place: str, problems: Problems) -> tuple[int, int]:
    """(height, width) of the record, or (0, 0) after noting what is wrong."""
    sound = True
    for key in ("height", "width"):
        value = record.get(key)
        if not (is_id(value) and value > 0):
            problems.add(
                f"{place}: {key}", "be a whole number > 0", value, "state the image's size"
            )
            sound = False
    if not sound:
        return 0, 0
    height, width = record["height"], record["width"]
    if height * width > MAX_PIXELS:
        rule = f"be at most {MAX_PIXELS:,} pixels"
        problems.add(f"{place}: width x height", rule, f"{width} x {height}", "cut it into tiles")
        return 0, 0
    return height, width


def file_name_rule(name: object, folder: str | None = None) -> str | None:
    """The rule that a file name breaks, without looking at the disk.

    Args:
        folder: below that of the data, from which the name may lead up by '..', but not out.
    """
    if not isinstance(name, str) or not name:
        return "be a non-empty text"
    if len(name) > _LONGEST_NAME:
        return f"have at most {_LONGEST_NAME} characters"
    if not name.isprintable():  # NUL, line ends, lone surrogates
        return "hold printable characters only"
    if "://" in name:
        return "be a file, not an address"
    if "\\" in name or re.match(r"[A-Za-z]:", name):
        return "be a relative path with forward slashes, without a drive"
    if name.startswith("/"):
        return "be a relative path"
    if folder is not None and ".." in joined(folder, name).split("/"):
        return "stay inside the folder of the data"
    if folder is None and ".." in name.split("/"):
        return "stay inside the image folder, without '..'"
    return None


def joined(folder: str, name: str) -> str:
    """A file name seen from `folder`, without what `.` and `..` in it take back."""
    return posixpath.normpath(posixpath.join(folder, name))


def _note_size(
    stated: tuple[int, int], stored: tuple[int, int], path: Path, place: str, problems: Problems
) -> None:
    """Note that a record states another size than its file has."""
    height, width = stored
    fix = "correct the record, or put the right image there"
    if (width, height) == stated:
        fix = "the file's EXIF orientation or the record is turned; save the image upright"
    rule, value = f"be the {width} x {height} of {path}", f"{stated[1]} x {stated[0]}"
    problems.add(f"{place}: width x height", rule, value, fix)
