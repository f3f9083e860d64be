"""Images of ids and detections, the same with every version of every library.

`python -m tests.helpers.cityscapes_cases` writes cityscapes_metrics.json again,
with the tools of the
benchmark (cityscapesscripts 2.3.0).
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
    """Ids of each image, and detections (label, score, mask): objects of all sizes, groups, void,
    duplicates, equal scores; trains are nowhere."""
    rng = random.Random(seed)
    drawn = []
    for _ in range(images):
        ids = np.full((HEIGHT, WIDTH), 7, np.uint16)  # road
        masks = []
        for number in range(14):
            label = rng.choice((24, 26, 26, 26, 33, 0, 4, 29))
            kind = rng.random()
            mask = rectangle(rng, 6 if kind < 0.3 else 40)
            if label < 24 or kind > 0.85:
                ids[mask] = label
            else:
                ids[mask] = 1000 * label + number
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
    """An entry of a result file whose category ids are the labels."""
    runs = rle_codec.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"category_id": label, "score": score, "segmentation": runs}


def metrics_of_the_benchmark(images: list) -> dict[str, float]:
    """The figures of its tools; ImportError without them."""
    sys.modules.setdefault("pyquaternion", types.SimpleNamespace(Quaternion=object))  # for 3-D
    np.in1d = np.isin  # its name before NumPy 2.4
    judge = importlib.import_module(f"{TOOLS}.evaluation.evalInstanceLevelSemanticLabeling")
    judge.writeDict2JSON = lambda *_: None  # of what lies between, which NumPy 2 does not let it
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()):
        truths, lists = [], []
        for number, (ids, found) in enumerate(images):
            truths.append(f"{place}/a_0_{number}_gtFine_instanceIds.png")
            Image.fromarray(ids).save(truths[-1])
            lines = []
            for i, (label, score, mask) in enumerate(found):
                Image.fromarray(mask.astype(np.uint8)).save(f"{place}/a_0_{number}_{i}.png")
                lines.append(f"a_0_{number}_{i}.png {label} {score!r}\n")
            lists.append(f"{place}/a_0_{number}.txt")
            Path(lists[-1]).write_text("".join(lines))
        judge.args.gtInstancesFile = f"{place}/gt.json"
        judge.args.JSONOutput, judge.args.quiet = False, True
        judge.args.predictionPath = place
        found = judge.evaluateImgLists(lists, truths, judge.args)["averages"]
    del np.in1d
    figures = {"AP": found["allAp"], "AP50": found["allAp50%"]}
    for name, values in found["classes"].items():
        figures |= {f"AP/{name}": values["ap"], f"AP50/{name}": values["ap50%"]}
    return {name: -1.0 if np.isnan(value) else float(value) for name, value in figures.items()}


if __name__ == "__main__":
    figures = {str(seed): metrics_of_the_benchmark(street(seed)) for seed in range(20)}
    METRICS.write_text(json.dumps(figures, indent=0) + "\n")
