"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mrcnn.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a draft to write, which then takes the place of `path` in one step.

    After a failure or a crash the file is what it was before. The draft stands in the same folder,
    which is made if need be; one that a crash left behind is overwritten.

    Raises:
        UserError: if the system cannot write there.
    """
    draft = path.with_name(f".{path.stem}.draft{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield draft
            _sync(draft)
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
        _sync(path.parent)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"{path}: cannot be written ({reason}); name another place, or make room there"
        ) from error


def write_json(path: Path, values: Any, indent: int | None = None) -> None:
    """Write values as JSON; paths become text.

    Raises:
        UserError: if the system cannot write there.
    """
    with replacing(path) as draft:
        draft.write_text(json.dumps(values, indent=indent, default=str), encoding="utf-8")


def check_writable(path: Path) -> None:
    """Tell before long work what would keep `replacing` from writing `path`; writes nothing.

    Raises:
        UserError: if the system cannot write there.
    """
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    if path.is_dir():
        problem = "it is a folder"
    elif not folder.is_dir():
        problem = f"{folder} is a file"
    elif not os.access(folder, os.W_OK):
        problem = f"{folder} allows no new files"
    else:
        return
    raise UserError(f"{path}: cannot be written ({problem}); name another place")


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
