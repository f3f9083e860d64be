"""Time COCO's metrics by pycocotools and by hotcoco, on random results.

    python -m benchmarks.coco_metrics --images 2000

Boxes and masks of 80 classes, with 7 objects and 36 detections per image. The metrics are compared
first: a backend that differs is not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle_codec

from mrcnn.evaluation.coco import Backend, coco_metrics
from mrcnn.evaluation.result_files import check_entries, kinds_of
from mrcnn.evaluation.truth import GroundTruth

SIZE = (480, 640)  # (height, width)
BACKENDS: tuple[Backend, ...] = ("pycocotools", "hotcoco")


def random_results(images: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ellipses as polygons, and detections: each object moved a little four times, and others."""
    rng = np.random.default_rng(0)
    annotations, entries = [], []
    for image in range(1, images + 1):
        for _ in range(rng.poisson(7)):
            category, ellipse = int(rng.integers(1, 81)), random_ellipse(rng)
            mask = encoded(ellipse)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": category,
                    "segmentation": [ring(ellipse)],
                    "bbox": rle_codec.toBbox(mask).tolist(),
                    "area": float(rle_codec.area(mask)),
                    "iscrowd": 0,
                }
            )
            for _ in range(4):
                moved = ellipse * rng.normal(1, 0.08, 4)
                entries.append(detection(image, category, moved, float(rng.random())))
        for _ in range(8):
            category = int(rng.integers(1, 81))
            entries.append(detection(image, category, random_ellipse(rng), float(rng.random() / 2)))
    truth = {
        "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(1, images + 1)],
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, 81)],
        "annotations": annotations,
    }
    return truth, entries


def random_ellipse(rng: np.random.Generator) -> np.ndarray:
    """Draw x and y of the centre, half width and half height."""
    half = np.exp(rng.uniform(np.log(6), np.log(150), 2))
    return np.concatenate([rng.uniform(0, (SIZE[1], SIZE[0])), half])


def ring(ellipse: np.ndarray) -> list[float]:
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    points = ellipse[:2] + ellipse[2:] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    inside: list[float] = points.clip(0, (SIZE[1], SIZE[0])).ravel().tolist()
    return inside


def encoded(ellipse: np.ndarray) -> dict[str, Any]:
    mask: dict[str, Any] = rle_codec.frPyObjects([ring(ellipse)], *SIZE)[0]
    return mask


def detection(image: int, category: int, ellipse: np.ndarray, score: float) -> dict[str, Any]:
    mask = encoded(ellipse)
    box = rle_codec.toBbox(mask).tolist()
    counts = mask["counts"].decode()
    shape = {"bbox": box, "segmentation": {"size": [*SIZE], "counts": counts}}
    return {"image_id": image, "category_id": category, "score": score, **shape}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument(
        "--ground-truth", type=Path, help="annotation file to use instead of random ellipses"
    )
    parser.add_argument("--results", type=Path, help="result file for --ground-truth")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if args.ground_truth:
        truth, entries = (json.loads(p.read_text()) for p in (args.ground_truth, args.results))
    else:
        truth, entries = random_results(args.images)
    records = GroundTruth.from_records(truth)
    counts = len(truth["images"]), len(truth["annotations"]), len(entries)
    print("{:,} images, {:,} objects, {:,} detections;".format(*counts), end=" ")
    print(f"{os.cpu_count()} cores, median of {args.repeats}")
    for kind in kinds_of(entries):
        metrics = [coco_metrics(records, entries, kind, backend=name) for name in BACKENDS]
        if metrics[0] != metrics[1]:
            raise SystemExit(f"{kind}: the metrics differ")
        times: dict[Backend, list[tuple[float, float]]] = {name: [] for name in BACKENDS}
        for _ in range(args.repeats):
            for name in BACKENDS:
                wall, cpu = time.perf_counter(), time.process_time()
                check_entries(entries, [kind], records)
                coco_metrics(records, entries, kind, backend=name)
                times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
        slow, fast = (np.median(times[name], axis=0) for name in BACKENDS)
        print(
            f"{kind}: pycocotools {slow[0]:.2f} s (CPU {slow[1]:.2f} s), hotcoco {fast[0]:.2f} s "
            f"(CPU {fast[1]:.2f} s), ratio {slow[0] / fast[0]:.1f} (CPU {slow[1] / fast[1]:.1f})"
        )


if __name__ == "__main__":
    main()
