"""Input files of `mrcnn predict`: images and videos from files, folders, patterns and lists."""

from __future__ import annotations

import glob
import os
import sys
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mrcnn.data.image_files import SUFFIXES, is_hidden, is_read
from mrcnn.data.problems import listed
from mrcnn.errors import UserError
from mrcnn.inference.video import CAMERA, VideoReader
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


@dataclass(frozen=True)
class Found:
    """Images and videos, and a note for each folder or pattern of which something is left out."""

    sources: list[Source]
    notes: list[str]


def find_images(
    places: Sequence[Path], recursive: bool = False, exclude: Path | None = None
) -> Found:
    """List the given files, and the images in the given folders by name.

    A file named explicitly is accepted whatever its suffix. In folders, hidden files are left out,
    and videos; so are images in formats that are not read.

    Args:
        places: files, folders, patterns such as `shots/**/*.jpg`, `camera:0`, or `-` for a list on
            standard input.
        recursive: also search subfolders.
        exclude: the folder of the output, which is not searched inside another one.

    Raises:
        UserError: if a place does not exist or is `exclude`, or a folder or pattern has no images.
    """
    sources: dict[Path, Source] = {}
    notes: list[str] = []
    for place in places:
        found = _find_in(place, recursive, exclude)
        notes += found.notes
        for source in found.sources:
            sources.setdefault(source.path, source)
    return Found(list(sources.values()), notes)


def images_at(place: Any) -> Iterator[Path | NDArray[Any]] | None:
    """Return the images in a folder, those that match a pattern, or the frames of a video.

    Returns:
        None if `place` is something else, such as an image file or an array.

    Raises:
        UserError: if a folder or pattern has no images, or `place` is an address on the network.
    """
    if not isinstance(place, str | os.PathLike):
        return None
    path, text = Path(place), os.fspath(place)
    if text.startswith(("http://", "https://")):
        line = f"pass urllib.request.urlopen({text!r}).read()"
        raise UserError(f"{text}: is an address, and only files are read; {line}")
    is_pattern = glob.has_magic(text) and not os.path.lexists(path)
    if not (is_pattern or os.path.isdir(text) or path.suffix.lower() in VIDEO_SUFFIXES):
        return None
    found = find_images([path])
    for note in found.notes:
        warnings.warn(note, stacklevel=3)
    return (
        image
        for source in found.sources
        for image in (VideoReader(source.path) if source.is_video else [source.path])
    )


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


def _find_in(place: Path, recursive: bool, exclude: Path | None) -> Found:
    if place == LIST:
        lines = [Path(line) for line in sys.stdin.read().splitlines() if line.strip()]
        if not lines or LIST in lines:
            raise UserError("-: standard input must list files or folders, one per line")
        return find_images(lines, recursive, exclude)
    if place.is_dir():
        if exclude is not None and os.path.realpath(place) == os.path.realpath(exclude):
            problem = "is a folder of images, where overlays would be taken for images later"
            raise UserError(f"--out {exclude}: {problem}; name another folder")
        paths = place.rglob("*") if recursive else place.iterdir()
        visible = (path for path in paths if not is_hidden(path.relative_to(place)))
        images, note = _select(visible, exclude, recursive)
        if not images:
            known = " ".join(SUFFIXES)
            raise UserError(
                f"{place}: has no images ({known}){note}; name the folder of images"
                + f"; '{place}/**/*', or --recursive, also searches subfolders" * (not recursive)
            )
        sources = [Source(path, path.relative_to(place)) for path in images]
        return Found(sources, [f"{place}{note}"] if note else [])
    if place.exists() or str(place).startswith(CAMERA):
        return Found([Source(place, Path(place.name))], [])
    if glob.has_magic(str(place)):
        matches = (Path(match) for match in glob.iglob(str(place), recursive=True))
        images, note = _select(matches, exclude, True, VIDEO_SUFFIXES)
        if not images:
            raise UserError(
                f"{place}: matches no images ({' '.join(SUFFIXES)}){note}; correct the pattern"
            )
        sources = [Source(path, Path(path.name)) for path in images]
        return Found(sources, [f"{place}{note}"] if note else [])
    raise UserError(f"{place}: does not exist; name an image or a folder of images")


def _select(
    paths: Iterable[Path], exclude: Path | None, recursive: bool, more: tuple[str, ...] = ()
) -> tuple[list[Path], str]:
    """Return the images, sorted, and what is left out: the rest of a sentence, or nothing."""
    images: list[Path] = []
    left_out: dict[str, list[str]] = {}
    for path in sorted(paths):
        if exclude and (exclude == path or exclude in path.parents):
            continue
        if path.is_dir():
            if not recursive:
                left_out.setdefault("subfolders, without --recursive", []).append(path.name)
            elif path.is_symlink():
                left_out.setdefault("links to folders, to be named", []).append(path.name)
            elif not os.access(path, os.R_OK | os.X_OK):
                left_out.setdefault("folders that may not be read", []).append(path.name)
        elif path.suffix.lower() in more or (read := is_read(path)):
            images.append(path)
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            left_out.setdefault("videos, which must be named", []).append(path.name)
        elif read is False:
            left_out.setdefault("images in formats that are not read", []).append(path.name)
    parts = [f"{len(names)} {kind} ({listed(names)})" for kind, names in left_out.items()]
    return images, f": left out {'; '.join(parts)}" if parts else ""
