"""Files, folders, patterns and lists become image files, and names for what is drawn of them."""

from __future__ import annotations

import glob
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mrcnn.data.images import SUFFIXES
from mrcnn.errors import UserError

LIST = Path("-")  # names on standard input, one a line


@dataclass(frozen=True)
class Source:
    """An image file."""

    path: Path
    inside: Path  # the same, seen from the folder that was asked for


def find_images(
    places: Sequence[Path], recursive: bool = False, leave_out: Path | None = None
) -> list[Source]:
    """The given files, and the images in the given folders by name; a file given is never doubted.

    Args:
        places: files, folders, patterns as `shots/**/*.jpg`, or `-` for a list on standard input.
        recursive: take the folders in folders, too.
        leave_out: a folder that is not looked into where it is found inside another.
    Raises:
        UserError: if a place does not exist, or a folder or pattern holds no images.
    """
    found: dict[Path, Source] = {}
    for place in places:
        for source in _inside(place, recursive, leave_out):
            found.setdefault(source.path, source)
    return list(found.values())


def _inside(place: Path, recursive: bool, leave_out: Path | None) -> list[Source]:
    known = " ".join(SUFFIXES)
    if place == LIST:
        lines = [Path(line) for line in sys.stdin.read().splitlines() if line.strip()]
        if not lines or LIST in lines:
            raise UserError("-: standard input must list files or folders, one a line")
        return find_images(lines, recursive, leave_out)
    if place.is_dir():
        paths = place.rglob("*") if recursive else place.iterdir()
        if not (images := _images(paths, None if leave_out == place else leave_out)):
            hint = "" if recursive else "; --recursive looks into the folders in it, too"
            raise UserError(f"{place}: holds no images ({known}); name the folder of images{hint}")
        return [Source(path, path.relative_to(place)) for path in images]
    if place.exists():
        return [Source(place, Path(place.name))]
    if glob.has_magic(str(place)):
        matches = (Path(match) for match in glob.iglob(str(place), recursive=True))
        if not (images := _images(matches, leave_out)):
            raise UserError(f"{place}: matches no images ({known}); correct the pattern")
        return [Source(path, Path(path.name)) for path in images]
    raise UserError(f"{place}: does not exist; name an image or a folder of images")


def _images(paths: Iterable[Path], leave_out: Path | None) -> list[Path]:
    """The images among the paths, sorted."""
    return sorted(
        path
        for path in paths
        if path.suffix.lower() in SUFFIXES and not (leave_out and leave_out in path.parents)
    )


def overlay_names(sources: Sequence[Source], taken: Collection[str] = ()) -> list[str]:
    """A .jpg name for each image, numbered where two have the same name.

    Args:
        taken: names that are no longer free.
    """
    names: list[str] = []
    used = {name.lower() for name in taken}
    for source in sources:
        name, copy = source.inside.with_suffix(".jpg").as_posix(), 1
        while name.lower() in used:
            copy += 1
            name = source.inside.with_name(f"{source.inside.stem}_{copy}.jpg").as_posix()
        used.add(name.lower())
        names.append(name)
    return names
