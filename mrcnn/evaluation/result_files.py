"""Detections in the form of COCO result files: read, and checked entry by entry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrcnn.data.coco.annotations import check_segmentation
from mrcnn.data.coco.tables import is_id
from mrcnn.data.coco.tidy import tidy
from mrcnn.data.coco.truth import Record
from mrcnn.data.image_files import Size
from mrcnn.data.problems import Problems
from mrcnn.errors import UserError
from mrcnn.evaluation.coco import FIELDS, Kind
from mrcnn.evaluation.truth import GroundTruth
from mrcnn.io.json_files import is_number, read_json, shown
from mrcnn.ops.rle import Rle, from_segmentation


def read_results(file: Path, truth: GroundTruth, kinds: Sequence[Kind] = ()) -> list[Record]:
    """Read and check a COCO result file.

    Values are put into COCO's form, and masks into compressed RLE.

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
        entries: Content of a result file. Its values are put into COCO's form.
        kinds: Fields that every entry must have. Without any, either may be absent.
        truth: Annotations that the detections were made for.
        source: Name of the file, for messages.

    Raises:
        UserError: Naming the file, the entry, the field, its value and the fix.
    """
    if not isinstance(entries, list):
        fix = "name the file of detections"
        if isinstance(entries, dict) and "annotations" in entries:
            fix = f"it is an annotation file; {fix}"
        raise UserError(f"{source}: must be a list of detections, got {shown(entries)}; {fix}")
    tidy([entry for entry in entries if isinstance(entry, dict)], "results")
    required = {"image_id", "category_id", "score", *(FIELDS[kind] for kind in kinds)}
    checked = required if kinds else required | set(FIELDS.values())
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or (lacking := sorted(required - set(entry))):
            lacks = ", ".join(lacking) if isinstance(entry, dict) else "all fields"
            raise UserError(f"{source}: entry {position} lacks {lacks}, got {shown(entry)}")
        image_id = entry["image_id"]
        if not is_id(image_id) or image_id not in truth.sizes:
            raise UserError(
                f"{source}: entry {position}: image_id must be the id of an image of the "
                f"annotations, got {shown(image_id)}; score it against the file it was made for"
            )
        for field in checked & entry.keys():
            if rule := _broken_rule(field, entry[field]):
                raise UserError(
                    f"{source}: entry {position}: {field} must be {rule}, got "
                    f"{shown(entry[field])}; write the results again"
                )
        if "segmentation" in checked & entry.keys():
            mask = entry["segmentation"]
            entry["segmentation"] = _compressed(mask, truth.sizes[image_id], source, position)


def _broken_rule(field: str, value: Any) -> str | None:
    """Return what the value of a field must be, or None if it is valid."""
    if field == "score":
        return None if is_number(value) else "a finite number"
    if field == "category_id":
        return None if is_number(value) and value == int(value) else "a whole number"
    if field == "bbox":
        is_box = isinstance(value, list | tuple) and len(value) == 4 and all(map(is_number, value))
        if is_box and min(value[2:]) >= 0:
            return None
        return "four finite numbers (x, y, width, height)"
    return None


def _compressed(segmentation: Any, size: Size, source: str, position: int) -> Rle:
    """Return compressed RLE of a mask of an image of the (height, width) `size`."""
    if isinstance(segmentation, dict) and isinstance(counts := segmentation.get("counts"), bytes):
        segmentation = {**segmentation, "counts": counts.decode("latin-1")}
    problems = Problems(Path(source))
    check_segmentation(segmentation, size, f"entry {position}", problems)
    if problems.items:
        raise UserError(f"{source}: {problems.items[0]}")
    return from_segmentation(segmentation, *size)
