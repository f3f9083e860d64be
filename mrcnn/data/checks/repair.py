"""Repair records that the reader refuses, where they or their files show what is meant.

Others are removed, with the records that depend on them. Source records are copied, never changed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mrcnn.data.checks.findings import CheckedSplit
from mrcnn.data.coco.tables import Record, RecordTable, ids, is_id
from mrcnn.data.image_files import Size, file_name_rule, stored_size
from mrcnn.data.problems import Problem
from mrcnn.errors import FileError

REMOVED = "removed"

Fields = dict[str, str]  # field of a record -> its problem


def repair_records(split: CheckedSplit, problems: Sequence[Problem]) -> None:
    """Repair or remove the records with problems."""
    broken: dict[str, dict[int, Fields]] = {"categories": {}, "images": {}, "annotations": {}}
    for problem in problems:
        if problem.table:
            fields = broken[problem.table].setdefault(problem.index, {})
            fields.setdefault(problem.field, str(problem))
    without_category = _repair_categories(split, broken["categories"])
    images = _repair_images(split, broken["images"])
    annotations = _repair_annotations(split, broken["annotations"])
    drop(split, images, without_category | annotations)


def merge_duplicate_images(split: CheckedSplit) -> None:
    """Give all annotations of the image records of one file to the first of them."""
    table = split.records.images
    first_of: dict[str, int] = {}
    new_id: dict[int, int] = {}
    duplicates: set[int] = set()
    for i, (record, label) in enumerate(zip(table.records, table.labels, strict=True)):
        name, id = record.get("file_name"), record.get("id")
        if not (isinstance(name, str) and is_id(id)):
            continue
        if (first := first_of.setdefault(name, i)) == i:
            continue
        rule, fix = "be that of no other image", f"{table.labels[first]} has it too, merge them"
        problem = Problem(label, rule, name, fix, "images", i, "file_name")
        kept_id = table.records[first]["id"]
        split.refuse(problem)
        split.add_change("images", record, f"merged with image {kept_id}", str(problem))
        duplicates.add(i)
        if id != kept_id:
            new_id[id] = kept_id
    if duplicates:
        annotations = _with_new_ids(split.records.annotations, "image_id", new_id)
        split.records = replace(split.records, annotations=annotations)
        drop(split, duplicates, set())


def drop(split: CheckedSplit, images: set[int], annotations: set[int]) -> None:
    """Drop the records at these indices, and annotations of dropped images."""
    old = split.records
    kept_images = old.images.without(images)
    dropped_ids = ids((old.images.records[i] for i in images), "id")
    dropped_ids -= ids(kept_images.records, "id")
    orphans = set()
    for i, record in enumerate(old.annotations.records):
        id = record.get("image_id")
        if i not in annotations and is_id(id) and id in dropped_ids:
            orphans.add(i)
            split.add_change("annotations", record, REMOVED, f"image {id} was removed")
    kept_annotations = old.annotations.without(annotations | orphans)
    split.records = replace(old, images=kept_images, annotations=kept_annotations)


def _repair_images(split: CheckedSplit, broken: Mapping[int, Fields]) -> set[int]:
    """Fill in sizes that are not stated; return the indices of images to drop."""
    table = split.records.images
    images = list(table.records)
    dropped: set[int] = set()
    for index, fields in broken.items():
        record, action = images[index], REMOVED
        if (size := _size_of_file(record, fields, split.files.images)) is not None:
            images[index] = {**record, "height": size[0], "width": size[1]}
            action = f"size set to {size[1]} x {size[0]}"
        elif "id" in fields:  # it is unknown which image of this id an annotation belongs to
            dropped |= {i for i, other in enumerate(images) if other.get("id") == record.get("id")}
        else:
            dropped.add(index)
        split.add_change("images", record, action, "; ".join(fields.values()))
    split.records = replace(split.records, images=replace(table, records=images))
    return dropped


def _size_of_file(record: Record, broken: Collection[str], folder: Path) -> Size | None:
    """Return the size of the file, if a missing size is all that is wrong with the record."""
    for key in broken:
        if key not in ("height", "width") or (is_id(record.get(key)) and record[key]):
            return None
    if file_name_rule(name := record.get("file_name")):
        return None
    try:
        return stored_size(folder.resolve(), str(name))
    except FileError:
        return None


def _repair_annotations(split: CheckedSplit, broken: Mapping[int, Fields]) -> set[int]:
    """Renumber, and drop boxes, which follow from masks; return the indices of others."""
    table = split.records.annotations
    annotations = list(table.records)
    free_id = 1 + max(ids(annotations, "id"), default=0)
    dropped: set[int] = set()
    for index, fields in broken.items():
        record, actions = dict(table.records[index]), []
        if not set(fields) <= {"bbox", "id"}:
            actions.append(REMOVED)
            dropped.add(index)
        else:
            if "bbox" in fields:
                del record["bbox"]
                actions.append("bbox taken from the mask")
            if "id" in fields:
                record["id"] = free_id
                actions.append(f"renumbered as {free_id}")
                free_id += 1
            annotations[index] = record
        reason = "; ".join(fields.values())
        split.add_change("annotations", table.records[index], ", ".join(actions), reason)
    split.records = replace(split.records, annotations=replace(table, records=annotations))
    return dropped


def _repair_categories(split: CheckedSplit, broken: Mapping[int, Fields]) -> set[int]:
    """Name, merge or drop categories; return the indices of annotations without one."""
    table, annotations = split.records.categories, split.records.annotations
    categories = list(table.records)
    first_of: dict[str, Record] = {}
    for record in categories:
        if isinstance(name := record.get("name"), str):
            first_of.setdefault(name, record)
    dropped: set[int] = set()
    without_category: set[int] = set()
    for index, fields in broken.items():
        record = categories[index]
        id, name = record.get("id"), record.get("name")
        is_named = isinstance(name, str) and bool(name.strip())
        first = first_of[name] if isinstance(name, str) else record
        if is_id(id) and set(fields) == {"name"} and not is_named:
            action = f"named 'class {id}'"
            categories[index] = {**record, "name": f"class {id}"}
        elif first is not record and is_id(first.get("id")):
            action = f"merged with category {first['id']} of the same name"
            dropped.add(index)
            if is_id(id):
                annotations = _with_new_ids(annotations, "category_id", {id: first["id"]})
        else:
            action = "removed with its annotations"
            dropped |= {i for i, other in enumerate(categories) if other.get("id") == id}
            without_category |= {
                i for i, r in enumerate(annotations.records) if r.get("category_id") == id
            }
        split.add_change("categories", record, action, "; ".join(fields.values()))
    for i in without_category:
        record = annotations.records[i]
        split.add_change("annotations", record, REMOVED, "its category was removed")
    kept = replace(table, records=categories).without(dropped)
    split.records = replace(split.records, categories=kept, annotations=annotations)
    return without_category


def _with_new_ids(table: RecordTable, key: str, new_id: Mapping[int, int]) -> RecordTable:
    """Return the records with other ids under `key`."""
    records = [
        {**record, key: new_id[old]} if is_id(old := record.get(key)) and old in new_id else record
        for record in table.records
    ]
    return replace(table, records=records)
