"""Repair records that the reader refuses, where they or their files show what is meant.

Others are removed, with the records that depend on them. Source records are copied, never changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import count, filterfalse
from pathlib import Path
from typing import Any

from mrcnn.data.checks.findings import CheckedSplit
from mrcnn.data.coco.annotations import check_segmentation
from mrcnn.data.coco.tables import ID_RULE, Record, RecordTable, ids, is_id
from mrcnn.data.image_files import Size, file_name_rule, stored_size
from mrcnn.data.problems import Problem, Problems
from mrcnn.errors import FileError
from mrcnn.io.json_files import is_number

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


def number_records(split: CheckedSplit) -> None:
    """Give numbers to images and categories whose ids are names, negative, or beyond 64 bits."""
    for name, key in (("images", "image_id"), ("categories", "category_id")):
        table = split.table(name)
        found = Counter(_key(record.get("id")) for record in table.records)
        used, records, new_id = ids(table.records, "id"), list(table.records), dict[str, int]()
        free = filterfalse(used.__contains__, count(1))
        for i, (record, label) in enumerate(zip(table.records, table.labels, strict=True)):
            id = record.get("id")
            if isinstance(id, bool) or not isinstance(id, int | str) or is_id(id):
                continue
            if found[_key(id)] == 1:
                new_id[_key(id)] = next(free)
                fix = f"numbered as {new_id[_key(id)]}"
                problem = Problem(label, ID_RULE, id, f"number the {name}", name, i, "id")
                split.refuse(problem)
                split.add_change(name, record, fix, str(problem))
                records[i] = {**record, "id": new_id[_key(id)]}
        if new_id:
            annotations = _with_new_ids(split.records.annotations, key, new_id)
            changed: Any = {name: replace(table, records=records), "annotations": annotations}
            split.records = replace(split.records, **changed)


def merge_duplicate_images(split: CheckedSplit) -> None:
    """Give all annotations of the image records of one file to the first of them."""
    table = split.records.images
    first_of: dict[str, int] = {}
    new_id: dict[str, int] = {}
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
            new_id[_key(id)] = kept_id
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
    """Renumber, repair polygons, drop boxes and areas; return the indices of others."""
    image_records = split.records.images.records
    size_of = {r["id"]: (r["height"], r["width"]) for r in image_records if _has_size(r)}
    table = split.records.annotations
    annotations = list(table.records)
    free_id = 1 + max(ids(annotations, "id"), default=0)
    dropped: set[int] = set()
    for index, fields in broken.items():
        record, actions = dict(table.records[index]), []
        repaired = None
        if "segmentation" in fields and is_id(image_id := record.get("image_id")):
            repaired = _repaired_polygons(record.get("segmentation"), size_of.get(image_id))
        if not set(fields) <= {"bbox", "area", "id", *(["segmentation"] if repaired else [])}:
            actions.append(REMOVED)
            dropped.add(index)
        else:
            if repaired:
                record["segmentation"], action = repaired
                actions.append(action)
            for field in {"bbox", "area"} & {*fields}:
                del record[field]
                actions.append(f"{field} taken from the mask")
            if "id" in fields:
                record["id"] = free_id
                actions.append(f"renumbered as {free_id}")
                free_id += 1
            annotations[index] = record
        reason = "; ".join(fields.values())
        split.add_change("annotations", table.records[index], ", ".join(actions), reason)
    split.records = replace(split.records, annotations=replace(table, records=annotations))
    return dropped


def _has_size(image: Record) -> bool:
    return all(is_id(image.get(field)) for field in ("id", "height", "width"))


def _repaired_polygons(segmentation: Any, size: Size | None) -> tuple[list[Any], str] | None:
    """Return the polygons that can be drawn on an image, and what was done; None without any."""
    if not isinstance(segmentation, list) or size is None:
        return None
    sound = [ring for ring in segmentation if _is_drawable([ring], size)]
    if 0 < len(sound) < len(segmentation):
        return sound, f"{len(segmentation) - len(sound)} polygons taken off"
    if all(isinstance(ring, list) and all(map(is_number, ring)) for ring in segmentation):
        scaled = [[v * size[1 - i % 2] for i, v in enumerate(ring)] for ring in segmentation]
        is_fraction = all(0 <= v <= 1 for ring in segmentation for v in ring)
        if is_fraction and _is_drawable(scaled, size):
            return scaled, "fractions multiplied by the size of the image"
    return None


def _is_drawable(segmentation: list[Any], size: Size) -> bool:
    problems = Problems(Path())
    check_segmentation(segmentation, size, "", problems)
    return not problems.items


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
                annotations = _with_new_ids(annotations, "category_id", {_key(id): first["id"]})
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


def _key(id: object) -> str:
    """Return a text for an id of any type, different from that of all others."""
    return repr(id)


def _with_new_ids(table: RecordTable, key: str, new_id: Mapping[str, int]) -> RecordTable:
    """Return the records with other ids under `key`; `new_id` has the old ones as `_key`."""
    records = [
        {**record, key: new_id[old]} if (old := _key(record.get(key))) in new_id else record
        for record in table.records
    ]
    return replace(table, records=records)
