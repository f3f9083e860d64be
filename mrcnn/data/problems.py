"""Everything that is wrong with a data set, collected in one pass and told at once."""

from __future__ import annotations

import json
import reprlib
from pathlib import Path
from typing import Any

from mrcnn.errors import UserError

SHOWN = 20  # problems in the message; `DatasetError.problems` holds all

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 60


class DatasetError(UserError):
    """An annotation file that does not keep its contract.

    Attributes:
        file: the annotation file.
        problems: one line each: where, the rule, the value, the fix.
    """

    def __init__(self, file: Path, problems: list[str]) -> None:
        self.file, self.problems = file, problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        super().__init__("\n  ".join([f"{file}: {count}", *problems[:SHOWN], *more]))


class Problems:
    """The problems of one annotation file so far."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.lines: list[str] = []

    def add(self, place: str, rule: str, value: object, fix: str) -> None:
        """Note that the value at `place` breaks `rule`."""
        self.lines.append(f"{place} must {rule}, got {shown(value)}; {fix}")

    def raise_any(self) -> None:
        """Raise `DatasetError` if there is any problem."""
        if self.lines:
            raise DatasetError(self.file, self.lines)


def shown(value: object) -> str:
    """`repr`, cut to a few dozen characters."""
    return _short.repr(value)


def read_json(path: Path) -> Any:
    """The content of a JSON file in UTF-8, with or without a byte-order mark.

    Raises:
        UserError: if the file cannot be read or is not JSON; says where.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path}: does not exist; correct the path") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name a JSON file") from error
    if not content.strip():
        raise UserError(f"{path}: is empty ({len(content)} bytes); export the annotations again")
    try:
        return json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: byte {error.start} (0x{content[error.start]:02x}) is not UTF-8; "
            "save the file in UTF-8"
        ) from error
    except json.JSONDecodeError as error:
        at_end = error.pos >= len(error.doc) - 1 or error.msg.startswith("Unterminated")
        end = " (is the file cut short?)" if at_end else ""
        raise UserError(
            f"{path}: is not JSON: {error.msg} at line {error.lineno}, column {error.colno}{end}; "
            "export the annotations again"
        ) from error
    except RecursionError as error:
        raise UserError(
            f"{path}: is nested too deeply for JSON of annotations; export the annotations again"
        ) from error
    except ValueError as error:  # an integer of thousands of digits
        raise UserError(
            f"{path}: holds a number that cannot be read ({error}); correct it"
        ) from error
