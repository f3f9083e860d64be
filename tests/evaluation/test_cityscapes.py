"""Cityscapes metrics: those of the benchmark's own tools, and by hand."""

import importlib.util
import json

import numpy as np
import pytest
from PIL import Image

from mrcnn import evaluate as command
from mrcnn.errors import UserError
from mrcnn.evaluation.cityscapes import score_cityscapes
from tests.helpers.cityscapes_cases import (
    LABELS,
    METRICS,
    TOOLS,
    entry,
    metrics_of_the_benchmark,
    street,
)
from tests.helpers.random_results import write_files

STORED = json.loads(METRICS.read_text())
CAR = LABELS["car"]


def metrics_of(images: list) -> dict[str, float]:
    entries = [(ids, [entry(*detection) for detection in found]) for ids, found in images]
    return score_cityscapes(entries, {label: label for label in LABELS.values()})


@pytest.mark.parametrize("seed", STORED)
def test_stored_metrics(seed):
    """Of cityscapesscripts 2.3.0: groups, void, small objects, duplicates, ties, empty masks."""
    # Sums and products of less than 1,000 numbers in any order, each off by 2**-53 at most.
    assert metrics_of(street(int(seed))) == pytest.approx(STORED[seed], abs=1e-12)


@pytest.mark.skipif(not importlib.util.find_spec(TOOLS), reason=f"{TOOLS} is not installed")
def test_the_tools():
    for seed in range(100, 115):
        images = street(seed)
        assert metrics_of(images) == pytest.approx(metrics_of_the_benchmark(images), abs=1e-12)


# By hand: a car of 20 x 20 in a street of 40 x 80; detections (score, x, y) are 20 x 20, too.


def scene(*detections: tuple[float, int, int], ids=None) -> list:
    found = []
    for score, x, y in detections:
        mask = np.zeros((40, 80), bool)
        mask[y : y + 20, x : x + 20] = True
        found.append((CAR, score, mask))
    return [(with_car() if ids is None else ids, found)]


def with_car() -> np.ndarray:
    ids = np.full((40, 80), 7)  # road
    ids[:20, :20] = 1000 * CAR
    return ids


def changed(rows: slice, columns: slice, value: int) -> np.ndarray:
    ids = with_car()
    ids[rows, columns] = value
    return ids


RIGHT, FALSE = (0.5, 0, 0), (0.9, 40, 20)
ROWS, COLUMNS = slice(20, 40), slice(40, 60)  # of the false one
# Points (recall, precision) by falling score, the first one artificial: (0, 1). The area takes each
# precision as wide as half of the distance between the recalls of its neighbours.
WORSE = 0.25  # (0, 1), (0, 0), (1, 1/2): 1 * 0 + 0 * 1/2 + 1/2 * 1/2
TIED = 0.75  # (0, 1), (1, 1/2): 1 * 1/2 + 1/2 * 1/2
SCENES = {  # images, AP of cars, AP50 of cars
    "right": (scene(RIGHT), 1.0, 1.0),
    "nothing": (scene(), 0.0, 0.0),
    "wrong only": (scene(FALSE), 0.0, 0.0),
    "wrong of better score": (scene(RIGHT, FALSE), WORSE, WORSE),
    "wrong of equal score": (scene(RIGHT, (0.5, 40, 20)), TIED, TIED),
    "twice": (scene(RIGHT, RIGHT), TIED, TIED),
    "IoU 18 / 22": (scene((0.5, 2, 0)), 0.7, 1.0),  # 0.82 is more than 7 of the 10
    "in void": (scene(RIGHT, FALSE, ids=changed(ROWS, COLUMNS, 4)), 1.0, 1.0),
    # 0.6 of it: enough at IoU 0.5 and 0.55 only.
    "partly in void": (
        scene(RIGHT, FALSE, ids=changed(slice(20, 32), COLUMNS, 4)), 0.2 + 0.8 * WORSE, 1.0
    ),
    "in a group of cars": (scene(RIGHT, FALSE, ids=changed(ROWS, COLUMNS, CAR)), 1.0, 1.0),
    "in a group of bicycles": (scene(RIGHT, FALSE, ids=changed(ROWS, COLUMNS, 33)), WORSE, WORSE),
    "on a bicycle": (scene(RIGHT, FALSE, ids=changed(ROWS, COLUMNS, 33_001)), WORSE, WORSE),
    "a car of 99 pixels is not missed": (
        scene(RIGHT, ids=changed(slice(20, 31), slice(40, 49), 26_005)), 1.0, 1.0
    ),
    "a car of 100 pixels is": (
        scene(RIGHT, ids=changed(slice(20, 30), slice(40, 50), 26_005)), 0.5, 0.5
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SCENES)
def test_scenes(case):
    images, ap, ap50 = SCENES[case]
    metrics = metrics_of(images)
    assert (metrics["AP/car"], metrics["AP50/car"]) == pytest.approx((ap, ap50))
    has_bicycle = case == "on a bicycle"
    assert metrics["AP/bicycle"] == (0.0 if has_bicycle else -1.0)
    assert metrics["AP"] == pytest.approx(ap / 2 if has_bicycle else ap)


# The command


@pytest.fixture
def folder(tmp_path):
    """Annotations and results in COCO's form, and a tree of ids."""
    content = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": i, "name": name} for i, name in enumerate(("sky", *LABELS))]
    entries = []
    for number, (ids, found) in enumerate(street(3), start=1):
        frame = f"ulm_000{number}_000019"
        height, width = ids.shape
        content["images"].append(
            {"id": number, "file_name": f"ulm/{frame}_leftImg8bit.png", "height": height,
             "width": width}
        )  # fmt: skip
        file = tmp_path / "gtFine" / "val" / "ulm" / f"{frame}_gtFine_instanceIds.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(ids).save(file)
        for label, score, mask in found:
            one = entry(label, score, mask)
            category = [0, *LABELS.values()].index(label)
            entries.append({**one, "image_id": number, "category_id": category})
    write_files(tmp_path, content, entries)
    return tmp_path


def evaluate(folder, *words: object) -> None:
    flags = ["--results", folder / "results.json", "--ground-truth", folder / "truth.json"]
    flags += ["--protocol", "cityscapes", "--instance-ids", folder / "gtFine", *words]
    command.main([str(flag) for flag in flags])


def test_the_command(folder, capsys):
    evaluate(folder, "--json", folder / "metrics.json")
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["4 images", "            AP    AP50"]
    assert lines[2].split() == ["segm", f"{STORED['3']['AP']:.3f}", f"{STORED['3']['AP50']:.3f}"]
    metrics = json.loads((folder / "metrics.json").read_text())["segm"]
    assert metrics["classes"]["car"]["AP"] == pytest.approx(STORED["3"]["AP/car"])
    assert metrics["classes"]["train"]["AP"] is None


def test_files_of_ids(folder):
    first, second, *_ = sorted((folder / "gtFine").rglob("*.png"))
    content = first.read_bytes()
    first.write_bytes(content[:60])
    with pytest.raises(UserError, match=r"ulm_0001_000019_gtFine_instanceIds\.png: cannot be read"):
        evaluate(folder)
    Image.new("I;16", (9, 9)).save(first)
    with pytest.raises(UserError, match=r"number for each of 96 x 160 pixels, has shape \(9, 9"):
        evaluate(folder)
    first.write_bytes(content)
    second.rename(folder / "gtFine" / first.name)
    with pytest.raises(UserError, match="holds 2 files ulm_0001_000019_gtFine"):
        evaluate(folder)
    first.unlink()
    with pytest.raises(UserError, match="holds 0 files ulm_0002_000019_gtFine"):
        evaluate(folder)


def test_other_classes_and_boxes_only(folder):
    truth, entries = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("truth", "results")
    )
    boxes = [{**one, "bbox": [0, 0, 9, 9]} for one in entries]
    for one in boxes:
        del one["segmentation"]
    write_files(folder, truth, boxes)
    with pytest.raises(UserError, match="scores masks; the detections have boxes only"):
        evaluate(folder)
    for category in truth["categories"]:
        category["name"] += " (new)"
    write_files(folder, truth, entries)
    with pytest.raises(UserError, match="none of the categories is a class of Cityscapes"):
        evaluate(folder)


def test_flags_that_do_not_go_together(folder):
    with pytest.raises(UserError, match="--max-dets: the scores of Cityscapes have no limit"):
        evaluate(folder, "--max-dets", 100)
    with pytest.raises(UserError, match="--instance-ids, the folder gtFine, goes with"):
        command.main(["--results", "r", "--data", "d", "--instance-ids", "gtFine"])
    with pytest.raises(UserError, match="--instance-ids, the folder gtFine, goes with"):
        command.main(["--results", "r", "--data", "d", "--protocol", "cityscapes"])
