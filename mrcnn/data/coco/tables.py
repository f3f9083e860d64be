"""Tables of a COCO file: records with their labels, categories, images with their headers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from mrcnn.data.image_files import Size, file_name_rule, stored_sizes
from mrcnn.data.images import MAX_PIXELS
from mrcnn.data.problems import Problems
from mrcnn.errors import FileError, UserError, class_label

ID_RULE = "be a whole number from 0 to 2^63 - 1"

Record = dict[str, Any]


@dataclass(frozen=True)
class RecordTable:
    """Records of one list of a COCO file, not yet checked, and their names in messages."""

    records: list[Record] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.records)

    def add(self, record: Record, label: str) -> None:
        """Append a record."""
        self.records.append(record)
        self.labels.append(label)

    def without(self, indices: Collection[int]) -> RecordTable:
        """Return the table without the records at `indices`."""
        kept = [i for i in range(len(self)) if i not in indices]
        return RecordTable([self.records[i] for i in kept], [self.labels[i] for i in kept])


@dataclass(frozen=True)
class CocoRecords:
    """Contents of a COCO file."""

    images: RecordTable = field(default_factory=RecordTable)
    annotations: RecordTable = field(default_factory=RecordTable)
    categories: RecordTable = field(default_factory=RecordTable)
    notes: tuple[str, ...] = ()  # decisions of the reader that the user should know


@dataclass(frozen=True)
class Classes:
    """Classes of a data set."""

    names: tuple[str, ...]
    ids: tuple[int, ...]  # category ids, aligned with names
    label_of: dict[int, int]  # category id -> index in names
    broken: frozenset[int]  # ids whose category record is a problem
    notes: tuple[str, ...]


@dataclass
class Images:
    """Image records of a file, in its order. The size is (0, 0) where the record is a problem."""

    ids: list[int] = field(default_factory=list)
    sizes: list[Size] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    index: dict[int, int] = field(default_factory=dict)  # id -> index in the lists


def is_id(value: object) -> TypeGuard[int]:
    """Return whether a value is a whole number that fits a tensor; booleans are not."""
    return type(value) is int and 0 <= value < 2**63


def ids(records: Iterable[Record], key: str) -> frozenset[int]:
    """Return the ids under `key`."""
    return frozenset(value for record in records if is_id(value := record.get(key)))


def read_categories(
    table: RecordTable,
    used: Collection[int],
    class_names: Sequence[str],
    category_ids: Sequence[int],
    problems: Problems,
) -> Classes:
    """Assign the categories labels 0 … C-1 by ascending id, or as a model with `class_names` does.

    `used` are the category ids
    that occur in annotations; `category_ids` are those of the model.
    """
    name_of: dict[int, str] = {}
    index_of: dict[str, int] = {}  # name -> its record
    broken: set[int] = set()
    for index, (record, label) in enumerate(zip(table.records, table.labels, strict=True)):
        add = problems.of_record("categories", index, label)
        id, name = record.get("id"), record.get("name")
        name = class_label(name) if isinstance(name, str) else name
        if not is_id(id):
            add("id", ID_RULE, id, "number the categories")
        elif id in name_of or id in broken:
            add("id", "be unique", id, "give every category its own id")
        elif not isinstance(name, str) or not name.strip():
            add("name", "be a non-empty text", name, "name it")
            broken.add(id)
        elif name in index_of:
            fix = f"{table.labels[index_of[name]]} has it too, rename one"
            add("name", "be unique", name, fix)
            broken.add(id)
        else:
            name_of[id], index_of[name] = name, index

    notes: list[str] = []
    if not class_names:
        sorted_ids = sorted(name_of)
        return Classes(
            names=tuple(name_of[id] for id in sorted_ids),
            ids=tuple(sorted_ids),
            label_of={id: label for label, id in enumerate(sorted_ids)},
            broken=frozenset(broken),
            notes=tuple(notes),
        )

    label_of = {}
    for id, name in name_of.items():
        if name in class_names:
            label_of[id] = class_names.index(name)
        elif id in used:
            add = problems.of_record("categories", index_of[name], table.labels[index_of[name]])
            fix = f"rename or remove it; the model's classes are {', '.join(class_names[:20])}"
            add("name", "be a class of the model", name, fix)
            broken.add(id)
        else:
            notes.append(
                f"category {id} {name!r} is not a class of the model and has no annotations"
            )
    model_ids = _model_ids(label_of, len(class_names), category_ids)
    return Classes(tuple(class_names), model_ids, label_of, frozenset(broken), tuple(notes))


def _model_ids(
    label_of: dict[int, int], classes: int, category_ids: Sequence[int]
) -> tuple[int, ...]:
    """Return the category id of each class: the file's, else the model's, else a free one."""
    id_of = {label: id for id, label in label_of.items()}
    taken = set(label_of)
    for label in range(classes):
        if label not in id_of:
            preferred = category_ids[label] if label < len(category_ids) else label + 1
            id_of[label] = preferred if preferred not in taken else max(taken) + 1
            taken.add(id_of[label])
    return tuple(id_of[label] for label in range(classes))


def read_images(table: RecordTable, folder: Path | None, problems: Problems) -> Images:
    """Check the image records, and that each file exists and has the stated size.

    A `folder` of None reads no files; their names may then be absent.
    """
    images = Images()
    if folder is not None and not folder.is_dir():
        raise UserError(f"{folder}: no such folder of images; correct the path")
    to_check: list[int] = []
    for index, (record, label) in enumerate(zip(table.records, table.labels, strict=True)):
        add = problems.of_record("images", index, label)
        id = record.get("id")
        if not is_id(id):
            add("id", ID_RULE, id, "number the images")
        elif (first := images.index.setdefault(id, index)) != index:
            add("id", "be unique", id, f"{table.labels[first]} has it too")
        size = _stated_size(record, add)
        name = record.get("file_name")
        if folder is None and name is None:  # as in LVIS, which uses the images of COCO
            pass
        elif rule := file_name_rule(name):
            add("file_name", rule, name, f"name a file inside {folder or 'the folder of images'}")
        elif size != (0, 0):
            to_check.append(index)
        images.ids.append(id if is_id(id) else 0)
        images.sizes.append(size)
        images.names.append(name if isinstance(name, str) else "")
    if folder is not None:
        root = folder.resolve()
        sizes = stored_sizes(root, [images.names[i] for i in to_check])
        for i, stored in zip(to_check, sizes, strict=True):
            add = problems.of_record("images", i, table.labels[i])
            if isinstance(stored, FileError):
                add("file_name", "", f"{stored.path}: {stored.problem}", stored.fix)
            elif stored != images.sizes[i]:
                _add_wrong_size(images.sizes[i], stored, root / images.names[i], add)
    return images


def _stated_size(record: Record, add: Callable[..., None]) -> Size:
    """Return the (height, width) of the record, or (0, 0) after adding what is wrong."""
    size = []
    for key in ("height", "width"):
        value = record.get(key)
        if is_id(value) and value > 0:
            size.append(value)
        else:
            add(key, "be a whole number > 0", value, "state the image's size")
    if len(size) < 2:
        return 0, 0
    height, width = size
    if height * width > MAX_PIXELS:
        rule = f"be at most {MAX_PIXELS:,} pixels"
        add("size", rule, f"{width} x {height}", "cut the image into tiles")
        return 0, 0
    return height, width


def _add_wrong_size(stated: Size, stored: Size, path: Path, add: Callable[..., None]) -> None:
    """Add a record that states another size than its file has."""
    height, width = stored
    fix = "correct the record, or put the right image there"
    if (width, height) == stated:
        fix = "the file's EXIF orientation or the record is rotated; save the image upright"
    add("size", f"be the {width} x {height} of {path}", f"{stated[1]} x {stated[0]}", fix)
