"""COCO's average precision and recall, computed by pycocotools or by hotcoco."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mrcnn.data.coco.truth import Record
from mrcnn.errors import UserError
from mrcnn.evaluation.truth import GroundTruth
from mrcnn.ops import rle

Kind = Literal["bbox", "segm"]
Backend = Literal["pycocotools", "hotcoco"]
KINDS: dict[Kind, str] = {"bbox": "boxes", "segm": "masks"}
FIELDS: dict[Kind, str] = {"bbox": "bbox", "segm": "segmentation"}  # of an entry

AREAS = {"": 0, "s": 1, "m": 2, "l": 3}  # suffix of a metric -> position in COCOeval's arrays
_AT_50, _AT_75 = 0, 5  # positions among the IoU thresholds 0.50, 0.55, … 0.95


def coco_metrics(
    truth: GroundTruth,
    entries: Sequence[Record],
    kind: Kind,
    max_detections: int = 100,
    backend: Backend = "pycocotools",
) -> dict[str, float]:
    """Compute COCO's metrics of boxes or masks.

    Two things differ from pycocotools' reading of files. The area of a detected mask is that of its
    pixels, also where the entry has a `bbox`, whose area pycocotools would take. An annotation with
    id 0 can be matched, where pycocotools takes 0 for "no object".

    Args:
        truth: Annotations of the images that count.
        entries: Checked detections of these images.
        kind: Whether boxes or masks are compared.
        max_detections: Number of detections that count, per image and class.
        backend: Library that computes the metrics. Both give the same numbers.

    Returns:
        AP, AP50, AP75, APs, APm, APl and AR, ARs, ARm, ARl at `max_detections`, AR1, AR10; and for
        each class AP/<class>, AP50/<class>, AP75/…, APs/…, APm/…, APl/… and AR/…; -1 where there
        is no ground truth.

    Raises:
        UserError: If the backend is not installed.
    """
    objects = truth.drawn if kind == "segm" else truth.records["annotations"]
    numbered = enumerate(objects, start=1)
    records = truth.records | {"annotations": [{**r, "id": number} for number, r in numbered]}
    detections = _detection_records(truth, entries, kind)
    limits = [min(1, max_detections), min(10, max_detections), max_detections]
    precision, recall = _precision_and_recall(
        backend, records, detections, kind, sorted(truth.image_ids), limits
    )
    recall_at_limit = recall[..., -1]
    metrics = precision_metrics(precision[..., -1])
    metrics |= {"AR1": mean_known(recall[:, :, 0, 0]), "AR10": mean_known(recall[:, :, 0, 1])}
    metrics |= {f"AR{a}": mean_known(recall_at_limit[:, :, i]) for a, i in AREAS.items()}
    return metrics | class_metrics(precision[..., -1], recall_at_limit, truth)


def precision_metrics(precision: Any) -> dict[str, float]:
    """Compute AP, AP50, AP75, APs, APm and APl.

    Args:
        precision: Array (IoU thresholds, recalls, classes, areas); -1 without ground truth.
    """
    return {
        "AP": mean_known(precision[:, :, :, 0]),
        "AP50": mean_known(precision[_AT_50, :, :, 0]),
        "AP75": mean_known(precision[_AT_75, :, :, 0]),
        **{f"AP{a}": mean_known(precision[:, :, :, i]) for a, i in AREAS.items() if a},
    }


def class_metrics(precision: Any, recall: Any, truth: GroundTruth) -> dict[str, float]:
    """Compute the same and AR for each class: AP/<class> and so on.

    Args:
        precision: Array (IoU thresholds, recalls, classes, areas).
        recall: Array (IoU thresholds, classes, areas).
        truth: Ground truth with these classes.
    """
    metrics: dict[str, float] = {}
    for k, category in enumerate(truth.categories):
        row = precision_metrics(precision[:, :, k : k + 1]) | {"AR": mean_known(recall[:, k, 0])}
        metrics |= {f"{name}/{category['name']}": value for name, value in row.items()}
    return metrics


def mean_known(values: Any) -> float:
    """Return the mean of the values that are not -1, or -1 without any."""
    known = values[values > -1]
    return float(np.mean(known)) if known.size else -1.0


def import_hotcoco(flag: str) -> Any:
    """Import the optional library hotcoco.

    Raises:
        UserError: If it is not installed; names `flag`, which needs it.
    """
    try:
        import hotcoco
    except ImportError as error:
        raise UserError(
            f"{flag}: {error}; run: pip install 'mrcnn[eval]', or leave the flag out"
        ) from None
    return hotcoco


def _detection_records(truth: GroundTruth, entries: Sequence[Record], kind: Kind) -> Record:
    """Return detections with the fields and ids that COCOeval needs."""
    annotations = []
    for number, entry in enumerate(entries, start=1):
        if kind == "bbox":
            area = entry["bbox"][2] * entry["bbox"][3]
        else:
            area = float(rle.area(entry["segmentation"]))
        annotations.append({**entry, "id": number, "area": area, "iscrowd": 0})
    return truth.records | {"annotations": annotations}


def _precision_and_recall(
    backend: Backend,
    truth: Record,
    detections: Record,
    kind: Kind,
    image_ids: list[int],
    limits: list[int],
) -> tuple[Any, Any]:
    """Return precision (IoU thresholds, recalls, classes, areas, limits), and recall.

    Recall lacks the second dimension.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        if backend == "hotcoco":
            hotcoco = import_hotcoco("--backend hotcoco")
            evaluator = hotcoco.COCOeval(hotcoco.COCO(truth), hotcoco.COCO(detections), kind)
            evaluator.params.img_ids, evaluator.params.max_dets = image_ids, limits
        else:
            evaluator = COCOeval(_index(truth), _index(detections), kind)
            evaluator.params.imgIds, evaluator.params.maxDets = image_ids, limits
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator.eval["precision"], evaluator.eval["recall"]


def _index(content: Record) -> COCO:
    coco = COCO()
    coco.dataset = content
    coco.createIndex()
    return coco
