"""Plain values in the configurations of other frameworks, which are read but never executed.

YAML is read by a safe loader. Of Python only literals and `dict()` are read.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any

import yaml

from mrcnn.checkpoints.foreign.naming import Fields
from mrcnn.cli.flags import typed
from mrcnn.config import ModelConfig
from mrcnn.errors import UserError
from mrcnn.io.json_files import read_text

_MOST_CHARACTERS = 2**20  # of a configuration; Detectron2's have 10 thousand


@dataclass(frozen=True)
class Settings:
    """The settings that a configuration holds."""

    source: str = ""  # where they were read, "" if there is no configuration
    fields: Fields = field(default_factory=dict)
    bgr: bool | None = None  # whether pixels are BGR, None if it is not stated
    problems: tuple[str, ...] = ()  # what mrcnn cannot reproduce


def differing(tree: Any, fixed: Mapping[str, Any]) -> tuple[str, ...]:
    """Describe the values of a configuration that are not those of a table."""
    values = {key: get(tree, key) for key in fixed}
    return tuple(
        f"{key} {value} (here {fixed[key]})"
        for key, value in values.items()
        if value is not None and value != fixed[key]
    )


def typed_fields(source: Any, fields: Mapping[str, Any]) -> Fields:
    """Convert plain values to the types of the fields of `ModelConfig`."""
    kinds = {known.name: str(known.type) for known in fields_of(ModelConfig)}
    converted: Fields = {}
    for name, value in fields.items():
        try:
            converted[name] = typed(kinds[name], value)
        except TypeError:
            raise UserError(
                f"{source}: {name} must be of type {kinds[name]}, got {value!r:.60}"
            ) from None
    return converted


def get(tree: Any, path: str) -> Any:
    """Return the value at a dotted path, None if there is none."""
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    if isinstance(tree, str) and tree[:1] in ("(", "["):  # as yacs reads the files of users
        try:
            tree = ast.literal_eval(tree)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return list(tree) if isinstance(tree, tuple) else tree


class _Loader(yaml.SafeLoader):  # type: ignore[misc, unused-ignore]  # its stubs are optional
    """Load plain values, tuples as lists, and objects of Python as None."""


def _sequence(loader: _Loader, node: Any) -> list[Any]:
    items: list[Any] = loader.construct_sequence(node, deep=True)
    return items


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _sequence)
_Loader.add_multi_constructor("", lambda *_: None)


def read_yaml(path: Path) -> Any:
    """Read a YAML file, with the tuples of PyYAML and without its objects.

    Raises:
        UserError: if it cannot be read, or is not YAML.
    """
    text = read_text(path)
    try:
        if len(text) > _MOST_CHARACTERS:
            raise UserError(f"{path}: is too long for a configuration; move it away")
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: is not YAML ({reason:.200}); write it again, or move it away"
        ) from error


def literals(text: str) -> dict[str, Any] | None:
    """Return the plain values that a Python text assigns, None if it is not Python."""
    try:
        if len(text) > _MOST_CHARACTERS:
            return None
        body = ast.parse(text).body
        return {
            target.id: _plain(statement.value)
            for statement in body
            if isinstance(statement, ast.Assign)
            for target in statement.targets
            if isinstance(target, ast.Name)
        }
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _plain(node: ast.expr) -> Any:
    """Return the value of a literal or of `dict(name=value)`; None for anything else."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.List | ast.Tuple):
        return [_plain(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {_plain(key): _plain(value) for key, value in pairs if isinstance(key, ast.Constant)}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return {word.arg: _plain(word.value) for word in node.keywords if word.arg}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _plain(node.operand)
        return -value if isinstance(value, int | float) else None
    return None
