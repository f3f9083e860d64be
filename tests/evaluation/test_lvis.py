"""LVIS metrics: those of its own package, of COCO where nothing is federated, and by hand."""

import json
import sys

import pytest

from mrcnn import evaluate as command
from mrcnn.errors import UserError
from tests.helpers.lvis_cases import METRICS, federated_set
from tests.helpers.random_results import metrics_of, random_set, write_files

pytest.importorskip("hotcoco", reason="the extra [eval] is not installed")

STORED = json.loads(METRICS.read_text())


def lvis(truth, entries, kind, limit=None, image_ids=None) -> dict[str, float]:
    return metrics_of(truth, entries, kind, limit, image_ids, name="lvis")


def overall(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if "/" not in name}


@pytest.mark.parametrize("case", STORED)
def test_stored_metrics(case):
    """Categories present, absent, open and unknown; ties; more than the limit."""
    kind, seed, limit = case.split()
    metrics = overall(lvis(*federated_set(int(seed)), kind, int(limit)))
    # Sums of 6,060 numbers in any order differ by less than 6,060 * 2**-53 = 7e-13.
    assert metrics == pytest.approx(STORED[case], abs=1e-12)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(12))
def test_all_annotated_is_coco(seed, kind):
    """Every category is known in every image, nothing is crowded: pycocotools gives the same."""
    truth, entries = random_set(seed)
    every = [category["id"] for category in truth["categories"]]
    for image in truth["images"]:
        image |= {"neg_category_ids": every, "not_exhaustive_category_ids": []}
    for category in truth["categories"]:
        category["frequency"] = "c"
    for record in truth["annotations"]:
        record["iscrowd"] = 0
    expected = metrics_of(truth, entries, kind, 1000)
    metrics = lvis(truth, entries, kind, 1000)
    shared = set(expected) & set(metrics)
    assert {f"AP/{category['name']}" for category in truth["categories"]} < shared
    assert {name: metrics[name] for name in shared} == {name: expected[name] for name in shared}
    assert metrics["APc"] == metrics["AP"]
    assert metrics["APr"] == metrics["APf"] == -1


# By hand


def image(id: int, absent: tuple = (), open: tuple = ()) -> dict:
    return {"id": id, "height": 100, "width": 100, "neg_category_ids": [*absent],
            "not_exhaustive_category_ids": [*open]}  # fmt: skip


def one_object(*images: dict) -> dict:
    """A cat of 40 x 40 in image 1; dogs are known elsewhere."""
    return {
        "images": list(images),
        "categories": [{"id": 1, "name": "cat", "frequency": "r"},
                       {"id": 2, "name": "dog", "frequency": "f"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 40, 40],
                         "area": 1600}],
    }  # fmt: skip


def found(image_id: int, category: int, x: float, score: float) -> dict:
    box = [x, 0, 40, 40]
    return {"image_id": image_id, "category_id": category, "bbox": box, "score": score}


HIT = found(1, 1, 0, 0.5)
WRONG = {  # a detection of better score than that which is right: AP is 1 / 2 where it counts
    "absent there": (one_object(image(1), image(2, absent=(1,))), found(2, 1, 0, 0.9), 0.5),
    "unknown there": (one_object(image(1), image(2)), found(2, 1, 0, 0.9), 1.0),
    "beside the object": (one_object(image(1)), found(1, 1, 50, 0.9), 0.5),
    "beside it, others may lack": (one_object(image(1, open=(1,))), found(1, 1, 50, 0.9), 1.0),
    "another class": (one_object(image(1)), found(1, 2, 0, 0.9), 1.0),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_counts(case):
    truth, wrong, expected = WRONG[case]
    metrics = lvis(truth, [wrong, HIT], "bbox")
    assert metrics["AP"] == metrics["APr"] == metrics["AP/cat"] == pytest.approx(expected)
    assert metrics["APf"] == metrics["AP/dog"] == -1  # no dog is annotated


def test_the_limit_is_for_all_categories_together():
    """300 dogs of better score leave no room for the cat."""
    truth = one_object(image(1))
    dogs = [found(1, 2, 0, 0.9)] * 300
    assert lvis(truth, [HIT, *dogs[1:]], "bbox")["AR"] == 1
    assert lvis(truth, [HIT, *dogs], "bbox")["AR"] == 0
    assert lvis(truth, [], "bbox")["AP"] == 0


def test_some_images():
    truth = one_object(image(1), image(2, absent=(1,)))
    entries = [HIT, found(2, 1, 0, 0.9)]
    assert lvis(truth, entries, "bbox", image_ids=[1])["AP"] == pytest.approx(1)
    assert lvis(truth, entries, "bbox", image_ids=[2])["AP"] == -1


# The command


def test_the_command(tmp_path, capsys):
    command.main([*write_files(tmp_path, *federated_set(0)), "--protocol", "lvis"])
    note, *lines = capsys.readouterr().out.splitlines()
    assert note.startswith("LVIS: a class that an image's record does not name is unknown")
    assert lines[0] == "6 images, at most 300 detections each"
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "AR"]
    assert lines[1].split() == names
    expected = STORED["segm 0 300"]
    assert lines[3].split()[1:] == [f"{expected[name]:.3f}" for name in names]


@pytest.mark.parametrize(
    ("table", "field", "message"),
    [
        ("images", "neg_category_ids", "image 3: neg_category_ids must be a list"),
        ("categories", "frequency", "category 1: frequency must be r, c or f"),
    ],
)
def test_annotations_that_are_not_lvis(tmp_path, table, field, message):
    truth, entries = federated_set(0)
    del truth[table][0][field]
    with pytest.raises(UserError, match=rf"truth\.json: {message}.*got None"):
        command.main([*write_files(tmp_path, truth, entries), "--protocol", "lvis"])


def test_a_backend_of_coco():
    flags = ["--results", "r", "--ground-truth", "t", "--protocol", "lvis"]
    with pytest.raises(UserError, match="--backend hotcoco: goes with --protocol coco only"):
        command.main([*flags, "--backend", "hotcoco"])


def test_without_hotcoco(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    flags = write_files(tmp_path, *federated_set(0))
    with pytest.raises(UserError, match=r"--protocol lvis: .*pip install 'mrcnn\[eval\]'"):
        command.main([*flags, "--protocol", "lvis"])
