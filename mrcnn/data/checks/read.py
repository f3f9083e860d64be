"""Read a data set leniently: records that the reader refuses become findings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mrcnn.data.checks.findings import ERROR, CheckedData, CheckedSplit, Finding
from mrcnn.data.checks.repair import merge_duplicate_images, number_records, repair_records
from mrcnn.data.coco.read import read_coco
from mrcnn.data.coco.tables import ids
from mrcnn.data.formats import Split, find_splits
from mrcnn.data.formats.coco_files import read_records
from mrcnn.data.image_files import file_name_rule
from mrcnn.data.problems import DatasetError, Problems
from mrcnn.errors import UserError

_ROUNDS = 8  # of reading: repairing one field brings the problems behind it to light


def read_leniently(folder: Path, images: Path | None = None) -> CheckedData:
    """Read every split of a folder, or a COCO file with its `images`, as far as possible.

    Raises:
        UserError: If nothing in the folder can be read.
    """
    problems = Problems(folder)
    splits = _distinct(find_splits(folder, (), None, problems, images))
    data = CheckedData(folder if folder.is_dir() else folder.parent)
    refused: list[UserError] = []
    names: Sequence[str] = ()
    category_ids: Sequence[int] = ()
    for name, split in splits.items():
        try:
            checked = read_split(name, split, names, category_ids)
        except UserError as error:
            refused.append(error)
            texts = map(str, error.problems) if isinstance(error, DatasetError) else [str(error)]
            data.findings += (_of_file(name, split.annotations, text) for text in texts)
            continue
        data.splits.append(checked)
        data.notes += split.notes
        if checked.dataset is not None:
            data.notes += checked.dataset.notes
            if not names:
                names, category_ids = checked.dataset.class_names, checked.dataset.category_ids
    if not data.splits:
        problems.raise_any()
        raise UserError("\n".join(map(str, refused)))
    data.findings += (_of_file("", folder, str(problem)) for problem in problems.items)
    for checked in data.splits:
        data.findings += checked.findings
    data.notes = list(dict.fromkeys(data.notes))
    return data


def read_split(
    name: str, split: Split, class_names: Sequence[str] = (), category_ids: Sequence[int] = ()
) -> CheckedSplit:
    """Read one split, past every record that the reader refuses.

    `class_names` and `category_ids` are those of the split that was read before.
    """
    problems = Problems(split.annotations)
    records = split.records or read_records(split.annotations, problems, images=split.images)
    images = records.images.records
    checked = CheckedSplit(
        name,
        split,
        records,
        file_names=frozenset(
            r["file_name"] for r in images if not file_name_rule(r.get("file_name"))
        ),
    )
    for problem in problems.items:
        checked.refuse(problem)
    number_records(checked)
    annotations = checked.records.annotations.records
    checked.annotated = ids(annotations, "image_id")
    checked.used = ids((r for r in annotations if r.get("iscrowd") != 1), "category_id")
    merge_duplicate_images(checked)
    for _ in range(_ROUNDS):
        records = checked.records
        if not (len(records.images) and len(records.categories)):
            break
        try:
            checked.dataset = read_coco(
                split.annotations, split.images, class_names, category_ids, records, keep_all=True
            )
            break
        except DatasetError as error:
            for problem in error.problems:
                checked.refuse(problem)
            if not any(problem.table for problem in error.problems):
                break
            repair_records(checked, error.problems)
    return checked


def _distinct(splits: dict[str, Split]) -> dict[str, Split]:
    """Return the splits, as "all" if one is used for both."""
    train, val = splits.get("train"), splits.get("val")
    if not train or not val or train.annotations != val.annotations:
        return splits
    return {"all": train} if train.records == val.records else splits


def _of_file(split: str, file: Path, text: str) -> Finding:
    return Finding(ERROR, "file", split, str(file), None, None, text)
