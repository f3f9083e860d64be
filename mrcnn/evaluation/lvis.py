"""LVIS's average precision (Gupta et al., CVPR 2019), computed by hotcoco.

An image is annotated for some of the categories only. It counts for a category that it holds
objects of, or that is known to be absent (`neg_category_ids`); detections of others are left out.
Where objects of a category may lack annotations (`not_exhaustive_category_ids`), detections without
an object are not errors. Matching is COCO's, without crowd regions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mrcnn.data.coco.truth import Record
from mrcnn.errors import UserError
from mrcnn.evaluation.coco import (
    AREAS,
    FIELDS,
    Kind,
    class_metrics,
    import_hotcoco,
    mean_known,
    precision_metrics,
)
from mrcnn.evaluation.truth import GroundTruth
from mrcnn.io.json_files import shown

MAX_DETECTIONS = 300  # per image, of all categories together
FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}  # in less than 10, 100, or more images


def lvis_metrics(
    truth: GroundTruth, entries: Sequence[Record], kind: Kind, max_detections: int
) -> dict[str, float]:
    """Compute LVIS's metrics of boxes or masks.

    The area of a detected mask is that of its pixels, as the `lvis` package has it for entries
    without a `bbox`.

    Args:
        truth: Annotations of an LVIS file, checked by `check_lvis`.
        entries: Checked detections of these images.
        kind: Whether boxes or masks are compared.
        max_detections: Number of detections that count, per image.

    Returns:
        AP, AP50, AP75, APs, APm, APl, APr, APc, APf (rare, common and frequent categories), AR,
        ARs, ARm, ARl; and for each class those of `class_metrics`; -1 where there is no ground
        truth.

    Raises:
        UserError: If hotcoco is not installed.
    """
    hotcoco = import_hotcoco("--protocol lvis")
    numbered = enumerate(truth.drawn if kind == "segm" else truth.records["annotations"], start=1)
    annotations = [{**record, "id": number, "iscrowd": 0} for number, record in numbered]
    objects = hotcoco.COCO(truth.records | {"annotations": annotations})
    if entries:
        # The field that is not compared is left out, so that areas are those of `kind`.
        rows = [
            {name: int(entry[name]) for name in ("image_id", "category_id")}
            | {name: entry[name] for name in ("score", FIELDS[kind])}
            for entry in entries
        ]
        detections = hotcoco.LVISResults(objects, rows, max_dets=max_detections)
    else:
        detections = hotcoco.COCO(truth.records | {"annotations": []})
    evaluator = hotcoco.LVISEval(objects, detections, kind)
    evaluator.evaluate()
    evaluator.accumulate()
    precision, recall = (evaluator.eval[name][..., -1] for name in ("precision", "recall"))
    frequency = np.array([category["frequency"] for category in truth.categories])
    metrics = precision_metrics(precision)
    for letter in FREQUENCIES:
        metrics[f"AP{letter}"] = mean_known(precision[:, :, frequency == letter, 0])
    metrics |= {f"AR{a}": mean_known(recall[:, :, i]) for a, i in AREAS.items()}
    return metrics | class_metrics(precision, recall, truth)


def check_lvis(truth: GroundTruth) -> None:
    """Raise UserError unless hotcoco is installed and the annotations come from an LVIS file."""
    import_hotcoco("--protocol lvis")
    for image in truth.records["images"]:
        for field in ("neg_category_ids", "not_exhaustive_category_ids"):
            if not isinstance(image.get(field), list):
                raise UserError(
                    f"{truth.source}: image {image['id']}: {field} must be a list of category ids, "
                    f"got {shown(image.get(field))}; LVIS scores need an LVIS annotation file"
                )
    for category in truth.records["categories"]:
        if category.get("frequency") not in FREQUENCIES:
            raise UserError(
                f"{truth.source}: category {category['id']}: frequency must be r, c or f, got "
                f"{shown(category.get('frequency'))}; LVIS scores need an LVIS annotation file"
            )
