"""Sections of the report of a run, from measurements to the arguments of template macros.

C classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from PIL import Image

from mrcnn.data.coco.read import CocoDataset
from mrcnn.data.images import read_image
from mrcnn.evaluation import Evaluation
from mrcnn.evaluation.coco import KINDS
from mrcnn.evaluation.errors import ErrorAnalysis
from mrcnn.evaluation.matching import DETECTION_KINDS, OBJECT_KINDS, SIZES, size_of
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
from mrcnn.visual.names import short_file, short_name
from mrcnn.visual.plots import chart_svg, chart_values, matrix_svg, save_errors

WORST, BEST, MORE = 3, 2, 6  # example images; MORE worst ones are folded
MOST_CONFUSED = 8  # pairs of classes


def training_curves(rows: Sequence[Mapping[str, float]], best_step: float | None) -> Section:
    """Return the charts over the steps of a run."""
    return chart_section("Training curves", training_charts(rows, best_step))


def evaluation_sections(evaluation: Evaluation, dataset: CocoDataset) -> list[Section]:
    """Return the sections about the detections of a model on the images of a data set."""
    errors = evaluation.errors
    common = {"what": KINDS[errors.kind], "score": errors.score}
    counts = {"detections": errors.detections, "objects": errors.objects}
    return [
        Section("Average precision", "average_precision", _precision(evaluation) | common),
        chart_section("Precision and recall", precision_recall(errors)),
        Section("Errors", "errors", {"counts": counts, **common}),
        Section("Errors by size", "sizes", _sizes(evaluation)),
        Section("Confusion matrix", "confusions", _confusions(errors) | common),
        Section("Worst and best images", "examples",
                _examples(evaluation, dataset) | {"score": errors.score}),
    ]  # fmt: skip


def save_error_figure(path: Path, errors: ErrorAnalysis) -> None:
    """Write curves, kinds of errors and confusions to one .png, .svg or .pdf file.

    Raises:
        UserError: If the file cannot be written.
    """
    counts = {"detections": errors.detections, "objects": errors.objects}
    with replacing(path) as draft:
        save_errors(draft, precision_recall(errors), counts, errors.confusions, errors.names)


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


def chart_section(heading: str, charts: Sequence[Chart]) -> Section:
    """Return charts as SVG with the values of their points."""
    drawn = [
        {
            "title": chart.title,
            "lines": [(line.name, number(line.value)) for line in chart.lines],
            "svg": Markup(chart_svg(chart)) if chart.lines else "",
            "points": escape(json.dumps(chart_values(chart))),
        }
        for chart in charts
    ]
    return Section(heading, "charts", {"charts": drawn})


def precision_recall(errors: ErrorAnalysis) -> list[Chart]:
    """Return the charts of precision and recall."""
    curves = errors.curves
    at_score = {"precision": curves.precision, "recall": curves.recall, "F1": curves.f1}
    return precision_recall_charts(
        errors.precision, errors.names, curves.scores, at_score, errors.score, KINDS[errors.kind]
    )


def _precision(evaluation: Evaluation) -> dict[str, Any]:
    """Return COCO's metrics, and those of each class: the lowest AP first, without objects last."""
    errors, metrics = evaluation.errors, evaluation.metrics
    detections, objects = (side.counts(side.label, len(errors.names)) for side in errors.outcomes)
    classes: list[dict[str, Any]] = [
        {
            "name": short_name(name, 60),
            "objects": int(objects[c].sum()),
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
    detections, objects = (
        side.counts(size_of(side.area), len(SIZES)).tolist() for side in evaluation.errors.outcomes
    )
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
    svg, width = matrix_svg(errors.confusions, errors.names)
    pairs = [
        (short_name(actual, 40), short_name(predicted, 40), count)
        for actual, predicted, count in errors.most_confused(MOST_CONFUSED)
    ]
    is_folded = len(errors.names) > MATRIX_CLASSES + 1
    return {"svg": Markup(svg), "width": width, "pairs": pairs, "is_folded": is_folded}


def _examples(evaluation: Evaluation, dataset: CocoDataset) -> dict[str, list[tuple[Any, ...]]]:
    """Return the images with the lowest F1 and most errors, `more` of them, and the best.

    For each: a title, the overlay of the objects and that of the detections.
    """
    errors = evaluation.errors
    f1 = errors.image_f1
    detections, objects = (side.counts(side.image, len(f1)) for side in errors.outcomes)
    correct, wrong = detections[:, 0], detections[:, 1:].sum(axis=1)
    missed = objects[:, 1:].sum(axis=1)
    worst = [int(i) for i in np.lexsort((-wrong - missed, f1)) if f1[i] < 1][: WORST + MORE]
    best = [int(i) for i in np.lexsort((-correct, -f1)) if correct[i] and i not in worst][:BEST]
    index_of = {int(id): index for index, id in enumerate(dataset.image_ids)}
    examples: dict[str, list[tuple[Any, ...]]] = {"worst": [], "more": [], "best": []}
    groups = [*(("worst", i) for i in worst[:WORST]), *(("more", i) for i in worst[WORST:]),
              *(("best", i) for i in best)]  # fmt: skip
    for group, i in groups:
        path = dataset.path(index_of[errors.pairs[i].image_id])
        true_text = f"Objects: {objects[i].sum()}, not found: {missed[i]}"
        text = f"Detections: {correct[i]} correct, {wrong[i]} wrong; F1 {f1[i]:.2f}"
        detected, truth = overlays(evaluation, i, path)
        left = embed(truth, true_text, f"Objects of {path.name}")
        right = embed(detected, text, f"Detections in {path.name}")
        word = "Best" if group == "best" else "Worst"
        examples[group].append((f"{word}: {short_file(path.name)}", left, right))
    return examples


def overlays(evaluation: Evaluation, i: int, path: Path) -> list[Image.Image]:
    """Draw the detections in the image at position i, and its objects."""
    errors, truth = evaluation.errors, evaluation.truth
    image_id, pixels = errors.pairs[i].image_id, read_image(path)
    annotations = [r for r in truth.records["annotations"] if r["image_id"] == image_id]
    drawn = []
    for outcomes, records, word in zip(
        errors.outcomes, (evaluation.entries, annotations), ("wrong", "missed"), strict=True
    ):
        chosen = outcomes.image == i
        shapes = [records[position] for position in outcomes.position[chosen]]
        boxes = np.array([shape["bbox"] for shape in shapes], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        masks, scores = [], None
        if errors.kind == "segm":
            size = truth.sizes[image_id]
            masks = [from_segmentation(shape["segmentation"], *size) for shape in shapes]
        if word == "wrong":
            scores = np.array([shape["score"] for shape in shapes], np.float64)
        is_marked = outcomes.kind[chosen] != 0
        labels = outcomes.label[chosen]
        drawn.append(
            draw_marked(pixels, boxes, labels, masks, is_marked, errors.names, word, scores)
        )
    return [Image.fromarray(overlay) for overlay in drawn]
