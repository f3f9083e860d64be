"""Detections in the form of COCO result files: read, and checked entry by entry."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrcnn.data.coco.truth import Record
from mrcnn.errors import UserError
from mrcnn.evaluation.coco import FIELDS, Kind
from mrcnn.evaluation.truth import GroundTruth
from mrcnn.io.json_files import read_json, shown
from mrcnn.ops.rle import parse_counts


def read_results(file: Path, truth: GroundTruth, kinds: Sequence[Kind] = ()) -> list[Record]:
    """Read and check a COCO result file.

    Args:
        file: JSON file with a list of detections.
        truth: Annotations that the detections were made for.
        kinds: Fields that every entry must have. Without any, either may be absent.

    Raises:
        UserError: If the file cannot be read, an entry names an unknown image, or a field is
            absent or wrong.
    """
    entries: list[Record] = read_json(file)
    check_entries(entries, kinds, truth, str(file))
    if entries and not kinds_of(entries):
        raise UserError(
            f"{file}: neither has every entry a bbox, nor every one a segmentation; there is "
            "nothing to compare"
        )
    return entries


def kinds_of(entries: Sequence[Record]) -> tuple[Kind, ...]:
    """Return the kinds that every entry has: boxes, masks, or both."""
    return tuple(k for k, field in FIELDS.items() if all(field in entry for entry in entries))


def unknown_categories(entries: Sequence[Record], truth: GroundTruth) -> list[str]:
    """Return a note if there are entries of categories that the annotations lack."""
    known = {category["id"] for category in truth.categories}
    other = Counter(e["category_id"] for e in entries if e["category_id"] not in known)
    if not other:
        return []
    return [
        f"{other.total()} of {len(entries)} detections are left out: the annotations have no "
        f"category {', '.join(map(shown, sorted(other)[:5]))}"
    ]


def check_entries(
    entries: Any, kinds: Sequence[Kind], truth: GroundTruth, source: str = "results"
) -> None:
    """Check that each entry names a known image and holds valid fields.

    Args:
        entries: Content of a result file.
        kinds: Fields that every entry must have. Without any, either may be absent.
        truth: Annotations that the detections were made for.
        source: Name of the file, for messages.

    Raises:
        UserError: Naming the file, the entry, the field, its value and the fix.
    """
    if not isinstance(entries, list):
        raise UserError(f"{source}: must be a list of detections, got {shown(entries)}")
    required = {"image_id", "category_id", "score", *(FIELDS[kind] for kind in kinds)}
    checked = required if kinds else required | set(FIELDS.values())
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or (lacking := sorted(required - set(entry))):
            lacks = ", ".join(lacking) if isinstance(entry, dict) else "all fields"
            raise UserError(f"{source}: entry {position} lacks {lacks}, got {shown(entry)}")
        image_id = entry["image_id"]
        if not _is_number(image_id) or image_id not in truth.sizes:
            raise UserError(
                f"{source}: entry {position}: image_id must be the id of an image of the "
                f"annotations, got {shown(image_id)}; score it against the file it was made for"
            )
        for field in checked & entry.keys():
            if rule := _broken_rule(field, entry[field], truth.sizes[image_id]):
                raise UserError(
                    f"{source}: entry {position}: {field} must be {rule}, got "
                    f"{shown(entry[field])}; write the results again"
                )


def _broken_rule(field: str, value: Any, size: tuple[int, int]) -> str | None:
    """Return what the value of a field must be, or None if it is valid.

    The (height, width) `size` is that of the image.
    """
    if field == "score":
        return None if _is_number(value) else "a finite number"
    if field == "category_id":
        return None if _is_number(value) and value == int(value) else "a whole number"
    if field == "bbox":
        is_box = isinstance(value, list | tuple) and len(value) == 4 and all(map(_is_number, value))
        if is_box and min(value[2:]) >= 0:
            return None
        return "four finite numbers (x, y, width, height)"
    if field == "segmentation":
        if not isinstance(value, dict) or value.get("size") != [*size]:
            return f"RLE whose size is {[*size]}, the [height, width] of the image"
        counts = value.get("counts")
        try:
            if not isinstance(counts, str | bytes):
                raise TypeError("it is not a text")
            parse_counts(counts, *size)
        except (TypeError, ValueError) as error:
            return f"compressed RLE that fills the image ({str(error).splitlines()[0]})"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and math.isfinite(value)
