"""Write a cleaned copy of a data set: errors are repaired or removed, and each change is logged."""

from __future__ import annotations

from pathlib import Path

from mrcnn.data.checks.check import CHECKS
from mrcnn.data.checks.findings import Change, CheckedData, CheckedSplit, write_lines
from mrcnn.data.checks.repair import REMOVED, drop
from mrcnn.data.coco.read import CocoDataset, read_coco
from mrcnn.data.coco.write import write_coco
from mrcnn.errors import UserError

LOG = "changes.jsonl"  # in the copy, one change per line


def write_clean_copy(data: CheckedData, target: Path) -> list[Change]:
    """Write train.json and val.json, or annotations.json for both, and images/.

    Images are linked. Boxes and areas are those of the masks. The changes returned are also in
    changes.jsonl there.

    Raises:
        UserError: If nothing is left of a split, or the system cannot write there.
    """
    changes = [
        Change("", "file", None, "left out", finding.text)
        for finding in data.findings
        if finding.kind == "file"
    ]
    datasets: dict[str, CocoDataset] = {}
    for split in data.splits:
        datasets["annotations" if split.name == "all" else split.name] = _cleaned(split, data)
        changes += split.changes
    write_coco(datasets, target)
    write_lines(target / LOG, changes)
    return changes


def _cleaned(split: CheckedSplit, data: CheckedData) -> CocoDataset:
    """Return the split without what the checks found to be wrong."""
    reasons: dict[str, dict[int, str]] = {"images": {}, "annotations": {}}
    for finding in data.findings:
        if finding.split != split.name or finding.kind not in CHECKS:
            continue
        check = CHECKS[finding.kind]
        id = finding.image if check.fix == "images" else finding.annotation
        if check.fix == "rewrite":
            action = "box and area taken from the mask"
            split.changes.append(Change(split.name, "annotations", id, action, finding.text))
        elif check.fix and id is not None:
            reasons[check.fix].setdefault(id, finding.text)
    indices: dict[str, set[int]] = {"images": set(), "annotations": set()}
    for table, reason_of in reasons.items():
        for i, record in enumerate(split.table(table).records):
            if record["id"] in reason_of:
                indices[table].add(i)
                split.add_change(table, record, REMOVED, reason_of[record["id"]])
    drop(split, **indices)
    file = split.files.annotations
    if not len(split.records.images):
        raise UserError(f"{file}: no image of it can be kept; correct the errors by hand")
    dataset = split.dataset
    names, ids = (dataset.class_names, dataset.category_ids) if dataset is not None else ((), ())
    return read_coco(file, split.files.images, names, ids, split.records)
