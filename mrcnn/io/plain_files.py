"""Plain files, opened without waiting and read up to a limit.

A pipe may have no writer, and a device may have no end. Both are refused before they are opened.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from mrcnn.errors import FileError

MAX_BYTES = 2_000_000_000  # of a text or an image; the annotations of LVIS have 1.1 GB
MAX_WEIGHTS_BYTES = 2**34  # of a checkpoint or a saved state

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_plain(path: Path, max_bytes: int = MAX_BYTES, fix: str = "correct the path") -> None:
    """Check that a path leads to a plain file of at most `max_bytes`; links are followed.

    Args:
        path: the file.
        max_bytes: largest size.
        fix: what the user can do if the file is missing, for the message.

    Raises:
        FileError: if it does not.
    """
    try:
        _check(path, path.stat(), max_bytes, fix)
    except OSError as error:
        raise _unreadable(path, error, fix) from error


def open_plain(path: Path, max_bytes: int = MAX_BYTES, fix: str = "correct the path") -> BinaryIO:
    """Open a plain file of at most `max_bytes` for reading. See `check_plain`.

    Errors while it is read stay those of the system.
    """
    check_plain(path, max_bytes, fix)  # first, because opening a device may change it
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(path, error, fix) from error
    file = os.fdopen(handle, "rb")
    try:
        _check(path, os.fstat(handle), max_bytes, fix)  # it may have been replaced by a pipe
    except FileError:
        file.close()
        raise
    return file


def read_plain(path: Path, max_bytes: int = MAX_BYTES, fix: str = "correct the path") -> bytes:
    """Read a plain file of at most `max_bytes`. See `check_plain`."""
    with open_plain(path, max_bytes, fix) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            content = file.read(size + 1)
        except OSError as error:
            raise _unreadable(path, error, fix) from error
    if len(content) > size:  # files in /proc state a size of 0
        raise FileError(path, f"is longer than its size, {size:,} bytes", "name a copy of it")
    return content


def _check(path: Path, status: os.stat_result, max_bytes: int, fix: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "special")
        fix = "name a file" if stat.S_ISDIR(status.st_mode) else "save its content in a file"
        raise FileError(path, f"is {kind}, not a plain file", fix)
    if status.st_size > max_bytes:
        problem = f"has {status.st_size:,} bytes, at most {max_bytes:,} are read"
        raise FileError(path, problem, "split it, or name another file")


def _unreadable(path: Path, error: OSError, fix: str) -> FileError:
    if isinstance(error, FileNotFoundError):
        return FileError(path, "does not exist", fix)
    return FileError(path, f"cannot be read ({error.strerror or error})", fix)
