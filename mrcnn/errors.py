"""The exceptions that the command line prints without a traceback."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path


def printable(text: str, keep: str = "") -> str:
    """Escape control and format characters, and lone surrogates, as in Python's string literals.

    A terminal would obey them, or fail to show them. The characters `keep`, and spaces, stay.
    """
    if text.isprintable():
        return text
    return "".join(
        c
        if c.isprintable() or c in keep or unicodedata.category(c) == "Zs"
        else c.encode("unicode_escape").decode()
        for c in text
    )


def class_label(name: str) -> str:
    """Return the name of a class on one line, with control characters as escapes.

    The joiners of Persian, Indic scripts and emoji (U+200C, U+200D) stay.
    """
    return printable(name, keep="\u200c\u200d")


class UserError(Exception):
    """An error that the user can fix.

    The message names the file, the field or id, the value and the fix, in a few lines.
    """


class FileError(UserError):
    """A file that cannot be used.

    Attributes:
        path: The file.
        problem: The rest of a sentence that begins with the path.
        fix: What the user can do.
    """

    def __init__(self, path: str | os.PathLike[str], problem: str, fix: str) -> None:
        super().__init__(path, problem, fix)  # unpickling calls __init__ with them
        self.path, self.problem, self.fix = os.fspath(path), problem, fix

    def __str__(self) -> str:
        return f"{printable(self.path)}: {self.problem}; {self.fix}"


def check_format(file: Path, found: int, known: int) -> None:
    """Refuse a file of a later format than this version reads.

    Args:
        file: for the message.
        found: format of the file.
        known: latest format that can be read.

    Raises:
        UserError: if the format is later.
    """
    if found > known:
        raise UserError(
            f"{file}: has format {found}, this mrcnn reads up to {known}; install a newer mrcnn"
        )
