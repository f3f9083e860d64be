"""Read JSON files, and show values in messages."""

from __future__ import annotations

import json
import reprlib
from pathlib import Path
from typing import Any, TypeGuard

from mrcnn.errors import FileError
from mrcnn.io.plain_files import read_plain

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 60

LARGEST = 1e100  # of a number: the product of any three fits a float

_EXPORT = "export the annotations again"


def shown(value: object) -> str:
    """Return the `repr` of a value, cut to a few dozen characters."""
    return _short.repr(value)


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a number of at most `LARGEST`, not NaN; booleans are not."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= LARGEST


def read_json(path: Path) -> Any:
    """Read a JSON file in UTF-8, with or without a byte-order mark.

    Raises:
        FileError: If the file cannot be read or is not JSON. The message names the position.
    """
    content = read_plain(path)
    if not content.strip():
        raise FileError(path, f"is empty ({len(content)} bytes)", _EXPORT)
    try:
        return json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from error
    except json.JSONDecodeError as error:
        at_end = error.pos >= len(error.doc) - 1 or error.msg.startswith("Unterminated")
        end = " (is the file cut short?)" if at_end else ""
        position = f"line {error.lineno}, column {error.colno}{end}"
        raise FileError(path, f"is not JSON: {error.msg} at {position}", _EXPORT) from error
    except RecursionError as error:
        raise FileError(path, "is nested too deeply for JSON of annotations", _EXPORT) from error
    except ValueError as error:  # an integer of thousands of digits
        raise FileError(
            path, f"holds a number that cannot be read ({error})", "correct it"
        ) from error


def read_text(path: Path, fix: str = "correct the path") -> str:
    """Read a plain text file in UTF-8, with or without a byte-order mark.

    Raises:
        FileError: If the file cannot be read. `fix` is what the user can do if it is missing.
    """
    try:
        return read_plain(path, fix=fix).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from error


def not_utf8(path: Path, error: UnicodeDecodeError) -> FileError:
    """Return the error for a text file in another encoding."""
    byte = error.object[error.start]
    return FileError(
        path, f"byte {error.start} (0x{byte:02x}) is not UTF-8", "save the file in UTF-8"
    )
