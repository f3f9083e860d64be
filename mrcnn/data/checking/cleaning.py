"""A cleaned copy of a data set: what is an error is corrected or left out, and each change told."""

from __future__ import annotations

import json
from pathlib import Path

from mrcnn.data.checking.findings import ERROR
from mrcnn.data.checking.mending import remove
from mrcnn.data.checking.records import Change, Reading
from mrcnn.data.checking.run import Checked
from mrcnn.data.checking.table import CHECKS
from mrcnn.data.coco import CocoDataset, read_coco
from mrcnn.data.coco_writer import write_coco
from mrcnn.errors import UserError
from mrcnn.files import replacing

LOG = "changes.jsonl"  # beside the copy, one change a line


def write_clean(checked: Checked, target: Path) -> list[Change]:
    """Write train.json and val.json, or annotations.json that serves for both, and images/.

    Images are linked; boxes and areas are those of the masks. The source stays as it is.

    Returns:
        What was changed, as it also stands in changes.jsonl there.
    Raises:
        UserError: if nothing is left of a split, or the system cannot write there.
    """
    changes = [
        Change("", "file", None, "left out", finding.text)
        for finding in checked.findings
        if finding.kind == "file"
    ]
    datasets: dict[str, CocoDataset] = {}
    for reading in checked.readings:
        name = "annotations" if reading.name == "all" else reading.name
        datasets[name] = _cleaned(reading, checked)
        changes += reading.changes
    write_coco(datasets, target)
    with replacing(target / LOG) as draft:
        lines = (json.dumps(change.to_dict(), default=str) + "\n" for change in changes)
        draft.write_text("".join(lines), encoding="utf-8")
    return changes


def _cleaned(reading: Reading, checked: Checked) -> CocoDataset:
    """The split without what checks have found to be wrong in it."""
    gone: dict[str, dict[int, str]] = {"image": {}, "annotation": {}}
    for finding in checked.findings:
        if finding.split != reading.name or finding.kind not in CHECKS:
            continue
        severity, _, mend = CHECKS[finding.kind]
        id = finding.image if mend == "image" else finding.annotation
        if severity == ERROR and mend in gone and id is not None:
            gone[mend].setdefault(id, finding.text)
        elif mend == "rewrite":
            action = "box and area taken from the mask"
            reading.changes.append(Change(reading.name, "annotations", id, action, finding.text))
    remove(reading, gone["image"], gone["annotation"])
    if not reading.content.images:
        raise UserError(
            f"{reading.split.annotations}: no image of it can be kept; mend the errors by hand"
        )
    dataset = reading.dataset
    names, ids = (dataset.class_names, dataset.category_ids) if dataset is not None else ((), ())
    split = reading.split
    return read_coco(split.annotations, split.images, names, ids, reading.content)
