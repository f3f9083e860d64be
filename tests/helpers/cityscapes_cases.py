"""Images of ids and detections, the same with every version of every library.

`python -m tests.helpers.cityscapes_cases` writes cityscapes_metrics.json with the benchmark's tools
(cityscapesscripts 2.3.0).
"""

import contextlib
import importlib
import io
import json
import random
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as rle_codec

HEIGHT, WIDTH = 96, 160
NAMES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
LABELS = dict(zip(NAMES, (24, 25, 26, 27, 28, 31, 32, 33), strict=True))
TOOLS = "cityscapesscripts"
METRICS = Path(__file__).with_name("cityscapes_metrics.json")


def street(
    seed: int, images: int = 4
) -> list[tuple[np.ndarray, list[tuple[int, float, np.ndarray]]]]:
    """Draw the ids of each image, and detections (label, score, mask).

    There are objects of all sizes, groups, void, duplicates and equal scores, but no trains.
    """
    rng = random.Random(seed)
    drawn = []
    for _ in range(images):
        ids = np.full((HEIGHT, WIDTH), 7, np.uint16)  # road
        masks = []
        for number in range(14):
            label = rng.choice((24, 26, 26, 26, 33, 0, 4, 29))
            kind = rng.random()
            mask = rectangle(rng, 6 if kind < 0.3 else 40)
            is_region = label < 24 or kind > 0.85
            ids[mask] = label if is_region else 1000 * label + number
            masks.append((label, mask))
        found = []
        for label, mask in masks * 2:
            if rng.random() < 0.75 and label in LABELS.values():
                shift = int(rng.random() * 7) - 3
                moved = np.roll(mask & (rng.random() < 0.95), shift, axis=1)
                found.append((label, int(rng.random() * 8) / 8, moved))
        for _ in range(6):
            found.append((rng.choice((24, 26, 28, 31)), rng.random(), rectangle(rng, 40)))
        drawn.append((ids, found))
    return drawn


def rectangle(rng: random.Random, longest: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    y, x = int(rng.random() * (HEIGHT - 8)), int(rng.random() * (WIDTH - 8))
    mask[y : y + 4 + int(rng.random() * longest), x : x + 4 + int(rng.random() * longest)] = True
    return mask


def entry(label: int, score: float, mask: np.ndarray) -> dict:
    """Return an entry of a result file whose category ids are the labels."""
    runs = rle_codec.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"category_id": label, "score": score, "segmentation": runs}


def metrics_of_the_benchmark(images: list) -> dict[str, float]:
    """Compute the metrics with the tools of the benchmark; ImportError without them."""
    sys.modules.setdefault("pyquaternion", types.SimpleNamespace(Quaternion=object))  # for 3-D
    np.in1d = np.isin  # its name before NumPy 2.4
    tools = importlib.import_module(f"{TOOLS}.evaluation.evalInstanceLevelSemanticLabeling")
    tools.writeDict2JSON = lambda *_: None  # of intermediate results, which fails with NumPy 2
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        truths, lists = [], []
        for number, (ids, found) in enumerate(images):
            truths.append(f"{folder}/a_0_{number}_gtFine_instanceIds.png")
            Image.fromarray(ids).save(truths[-1])
            lines = []
            for i, (label, score, mask) in enumerate(found):
                Image.fromarray(mask.astype(np.uint8)).save(f"{folder}/a_0_{number}_{i}.png")
                lines.append(f"a_0_{number}_{i}.png {label} {score!r}\n")
            lists.append(f"{folder}/a_0_{number}.txt")
            Path(lists[-1]).write_text("".join(lines))
        tools.args.gtInstancesFile = f"{folder}/gt.json"
        tools.args.JSONOutput, tools.args.quiet = False, True
        tools.args.predictionPath = folder
        found = tools.evaluateImgLists(lists, truths, tools.args)["averages"]
    del np.in1d
    metrics = {"AP": found["allAp"], "AP50": found["allAp50%"]}
    for name, values in found["classes"].items():
        metrics |= {f"AP/{name}": values["ap"], f"AP50/{name}": values["ap50%"]}
    return {name: -1.0 if np.isnan(value) else float(value) for name, value in metrics.items()}


if __name__ == "__main__":
    metrics = {str(seed): metrics_of_the_benchmark(street(seed)) for seed in range(20)}
    METRICS.write_text(json.dumps(metrics, indent=0) + "\n")
