"""Detections on the validation images, analysed for the report of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from mrcnn.data.coco import CocoDataset
from mrcnn.data.coco_truth import Record
from mrcnn.data.images import read_image
from mrcnn.evaluation import Evaluation, matching
from mrcnn.evaluation.coco import KINDS, Kind
from mrcnn.evaluation.evaluation import score
from mrcnn.evaluation.matching import DETECTION_KINDS, OBJECT_KINDS, SIZES, Floats
from mrcnn.evaluation.result_files import read_results
from mrcnn.evaluation.truth import GroundTruth
from mrcnn.rle import from_segmentation
from mrcnn.visual import report, tallies
from mrcnn.visual.marked import draw_marked
from mrcnn.visual.page import Html

WORST, BEST = 3, 2  # images shown


def read_evaluation(
    folder: Path, dataset: CocoDataset, model: Record, truth: GroundTruth | None = None
) -> Evaluation | None:
    """Score val_results.json of a run; return None if it is absent or empty.

    Args:
        folder: Folder of the run.
        dataset: Validation images.
        model: `ModelConfig.to_dict()` of the model.
        truth: Ground truth of the images, if it was read before.

    Raises:
        UserError: If the file cannot be read, or an entry is wrong.
    """
    file = folder / "val_results.json"
    if not file.exists():
        return None
    truth = truth or GroundTruth.of_dataset(dataset)
    kinds: tuple[Kind, ...] = ("bbox", "segm") if model["masks"] else ("bbox",)
    entries = read_results(file, truth, kinds)
    return score(truth, entries, kinds, int(model["max_detections"]))


def metrics_by_kind(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """Return the metrics of "boxes" and "masks"."""
    return {
        KINDS[kind]: {
            name.removeprefix(f"{kind}_"): value
            for name, value in evaluation.metrics.items()
            if name.startswith(f"{kind}_")
        }
        for kind in evaluation.kinds
    }


def sections_of(evaluation: Evaluation, dataset: CocoDataset) -> list[tuple[str, Html]]:
    """What the detections say about the weights: headings and their contents."""
    errors = evaluation.errors
    names, result, curves = errors.names, errors.outcomes, errors.curves
    what, lowest = KINDS[errors.kind], errors.score
    precision, metrics = errors.precision, metrics_by_kind(evaluation)
    objects = result.object_counts(result.object_label, len(names)).sum(axis=1)
    found = result.detection_counts(result.detection_label, len(names))
    classes = [
        tallies.ClassRow(
            name=name,
            objects=int(objects[c]),
            aps=[figures[f"AP/{name}"] for figures in metrics.values()],
            ap50=float(precision[0.5][c].mean()),
            correct=int(found[c, 0]),
            wrong=int(found[c, 1:].sum()),
        )
        for c, name in enumerate(names)
    ]
    objects_by_size = result.object_counts(matching.size_of(result.object_area), len(SIZES))
    found_by_size = result.detection_counts(matching.size_of(result.detection_area), len(SIZES))
    sizes = [
        tallies.SizeRow(
            name=size,
            aps=[figures[f"AP{size[0]}"] for figures in metrics.values()],
            objects=dict(zip(OBJECT_KINDS, objects_by_size[s].tolist(), strict=True)),
            found=dict(zip(DETECTION_KINDS, found_by_size[s].tolist(), strict=True)),
        )
        for s, size in enumerate(SIZES)
    ]
    at_score = {"precision": curves.precision, "recall": curves.recall, "F1": curves.f1}
    return [
        ("Average precision", tallies.averages(metrics, classes, what, lowest)),
        (
            "Precision and recall",
            report.precision_recall(precision, names, curves.scores, at_score, lowest, what),
        ),
        (
            "Errors",
            tallies.errors(
                errors.detections,
                errors.objects,
                what,
                lowest,
            ),
        ),
        ("Errors by size", tallies.sizes(sizes, list(metrics))),
        ("Confusion matrix", tallies.confusions(errors.confusions, names, what, lowest)),
        ("Worst and best images", _pictures(evaluation, dataset)),
    ]


def _pictures(evaluation: Evaluation, dataset: CocoDataset) -> Html:
    """The images of the lowest F1, of equals with the most errors; and the highest, with most
    objects found."""
    errors = evaluation.errors
    result, count = errors.outcomes, len(errors.pairs)
    f1 = errors.image_f1
    found = result.detection_counts(result.detection_image, count)
    objects = result.object_counts(result.object_image, count)
    correct, wrong, missed = found[:, 0], found[:, 1:].sum(axis=1), objects[:, 1:].sum(axis=1)
    worst = [int(i) for i in np.lexsort((-wrong - missed, f1)) if f1[i] < 1][:WORST]
    best = [int(i) for i in np.lexsort((-correct, -f1)) if correct[i] and i not in worst][:BEST]
    index_of = {int(id): index for index, id in enumerate(dataset.image_ids)}
    comparisons = []
    for word, i in [*(("Worst", i) for i in worst), *(("Best", i) for i in best)]:
        path = dataset.path(index_of[errors.pairs[i].image_id])
        truth, detections = _drawn(evaluation, i, path)
        comparisons.append(
            report.Comparison(
                title=f"{word}: {path.name}",
                truth=truth,
                found=detections,
                truth_caption=f"Objects: {objects[i].sum()}, not found: {missed[i]}",
                found_caption=f"Detections: {correct[i]} correct, {wrong[i]} wrong; F1 {f1[i]:.2f}",
            )
        )
    return report.comparisons(comparisons, errors.score)


def _drawn(evaluation: Evaluation, i: int, path: Path) -> tuple[Image.Image, Image.Image]:
    """The objects of the image at position i, and what was found in it."""
    errors, truth = evaluation.errors, evaluation.truth.records
    result, pair = errors.outcomes, errors.pairs[i]
    image = next(image for image in truth["images"] if image["id"] == pair.image_id)
    records = [r for r in truth["annotations"] if r["image_id"] == pair.image_id]
    here, there = result.object_image == i, result.detection_image == i
    records = [records[position] for position in result.object_position[here]]
    entries = [evaluation.entries[position] for position in result.detection_entry[there]]
    size = image["height"], image["width"]
    pixels = read_image(path)
    has_masks = errors.kind == "segm"
    masks = [from_segmentation(r["segmentation"], *size) for r in records] if has_masks else []
    objects = draw_marked(
        pixels,
        _corners(records),
        result.object_label[here],
        masks,
        result.object_kind[here] != 0,
        errors.names,
        "missed",
    )
    found = draw_marked(
        pixels,
        _corners(entries),
        result.detection_label[there],
        [entry["segmentation"] for entry in entries] if has_masks else [],
        result.detection_kind[there] != 0,
        errors.names,
        "wrong",
        np.array([entry["score"] for entry in entries], np.float64),
    )
    return objects, found


def _corners(records: list[Record]) -> Floats:
    """(D, 4) xyxy."""
    boxes = np.array([record["bbox"] for record in records], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes
