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


@dataclass(frozen=True)
class Layout:
    """The tensor names and conventions of one framework."""

    name: str
    signature: re.Pattern[str]  # a name that only its files contain
    rows: tuple[Row, ...]
    ignored: re.Pattern[str]  # names of tensors that no model needs
    background_first: bool  # with its own box and mask; otherwise last, without
    # Takes the inferred fields and the tensors under source names. Returns what the framework's
    # models have, of the fields that tensors do not determine, and whether pixels are BGR.
    defaults: Callable[[Fields, Mapping[str, Tensor]], tuple[Fields, bool]]

    def mrcnn_name(self, source: str) -> str | None:
        """Return the mrcnn name of a source tensor, or None if no model has such a tensor."""
        names = (_rename(source, row.source, row.name) for row in self.rows)
        return next(filter(None, names), None)

    def source_name(self, name: str, config: ModelConfig) -> str | None:
        """Return the source name of an mrcnn tensor, or None if the framework has no such layer."""
        names = (_rename(name, row.name, row.source) for row in self.rows if row.when(config))
        return next(filter(None, names), None)


_FIELD = re.compile(r"\{(\w+)(\+\d+)?\}")


def _rename(name: str, template: str, other: str) -> str | None:
    """Return `other` with the values that `name` has in `template`, or None without a match."""
    match = _pattern(template).fullmatch(name)
    if match is None:
        return None
    shifts = {field: int(shift or 0) for field, shift in _FIELD.findall(template)}

    def value(field: re.Match[str]) -> str:
        shift = int(field[2] or 0) - shifts[field[1]]
        return str(int(match[field[1]]) + shift) if shift else match[field[1]]

    return _FIELD.sub(value, other)


@cache
def _pattern(template: str) -> re.Pattern[str]:
    def group(field: re.Match[str]) -> str:
        return f"(?P<{field[1]}>{'[a-z_]+' if field[1] == 't' else '[0-9]+'})"

    return re.compile(re.sub(r"\\\{(\w+).*?\\\}", group, re.escape(template)))
