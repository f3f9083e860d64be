"""What lies in a folder of data, and reading its text files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrcnn.data.images import SUFFIXES
from mrcnn.data.problems import Problems, read_json
from mrcnn.errors import UserError

CLASS_FILES = ("classes.txt", "labels.txt", "class_names.txt")
NO_CLASSES = ("__ignore__", "_background_")  # lines of labelme's lists

_MAX_FILES = 2_000_000  # more are no data set, but a disk
_MAX_BYTES = 2**30  # of one text file


@dataclass(frozen=True)
class Listing:
    """The files below a folder, in order; hidden ones are left out, linked folders not entered."""

    folder: Path  # as the user names it
    root: Path  # resolved
    files: list[str]  # below it, with forward slashes
    links: list[str]  # linked folders, and links that lead out of the folder

    def ending(self, *suffixes: str) -> Iterator[str]:
        """The files with these suffixes, in lower or upper case."""
        return (file for file in self.files if file.lower().endswith(suffixes))

    def images(self) -> Iterator[str]:
        """The image files."""
        return self.ending(*SUFFIXES)

    def text(self, file: str) -> str:
        """The content of a text file in UTF-8.

        Raises:
            UserError: if it cannot be read, or is too large.
        """
        path = self._checked(file)
        try:
            return path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}: byte {error.start} (0x{error.object[error.start]:02x}) is not UTF-8; "
                "save the file in UTF-8"
            ) from error
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); restore it") from error

    def json_object(self, file: str) -> dict[str, Any]:
        """The content of a file that holds a JSON object.

        Raises:
            UserError: if it cannot be read, is too large, or holds something else.
        """
        path = self._checked(file)
        content = read_json(path)
        if not isinstance(content, dict):
            problems = Problems(path)
            problems.add("the file", "hold a JSON object", content, "export or remove it")
            raise UserError(f"{path}: {problems.lines[0]}")
        return content

    def class_names(self) -> list[str]:
        """The names in classes.txt or the like, here or in labels/, one a line; else none.

        Raises:
            UserError: if the file cannot be read, or holds a name twice.
        """
        places = [f"{folder}{name}" for folder in ("", "labels/") for name in CLASS_FILES]
        file = next((place for place in places if place in self.files), None)
        if file is None:
            return []
        lines = (line.strip() for line in self.text(file).splitlines())
        names = [line for line in lines if line and line not in NO_CLASSES]
        if twice := first_repeated(names):
            raise UserError(f"{self.folder / file}: holds {twice!r:.60} twice; remove one")
        if not names:
            raise UserError(f"{self.folder / file}: holds no class; write one name a line")
        return names

    def _checked(self, file: str) -> Path:
        path = self.folder / file
        if file in self.links or not (self.root / file).resolve().is_relative_to(self.root):
            raise UserError(f"{path}: is a link out of the folder; copy the file there")
        try:
            size = path.stat().st_size
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); restore it") from error
        if size > _MAX_BYTES:
            raise UserError(
                f"{path}: has {size:,} bytes, at most {_MAX_BYTES:,} are read; split the file"
            )
        return path


def first_repeated(names: Iterable[str]) -> str | None:
    """The first name that was there before."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def list_files(folder: Path) -> Listing:
    """All files below a folder.

    Raises:
        UserError: if a folder cannot be read, or holds millions of files.
    """
    root = folder.resolve()
    files: list[str] = []
    links: list[str] = []
    todo = [""]
    try:
        while todo:
            below = todo.pop()
            with os.scandir(root / below) as entries:
                for entry in entries:
                    name = below + entry.name
                    if entry.name.startswith(".") or entry.name == "__MACOSX":
                        continue
                    if not name.isprintable():
                        raise UserError(
                            f"--data {folder}: {name!r:.200} has a name that cannot be printed; "
                            "rename it"
                        )
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(f"{name}/")
                    elif entry.is_symlink() and not _is_own_file(entry, root):
                        links.append(name)
                    elif entry.is_file():
                        files.append(name)
            if len(files) > _MAX_FILES:
                raise UserError(
                    f"--data {folder}: holds more than {_MAX_FILES:,} files; "
                    "name the folder of a data set"
                )
    except OSError as error:
        raise UserError(
            f"--data {folder}: {error.filename} cannot be read ({error.strerror}); allow it"
        ) from error
    return Listing(folder, root, sorted(files), sorted(links))


def _is_own_file(link: os.DirEntry[str], root: Path) -> bool:
    """Whether a link leads to a file below `root`."""
    try:
        real = Path(link.path).resolve()
        return real.is_relative_to(root) and real.is_file()
    except (OSError, RuntimeError):  # a circle of links
        return False
