"""Tables of tensor names, ours and those of another framework, that are read in both directions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from torch import Tensor

from mrcnn.config import ModelConfig

Fields = dict[str, Any]  # of ModelConfig


class Row(NamedTuple):
    """One line of a table of names, ours and theirs.

    `{n}` is a number, `{n+1}` theirs where ours is `{n}`, and `{t}` what is stored of a layer.
    """

    ours: str
    theirs: str
    # Which models are written with this row; all rows are read.
    when: Callable[[ModelConfig], bool] = lambda config: True


class Found(NamedTuple):
    """What is known of a file before its configuration is complete."""

    state: Mapping[str, Tensor]  # under their names
    facts: Mapping[str, Any]  # what lies beside the tensors
    fields: Fields  # which the names and shapes of the tensors tell
    classes: int


@dataclass(frozen=True)
class Layout:
    """The files of one framework."""

    mark: re.Pattern[str]  # a name that only its files hold
    rows: tuple[Row, ...]
    ignored: re.Pattern[str]  # names of tensors that no model needs
    background_first: bool  # with a box and a mask of its own; else last, without
    # What its files do not say but its models mean, and whether their pixels are blue, green, red.
    implied: Callable[[Found], tuple[Fields, bool]]

    def ours(self, name: str) -> str | None:
        """Our name of a tensor of theirs; None if it is none of a model that we build."""
        for row in self.rows:
            if match := _pattern(row.theirs).fullmatch(name):
                return _fill(row.ours, match, {k: -v for k, v in _shifts(row.theirs).items()})
        return None

    def theirs(self, name: str, config: ModelConfig) -> str | None:
        """Their name of a tensor of ours; None if they have no such layer."""
        for row in self.rows:
            if row.when(config) and (match := _pattern(row.ours).fullmatch(name)):
                return _fill(row.theirs, match, _shifts(row.theirs))
        return None


_FIELD = re.compile(r"\{(\w+)(?:\+(\d+))?\}")


@cache
def _pattern(template: str) -> re.Pattern[str]:
    pieces, end = [], 0
    for field in _FIELD.finditer(template):
        kind = "[a-z_]+" if field[1] == "t" else "[0-9]+"
        pieces += [re.escape(template[end : field.start()]), f"(?P<{field[1]}>{kind})"]
        end = field.end()
    return re.compile("".join(pieces) + re.escape(template[end:]))


@cache
def _shifts(template: str) -> dict[str, int]:
    return {field[1]: int(field[2]) for field in _FIELD.finditer(template) if field[2]}


def _fill(template: str, values: re.Match[str], shifts: Mapping[str, int]) -> str:
    def value(field: re.Match[str]) -> str:
        found = values[field[1]]
        return str(int(found) + shifts[field[1]]) if field[1] in shifts else found

    return _FIELD.sub(value, template)
