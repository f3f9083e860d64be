"""Image files of a folder, found by the names that annotations give them.

Tools write names as they are on the machine of the annotator: absolute, with backslashes, percent
signs, a prefix or another Unicode form. Only files that were listed below the folder are returned.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import unquote, urlsplit

from mrcnn.data.image_files import joined

# Label Studio puts a number before the name of an uploaded file.
_UPLOADED = re.compile(r"[0-9a-f]{4,36}-(?=.)")


@dataclass
class ImageNames:
    """Image files below a folder."""

    files: Collection[str]  # a set or the keys of a dict; forward slashes
    found: dict[str, str] = field(default_factory=dict)  # names that are not paths -> files

    def find(self, name: object, *folders: str) -> str | None:
        """Return the file that a name in `folders` stands for, or None.

        A path that exists comes first. Otherwise it is the file with the same last part, of several
        the one that shares most parts before it.
        """
        if not isinstance(name, str) or not name:
            return None
        for folder in folders or ("",):
            if (path := joined(folder, name)) in self.files:
                return path
        if (file := self._by_last_part(name)) is not None:
            self.found[name] = file
        return file

    def notes(self) -> list[str]:
        """Return a note on the names that are not paths of files."""
        if not self.found:
            return []
        name, file = next(iter(self.found.items()))
        what = "1 image is" if len(self.found) == 1 else f"{len(self.found)} images are"
        return [f"{what} found by the last part of the name ({name!r:.80} is {file})"]

    @cached_property
    def _of_key(self) -> dict[str, list[str]]:
        files: dict[str, list[str]] = {}
        for file in self.files:
            files.setdefault(_key(posixpath.basename(file)), []).append(file)
        return files

    def _by_last_part(self, name: str) -> str | None:
        path = name.replace("\\", "/")
        if "://" in path:
            try:
                path = urlsplit(path).path
            except ValueError:  # a bracket
                return None
        for text in dict.fromkeys((path, unquote(path))):
            *parts, last = text.split("/")
            for key in dict.fromkeys((_key(last), _key(_UPLOADED.sub("", last, count=1)))):
                files = self._of_key.get(key, [])
                shared = [_shared_parts(file.split("/")[:-1], parts) for file in files]
                if shared and shared.count(most := max(shared)) == 1:
                    return files[shared.index(most)]
        return None


def _key(name: str) -> str:
    """Return a file name in one Unicode form, with its suffix in lower case."""
    stem, suffix = posixpath.splitext(unicodedata.normalize("NFC", name))
    return stem + suffix.lower()


def _shared_parts(folders: list[str], others: list[str]) -> int:
    """Return the number of equal folders at the end of two paths."""
    count = 0
    for a, b in zip(reversed(folders), reversed(others), strict=False):
        if a != b:
            break
        count += 1
    return count
