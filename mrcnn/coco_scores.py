"""Average precision and recall as COCO defines them, by pycocotools or hotcoco, and files of
results."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pycocotools import mask as rle_codec
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mrcnn.data.coco_truth import Record, filled_truth
from mrcnn.data.instances import host
from mrcnn.data.problems import read_json, shown
from mrcnn.errors import UserError

Kind = Literal["bbox", "segm"]
Backend = Literal["pycocotools", "hotcoco"]
FIELDS: dict[Kind, str] = {"bbox": "bbox", "segm": "segmentation"}  # of an entry

AREAS = {"": 0, "s": 1, "m": 2, "l": 3}  # suffix of a figure -> position in COCOeval's arrays
_AT_50, _AT_75 = 0, 5  # positions among the IoU thresholds 0.50, 0.55, … 0.95


def score_results(
    ground_truth: Path | Record,
    results: Path | list[Record],
    kind: Kind,
    max_detections: int = 100,
    image_ids: Collection[int] | None = None,
    backend: Backend = "pycocotools",
) -> dict[str, float]:
    """Score a COCO result file.

    The area of a detected mask is that of its pixels, also where the entry has a `bbox`, whose
    area pycocotools would take instead; and an annotation with id 0 can be found like any other.

    Args:
        ground_truth: COCO annotations; `area`, `bbox` and `iscrowd` are filled in where absent.
        results: entries of a result file.
        kind: whether boxes or masks are compared.
        max_detections: an image and class; the best ones count.
        image_ids: score these images only.
        backend: what computes the figures; hotcoco's are the same, and sooner there.
    Returns:
        AP, AP50, AP75, APs, APm, APl and AR, ARs, ARm, ARl at `max_detections`, AR1, AR10; and of
        every class AP/<class>, AP50/<class>, AP75/…, APs/…, APm/…, APl/… and AR/…; -1 where there
        is no ground truth.
    Raises:
        UserError: if a file cannot be read, or an entry is of no image, or lacks a field or has a
            wrong value there; or if the backend is not installed.
    """
    truth = read_json(ground_truth) if isinstance(ground_truth, Path) else ground_truth
    source = str(results) if isinstance(results, Path) else "results"
    entries = read_json(results) if isinstance(results, Path) else results
    check_entries(entries, [kind], truth, source)
    kept = {image["id"] for image in truth["images"]}
    if image_ids is not None:
        kept &= set(image_ids)
    truth_part, found_part = _truth_part(truth, kept), _found_part(truth, entries, kind)
    limits = [min(1, max_detections), min(10, max_detections), max_detections]
    judge = _by_hotcoco if backend == "hotcoco" else _by_pycocotools
    precision, recall = judge(truth_part, found_part, kind, sorted(kept), limits)
    categories = sorted(truth["categories"], key=lambda category: int(category["id"]))
    return _figures(precision, recall, [category["name"] for category in categories])


def read_results(file: Path, truth: Record) -> list[Record]:
    """The entries of a COCO result file, checked.

    Args:
        truth: content of the annotation file that they were made for.
    Raises:
        UserError: if the file cannot be read, or an entry is of no image, or lacks a field or has a
            wrong value there.
    """
    entries: list[Record] = read_json(file)
    check_entries(entries, [], truth, str(file))
    if entries and not kinds_of(entries):
        raise UserError(
            f"{file}: neither has every entry a bbox, nor every one a segmentation; there is "
            "nothing to compare"
        )
    return entries


def kinds_of(entries: Sequence[Record]) -> list[Kind]:
    """What can be compared: that which every entry has."""
    return [kind for kind, field in FIELDS.items() if all(field in entry for entry in entries)]


def check_entries(entries: Any, kinds: Sequence[Kind], truth: Record, source: str) -> None:
    """Each entry names an image of the ground truth, and holds what these kinds compare.

    Without kinds a box or a mask may be absent, but none may be wrong.

    Raises:
        UserError: naming `source`, the entry, and what is wrong there.
    """
    if not isinstance(entries, list):
        raise UserError(f"{source}: must be a list of detections, got {shown(entries)}")
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    fields = {"image_id", "category_id", "score", *(FIELDS[kind] for kind in kinds)}
    read = fields if kinds else fields | set(FIELDS.values())
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or (lacking := sorted(fields - set(entry))):
            lacks = ", ".join(lacking) if isinstance(entry, dict) else "all fields"
            raise UserError(f"{source}: entry {position} lacks {lacks}, got {shown(entry)}")
        image_id = entry["image_id"]
        if not _is_number(image_id) or image_id not in sizes:
            raise UserError(
                f"{source}: entry {position}: image_id must be of an image of the annotations, "
                f"got {shown(image_id)}; score it against the file it was made for"
            )
        for field in read & entry.keys():
            if rule := _broken_rule(field, entry[field], sizes[image_id]):
                raise UserError(
                    f"{source}: entry {position}: {field} must be {rule}, got "
                    f"{shown(entry[field])}; write the results again"
                )


def _broken_rule(field: str, value: Any, size: tuple[int, int]) -> str | None:
    """What a value of an entry should be and is not; size is (height, width) of its image."""
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
            return f"run lengths whose size is {[*size]}, the [height, width] of the image"
        counts = value.get("counts")
        try:
            host.rle_from_string(counts.decode() if isinstance(counts, bytes) else counts, *size)
        except (TypeError, ValueError) as error:
            return f"compressed run lengths that fill the image ({str(error).splitlines()[0]})"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and math.isfinite(value)


def _truth_part(truth: Record, image_ids: Collection[int]) -> Record:
    """Ground truth with the fields and ids that COCOeval needs: it takes id 0 for "unmatched"."""
    filled = filled_truth(truth, image_ids)
    numbered = enumerate(filled["annotations"], start=1)
    return {**filled, "annotations": [{**record, "id": number} for number, record in numbered]}


def _found_part(truth: Record, entries: list[Record], kind: str) -> Record:
    """Detections with the fields and ids that COCOeval needs."""
    annotations = []
    for number, entry in enumerate(entries, start=1):
        if kind == "bbox":
            area = entry["bbox"][2] * entry["bbox"][3]
        else:
            area = float(rle_codec.area(entry["segmentation"]))
        annotations.append({**entry, "id": number, "area": area, "iscrowd": 0})
    return {
        "images": truth["images"],
        "categories": truth["categories"],
        "annotations": annotations,
    }


def _by_pycocotools(
    truth: Record, found: Record, kind: Kind, image_ids: list[int], limits: list[int]
) -> tuple[Any, Any]:
    """Precision (IoU thresholds, recalls, classes, areas, limits), and recall without recalls."""
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(_index(truth), _index(found), kind)
        judge.params.imgIds, judge.params.maxDets = image_ids, limits
        judge.evaluate()
        judge.accumulate()
    return judge.eval["precision"], judge.eval["recall"]


def _index(content: Record) -> COCO:
    coco = COCO()
    coco.dataset = content
    coco.createIndex()
    return coco


def _by_hotcoco(
    truth: Record, found: Record, kind: Kind, image_ids: list[int], limits: list[int]
) -> tuple[Any, Any]:
    """As `_by_pycocotools`."""
    try:
        import hotcoco  # optional
    except ImportError as error:
        raise UserError(
            f"--backend hotcoco: {error}; run: pip install 'mrcnn[eval]', or leave the flag out"
        ) from None
    judge = hotcoco.COCOeval(hotcoco.COCO(truth), hotcoco.COCO(found), kind)
    judge.params.img_ids, judge.params.max_dets = image_ids, limits
    judge.evaluate()
    judge.accumulate()
    rates: Any = judge.eval
    return rates["precision"], rates["recall"]


def _figures(precision: Any, recall: Any, names: Sequence[str]) -> dict[str, float]:
    """What `COCOeval.summarize` prints, which knows 100 detections only, and that of each class.

    Args:
        precision: (IoU thresholds, recalls, classes, areas, limits); -1 without ground truth.
        recall: the same without recalls; the last limit is `max_detections`.
    """
    precision, best = precision[..., -1], recall[..., -1]
    figures = precision_figures(precision)
    figures |= {"AR1": mean_known(recall[:, :, 0, 0]), "AR10": mean_known(recall[:, :, 0, 1])}
    figures |= {f"AR{a}": mean_known(best[:, :, i]) for a, i in AREAS.items()}
    for k, name in enumerate(names):
        own = precision_figures(precision[:, :, k : k + 1]) | {"AR": mean_known(best[:, k, 0])}
        figures |= {f"{figure}/{name}": value for figure, value in own.items()}
    return figures


def precision_figures(precision: Any) -> dict[str, float]:
    """AP and its kin from precision (IoU thresholds, recalls, classes, areas)."""
    return {
        "AP": mean_known(precision[:, :, :, 0]),
        "AP50": mean_known(precision[_AT_50, :, :, 0]),
        "AP75": mean_known(precision[_AT_75, :, :, 0]),
        **{f"AP{a}": mean_known(precision[:, :, :, i]) for a, i in AREAS.items() if a},
    }


def mean_known(values: Any) -> float:
    """Mean of what is not -1; -1 without any."""
    known = values[values > -1]
    return float(np.mean(known)) if known.size else -1.0
