"""Predictions on disk: a line an image as they come, and one COCO file of them all at the end.

`predictions.jsonl` begins with the settings that made it. Of several processes, process r > 0
writes `predictions.<r>.jsonl`, which the main one adds to its own. What a crash leaves is whole but
for its last line, which is dropped.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mrcnn.errors import UserError
from mrcnn.files import check_writable, replacing

T = TypeVar("T")
Record = dict[str, Any]

LINES, RESULTS = "predictions.jsonl", "predictions.json"
_PART = re.compile(r"predictions\.\d+\.jsonl")


class Lines:
    """The lines of one process, each on disk before the next image is looked at."""

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.path = folder / (f"predictions.{rank}.jsonl" if rank else LINES)
        self.file = _told(self.path, lambda: self.path.open("ab", buffering=0))

    def add(self, image: Record, annotations: Sequence[Record], overlay: str | None) -> None:
        """The objects of an image.

        Args:
            image: of a COCO file, without its id; of a video, with the number of the `frame`.
            annotations: of a COCO file, without ids.
            overlay: name of the picture drawn of it.
        Raises:
            UserError: if the system cannot write them.
        """
        self._write({"image": image, "overlay": overlay, "annotations": annotations})

    def end_video(self, name: str, overlay: str | None) -> None:
        """All frames of a video are written: images of its name with their number as `frame`."""
        self._write({"video": name, "overlay": overlay})

    def _write(self, record: Record) -> None:
        line = json.dumps(record).encode() + b"\n"
        _told(self.path, lambda: self.file.write(line))

    def close(self) -> None:
        _told(self.path, self.file.close)


def begin(folder: Path, settings: Record) -> None:
    """Get a folder ready for new lines of all processes; called by the main one alone.

    Args:
        settings: what the predictions follow from.
    Raises:
        UserError: if the system cannot write there.
    """
    check_writable(folder / RESULTS)
    with replacing(folder / LINES) as draft:
        draft.write_text(json.dumps({"settings": settings}) + "\n")
    for part in _parts(folder):
        _told(part, part.unlink)


def resumed(folder: Path, settings: Record) -> dict[str, str | None] | None:
    """Get a folder ready for more lines of all processes; called by the main one alone.

    Returns:
        Of each image that has its line, and each video that has all of them, the name of its
        overlay; None if there are no lines at all.
    Raises:
        UserError: if the system cannot write there, or the lines there follow from other settings.
    """
    path = folder / LINES
    if not path.exists():
        return None
    _gather(folder)
    header: Record = next(_records(path), (0, {}))[1].get("settings", {})
    if header != settings:
        made = [
            f"{name} {header.get(name)}" for name in settings if header.get(name) != settings[name]
        ]
        raise UserError(
            f"--resume: {path} was made with {', '.join(made)}; give the same, or another --out"
        )
    done = {}
    for _, record in _records(path):
        if "video" in record:
            done[record["video"]] = record["overlay"]
        elif "image" in record and "frame" not in record["image"]:
            done[record["image"]["file_name"]] = record["overlay"]
    return done


def finish(folder: Path, names: Iterable[str], categories: Sequence[Record]) -> int:
    """Write `predictions.json` from the lines of all processes; called by the main one alone.

    Only one line is in memory at a time. Images come in the order of `names`, then by their own
    names what else has a line; ids count from 1.

    Returns:
        How many images it holds.
    Raises:
        UserError: if the system cannot write there.
    """
    _gather(folder)
    path = folder / LINES
    place = {name: number for number, name in enumerate(names)}
    offsets: dict[tuple[int, str, int], int] = {}
    for offset, record in _records(path):
        if "image" in record:
            name, frame = record["image"]["file_name"], record["image"].get("frame", 0)
            # What has two lines, as frames of a video that was begun twice, keeps the later.
            offsets[place.get(name, len(place)), name, frame] = offset
    ordered = [offsets[key] for key in sorted(offsets)]
    with replacing(folder / RESULTS) as draft, draft.open("w") as out, path.open("rb") as lines:

        def records() -> Iterator[Record]:
            for offset in ordered:
                lines.seek(offset)
                yield json.loads(lines.readline())

        out.write('{"images": [')
        _write_list(out.write, ({"id": i, **r["image"]} for i, r in enumerate(records(), 1)))
        out.write(f'],\n"categories": {json.dumps(categories)},\n"annotations": [')
        annotations = (
            {"image_id": i, **annotation}
            for i, record in enumerate(records(), 1)
            for annotation in record["annotations"]
        )
        _write_list(out.write, ({"id": i, **entry} for i, entry in enumerate(annotations, 1)))
        out.write("]}\n")
    return len(ordered)


def _write_list(write: Callable[[str], Any], items: Iterable[Mapping[str, Any]]) -> None:
    for number, item in enumerate(items):
        write((",\n" if number else "\n") + json.dumps(item))


def _gather(folder: Path) -> None:
    """Put the whole lines of all processes into one file."""
    path = folder / LINES

    def act() -> None:
        with path.open("r+b") as out:
            whole = sum(len(line) for line in out if line.endswith(b"\n"))
            out.truncate(whole)
            out.seek(whole)
            for part in _parts(folder):
                with part.open("rb") as lines:
                    out.writelines(line for line in lines if line.endswith(b"\n"))
                out.flush()
                os.fsync(out.fileno())
                part.unlink()

    _told(path, act)


def _parts(folder: Path) -> list[Path]:
    """The lines of the other processes."""
    return sorted(path for path in folder.glob("*.jsonl") if _PART.fullmatch(path.name))


def _records(path: Path) -> Iterator[tuple[int, Record]]:
    """Where each line begins, and what it says."""
    offset = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                image = record.get("image", {"file_name": ""})
                assert isinstance(image["file_name"], str)
            except (ValueError, AttributeError, KeyError, TypeError, AssertionError):
                raise UserError(
                    f"{path}: line {number} is damaged; remove the line, and give --resume"
                ) from None
            yield offset, record
            offset += len(line)


def _told(path: Path, act: Callable[[], T]) -> T:
    """What `act` gives; an error of the system becomes a `UserError`."""
    try:
        return act()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); make room there and give --resume, or "
            "name another place"
        ) from error
