"""Average precision and recall as COCO defines them, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pycocotools import mask as rle_codec
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mrcnn.data.coco_truth import Record, filled_truth
from mrcnn.data.problems import read_json, shown
from mrcnn.errors import UserError

_AREAS = {"": 0, "s": 1, "m": 2, "l": 3}  # suffix of a figure -> position in COCOeval's arrays
_AT_50, _AT_75 = 0, 5  # positions among the IoU thresholds 0.50, 0.55, … 0.95


def score_results(
    ground_truth: Path | Record,
    results: Path | list[Record],
    kind: Literal["bbox", "segm"],
    max_detections: int = 100,
    image_ids: Collection[int] | None = None,
) -> dict[str, float]:
    """Score a COCO result file.

    The area of a detected mask is that of its pixels, also where the entry has a `bbox`, whose
    area pycocotools would take instead.

    Args:
        ground_truth: COCO annotations; `area`, `bbox` and `iscrowd` are filled in where absent.
        results: entries of a result file.
        kind: whether boxes or masks are compared.
        max_detections: an image and class; the best ones count.
        image_ids: score these images only.
    Returns:
        AP, AP50, AP75, APs, APm, APl and AR, ARs, ARm, ARl at `max_detections`, AR1, AR10, and
        AP/<class> of every class; -1 where there is no ground truth.
    Raises:
        UserError: if a file cannot be read, or an entry is of no image or lacks a field.
    """
    truth = read_json(ground_truth) if isinstance(ground_truth, Path) else ground_truth
    source = str(results) if isinstance(results, Path) else "results"
    entries = read_json(results) if isinstance(results, Path) else results
    kept = {image["id"] for image in truth["images"]}
    _check(entries, kind, kept, source)
    if image_ids is not None:
        kept &= set(image_ids)
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(
            _index(filled_truth(truth, kept)), _index(_found_part(truth, entries, kind))
        )
        judge.params.iouType = kind
        judge.params.imgIds = sorted(kept)
        judge.params.maxDets = [min(1, max_detections), min(10, max_detections), max_detections]
        judge.evaluate()
        judge.accumulate()
    return _figures(judge)


def _check(entries: Any, kind: str, image_ids: set[int], source: str) -> None:
    """Each entry names an image of the ground truth and holds what is to be compared."""
    if not isinstance(entries, list):
        raise UserError(f"{source}: must be a list of detections, got {shown(entries)}")
    fields = {"image_id", "category_id", "score", "bbox" if kind == "bbox" else "segmentation"}
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or (lacking := sorted(fields - set(entry))):
            lacks = ", ".join(lacking) if isinstance(entry, dict) else "all fields"
            raise UserError(f"{source}: entry {position} lacks {lacks}, got {shown(entry)}")
        if entry["image_id"] not in image_ids:
            raise UserError(
                f"{source}: entry {position}: image_id must be of an image of the annotations, "
                f"got {shown(entry['image_id'])}; score it against the file it was made for"
            )


def _found_part(truth: Record, entries: list[Record], kind: str) -> Record:
    """Detections with the fields that COCOeval needs."""
    annotations = []
    for number, entry in enumerate(entries, start=1):  # COCOeval takes id 0 for "unmatched"
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


def _index(content: Record) -> COCO:
    coco = COCO()
    coco.dataset = content
    coco.createIndex()
    return coco


def _figures(judge: COCOeval) -> dict[str, float]:
    """What `COCOeval.summarize` prints, which knows 100 detections only.

    `precision` is (IoU thresholds, recalls, classes, areas, limits), `recall` the same without
    recalls; the last limit is `max_detections`; -1 stands for no ground truth.
    """
    precision, recall = judge.eval["precision"], judge.eval["recall"]
    figures = {
        "AP": _mean(precision[:, :, :, 0, -1]),
        "AP50": _mean(precision[_AT_50, :, :, 0, -1]),
        "AP75": _mean(precision[_AT_75, :, :, 0, -1]),
    }
    figures |= {f"AP{a}": _mean(precision[:, :, :, i, -1]) for a, i in _AREAS.items() if a}
    figures |= {"AR1": _mean(recall[:, :, 0, 0]), "AR10": _mean(recall[:, :, 0, 1])}
    figures |= {f"AR{a}": _mean(recall[:, :, i, -1]) for a, i in _AREAS.items()}
    for k, category in enumerate(judge.params.catIds):
        name = judge.cocoGt.cats[category]["name"]
        figures[f"AP/{name}"] = _mean(precision[:, :, k, 0, -1])
    return figures


def _mean(values: Any) -> float:
    known = values[values > -1]
    return float(np.mean(known)) if known.size else -1.0
