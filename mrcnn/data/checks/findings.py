"""Results of the checks of a data set."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mrcnn.data.coco.read import CocoDataset
from mrcnn.data.coco.tables import CocoRecords, Record, RecordTable, is_id
from mrcnn.data.formats import Split
from mrcnn.data.image_files import Size
from mrcnn.data.problems import Problem
from mrcnn.io.atomic import replacing

ERROR, WARNING = "error", "warning"  # training refuses it or goes wrong; suspicious


class Violation(NamedTuple):
    """A problem that a check found, and the ids of its image and annotation."""

    problem: Problem
    image: int | None = None
    annotation: int | None = None
    split: str = ""  # of the image, where the check sees several


Violations = Iterator[Violation]


@dataclass(frozen=True)
class Finding:
    """An error or warning."""

    severity: str  # ERROR or WARNING
    kind: str  # name of the check, or table and field that the reader refuses
    split: str  # "train", "val", "all"; "" if it concerns several
    file: str  # the annotations, or their folder
    image: int | None  # id of the image
    annotation: int | None  # id of the annotation
    text: str  # location, rule, value and fix


@dataclass(frozen=True)
class Change:
    """A change to a record in a cleaned copy."""

    split: str
    table: str  # "images", "annotations", "categories" or "file"
    id: Any  # as the file has it
    action: str
    reason: str


def write_lines(path: Path, records: Sequence[Finding] | Sequence[Change]) -> None:
    """Write records as JSON, one per line."""
    with replacing(path) as draft:
        lines = (json.dumps(vars(record), default=str) + "\n" for record in records)
        draft.write_text("".join(lines), encoding="utf-8")


@dataclass
class CheckedSplit:
    """A split: the records that can be used, and what is wrong with the others."""

    name: str  # "train", "val", or "all" if one file is used for both
    files: Split
    records: CocoRecords  # those left, as the reader accepts them
    dataset: CocoDataset | None = None  # None if nothing is left that can be read
    findings: list[Finding] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    annotated: frozenset[int] = frozenset()  # image ids in any annotation, also in a broken one
    used: frozenset[int] = frozenset()  # category ids of any annotation but crowds, likewise
    file_names: frozenset[str] = frozenset()  # of all images, also of broken records

    def table(self, name: str) -> RecordTable:
        """Return the table "images", "annotations" or "categories"."""
        table: RecordTable = getattr(self.records, name)
        return table

    def refuse(self, problem: Problem) -> None:
        """Add an error in a record, or in the file."""
        image = annotation = None
        if problem.table in ("images", "annotations"):
            record = self.table(problem.table).records[problem.index]
            image = record.get("id" if problem.table == "images" else "image_id")
            annotation = record.get("id") if problem.table == "annotations" else None
        self.findings.append(
            Finding(
                severity=ERROR,
                kind=f"{problem.table}.{problem.field}" if problem.table else "file",
                split=self.name,
                file=str(self.files.annotations),
                image=image if is_id(image) else None,
                annotation=annotation if is_id(annotation) else None,
                text=str(problem),
            )
        )

    def add_change(self, table: str, record: Record, action: str, reason: str) -> None:
        """Add a change to a record."""
        self.changes.append(Change(self.name, table, record.get("id"), action, reason))


@dataclass(frozen=True)
class ImageSummary:
    """Facts about one decoded image and its objects, without crowd regions."""

    split: str
    label: str  # of its record in messages
    id: int
    path: Path
    content_digest: bytes  # of the file; empty if it could not be read
    pixel_digest: bytes  # of the upright RGB pixels
    size: Size
    labels: NDArray[np.int64]  # (G,)
    areas: NDArray[np.float64]  # (G,) pixels of the masks
    boxes: NDArray[np.float64]  # (G, 4) xyxy
    crowds: int


@dataclass
class CheckedData:
    """A data set and the results of its checks."""

    folder: Path
    splits: list[CheckedSplit] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    images: list[ImageSummary] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the classes of the first split that could be read."""
        datasets = (split.dataset for split in self.splits)
        return next((dataset.class_names for dataset in datasets if dataset is not None), ())
