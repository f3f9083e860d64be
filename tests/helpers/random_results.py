"""Annotations and detections drawn at random, with all that scores treat specially."""

import contextlib
import copy
import io
import json
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from pycocotools import mask as rle_codec
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mrcnn.evaluation.coco import FIELDS
from mrcnn.evaluation.evaluation import Protocol, score
from mrcnn.evaluation.truth import GroundTruth

HEIGHT, WIDTH = 240, 320
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR", "ARs", "ARm", "ARl")
PER_CLASS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR")
CATEGORIES = {2: "cat", 5: "dog", 6: "cow", 90: "owl"}  # gaps between the ids


def random_set(seed: int, images: int = 5) -> tuple[dict, list[dict]]:
    """Ground truth, and entries of a result file with boxes and masks.

    Crowd regions, equal scores, equal overlaps, images without objects or without detections, a
    class without objects, areas of all sizes; in a third of the sets more than 100 detections of a
    class in an image, and in one of ten no detections at all.
    """
    rng = np.random.default_rng(seed)
    ids = (rng.permutation(50)[:images] + 1).tolist()
    classes = list(CATEGORIES)
    annotations, entries = [], []
    for image_id in ids[:-1]:  # the last has no objects
        for x, y, width, height in random_boxes(rng, rng.integers(0, 9)):
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image_id,
                 "category_id": int(rng.choice(classes[:-1])), "bbox": [x, y, width, height],
                 "segmentation": [corners(x, y, width, height)], "area": width * height * 0.75,
                 "iscrowd": int(rng.random() < 0.15)}
            )  # fmt: skip
    found = [] if seed % 10 == 9 else [a for a in annotations if rng.random() < 0.8]
    boxes = [(a["image_id"], a["category_id"], *a["bbox"]) for a in found]
    boxes += [boxes[i] for i in rng.integers(0, max(len(boxes), 1), len(boxes) // 3)]
    moved = rng.normal(0, 4, (len(boxes), 4)) * (rng.random((len(boxes), 1)) < 0.7)
    boxes = [
        (image, category, max(x + dx, 0), max(y + dy, 0), max(w + dw, 4), max(h + dh, 4))
        for (image, category, x, y, w, h), (dx, dy, dw, dh) in zip(boxes, moved, strict=True)
    ]
    if seed % 10 != 9:
        extra = 130 if seed % 3 == 0 else 12
        boxes += [(ids[-2], classes[0], *box) for box in random_boxes(rng, extra)]
        for box in random_boxes(rng, 10):
            boxes.append((int(rng.choice(ids[1:])), int(rng.choice(classes)), *box))
    for image, category, x, y, width, height in boxes:
        ring = corners(x, y, width, height)
        entries.append(
            {"image_id": image, "category_id": category, "score": int(rng.integers(1, 16)) / 16,
             "bbox": [float(v) for v in (x, y, width, height)],
             "segmentation": rle_codec.frPyObjects([ring], HEIGHT, WIDTH)[0]}
        )  # fmt: skip
    truth = {
        "images": [{"id": id, "height": HEIGHT, "width": WIDTH, "file_name": f"{id}.png"}
                   for id in ids],
        "categories": [{"id": id, "name": name} for id, name in CATEGORIES.items()],
        "annotations": annotations,
    }  # fmt: skip
    return truth, entries


def random_boxes(rng: np.random.Generator, count: int) -> list[tuple[float, ...]]:
    """x, y, width and height on a grid, so that boxes coincide; small, medium and large ones."""
    corner = rng.integers(0, 10, (count, 2)) * 16.0
    size = rng.choice([12.0, 24.0, 40.0, 72.0, 120.0, 150.0], (count, 2))
    return [tuple(row) for row in np.concatenate([corner, size], axis=1).tolist()]


def corners(x: float, y: float, width: float, height: float) -> list[float]:
    """A polygon of three quarters of a box."""
    right, bottom, middle = x + width, y + height, x + width / 2
    return [x, y, middle, y, right, y + height / 2, right, bottom, x, bottom]


def metrics_of(
    truth: dict,
    entries: list[dict],
    kind: str,
    limit: int | None = None,
    image_ids: Collection[int] | None = None,
    **protocol: object,
) -> dict[str, float]:
    """Score entries against records; the names of metrics are without their kind."""
    ground_truth = GroundTruth.from_records(truth, image_ids)
    metrics = score(ground_truth, entries, [kind], limit, Protocol(**protocol)).metrics
    return {
        name.removeprefix(f"{kind}_"): value
        for name, value in metrics.items()
        if name.startswith(f"{kind}_")
    }


def scored_by_pycocotools(
    truth: dict, entries: list[dict], kind: str, limits: Sequence[int] = (1, 10, 100)
) -> COCOeval:
    """Score by pycocotools' own reading of results; masks without their boxes."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        kept = ("image_id", "category_id", "score", FIELDS[kind])
        own = [{name: entry[name] for name in kept} for entry in copy.deepcopy(entries)]
        evaluator = COCOeval(coco, coco.loadRes(own) if own else COCO(), kind)
        evaluator.params.imgIds, evaluator.params.catIds = sorted(coco.imgs), sorted(coco.cats)
        evaluator.params.maxDets = list(limits)
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator


def write_files(folder: Path, truth: dict, entries: list[dict]) -> list[str]:
    """Write truth.json and results.json; return the flags of `mrcnn evaluate` for them."""
    files = {"--ground-truth": folder / "truth.json", "--results": folder / "results.json"}
    for file, content in zip(files.values(), (truth, entries), strict=True):
        file.write_text(json.dumps(content, default=bytes.decode))
    return [str(word) for flag in files.items() for word in flag]
