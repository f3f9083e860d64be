"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import platform
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mrcnn.errors import UserError

SUMS = "SHA256SUMS"  # beside the files of a run, in the format of sha256sum

_DRAFT = re.compile(r"\.draft-([0-9a-f]{8})-(\d{1,10})-\d+(\.|$)")
_DAY = 24 * 3600.0  # seconds; no save takes as long
_counter = itertools.count()
_being_written: set[str] = set()  # names of drafts of this process


@contextmanager
def replacing(path: Path, size: int | None = None) -> Iterator[Path]:
    """Give a draft to write, which then takes the place of `path` in one step.

    After a failure or a crash the file is what it was before. The draft stands in the same folder,
    which is made if need be, under a name that no other process uses; `sweep_drafts` removes those
    that crashes left behind.

    Args:
        size: bytes that will be written, if known; then the room there is looked at first.
    Raises:
        UserError: if the system cannot write there, or has no room.
    """
    folder = path.parent
    draft = folder / f".draft-{_host()}-{os.getpid()}-{next(_counter)}{path.suffix}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if size is not None:
            _check_room(path, size)
        _being_written.add(draft.name)
        try:
            # Synced through a handle from before, which hears of every error of writing it back.
            with draft.open("xb") as file:
                yield draft
                os.fsync(file.fileno())
            os.replace(draft, path)
        finally:
            with suppress(OSError):  # what keeps it from being removed kept it from being written
                draft.unlink(missing_ok=True)
            _being_written.discard(draft.name)
        _sync_names(folder)
    except OSError as error:
        needed = "" if size is None else f"; it takes {size:,} bytes"
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}{needed}); "
            "name another place, or make room there"
        ) from error


def sweep_drafts(folder: Path) -> list[Path]:
    """Remove the drafts of `replacing` whose writers are dead; what was removed.

    A writer is dead if this machine has no such process; that of another machine, which cannot be
    asked, if its draft has not grown for a day. Where nothing can be removed, nothing is.
    """
    removed = []
    with suppress(OSError):
        for draft in sorted(folder.glob(".draft-*")):
            if draft.name not in _being_written and _is_orphan(draft):
                draft.unlink()
                removed.append(draft)
    return removed


def write_json(path: Path, values: Any, indent: int | None = None) -> None:
    """Write values as JSON; paths become text.

    Raises:
        UserError: if the system cannot write there.
    """
    content = json.dumps(values, indent=indent, default=str).encode()
    with replacing(path, len(content)) as draft:
        draft.write_bytes(content)


def update_sums(folder: Path, written: Sequence[Path] = (), gone: Sequence[Path] = ()) -> None:
    """Bring `folder`/SHA256SUMS, for `sha256sum -c` there, up to date; nothing else reads it.

    A file that is about to be replaced is `gone` first: a line that is absent alarms nobody, one
    that is wrong does.

    Args:
        written: files in `folder`, or below it, whose sums are to be there.
        gone: those whose sums are not.
    Raises:
        UserError: if the system cannot read a file, or write there.
    """
    path = folder / SUMS
    try:
        before = path.read_text(errors="replace") if path.is_file() else ""
        lines = (line.split("  ", 1) for line in before.splitlines())
        sums = {line[1]: line[0] for line in lines if len(line) == 2}
        for file in gone:
            sums.pop(file.relative_to(folder).as_posix(), None)
        for file in written:
            sums[file.relative_to(folder).as_posix()] = _sha256(file)
    except OSError as error:
        where = error.filename or path
        raise UserError(
            f"{where}: cannot be read again ({error.strerror}); is the disk sound?"
        ) from error
    after = "".join(f"{value}  {name}\n" for name, value in sorted(sums.items()))
    if after != before:
        with replacing(path, len(after)) as draft:
            draft.write_text(after)


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


def _check_room(path: Path, size: int) -> None:
    room = os.statvfs(path.parent)
    free = room.f_bavail * room.f_frsize
    if room.f_blocks and free < size:  # some network file systems report no blocks at all
        raise UserError(
            f"{path}: cannot be written (it takes {size:,} bytes, and {free:,} are free there); "
            "name another place, or make room there"
        )


def _host() -> str:
    """Eight characters that stand for this machine."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _is_orphan(draft: Path) -> bool:
    """Whether a draft that this process is not writing has lost its writer."""
    match = _DRAFT.match(draft.name)
    if match is None:
        return False
    if match[1] != _host():
        return time.time() - draft.stat().st_mtime > _DAY
    # Containers give the same number to every life of a program: a draft may be an earlier one's.
    return int(match[2]) == os.getpid() or not _is_alive(int(match[2]))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        return True
    return True


def _sync_names(folder: Path) -> None:
    """Wait until the names in a folder are on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # the word of file systems that sync no folders
            raise
    finally:
        os.close(handle)
