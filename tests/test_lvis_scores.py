"""LVIS's figures: those of its own package, of pycocotools where nothing is federated, by hand."""

import importlib.util
import itertools
import json

import pytest
from lvis_cases import FIGURES, LIMITS, federated_set, judged_by_lvis
from random_results import random_set

from mrcnn import evaluate as verb
from mrcnn.coco_scores import score_results
from mrcnn.errors import UserError
from mrcnn.lvis_scores import score_lvis

STORED = json.loads(FIGURES.read_text())


def overall(figures: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if "/" not in name}


@pytest.mark.parametrize("case", STORED)
def test_stored_figures(case):
    """Of `lvis` 0.5.3: categories present, absent, open and unknown; ties; more than the limit."""
    kind, seed, limit = case.split()
    figures = overall(score_lvis(*federated_set(int(seed)), kind, int(limit)))
    # Sums of 6,060 numbers in any order differ by less than 6,060 * 2**-53 = 7e-13.
    assert figures == pytest.approx(STORED[case], abs=1e-12)


@pytest.mark.skipif(not importlib.util.find_spec("lvis"), reason="lvis is not installed")
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_package(kind):
    for seed, limit in itertools.product(range(100, 130), LIMITS):
        truth, entries = federated_set(seed)
        figures = overall(score_lvis(truth, entries, kind, limit))
        assert figures == judged_by_lvis(truth, entries, kind, limit)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(12))
def test_all_annotated_is_coco(seed, kind):
    """Every category is known in every image, nothing is crowded: pycocotools says the same."""
    truth, entries = random_set(seed)
    every = [category["id"] for category in truth["categories"]]
    for image in truth["images"]:
        image |= {"neg_category_ids": every, "not_exhaustive_category_ids": []}
    for category in truth["categories"]:
        category["frequency"] = "c"
    for record in truth["annotations"]:
        record["iscrowd"] = 0
    expected = score_results(truth, entries, kind, max_detections=1000)
    figures = score_lvis(truth, entries, kind, max_detections=1000)
    shared = set(expected) & set(figures)
    assert {f"AP/{category['name']}" for category in truth["categories"]} < shared
    assert {name: figures[name] for name in shared} == {name: expected[name] for name in shared}
    assert figures["APc"] == figures["AP"]
    assert figures["APr"] == figures["APf"] == -1


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
    figures = score_lvis(truth, [wrong, HIT], "bbox")
    assert figures["AP"] == figures["APr"] == figures["AP/cat"] == pytest.approx(expected)
    assert figures["APf"] == figures["AP/dog"] == -1  # no dog is annotated


def test_the_limit_is_for_all_categories_together():
    """300 dogs of better score leave no room for the cat."""
    truth = one_object(image(1))
    dogs = [found(1, 2, 0, 0.9)] * 300
    assert score_lvis(truth, [HIT, *dogs[1:]], "bbox")["AR"] == 1
    assert score_lvis(truth, [HIT, *dogs], "bbox")["AR"] == 0
    assert score_lvis(truth, [], "bbox")["AP"] == 0


def test_some_images():
    truth = one_object(image(1), image(2, absent=(1,)))
    entries = [HIT, found(2, 1, 0, 0.9)]
    assert score_lvis(truth, entries, "bbox", image_ids=[1])["AP"] == pytest.approx(1)
    assert score_lvis(truth, entries, "bbox", image_ids=[2])["AP"] == -1


# The verb


@pytest.fixture
def place(tmp_path):
    truth, entries = federated_set(0)
    (tmp_path / "lvis.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(entries, default=bytes.decode))
    return tmp_path


def test_the_verb(place, capsys):
    flags = ["--results", place / "results.json", "--ground-truth", place / "lvis.json"]
    verb.main([str(flag) for flag in [*flags, "--protocol", "lvis"]])
    note, *lines = capsys.readouterr().out.splitlines()
    assert note.startswith("LVIS: a class that an image's record does not name is unknown there")
    assert lines[0] == "6 images, at most 300 detections each"
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "AR"]
    assert lines[1].split() == names
    expected = STORED["segm 0 300"]
    assert lines[3].split()[1:] == [f"{expected[name]:.3f}" for name in names]


BROKEN = {
    "an image": ("images", "neg_category_ids", r"images\[0\]\.neg_category_ids must be a list"),
    "a category": ("categories", "frequency", r"categories\[0\]\.frequency must be r, c or f"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_annotations_that_are_not_lvis(place, case):
    table, field, message = BROKEN[case]
    truth = json.loads((place / "lvis.json").read_text())
    del truth[table][0][field]
    (place / "lvis.json").write_text(json.dumps(truth))
    flags = ["--results", place / "results.json", "--ground-truth", place / "lvis.json"]
    with pytest.raises(UserError, match=rf"lvis\.json: {message}.*got None"):
        verb.main([str(flag) for flag in [*flags, "--protocol", "lvis"]])


def test_a_backend_of_coco(place):
    flags = ["--results", "r", "--ground-truth", "t", "--protocol", "lvis"]
    with pytest.raises(UserError, match="--backend hotcoco: is for --protocol coco only"):
        verb.main([*flags, "--backend", "hotcoco"])
