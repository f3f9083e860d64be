"""Files of predictions: JSON lines written per image, merged into one COCO file at the end.

`predictions.jsonl` begins with the settings of the run. With several processes, process r > 0
writes `predictions.<r>.jsonl`, and the main process appends it to its own file. After a crash all
lines are complete except the last one, which is dropped.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mrcnn.errors import UserError
from mrcnn.io.atomic import check_writable, replacing

Record = dict[str, Any]

LINES, RESULTS = "predictions.jsonl", "predictions.json"
_OTHER_LINES = re.compile(r"predictions\.\d+\.jsonl")


class Lines:
    """The lines of one process, each written before the next image is processed."""

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.path = folder / (f"predictions.{rank}.jsonl" if rank else LINES)
        with _as_user_error(self.path):
            self.file = self.path.open("ab", buffering=0)

    def add(self, image: Record, annotations: Sequence[Record], overlay: str | None) -> None:
        """Write the objects of an image.

        Args:
            image: record of a COCO file without its id; for a video, with the number of the
                `frame`.
            annotations: records of a COCO file without ids.
            overlay: name of the overlay that shows them.

        Raises:
            UserError: if the file cannot be written.
        """
        self._write({"image": image, "overlay": overlay, "annotations": annotations})

    def end_video(self, name: str, overlay: str | None) -> None:
        """Record that all frames of a video are written."""
        self._write({"video": name, "overlay": overlay})

    def _write(self, record: Record) -> None:
        with _as_user_error(self.path):
            self.file.write(json.dumps(record).encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        with _as_user_error(self.path):
            self.file.close()


def begin(folder: Path, settings: Record) -> None:
    """Prepare a folder for a new run; only the main process calls this.

    Args:
        folder: of the predictions.
        settings: everything that determines the predictions.

    Raises:
        UserError: if the folder cannot be written.
    """
    check_writable(folder / RESULTS)
    with replacing(folder / LINES) as draft:
        draft.write_text(json.dumps({"settings": settings}) + "\n")
    with _as_user_error(folder):
        for path in _other_lines(folder):
            path.unlink()


def resume(folder: Path, settings: Record) -> dict[str, str | None] | None:
    """Prepare the folder of an interrupted run; only the main process calls this.

    Returns:
        The name of the overlay of each finished image and video, or None if there is no run.

    Raises:
        UserError: if the folder cannot be written, or its run had other settings.
    """
    path = folder / LINES
    if not path.exists():
        return None
    _merge_lines(folder)
    header: Record = next(_records(path), (0, {}))[1].get("settings", {})
    if differing := [name for name in settings if header.get(name) != settings[name]]:
        previous = ", ".join(f"{name} {header.get(name)}" for name in differing)
        raise UserError(
            f"--resume: {path} was made with {previous}; use the same settings or another --out"
        )
    finished = {}
    for _, record in _records(path):
        if "video" in record:
            finished[record["video"]] = record["overlay"]
        elif "image" in record and "frame" not in record["image"]:
            finished[record["image"]["file_name"]] = record["overlay"]
    return finished


def finish(folder: Path, names: Iterable[str], categories: Sequence[Record]) -> int:
    """Write `predictions.json` from the lines of all processes; only the main process calls this.

    Only one line is in memory at a time. Ids count from 1.

    Args:
        folder: of the predictions.
        names: file names in the order of the output. Other images with a line follow by name.
        categories: records of the COCO file.

    Returns:
        The number of images written.

    Raises:
        UserError: if the folder cannot be written.
    """
    _merge_lines(folder)
    path = folder / LINES
    order = {name: number for number, name in enumerate(names)}
    offsets: dict[tuple[int, str, int], int] = {}
    for offset, record in _records(path):
        if "image" in record:
            name, frame = record["image"]["file_name"], record["image"].get("frame", 0)
            # A later line replaces an earlier one: frames of a video that was started twice.
            offsets[order.get(name, len(order)), name, frame] = offset
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


def _merge_lines(folder: Path) -> None:
    """Move the complete lines of all processes into the file of the main process."""
    path = folder / LINES
    with _as_user_error(path), path.open("r+b") as out:
        complete = sum(len(line) for line in out if line.endswith(b"\n"))
        out.truncate(complete)
        out.seek(complete)
        for other in _other_lines(folder):
            with other.open("rb") as lines:
                out.writelines(line for line in lines if line.endswith(b"\n"))
            out.flush()
            os.fsync(out.fileno())
            other.unlink()


def _other_lines(folder: Path) -> list[Path]:
    """Return the files of the processes other than the main one."""
    return sorted(path for path in folder.glob("*.jsonl") if _OTHER_LINES.fullmatch(path.name))


def _records(path: Path) -> Iterator[tuple[int, Record]]:
    """Yield the byte offset and the content of each line."""
    offset = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                image = record.get("image", {"file_name": ""})
                assert isinstance(image["file_name"], str)
            except (ValueError, AttributeError, KeyError, TypeError, AssertionError):
                raise UserError(
                    f"{path}: line {number} is damaged; remove the line and use --resume"
                ) from None
            yield offset, record
            offset += len(line)


@contextmanager
def _as_user_error(path: Path) -> Iterator[None]:
    """Turn an error of the system inside the block into a `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); free some space and use --resume, or "
            "choose another folder"
        ) from error
