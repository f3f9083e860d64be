"""Names and sizes of the image files of a data set."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mrcnn.data.images import read_size
from mrcnn.data.problems import Problems
from mrcnn.errors import FileError
from mrcnn.io.plain_files import open_plain

Size = tuple[int, int]  # (height, width), upright

# Suffixes of the files that are read from folders. A file named by the user may have any suffix.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".gif", ".tif", ".tiff"),
    *(".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
)
# Images in other formats, unless their contents are in one that is read. They are reported.
OTHER_SUFFIXES = (
    *(".avif", ".heic", ".heif", ".hif", ".jxl", ".jxr", ".jls", ".psd", ".xcf", ".svg", ".eps"),
    *(".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"),
    *(".raw", ".exr", ".hdr", ".tga", ".dib", ".pcx", ".ico", ".pfm", ".qoi", ".dcm"),
)
# TIFF is not one of them, because raw files of cameras begin like it.
_BEGINNINGS = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|BM|RIFF....WEBP|\0\0\0\x0cjP  \r\n\x87\n", re.DOTALL
)
_THREADS = 8  # reading headers waits for the disk
_LONGEST_NAME = 1000


def is_read(path: Path) -> bool | None:
    """Return whether an image in a folder can be read, or None if the file is not an image.

    Its suffix decides; the first bytes of a file with a suffix of `OTHER_SUFFIXES`, or with none.
    """
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return True
    if suffix and suffix not in OTHER_SUFFIXES:
        return None
    try:
        with open_plain(path) as file:
            is_known = bool(_BEGINNINGS.match(file.read(12)))
    except (FileError, OSError):
        is_known = False
    return is_known or (False if suffix else None)


def is_hidden(path: Path) -> bool:
    """Return whether a relative path leads to a hidden file, as `._a.jpg` of macOS, or folder."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def file_name_rule(name: object, folder: str | None = None) -> str | None:
    """Return the rule that a file name breaks, or None. Does not access the disk.

    The name is relative to `folder`, a path relative to the data: it may lead up with '..', but not
    out of the data. None allows no '..'.
    """
    if not isinstance(name, str) or not name:
        return "be a non-empty text"
    if len(name) > _LONGEST_NAME:
        return f"have at most {_LONGEST_NAME} characters"
    if not name.isprintable():  # NUL, line ends, lone surrogates
        return "hold printable characters only"
    if "://" in name:
        return "be a file, not an address"
    if "\\" in name or re.match(r"[A-Za-z]:", name):
        return "be a relative path with forward slashes, without a drive"
    if name.startswith("/"):
        return "be a relative path"
    if folder is not None and ".." in joined(folder, name).split("/"):
        return "stay inside the folder of the data"
    if folder is None and ".." in name.split("/"):
        return "stay inside the image folder, without '..'"
    return None


def joined(folder: str, name: str) -> str:
    """Join and normalize a path."""
    return posixpath.normpath(posixpath.join(folder, name))


def stored_size(root: Path, name: str) -> Size:
    """Return the (height, width) of an image file below the resolved `root`, from its header.

    Raises:
        FileError: If the file cannot be read or is a link out of `root`.
    """
    path = root / name
    try:
        real = path.resolve()
        if not real.is_relative_to(root):
            raise FileError(
                path, f"must not be a link out of {root}, got {real}", "copy the file into it"
            )
        return read_size(path)
    except (OSError, RuntimeError) as error:  # a name that is too long, a circle of links
        raise FileError(path, f"cannot be read ({error})", "correct the name") from error


def stored_sizes(root: Path, names: Iterable[str]) -> Iterator[Size | FileError]:
    """Yield the size, or the error, of each image file, in order. See `stored_size`."""

    def size_or_error(name: str) -> Size | FileError:
        try:
            return stored_size(root, name)
        except FileError as error:
            return error

    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(size_or_error, names)


def read_sizes(root: Path, labels: Mapping[str, str], problems: Problems) -> dict[str, Size]:
    """Return the sizes of the image files that can be read, and add the others to `problems`.

    `labels` maps a file name, relative to the resolved `root`, to what messages name as its source.
    """
    sizes = {}
    for name, size in zip(labels, stored_sizes(root, labels), strict=True):
        if isinstance(size, FileError):
            problems.add_error(size, labels[name])
        else:
            sizes[name] = size
    return sizes
