"""Reading a split as far as it goes. What the reader says of the records it refuses is told."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from mrcnn.data.checking.mending import join_twins, set_right
from mrcnn.data.checking.records import Reading, Refused, ids
from mrcnn.data.coco import read_coco, read_content
from mrcnn.data.coco_tables import file_name_rule
from mrcnn.data.formats import Split
from mrcnn.data.problems import DatasetError, Problems
from mrcnn.data.readers.pictures import Content

_ROUNDS = 8  # of reading: what a wrong field hides comes to light once it is set right


def read_what_can(
    name: str, split: Split, class_names: Sequence[str] = (), category_ids: Sequence[int] = ()
) -> Reading:
    """Read a split, going on past every record that the reader refuses.

    Args:
        class_names, category_ids: of the split that was read before, as for `read_coco`.
    Raises:
        UserError: if the annotations are no JSON object, or there is no folder of images.
    """
    problems = Problems(split.annotations)
    content = _called(split.content or read_content(split.annotations, problems))
    reading = Reading(
        name,
        split,
        content,
        annotated=ids(content.annotations, "image_id"),
        used=ids([r for r in content.annotations if r.get("iscrowd") != 1], "category_id"),
        file_names=frozenset(
            r["file_name"] for r in content.images if not file_name_rule(r.get("file_name"))
        ),
    )
    for problem in problems.lines:
        reading.refuse("file", None, problem)
    join_twins(reading)
    for _ in range(_ROUNDS):
        content = reading.content
        if not (content.images and content.categories):
            break
        try:
            reading.dataset = read_coco(
                split.annotations, split.images, class_names, category_ids, content
            )
            break
        except DatasetError as error:
            refused = _records_of(error.problems, content)
            for table, at, field, line in refused:
                records = {"images": content.images, "annotations": content.annotations}
                record = records[table][at] if table in records else None
                reading.refuse(f"{table}.{field}".rstrip("."), record, line)
            if all(table == "file" for table, *_ in refused):
                break
            set_right(reading, refused)
    return reading


def _called(content: Content) -> Content:
    """The objects among the records, each with the name that messages shall keep for it."""
    images = [(i, r) for i, r in enumerate(content.images) if isinstance(r, dict)]
    annotations = [(i, r) for i, r in enumerate(content.annotations) if isinstance(r, dict)]
    return replace(
        content,
        images=[record for _, record in images],
        annotations=[record for _, record in annotations],
        categories=[record for record in content.categories if isinstance(record, dict)],
        images_called=content.images_called
        or [f"images[{i}] (id {record.get('id')!r:.30})" for i, record in images],
        annotations_called=content.annotations_called
        or [f"annotations[{i}] (id {record.get('id')!r:.30})" for i, record in annotations],
    )


def _records_of(lines: Sequence[str], content: Content) -> list[Refused]:
    """Which record, and which of its fields, each line of the reader is about."""
    place_of = {
        **{place: ("images", i) for i, place in enumerate(content.images_called)},
        **{place: ("annotations", i) for i, place in enumerate(content.annotations_called)},
    }
    refused = []
    for line in lines:
        found = Refused("file", -1, "", line)
        if category := re.match(r"categories\[(\d+)\]\.(\w+)", line):
            found = Refused("categories", int(category[1]), category[2], line)
        for end in re.finditer(": ", line):
            if place := place_of.get(line[: end.start()]):
                field = re.match(r"width x height|[a-z_]*", line[end.end() :])
                name = field[0].replace("width x height", "size") if field else ""
                found = Refused(*place, name, line)
                break
        refused.append(found)
    return refused
