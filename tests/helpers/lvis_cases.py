"""A federated data set and detections, the same with every version of every library.

`python -m tests.helpers.lvis_cases` writes lvis_metrics.json with the `lvis` package (0.5.3).
"""

import copy
import json
import random
import sys
import types
from pathlib import Path

import numpy as np
from pycocotools import mask as rle_codec

from tests.helpers.random_results import HEIGHT, WIDTH, corners

METRICS = Path(__file__).with_name("lvis_metrics.json")
LIMITS = (300, 20)  # detections per image


def federated_set(seed: int) -> tuple[dict, list[dict]]:
    """Draw six images and six categories, each annotated in some of the images."""
    rng = random.Random(seed)
    ids = [3, 8, 9, 20, 21, 40]
    categories = [{"id": i * 7 + 1, "name": f"c{i}", "frequency": "rccffr"[i]} for i in range(6)]
    images, annotations, entries = [], [], []
    for image_id in ids:
        states = {c["id"]: rng.choice(("present", "absent", "open", "unknown")) for c in categories}
        images.append(
            {"id": image_id, "height": HEIGHT, "width": WIDTH,
             "neg_category_ids": [id for id, state in states.items() if state == "absent"],
             "not_exhaustive_category_ids": [id for id, state in states.items() if state == "open"]}
        )  # fmt: skip
        boxes = []
        for category, state in states.items():
            for _ in range(int(rng.random() * 5) if state in ("present", "open") else 0):
                box = random_box(rng)
                boxes.append((category, box))
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": image_id, "category_id": category,
                     "bbox": box, "area": box[2] * box[3] * 0.75, "segmentation": [corners(*box)]}
                )  # fmt: skip
        for category, box in boxes:
            for _ in range(int(rng.random() * 3)):
                moved = [max(v + (rng.random() - 0.5) * 12, 4.0) for v in box]
                entries.append(entry(image_id, category, moved, rng))
        for _ in range(8):
            entries.append(entry(image_id, rng.choice(categories)["id"], random_box(rng), rng))
    if seed % 4 == 0:
        for _ in range(330):  # more than count
            entries.append(entry(ids[2], rng.choice(categories)["id"], random_box(rng), rng))
    rng.shuffle(entries)
    return {"images": images, "categories": categories, "annotations": annotations}, entries


def random_box(rng: random.Random) -> list[float]:
    sides = (12.0, 24.0, 40.0, 72.0, 120.0)
    return [16.0 * int(rng.random() * 12), 16.0 * int(rng.random() * 8), rng.choice(sides),
            rng.choice(sides)]  # fmt: skip


def entry(image_id: int, category: int, box: list[float], rng: random.Random) -> dict:
    mask = rle_codec.frPyObjects([corners(*box)], HEIGHT, WIDTH)[0]
    return {"image_id": image_id, "category_id": category, "score": int(rng.random() * 16) / 16,
            "bbox": box, "segmentation": mask}  # fmt: skip


def metrics_of_lvis(truth: dict, entries: list[dict], kind: str, limit: int) -> dict[str, float]:
    """Compute the metrics with the package; ImportError without it."""
    sys.modules.setdefault("cv2", types.ModuleType("cv2"))  # for its drawings only
    np.float = float  # its name before NumPy 1.24
    from lvis import LVIS, LVISEval, LVISResults

    dataset = LVIS.__new__(LVIS)
    dataset.logger = types.SimpleNamespace(info=lambda words: None, warn=lambda words: None)
    dataset.dataset = copy.deepcopy(truth)
    dataset._create_index()
    field = "bbox" if kind == "bbox" else "segmentation"
    kept = ("image_id", "category_id", "score", field)
    own = [{name: entry[name] for name in kept} for entry in copy.deepcopy(entries)]
    evaluator = LVISEval(dataset, LVISResults(dataset, own, max_dets=limit), kind)
    evaluator.run()
    del np.float
    return {name.split("@")[0]: float(value) for name, value in evaluator.results.items()}


if __name__ == "__main__":
    metrics = {
        f"{kind} {seed} {limit}": metrics_of_lvis(*federated_set(seed), kind, limit)
        for kind in ("bbox", "segm")
        for seed in range(4)
        for limit in LIMITS
    }
    rows = (f"{json.dumps(case)}: {json.dumps(row)}" for case, row in metrics.items())
    METRICS.write_text("{\n" + ",\n".join(rows) + "\n}\n")
