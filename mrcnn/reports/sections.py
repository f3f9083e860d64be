"""Sections of the report of a run, from measurements to the arguments of template macros.

C classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from mrcnn.data.coco.read import CocoDataset
from mrcnn.data.coco.truth import Record
from mrcnn.data.images import read_image
from mrcnn.evaluation import Evaluation
from mrcnn.evaluation.coco import KINDS
from mrcnn.evaluation.errors import ErrorAnalysis
from mrcnn.evaluation.matching import DETECTION_KINDS, OBJECT_KINDS, SIZES, Floats, Ints, size_of
from mrcnn.evaluation.tables import MEANINGS
from mrcnn.io.atomic import replacing
from mrcnn.ops.rle import from_segmentation
from mrcnn.reports.page import Section, embed
from mrcnn.visual import draw_marked
from mrcnn.visual.charts import (
    MATRIX_CLASSES,
    Chart,
    number,
    precision_recall_charts,
    training_charts,
)
from mrcnn.visual.names import short_name
from mrcnn.visual.plots import chart_svg, matrix_svg, save_errors

WORST, BEST = 3, 2  # example images
MOST_CONFUSED = 8  # pairs of classes


def training_curves(rows: Sequence[Mapping[str, float]], best_step: float | None) -> Section:
    """Return the charts over the steps of a run."""
    return _charts("Training curves", training_charts(rows, best_step))


def evaluation_sections(evaluation: Evaluation, dataset: CocoDataset) -> list[Section]:
    """Return the sections about the detections of a model on the images of a data set."""
    errors = evaluation.errors
    common = {"what": KINDS[errors.kind], "score": errors.score}
    counts = {"detections": errors.detections, "objects": errors.objects}
    return [
        Section("Average precision", "average_precision", _precision(evaluation) | common),
        _charts("Precision and recall", _precision_recall(errors)),
        Section("Errors", "errors", {"counts": counts, **common}),
        Section("Errors by size", "sizes", _sizes(evaluation)),
        Section("Confusion matrix", "confusions", _confusions(errors) | common),
        Section("Worst and best images", "examples",
                {"examples": _examples(evaluation, dataset), "score": errors.score}),
    ]  # fmt: skip


def save_error_figure(path: Path, errors: ErrorAnalysis) -> None:
    """Write curves, kinds of errors and confusions to one .png, .svg or .pdf file.

    Raises:
        UserError: If the file cannot be written.
    """
    counts = {"detections": errors.detections, "objects": errors.objects}
    with replacing(path) as draft:
        save_errors(draft, _precision_recall(errors), counts, errors.confusions, errors.names)


def settings(groups: Mapping[str, Mapping[str, Any]]) -> Section:
    """Return the names and values of settings, in groups."""
    texts = {
        title: [
            (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
            for name, value in values.items()
        ]
        for title, values in groups.items()
    }
    return Section("Configuration", "settings", {"groups": texts})


def _charts(heading: str, charts: Sequence[Chart]) -> Section:
    drawn = [
        {
            "title": chart.title,
            "lines": [(line.name, number(line.value)) for line in chart.lines],
            "svg": Markup(chart_svg(chart)) if chart.lines else "",
        }
        for chart in charts
    ]
    return Section(heading, "charts", {"charts": drawn})


def _precision_recall(errors: ErrorAnalysis) -> list[Chart]:
    curves = errors.curves
    at_score = {"precision": curves.precision, "recall": curves.recall, "F1": curves.f1}
    return precision_recall_charts(
        errors.precision, errors.names, curves.scores, at_score, errors.score, KINDS[errors.kind]
    )


def _precision(evaluation: Evaluation) -> dict[str, Any]:
    """Return COCO's metrics, and those of each class: the lowest AP first, without objects last."""
    errors, metrics = evaluation.errors, evaluation.metrics
    outcomes, count = errors.outcomes, len(errors.names)
    objects = outcomes.object_counts(outcomes.object_label, count).sum(axis=1)
    detections = outcomes.detection_counts(outcomes.detection_label, count)
    classes: list[dict[str, Any]] = [
        {
            "name": short_name(name, 60),
            "objects": int(objects[c]),
            "aps": [metrics[f"{kind}_AP/{name}"] for kind in evaluation.kinds],
            "ap50": float(errors.precision[0.5][c].mean()),
            "correct": int(detections[c, 0]),
            "wrong": int(detections[c, 1:].sum()),
        }
        for c, name in enumerate(errors.names)
    ]
    classes.sort(key=lambda row: (row["objects"] == 0, row["aps"][-1], row["name"]))
    overall = [
        (name, meaning, [metrics[f"{kind}_{name}"] for kind in evaluation.kinds])
        for name, meaning in MEANINGS.items()
        if f"{errors.kind}_{name}" in metrics
    ]
    kinds = [KINDS[kind] for kind in evaluation.kinds]
    return {"kinds": kinds, "metrics": overall, "classes": classes}


def _sizes(evaluation: Evaluation) -> dict[str, Any]:
    outcomes = evaluation.errors.outcomes
    object_size, detection_size = map(size_of, (outcomes.object_area, outcomes.detection_area))
    objects = outcomes.object_counts(object_size, len(SIZES)).tolist()
    detections = outcomes.detection_counts(detection_size, len(SIZES)).tolist()
    sizes = [
        {
            "name": size,
            "aps": [evaluation.metrics[f"{kind}_AP{size[0]}"] for kind in evaluation.kinds],
            "objects": dict(zip(OBJECT_KINDS, objects[s], strict=True)),
            "detections": dict(zip(DETECTION_KINDS, detections[s], strict=True)),
        }
        for s, size in enumerate(SIZES)
    ]
    return {"kinds": [KINDS[kind] for kind in evaluation.kinds], "sizes": sizes}


def _confusions(errors: ErrorAnalysis) -> dict[str, Any]:
    names, matrix = errors.names, errors.confusions
    svg, width = matrix_svg(matrix, names)
    mixed = matrix[:-1, :-1] * ~np.eye(len(names), dtype=bool)
    order = np.argsort(-mixed, axis=None, kind="stable")[:MOST_CONFUSED]
    pairs = [
        (short_name(names[r], 40), short_name(names[c], 40), int(mixed[r, c]))
        for r, c in zip(*np.unravel_index(order, mixed.shape), strict=True)
        if mixed[r, c]
    ]
    is_folded = len(names) > MATRIX_CLASSES + 1
    return {"svg": Markup(svg), "width": width, "pairs": pairs, "is_folded": is_folded}


def _examples(evaluation: Evaluation, dataset: CocoDataset) -> list[tuple[Any, ...]]:
    """Return the images with the lowest F1 and most errors, and with the highest and most found.

    Returns:
        The title, the image of the objects and that of the detections, for each.
    """
    errors = evaluation.errors
    outcomes, count, f1 = errors.outcomes, len(errors.pairs), errors.image_f1
    detections = outcomes.detection_counts(outcomes.detection_image, count)
    objects = outcomes.object_counts(outcomes.object_image, count)
    correct, wrong = detections[:, 0], detections[:, 1:].sum(axis=1)
    missed = objects[:, 1:].sum(axis=1)
    worst = [int(i) for i in np.lexsort((-wrong - missed, f1)) if f1[i] < 1][:WORST]
    best = [int(i) for i in np.lexsort((-correct, -f1)) if correct[i] and i not in worst][:BEST]
    index_of = {int(id): index for index, id in enumerate(dataset.image_ids)}
    examples = []
    for word, i in [*(("Worst", i) for i in worst), *(("Best", i) for i in best)]:
        path = dataset.path(index_of[errors.pairs[i].image_id])
        true_text = f"Objects: {objects[i].sum()}, not found: {missed[i]}"
        text = f"Detections: {correct[i]} correct, {wrong[i]} wrong; F1 {f1[i]:.2f}"
        truth, detected = _overlays(evaluation, i, path)
        examples.append(
            (
                f"{word}: {path.name}",
                embed(truth, true_text, f"Objects of {path.name}"),
                embed(detected, text, f"Detections in {path.name}"),
            )
        )
    return examples


def _overlays(evaluation: Evaluation, i: int, path: Path) -> tuple[Image.Image, Image.Image]:
    """Draw the objects of the image at position i, and the detections in it."""
    errors, truth = evaluation.errors, evaluation.truth
    outcomes, image_id = errors.outcomes, errors.pairs[i].image_id
    is_object, is_detection = outcomes.object_image == i, outcomes.detection_image == i
    records = [r for r in truth.records["annotations"] if r["image_id"] == image_id]
    records = [records[position] for position in outcomes.object_position[is_object]]
    entries = [evaluation.entries[position] for position in outcomes.detection_entry[is_detection]]
    masks, true_masks = [], []
    if errors.kind == "segm":
        size = truth.sizes[image_id]
        true_masks = [from_segmentation(record["segmentation"], *size) for record in records]
        masks = [entry["segmentation"] for entry in entries]
    scores = np.array([entry["score"] for entry in entries], np.float64)
    pixels = read_image(path)

    def draw(shapes: Sequence[Record], labels: Ints, masks: list[Any], is_marked: Any,
             word: str, scores: Floats | None = None) -> Image.Image:  # fmt: skip
        boxes = np.array([shape["bbox"] for shape in shapes], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return Image.fromarray(
            draw_marked(pixels, boxes, labels, masks, is_marked, errors.names, word, scores)
        )

    object_kind = outcomes.object_kind[is_object]
    detection_kind = outcomes.detection_kind[is_detection]
    return (
        draw(records, outcomes.object_label[is_object], true_masks, object_kind != 0, "missed"),
        draw(entries, outcomes.detection_label[is_detection], masks, detection_kind != 0, "wrong",
             scores),
    )  # fmt: skip
