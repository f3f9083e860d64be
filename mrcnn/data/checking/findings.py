"""What a check tells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from mrcnn.data.problems import shown

ERROR, WARNING = "error", "warning"  # training refuses it or is wrong; suspicious


class Told(NamedTuple):
    """What a check says of one image, annotation or class: the value at `place` breaks `rule`."""

    place: str
    rule: str
    value: object
    fix: str
    image: int | None = None  # ids in the file, of the image
    annotation: int | None = None  # and of the annotation, if it is about one
    split: str = ""  # of the image, where the check sees several

    def sentence(self) -> str:
        """In the words of all problems of data."""
        return f"{self.place} must {self.rule}, got {shown(self.value)}; {self.fix}"


Check = Iterator[Told]  # what a check function returns


@dataclass(frozen=True)
class Finding:
    """Something wrong, or suspicious, and where."""

    severity: str  # ERROR or WARNING
    kind: str  # the name of its check, or the field that the reader refuses
    split: str  # "train", "val", "all"; "" where it concerns several
    file: str  # of the annotations, or their folder
    image: int | None  # id of the image
    annotation: int | None  # id of the annotation
    text: str  # place, rule, value and fix

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dict(vars(self))
