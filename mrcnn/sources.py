"""Files, folders, patterns and lists become images and videos, and names for what is drawn."""

from __future__ import annotations

import glob
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mrcnn.data.images import SUFFIXES
from mrcnn.errors import UserError
from mrcnn.video import CAMERA
from mrcnn.video import SUFFIXES as VIDEO_SUFFIXES

LIST = Path("-")  # names on standard input, one a line


@dataclass(frozen=True)
class Source:
    """An image file, a video file, or a camera."""

    path: Path
    inside: Path  # the same, seen from the folder that was asked for

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEO_SUFFIXES or str(self.path).startswith(CAMERA)

    def overlay(self, copy: int) -> str:
        """Name of what is drawn of it; of the first with that name `copy` is 1."""
        stem = self.inside.stem.replace(":", "")
        number = f"_{copy}" if copy > 1 else ""
        suffix = ".mp4" if self.is_video else ".jpg"
        return self.inside.with_name(f"{stem}{number}{suffix}").as_posix()


def find_images(
    places: Sequence[Path], recursive: bool = False, leave_out: Path | None = None
) -> list[Source]:
    """The given files, and the images in the given folders by name; a file given is never doubted.

    Args:
        places: files, folders, patterns as `shots/**/*.jpg`, `camera:0`, or `-` for a list on
            standard input. Videos in folders are left out.
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
    if place.exists() or str(place).startswith(CAMERA):
        return [Source(place, Path(place.name))]
    if glob.has_magic(str(place)):
        matches = (Path(match) for match in glob.iglob(str(place), recursive=True))
        if not (images := _images(matches, leave_out, SUFFIXES + VIDEO_SUFFIXES)):
            raise UserError(f"{place}: matches no images ({known}); correct the pattern")
        return [Source(path, Path(path.name)) for path in images]
    raise UserError(f"{place}: does not exist; name an image or a folder of images")


def _images(
    paths: Iterable[Path], leave_out: Path | None, suffixes: tuple[str, ...] = SUFFIXES
) -> list[Path]:
    """The paths with these suffixes, sorted."""
    return sorted(
        path
        for path in paths
        if path.suffix.lower() in suffixes and not (leave_out and leave_out in path.parents)
    )


def overlay_names(sources: Sequence[Source], taken: Collection[str] = ()) -> list[str]:
    """A name for what is drawn of each source, numbered where two would have the same.

    Args:
        taken: names that are no longer free.
    """
    names: list[str] = []
    used = {name.lower() for name in taken}
    for source in sources:
        copy = 1
        while (name := source.overlay(copy)).lower() in used:
            copy += 1
        used.add(name.lower())
        names.append(name)
    return names
