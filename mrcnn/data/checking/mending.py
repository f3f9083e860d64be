"""Records that the reader refuses are set right where they or their files say what is meant.

Others are left out, with what depends on them. Records of the source are copied, never changed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mrcnn.data.checking.records import Reading, Refused, ids
from mrcnn.data.coco_tables import file_name_rule, is_id, stored_size
from mrcnn.data.problems import shown
from mrcnn.data.readers.pictures import Record
from mrcnn.errors import UserError

_REMOVED = "removed"

Lines = Mapping[str, str]  # field of a record -> what the reader says of it


def set_right(reading: Reading, refused: Sequence[Refused]) -> None:
    """Correct the records that the reader refuses, or leave them out."""
    fields: dict[tuple[str, int], dict[str, str]] = {}
    for table, position, field, line in refused:
        fields.setdefault((table, position), {}).setdefault(field, line)
    by_table = {
        table: {position: lines for (name, position), lines in fields.items() if name == table}
        for table in ("categories", "images", "annotations")
    }
    lost = _set_categories_right(reading, by_table["categories"])
    images = _set_images_right(reading, by_table["images"])
    annotations = _set_annotations_right(reading, by_table["annotations"])
    _leave_out(reading, images, lost | annotations)


def join_twins(reading: Reading) -> None:
    """Of image records that name one file, the first gets all annotations."""
    content = reading.content
    first_of: dict[str, int] = {}
    new_id: dict[int, int] = {}
    twins: set[int] = set()
    for i, record in enumerate(content.images):
        name, id = record.get("file_name"), record.get("id")
        if not (isinstance(name, str) and is_id(id)):
            continue
        if (first := first_of.setdefault(name, i)) == i:
            continue
        line = (
            f"{content.images_called[i]}: file_name must be that of no other image, got "
            f"{shown(name)}; {content.images_called[first]} has it too, join them"
        )
        into = content.images[first]["id"]
        reading.refuse("images.file_name", record, line)
        reading.changed("images", record, f"joined with image {into}", line)
        twins.add(i)
        if id != into:
            new_id[id] = into
    if twins:
        reading.content = replace(
            content, annotations=_renamed(content.annotations, "image_id", new_id)
        )
        _leave_out(reading, twins, set())


def remove(reading: Reading, images: Mapping[int, str], annotations: Mapping[int, str]) -> None:
    """Leave out images, with all their annotations, and annotations.

    Args:
        images, annotations: ids, each with the reason.
    """
    positions = []
    for table, reasons in (("images", images), ("annotations", annotations)):
        found = set()
        for i, record in enumerate(getattr(reading.content, table)):
            if record["id"] in reasons:
                found.add(i)
                reading.changed(table, record, _REMOVED, reasons[record["id"]])
        positions.append(found)
    _leave_out(reading, *positions)


def _set_images_right(reading: Reading, wrong: Mapping[int, Lines]) -> set[int]:
    """Fill in sizes that are not stated; returns the positions of images to leave out."""
    images = list(reading.content.images)
    gone: set[int] = set()
    for position, lines in wrong.items():
        record = images[position]
        size = _size_of_file(record, lines, reading.split.images)
        if size is not None:
            images[position] = {**record, "height": size[0], "width": size[1]}
            action = f"size set to {size[1]} x {size[0]}"
        else:
            action = _REMOVED
            # Of images that share an id, none can be told to be that of an annotation.
            same = [i for i, other in enumerate(images) if other.get("id") == record.get("id")]
            gone.update(same if "id" in lines else [position])
        reading.changed("images", record, action, "; ".join(lines.values()))
    reading.content = replace(reading.content, images=images)
    return gone


def _size_of_file(
    record: Record, wrong: Collection[str], folder: Path | None
) -> tuple[int, int] | None:
    """(height, width) of the file, where the record is right but states none."""
    name = record.get("file_name")
    states_none = all(
        key in ("height", "width") and not (is_id(record.get(key)) and record[key]) for key in wrong
    )
    if not states_none or folder is None or file_name_rule(name):
        return None
    size = stored_size(folder.resolve(), str(name), "")
    return None if isinstance(size, UserError) else size


def _set_annotations_right(reading: Reading, wrong: Mapping[int, Lines]) -> set[int]:
    """Number anew, and drop boxes, which follow from masks; returns the positions of others."""
    stated = reading.content.annotations
    annotations = list(stated)
    free = 1 + max(ids(annotations, "id"), default=0)
    gone: set[int] = set()
    for position, lines in wrong.items():
        record = dict(annotations[position])
        if set(lines) <= {"bbox", "id"}:
            actions = []
            if "bbox" in lines:
                del record["bbox"]
                actions.append("bbox taken from the mask")
            if "id" in lines:
                record["id"] = free
                actions.append(f"renumbered as {free}")
                free += 1
            action, annotations[position] = ", ".join(actions), record
        else:
            action = _REMOVED
            gone.add(position)
        reading.changed("annotations", stated[position], action, "; ".join(lines.values()))
    reading.content = replace(reading.content, annotations=annotations)
    return gone


def _set_categories_right(reading: Reading, wrong: Mapping[int, Lines]) -> set[int]:
    """Name, join or leave out categories; returns the positions of annotations without one."""
    categories = list(reading.content.categories)
    annotations = reading.content.annotations
    first_of: dict[str, Record] = {}
    for record in categories:
        if isinstance(name := record.get("name"), str):
            first_of.setdefault(name, record)
    gone: set[int] = set()
    lost: set[int] = set()
    for position, lines in wrong.items():
        record = categories[position]
        id, name = record.get("id"), record.get("name")
        is_named = isinstance(name, str) and bool(name.strip())
        first = first_of[name] if isinstance(name, str) else record
        if is_id(id) and set(lines) == {"name"} and not is_named:
            action = f"named 'class {id}'"
            categories[position] = {**record, "name": f"class {id}"}
        elif first is not record and is_id(first.get("id")):
            action = f"joined with category {first['id']} of the same name"
            gone.add(position)
            new_id = {id: first["id"]} if is_id(id) and id != first["id"] else {}
            annotations = _renamed(annotations, "category_id", new_id)
        else:
            action = "removed with its annotations"
            gone |= {i for i, other in enumerate(categories) if other.get("id") == id}
            lost |= {i for i, record in enumerate(annotations) if record.get("category_id") == id}
        reading.changed("categories", record, action, "; ".join(lines.values()))
    for i in lost:
        reading.changed("annotations", annotations[i], _REMOVED, "its category was removed")
    categories = [record for i, record in enumerate(categories) if i not in gone]
    reading.content = replace(reading.content, categories=categories, annotations=annotations)
    return lost


def _renamed(records: list[Record], key: str, new_id: Mapping[int, int]) -> list[Record]:
    """The records with other ids under `key`."""
    return [
        {**record, key: new_id[old]} if is_id(old := record.get(key)) and old in new_id else record
        for record in records
    ]


def _leave_out(reading: Reading, images: set[int], annotations: set[int]) -> None:
    """Drop the records at these positions, and annotations whose image is dropped."""
    content = reading.content
    dropped = ids([content.images[i] for i in images], "id")
    dropped -= ids([r for i, r in enumerate(content.images) if i not in images], "id")
    orphans = {
        i
        for i, record in enumerate(content.annotations)
        if i not in annotations and is_id(id := record.get("image_id")) and id in dropped
    }
    for i in sorted(orphans):
        record = content.annotations[i]
        reading.changed("annotations", record, _REMOVED, f"image {record['image_id']} was removed")
    kept = [i for i in range(len(content.images)) if i not in images]
    out = annotations | orphans
    left = [i for i in range(len(content.annotations)) if i not in out]
    reading.content = replace(
        content,
        images=[content.images[i] for i in kept],
        images_called=[content.images_called[i] for i in kept],
        annotations=[content.annotations[i] for i in left],
        annotations_called=[content.annotations_called[i] for i in left],
    )
