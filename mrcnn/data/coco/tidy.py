"""Other spellings of COCO records that are clear, put into COCO's own form.

Ids in quotes, whole numbers with a fraction of zero, null for an optional field, polygons as flat
lists or as lists of points: records are changed in place, and each kind of change is counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from mrcnn.io.json_files import is_number

Record = dict[str, Any]

_GONE = object()  # an optional field that is left out
_WHOLE = re.compile(r"\s*\d{1,18}(\.0*)?\s*")


def tidy(records: Sequence[Record], table: str) -> list[str]:
    """Put the records of a table into COCO's form, in place.

    Values that are not clear stay, for the reader to refuse.

    Args:
        records: Records of images, annotations or categories, or detections of a result file.
        table: "images", "annotations", "categories" or "results".

    Returns:
        A note for each kind of change, with its count.
    """
    changes: Counter[tuple[str, str]] = Counter()
    for name, (plain, convert) in _FIELDS[table].items():
        # One type in all records is by far the most frequent case.
        if {type(record.get(name, plain[0]())) for record in records} <= {*plain}:
            continue
        for record in records:
            if name in record and type(value := record[name]) not in plain:
                _change(record, name, convert(value), changes)
    if table in ("annotations", "results"):
        for record in records:
            box = record.get("bbox", _BOX)
            if type(box) is not list or len(box) != 4 or type(box[0]) is str:
                _change(record, "bbox", _box(box), changes)
            mask = record.get("segmentation")
            if type(mask) is list:
                if not all(type(r) is list and len(r) > 5 and type(r[0]) in _PLAIN for r in mask):
                    _change(record, "segmentation", _rings(mask), changes)
            elif type(mask) is dict and (counts := mask.get("counts")) and _is_odd(counts):
                _change(record, "segmentation", _counts(mask, counts), changes)
    return [f"{table}.{name} ({count:,}): {what}" for (name, what), count in changes.items()]


def as_number(value: object) -> float | None:
    """Return a number, also one in quotes; None for anything else."""
    if isinstance(value, str) and len(value) < 40:
        try:
            value = float(value)
        except ValueError:
            return None
    return value if is_number(value) else None


Change = tuple[Any, str] | None  # the value in COCO's form, and what was done


def _change(record: Record, name: str, change: Change, changes: Counter[tuple[str, str]]) -> None:
    if change is not None:
        record[name], what = change
        if record[name] is _GONE:
            del record[name]
        changes[name, what] += 1


def _whole(value: object) -> Change:
    if isinstance(value, float) and value.is_integer() and 0 <= value < 2**53:
        return int(value), "whole numbers with a decimal point are read as whole numbers"
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(float(value)) if "." in value else int(value), "text is read as a whole number"
    return None


def _flag(value: object) -> Change:
    if value is None:
        return _GONE, "null is read as 0"
    if isinstance(value, bool):
        return int(value), "true and false are read as 1 and 0"
    return _whole(value)


def _amount(value: object) -> Change:
    if value is None:
        return _GONE, "null is left out, and computed from the mask"
    number = as_number(value)
    return None if number is None else (number, "text is read as a number")


def _score(value: object) -> Change:
    return None if value is None else _amount(value)


def _box(value: object) -> Change:
    if value is None or value == []:
        return _GONE, "empty boxes are left out, and taken from the mask"
    if not isinstance(value, list) or len(value) != 4:
        return None
    box = [*map(as_number, value)]
    return None if None in box else (box, "text is read as numbers")


def _rings(mask: list[Any]) -> Change:
    """Return the polygons of flat lists and of lists of points, without those below 3 points."""
    if len(mask) == 1 and isinstance(mask[0], dict):
        return mask[0], "RLE in a list is taken out of it"
    if (ring := _ring(mask)) is not None:
        what = "flat lists" if not isinstance(mask[0], list) else "lists of points [x, y]"
        return [ring], f"{what} are read as one polygon each"
    rings = [_ring(ring) for ring in mask]
    sound = [ring for ring in rings if ring is not None]
    if len(sound) == len(rings) > 0:
        return sound, "polygons of texts or points [x, y] are read as lists of numbers"
    # As Detectron2 reads them. Others may have lost a number, and an object with it.
    strays = [r for r, ring in zip(mask, rings, strict=True) if ring is None]
    if sound and all(isinstance(ring, list) and len(ring) < 6 for ring in strays):
        return sound, "polygons of fewer than 3 points are left out beside others of the object"
    return None


def _ring(value: object) -> list[float] | None:
    """Return at least 3 points as x, y, x, y, …; None for anything else."""
    if not isinstance(value, list) or not value:
        return None
    if all(isinstance(point, list) and len(point) == 2 for point in value):
        value = [*chain.from_iterable(value)]
    if len(value) < 6 or len(value) % 2 or isinstance(value[0], bool):
        return None
    if type(value[0]) in (int, float):
        return value if all(type(v) in (int, float) for v in value) else None
    numbers = [as_number(v) for v in value]
    return None if None in numbers else numbers  # type: ignore[return-value]


def _is_odd(counts: object) -> bool:
    if isinstance(counts, list):
        return type(counts[0]) is float
    return isinstance(counts, str) and counts[:2] in ("b'", 'b"')


def _counts(mask: Record, counts: str | list[Any]) -> Change:
    """Return RLE whose counts are the text of Python bytes, or have decimal points."""
    if isinstance(counts, str):
        text = counts[2:-1].replace("\\\\", "\\")
        return {**mask, "counts": text}, "RLE written as b'…' is read without the b"
    if all(isinstance(n, float) and n.is_integer() for n in counts):
        return {**mask, "counts": [*map(int, counts)]}, "counts of RLE are read as whole numbers"
    return None


_PLAIN = (int, float)
_BOX = [0, 0, 1, 1]
_Convert = Callable[[object], Change]
_ID: tuple[tuple[type, ...], _Convert] = ((int,), _whole)
_FIELDS: dict[str, dict[str, tuple[tuple[type, ...], _Convert]]] = {
    "images": {"id": _ID, "width": _ID, "height": _ID},
    "annotations": {
        "id": _ID,
        "image_id": _ID,
        "category_id": _ID,
        "iscrowd": ((int,), _flag),
        "area": ((int, float), _amount),
    },
    "categories": {"id": _ID},
    "results": {
        "image_id": _ID,
        "category_id": _ID,
        "score": ((float, int), _score),
    },
}
