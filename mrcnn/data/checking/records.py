"""A split on its way through the checks: the records that are left, and what became of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mrcnn.data.checking.findings import ERROR, Finding
from mrcnn.data.coco import CocoDataset
from mrcnn.data.coco_tables import is_id
from mrcnn.data.formats import Split
from mrcnn.data.readers.pictures import Content, Record


@dataclass(frozen=True)
class Change:
    """What was done to a record."""

    split: str
    table: str  # "images", "annotations" or "categories"
    id: Any  # as the file has it
    action: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dict(vars(self))


class Refused(NamedTuple):
    """A line of the reader, and the record that it is about."""

    table: str  # or "file", where it is about no single record
    position: int
    field: str
    line: str


@dataclass
class Reading:
    """A split, and what had to be left out of it."""

    name: str  # "train", "val", or "all" where one file serves for both
    split: Split
    content: Content  # the records that are left, as the reader takes them
    dataset: CocoDataset | None = None  # None if nothing is left that can be read
    findings: list[Finding] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    annotated: frozenset[int] = frozenset()  # ids of images that any record names, also a bad one
    used: frozenset[int] = frozenset()  # ids of categories of records that are no crowd, likewise
    file_names: frozenset[str] = frozenset()  # of all images, also of bad records

    def refuse(self, kind: str, record: Record | None, line: str) -> None:
        """Note an error in a record of an image or annotation, or in the file."""
        own = record.get("id") if record else None
        of_image = kind.startswith("images")
        image = own if of_image else record.get("image_id") if record else None
        self.findings.append(
            Finding(
                severity=ERROR,
                kind=kind,
                split=self.name,
                file=str(self.split.annotations),
                image=image if is_id(image) else None,
                annotation=own if is_id(own) and not of_image else None,
                text=line,
            )
        )

    def changed(self, table: str, record: Record, action: str, reason: str) -> None:
        """Note what was done to a record."""
        self.changes.append(Change(self.name, table, record.get("id"), action, reason))


def ids(records: Sequence[Record], key: str) -> frozenset[int]:
    """The ids that stand under `key`."""
    return frozenset(value for record in records if is_id(value := record.get(key)))
