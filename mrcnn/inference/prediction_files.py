"""Files of predictions: JSON lines written per image, merged into one COCO file at the end.

`predictions.jsonl` begins with the settings of the run. With several processes, process r > 0
writes `predictions.<r>.jsonl`, and the main process appends it to its own file. After a crash all
lines are complete except the last one, which is dropped.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mrcnn.errors import UserError
from mrcnn.inference.tables import COLUMNS, rows, write_csv
from mrcnn.io.atomic import check_writable, replacing

Record = dict[str, Any]

LINES, RESULTS, TABLE = "predictions.jsonl", "predictions.json", "predictions.csv"
TABLE_MARK = b"^" + ",".join(COLUMNS).encode()  # begins each table


class Lines:
    """The lines of one process, each written before the next image is processed.

    {"image": {…}, "overlay": NAME, "annotations": […]} has the records of a COCO file without ids;
    an image of a video has a `frame` number, and one with a label image its path as `label_image`.
    {"video": PATH, "overlay": NAME} states that all frames of a video are written; `label_image` is
    then the folder of its label images.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.path = folder / (f"predictions.{rank}.jsonl" if rank else LINES)
        with _as_user_error(self.path):
            self.file = self.path.open("ab", buffering=0)

    def write(self, record: Record) -> None:
        """Append a line.

        Raises:
            UserError: if the file cannot be written.
        """
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
        UserError: if the folder cannot be written, or holds predictions.
    """
    for path in (folder / RESULTS, folder / LINES):
        if path.exists():
            raise UserError(
                f"{path}: exists; choose another --out, or add --resume to continue its run"
            )
        check_writable(path)
    with replacing(folder / LINES) as draft:
        draft.write_text(json.dumps({"settings": settings}) + "\n")
    with _as_user_error(folder):
        for path in _other_lines(folder):
            path.unlink()


def resume(folder: Path, settings: Record) -> dict[str, str | None] | None:
    """Prepare the folder of an interrupted run; only the main process calls this.

    Returns:
        The name for the overlay of each finished image and video, or None if there is no run.

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
            finished[record["video"]] = _name(record)
        elif "image" in record and "frame" not in record["image"]:
            finished[record["image"]["file_name"]] = _name(record)
    return finished


def finish(
    folder: Path, names: Iterable[str], categories: Sequence[Record], table: bool = False
) -> None:
    """Write `predictions.json` from the lines of all processes; only the main process calls this.

    Only one line is in memory at a time. Ids count from 1.

    Args:
        folder: of the predictions.
        names: file names in the order of the output. Other images with a line follow by name.
        categories: records of the COCO file.
        table: also write `predictions.csv`.

    Raises:
        UserError: if the folder cannot be written.
    """
    _merge_lines(folder)
    order = {name: number for number, name in enumerate(names)}
    offsets: dict[tuple[int, str, int], int] = {}
    for offset, record in _records(folder / LINES):
        if "image" in record:
            name, frame = record["image"]["file_name"], record["image"].get("frame", 0)
            # A later line replaces an earlier one: frames of a video that was started twice.
            offsets[order.get(name, len(order)), name, frame] = offset

    def records() -> Iterator[tuple[int, Record]]:
        with (folder / LINES).open("rb") as lines:
            for image_id, key in enumerate(sorted(offsets), start=1):
                lines.seek(offsets[key])
                yield image_id, json.loads(lines.readline())

    if table:
        class_names = {category["id"]: category["name"] for category in categories}

        def lines() -> Iterator[tuple[str | int | float, ...]]:
            yield (*COLUMNS, "frame")
            for _, record in records():
                image, objects = record["image"], record["annotations"]
                of_objects = [class_names[entry["category_id"]] for entry in objects]
                for row in rows(image["file_name"], of_objects, objects):
                    yield (*row, image.get("frame", ""))

        write_csv(folder / TABLE, lines())
    with replacing(folder / RESULTS) as draft, draft.open("w") as out:

        def write_list(items: Iterable[Mapping[str, Any]]) -> None:
            for number, item in enumerate(items):
                out.write((",\n" if number else "\n") + json.dumps(item))

        ids = itertools.count(1)
        out.write('{"images": [')
        write_list({"id": image_id, **record["image"]} for image_id, record in records())
        out.write(f'],\n"categories": {json.dumps(categories)},\n"annotations": [')
        write_list(
            {"id": next(ids), "image_id": image_id, **annotation}
            for image_id, record in records()
            for annotation in record["annotations"]
        )
        out.write("]}\n")


def _name(record: Record) -> str | None:
    """Return the name for the overlay of an image or a video, also if only label images exist."""
    if record["overlay"] or "label_image" not in record:
        name: str | None = record["overlay"]
        return name
    path = Path(*Path(record["label_image"]).parts[1:])
    return f"{path.as_posix()}.mp4" if "video" in record else path.with_suffix(".jpg").as_posix()


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
    files = folder.glob("predictions.*.jsonl")
    return sorted(path for path in files if path.stem.partition(".")[2].isdecimal())


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
