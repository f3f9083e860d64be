"""Files in a folder of data, and reading its text files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from mrcnn.data.image_files import OTHER_SUFFIXES, SUFFIXES, is_read
from mrcnn.data.problems import Problems
from mrcnn.errors import FileError, UserError
from mrcnn.io.json_files import read_json, read_text, shown

CLASS_FILES = ("classes.txt", "labels.txt", "class_names.txt")
NO_CLASSES = ("__ignore__", "_background_")  # lines of labelme's lists

_MAX_FILES = 2_000_000  # more are a disk, not a data set
_JSON_SAMPLES = 8  # files that decide whether the format is one of JSON files


@dataclass(frozen=True)
class Listing:
    """Sorted files below a folder. Hidden files are left out, linked folders not entered."""

    folder: Path  # as the user names it
    root: Path  # resolved
    files: list[str]  # below it, with forward slashes
    links: list[str]  # linked folders, and links that lead out of the folder

    def ending(self, *suffixes: str) -> Iterator[str]:
        """Return the files with these suffixes, in lower or upper case."""
        return (file for file in self.files if file.lower().endswith(suffixes))

    def images(self) -> Iterator[str]:
        """Return the image files, those of other formats only if their contents can be read."""
        unread = set(self.unread_images)
        return (file for file in self._candidates if file not in unread)

    @cached_property
    def unread_images(self) -> list[str]:
        """Images in formats that are not read."""
        others = (file for file in self._candidates if file.lower().endswith(OTHER_SUFFIXES))
        return [file for file in others if not is_read(self.root / file)]

    @cached_property
    def _candidates(self) -> list[str]:
        return [*self.ending(*SUFFIXES, *OTHER_SUFFIXES)]

    def text(self, file: str) -> str:
        """Read a text file in UTF-8, or raise a `FileError`."""
        return read_text(self.checked(file), "restore it")

    def lines(self, file: str) -> Iterator[tuple[str, str]]:
        """Yield each line that is not blank, stripped, after its name in messages."""
        for number, line in enumerate(self.text(file).splitlines(), start=1):
            if line := line.strip():
                yield f"{file}: line {number}", line

    def json_object(self, file: str) -> dict[str, Any]:
        """Read a file that must hold a JSON object."""
        path = self.checked(file)
        content = read_json(path)
        if not isinstance(content, dict):
            must = f"must hold a JSON object, got {shown(content)}"
            raise FileError(path, must, "export or remove it")
        return content

    @cached_property
    def json_samples(self) -> tuple[list[dict[str, Any]], Problems]:
        """Keys of the first JSON files, and the problems of those that cannot be read.

        Objects in the contents keep their keys only, and other values become None, because files
        may have hundreds of megabytes.
        """
        keys, problems = [], Problems(self.folder)
        for file in islice(self.ending(".json"), _JSON_SAMPLES):
            with problems.collect():
                items = self.json_object(file).items()
                keys.append(
                    {k: dict.fromkeys(v) if isinstance(v, dict) else None for k, v in items}
                )
        return keys, problems

    def class_names(self) -> list[str]:
        """Return the lines of classes.txt or a similar file, here or in labels/.

        A file that is empty or holds a name twice is a `FileError`.
        """
        paths = [f"{folder}{name}" for folder in ("", "labels/") for name in CLASS_FILES]
        file = next((path for path in paths if path in self.files), None)
        if file is None:
            return []
        names = [line for _, line in self.lines(file) if line not in NO_CLASSES]
        if (repeated := first_repeated(names)) is not None:
            raise FileError(self.folder / file, f"holds {repeated!r:.60} twice", "remove one")
        if not names:
            raise FileError(self.folder / file, "holds no class", "write one name per line")
        return names

    def checked(self, file: str) -> Path:
        """Return the path of a file. Refuse links out of the folder."""
        path = self.folder / file
        if file in self.links or not (self.root / file).resolve().is_relative_to(self.root):
            raise FileError(path, "is a link out of the folder", "copy the file there")
        return path


def first_repeated(names: Iterable[str]) -> str | None:
    """Return the first name that occurs more than once."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


def list_files(folder: Path) -> Listing:
    """List all files below a folder.

    Raises:
        UserError: If a folder cannot be read, or holds millions of files.
    """
    root = folder.resolve()
    files: list[str] = []
    links: list[str] = []
    pending = [""]
    try:
        while pending:
            parent = pending.pop()
            with os.scandir(root / parent) as entries:
                for entry in entries:
                    name = parent + entry.name
                    if entry.name.startswith(".") or entry.name == "__MACOSX":
                        continue
                    if not name.isprintable():
                        problem = f"{name!r:.200} has a name that cannot be printed"
                        raise UserError(f"--data {folder}: {problem}; rename it")
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(f"{name}/")
                    elif entry.is_symlink() and not _leads_to_file_below(entry, root):
                        links.append(name)
                    elif entry.is_file():
                        files.append(name)
            if len(files) > _MAX_FILES:
                problem = f"holds more than {_MAX_FILES:,} files"
                raise UserError(f"--data {folder}: {problem}; name the folder of a data set")
    except OSError as error:
        problem = f"{error.filename} cannot be read ({error.strerror})"
        raise UserError(f"--data {folder}: {problem}; check its permissions") from error
    return Listing(folder, root, sorted(files), sorted(links))


def _leads_to_file_below(link: os.DirEntry[str], root: Path) -> bool:
    try:
        real = Path(link.path).resolve()
        return real.is_relative_to(root) and real.is_file()
    except (OSError, RuntimeError):  # a circle of links
        return False
