"""Detections on the validation images, analysed for the report of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from mrcnn import analysis
from mrcnn.analysis import FOUND, OBJECTS, SIZES, ImagePair, Outcomes
from mrcnn.coco_scores import score_results
from mrcnn.data.coco import CocoDataset
from mrcnn.data.coco_truth import Record, encoded_mask, filled_truth, ground_truth
from mrcnn.data.images import read_image
from mrcnn.data.problems import read_json
from mrcnn.visual import report, tallies
from mrcnn.visual.marked import draw_marked
from mrcnn.visual.page import Html

WORST, BEST = 3, 2  # images shown
KINDS = {"bbox": "boxes", "segm": "masks"}


@dataclass(frozen=True)
class Judged:
    """Detections on the validation images, scored and analysed."""

    kind: Literal["bbox", "segm"]  # which the analysis compares
    figures: dict[str, dict[str, float]]  # "boxes", "masks" -> those of `score_results`
    entries: list[Record]
    truth: Record  # of these images
    names: list[str]  # of the C classes, in ascending order of their ids
    pairs: list[ImagePair]
    curves: analysis.Curves
    chosen: int  # position in the curves: of the best F1
    outcomes: Outcomes  # from that score on

    @property
    def score(self) -> float:
        """The lowest score that counts."""
        return float(self.curves.scores[self.chosen])


def judge(dataset: CocoDataset, results: Path, model: Record) -> Judged:
    """Score and analyse the detections of a model.

    Args:
        results: COCO result file.
        model: `ModelConfig.to_dict()` of the model.
    Raises:
        UserError: if a file cannot be read, or an entry is of no image or lacks a field.
    """
    truth, entries = ground_truth(dataset), read_json(results)
    limit = int(model["max_detections"])
    ids = {int(id) for id in dataset.image_ids}
    kind: Literal["bbox", "segm"] = "segm" if model["masks"] else "bbox"
    figures = {KINDS["bbox"]: score_results(truth, results, "bbox", limit, ids)}
    if kind == "segm":
        figures[KINDS["segm"]] = score_results(truth, results, "segm", limit, ids)
    pairs = list(analysis.compare(truth, entries, kind, limit, ids))
    curves = analysis.score_curves(pairs)
    chosen = curves.best()
    return Judged(
        kind=kind,
        figures=figures,
        entries=entries,
        truth=filled_truth(truth, ids),
        names=[c["name"] for c in sorted(truth["categories"], key=lambda c: int(c["id"]))],
        pairs=pairs,
        curves=curves,
        chosen=chosen,
        outcomes=analysis.outcomes(pairs, float(curves.scores[chosen])),
    )


def sections_of(judged: Judged, dataset: CocoDataset) -> list[tuple[str, Html]]:
    """What the detections say about the weights: headings and their contents."""
    names, result, curves = judged.names, judged.outcomes, judged.curves
    what, score = KINDS[judged.kind], judged.score
    precision = {
        iou: analysis.precision_at_recalls(judged.pairs, len(names), iou) for iou in (0.5, 0.75)
    }
    objects = result.object_counts(result.object_label, len(names)).sum(axis=1)
    found = result.found_counts(result.found_label, len(names))
    classes = [
        tallies.ClassRow(
            name=name,
            objects=int(objects[c]),
            aps=[figures[f"AP/{name}"] for figures in judged.figures.values()],
            ap50=float(precision[0.5][c].mean()),
            correct=int(found[c, 0]),
            wrong=int(found[c, 1:].sum()),
        )
        for c, name in enumerate(names)
    ]
    objects_by_size = result.object_counts(analysis.size_of(result.object_area), len(SIZES))
    found_by_size = result.found_counts(analysis.size_of(result.found_area), len(SIZES))
    sizes = [
        tallies.SizeRow(
            name=size,
            aps=[figures[f"AP{size[0]}"] for figures in judged.figures.values()],
            objects=dict(zip(OBJECTS, objects_by_size[s].tolist(), strict=True)),
            found=dict(zip(FOUND, found_by_size[s].tolist(), strict=True)),
        )
        for s, size in enumerate(SIZES)
    ]
    at_score = {"precision": curves.precision, "recall": curves.recall, "F1": curves.f1}
    matrix = analysis.confusion_matrix(judged.pairs, len(names), score)
    return [
        ("Average precision", tallies.averages(judged.figures, classes, what, score)),
        (
            "Precision and recall",
            report.precision_recall(precision, names, curves.scores, at_score, score, what),
        ),
        (
            "Errors",
            tallies.errors(
                dict(zip(FOUND, found.sum(axis=0).tolist(), strict=True)),
                dict(zip(OBJECTS, objects_by_size.sum(axis=0).tolist(), strict=True)),
                what,
                score,
            ),
        ),
        ("Errors by size", tallies.sizes(sizes, list(judged.figures))),
        ("Confusion matrix", tallies.confusions(matrix, names, what, score)),
        ("Worst and best images", _pictures(judged, dataset)),
    ]


def _pictures(judged: Judged, dataset: CocoDataset) -> Html:
    """The images of the lowest F1, of equals with the most errors; and the highest, with most
    objects found."""
    result, count = judged.outcomes, len(judged.pairs)
    f1 = result.f1(count)
    found = result.found_counts(result.found_image, count)
    objects = result.object_counts(result.object_image, count)
    correct, wrong, missed = found[:, 0], found[:, 1:].sum(axis=1), objects[:, 1:].sum(axis=1)
    worst = [int(i) for i in np.lexsort((-wrong - missed, f1)) if f1[i] < 1][:WORST]
    best = [int(i) for i in np.lexsort((-correct, -f1)) if correct[i] and i not in worst][:BEST]
    index_of = {int(id): index for index, id in enumerate(dataset.image_ids)}
    comparisons = []
    for word, i in [*(("Worst", i) for i in worst), *(("Best", i) for i in best)]:
        path = dataset.path(index_of[judged.pairs[i].image_id])
        truth, detections = _drawn(judged, i, path)
        comparisons.append(
            report.Comparison(
                title=f"{word}: {path.name}",
                truth=truth,
                found=detections,
                truth_caption=f"Objects: {objects[i].sum()}, not found: {missed[i]}",
                found_caption=f"Detections: {correct[i]} correct, {wrong[i]} wrong; F1 {f1[i]:.2f}",
            )
        )
    return report.comparisons(comparisons, judged.score)


def _drawn(judged: Judged, i: int, path: Path) -> tuple[Image.Image, Image.Image]:
    """The objects of the image at position i, and what was found in it."""
    result, pair = judged.outcomes, judged.pairs[i]
    image = next(image for image in judged.truth["images"] if image["id"] == pair.image_id)
    records = [r for r in judged.truth["annotations"] if r["image_id"] == pair.image_id]
    here, there = result.object_image == i, result.found_image == i
    records = [records[place] for place in result.object_place[here]]
    entries = [judged.entries[position] for position in result.found_entry[there]]
    size = image["height"], image["width"]
    pixels = read_image(path)
    truth = draw_marked(
        pixels,
        _corners(records),
        result.object_label[here],
        [encoded_mask(r["segmentation"], *size) for r in records] if judged.kind == "segm" else [],
        result.object_kind[here] != 0,
        judged.names,
        "missed",
    )
    found = draw_marked(
        pixels,
        _corners(entries),
        result.found_label[there],
        [entry["segmentation"] for entry in entries] if judged.kind == "segm" else [],
        result.found_kind[there] != 0,
        judged.names,
        "wrong",
        np.array([entry["score"] for entry in entries], np.float64),
    )
    return truth, found


def _corners(records: list[Record]) -> analysis.Floats:
    """(D, 4) xyxy."""
    boxes = np.array([record["bbox"] for record in records], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes
