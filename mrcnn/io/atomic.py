"""Atomic writing: a file appears whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from mrcnn.errors import UserError

_DRAFTS = ".draft-" + 16 * "[0-9a-f]" + "*"


@contextmanager
def replacing(path: Path, size: int | None = None) -> Iterator[Path]:
    """Yield a draft file to write, which then replaces `path` atomically.

    After a failure or a crash, `path` is what it was before. The draft is an empty file in the same
    folder, which is created if needed. `sweep_drafts` removes the drafts that a crash left behind.
    `size` is the number of bytes that will be written, for the error message.

    Raises:
        UserError: if the file cannot be written.

    Example:
        with replacing(Path("runs/1/notes.txt")) as draft:
            draft.write_text("...")
    """
    folder = path.parent
    draft = folder / f".draft-{os.urandom(8).hex()}{path.suffix}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            # fsync reports write errors only to handles that were open when they happened.
            with _locked(draft) as file:
                yield draft
                os.fsync(file.fileno())
                os.replace(draft, path)
        finally:
            with suppress(OSError):  # the cause of the first error may prevent this, too
                draft.unlink(missing_ok=True)
        _sync_folder(folder)
    except OSError as error:
        needed = "" if size is None else f"; it needs {size:,} bytes"
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}{needed}); "
            "choose another location or free some space there"
        ) from error


@contextmanager
def creating_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder to fill, which then becomes `folder`, whole or not at all.

    An empty folder keeps its place, which may be a mount point: the contents are moved into it.

    Raises:
        OSError: if the folder cannot be written, or exists and is not empty.
    """
    is_kept = folder.is_dir() and not any(folder.iterdir())
    parent = folder if is_kept else folder.parent
    parent.mkdir(parents=True, exist_ok=True)
    draft = parent / f".draft-{os.urandom(8).hex()}"
    draft.mkdir()
    try:
        yield draft
        if is_kept:
            for path in list(draft.iterdir()):
                os.replace(path, folder / path.name)
        else:
            os.replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def sweep_drafts(folder: Path) -> list[Path]:
    """Remove the drafts of writers that died, and return their paths.

    A writer holds a lock on its draft, which the system releases when its process ends.
    """
    removed = []
    with suppress(OSError):  # from listing the folder
        for draft in sorted(folder.glob(_DRAFTS)):
            # NFS locks only files that are open for writing. An error means a lock, for example.
            with suppress(OSError), draft.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                draft.unlink()
                removed.append(draft)
    return removed


def write_json(path: Path, values: Any, indent: int | None = None) -> None:
    """Write values as JSON; paths become text.

    Raises:
        UserError: if the file cannot be written.
    """
    content = json.dumps(values, indent=indent, default=str).encode()
    with replacing(path, len(content)) as draft:
        draft.write_bytes(content)


def check_writable(path: Path, mark: bytes | None = None) -> None:
    """Check before long work that `replacing` will be able to write `path`; write nothing.

    Args:
        path: file to write.
        mark: regular expression that is found in files that the same command has written. Only
            these, and empty files, are replaced. With None, no file is.

    Raises:
        UserError: if the file cannot be written.
    """
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    if path.is_dir():
        problem = "it is a folder"
    elif os.path.lexists(path) and not path.is_file():
        problem = "it is not a plain file"
    elif path.exists() and path.stat().st_size and mark is None:
        problem = "it exists, and is not overwritten"
    elif path.exists() and path.stat().st_size and not _holds(path, mark or b""):
        problem = "it exists, and was not written by this command"
    elif not folder.is_dir():
        problem = f"{folder} is a file"
    elif not os.access(folder, os.W_OK):
        problem = f"{folder} does not allow new files"
    else:
        return
    raise UserError(f"{path}: cannot be written ({problem}); choose another location")


def _holds(path: Path, mark: bytes) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return re.search(mark, content) is not None


def _locked(draft: Path) -> BinaryIO:
    """Create a draft and lock it."""
    while True:
        file = draft.open("xb")
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if draft.exists():  # `sweep_drafts` may have removed it before it was locked
            return file
        file.close()


def _sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # from file systems that cannot sync folders
            raise
    finally:
        os.close(handle)
