"""Input files of `mrcnn predict`: images and videos from files, folders, patterns and lists."""

from __future__ import annotations

import glob
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mrcnn.data.images import SUFFIXES
from mrcnn.errors import UserError
from mrcnn.inference.video import CAMERA
from mrcnn.inference.video import SUFFIXES as VIDEO_SUFFIXES

LIST = Path("-")  # file names on standard input, one per line


@dataclass(frozen=True)
class Source:
    """An image file, a video file, or a camera."""

    path: Path
    relative: Path  # to the folder that was named, if any

    @property
    def is_video(self) -> bool:
        """True if the source gives several frames."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES or str(self.path).startswith(CAMERA)


def find_images(
    places: Sequence[Path], recursive: bool = False, exclude: Path | None = None
) -> list[Source]:
    """List the given files, and the images in the given folders by name.

    A file named explicitly is accepted whatever its suffix. Videos in folders are left out.

    Args:
        places: files, folders, patterns such as `shots/**/*.jpg`, `camera:0`, or `-` for a list on
            standard input.
        recursive: also search subfolders.
        exclude: a folder that is not searched when it is found inside another one.

    Raises:
        UserError: if a place does not exist, or a folder or pattern has no images.
    """
    sources: dict[Path, Source] = {}
    for place in places:
        for source in _find_in(place, recursive, exclude):
            sources.setdefault(source.path, source)
    return list(sources.values())


def overlay_names(sources: Sequence[Source], taken: Collection[str] = ()) -> list[str]:
    """Return a file name for the overlay of each source; equal names are numbered.

    Args:
        sources: images and videos.
        taken: names that are in use.
    """
    names: list[str] = []
    used = {name.lower() for name in taken}
    for source in sources:
        stem = source.relative.stem.replace(":", "")  # which may leave nothing
        suffix = ".mp4" if source.is_video else ".jpg"
        name, copy = source.relative.with_name(f"{stem}{suffix}").as_posix(), 1
        while name.lower() in used:
            copy += 1
            name = source.relative.with_name(f"{stem}_{copy}{suffix}").as_posix()
        used.add(name.lower())
        names.append(name)
    return names


def _find_in(place: Path, recursive: bool, exclude: Path | None) -> list[Source]:
    known = " ".join(SUFFIXES)
    if place == LIST:
        lines = [Path(line) for line in sys.stdin.read().splitlines() if line.strip()]
        if not lines or LIST in lines:
            raise UserError("-: standard input must list files or folders, one per line")
        return find_images(lines, recursive, exclude)
    if place.is_dir():
        paths = place.rglob("*") if recursive else place.iterdir()
        if not (images := _with_suffix(paths, None if exclude == place else exclude)):
            hint = "" if recursive else "; --recursive also searches subfolders"
            raise UserError(f"{place}: has no images ({known}); name the folder of images{hint}")
        return [Source(path, path.relative_to(place)) for path in images]
    if place.exists() or str(place).startswith(CAMERA):
        return [Source(place, Path(place.name))]
    if glob.has_magic(str(place)):
        matches = (Path(match) for match in glob.iglob(str(place), recursive=True))
        if not (images := _with_suffix(matches, exclude, SUFFIXES + VIDEO_SUFFIXES)):
            raise UserError(f"{place}: matches no images ({known}); correct the pattern")
        return [Source(path, Path(path.name)) for path in images]
    raise UserError(f"{place}: does not exist; name an image or a folder of images")


def _with_suffix(
    paths: Iterable[Path], exclude: Path | None, suffixes: tuple[str, ...] = SUFFIXES
) -> list[Path]:
    return sorted(
        path
        for path in paths
        if path.suffix.lower() in suffixes and not (exclude and exclude in path.parents)
    )
