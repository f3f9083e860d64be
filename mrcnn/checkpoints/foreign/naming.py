"""Tables of tensor names, of mrcnn and of another framework, that are read in both directions."""

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
    """One row of a table of names.

    `{n}` matches a number, `{n+1}` is that number plus 1 in the source framework, and `{t}` matches
    the kind of tensor, such as `weight`.
    """

    name: str  # in mrcnn
    source: str  # in the other framework
    # Selects the models that are exported with this row; all rows are used for importing.
    when: Callable[[ModelConfig], bool] = lambda config: True


class Evidence(NamedTuple):
    """The facts about a file that are known before its configuration is complete."""

    state: Mapping[str, Tensor]  # under source names
    facts: Mapping[str, Any]  # values beside the tensors
    fields: Fields  # inferred from names and shapes
    classes: int


@dataclass(frozen=True)
class Layout:
    """The tensor names and conventions of one framework."""

    signature: re.Pattern[str]  # a name that only its files contain
    rows: tuple[Row, ...]
    ignored: re.Pattern[str]  # names of tensors that no model needs
    background_first: bool  # with its own box and mask; otherwise last, without
    # Returns the fields that its files do not contain, and whether its pixels are BGR.
    defaults: Callable[[Evidence], tuple[Fields, bool]]

    def mrcnn_name(self, source: str) -> str | None:
        """Return the mrcnn name of a source tensor, or None if no model has such a tensor."""
        for row in self.rows:
            if match := _pattern(row.source).fullmatch(source):
                return _fill(row.name, match, {k: -v for k, v in _shifts(row.source).items()})
        return None

    def source_name(self, name: str, config: ModelConfig) -> str | None:
        """Return the source name of an mrcnn tensor, or None if the framework has no such layer."""
        for row in self.rows:
            if row.when(config) and (match := _pattern(row.name).fullmatch(name)):
                return _fill(row.source, match, _shifts(row.source))
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
        text = values[field[1]]
        return str(int(text) + shifts[field[1]]) if field[1] in shifts else text

    return _FIELD.sub(value, template)
