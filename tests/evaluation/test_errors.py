"""Errors of a detector in a few lines, as JSON and as a figure."""

import json

import numpy as np
import pytest
from PIL import Image

from mrcnn import evaluate as command
from mrcnn.errors import UserError
from mrcnn.evaluation.errors import ErrorAnalysis, find_errors
from mrcnn.evaluation.truth import GroundTruth
from tests.helpers.random_results import CATEGORIES, random_set, write_files


def scene() -> tuple[dict, list[dict]]:
    """Three cats and a dog of 40 x 40; found are a cat, a dog that is a cat, and background."""
    truth = {
        "images": [{"id": 1, "height": 100, "width": 200}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": category, "bbox": [50 * i, 0, 40, 40],
             "area": 1600, "iscrowd": 0, "segmentation": []}
            for i, category in enumerate((1, 1, 1, 2))
        ],
    }  # fmt: skip
    found = [(1, 0, 0.9), (2, 50, 0.8), (1, 400, 0.1)]
    entries = [
        {"image_id": 1, "category_id": category, "bbox": [x, 0, 40, 40], "score": score}
        for category, x, score in found
    ]
    return truth, entries


def errors_of(truth: dict, entries: list[dict], kind: str = "bbox") -> ErrorAnalysis:
    return find_errors(GroundTruth.from_records(truth), entries, kind)


def test_the_lines():
    """The best F1, 2 * 1 / (1 + 4), is reached above 0.8; the lowest score of equals is 0.81."""
    assert str(errors_of(*scene())).splitlines() == [
        "boxes with score >= 0.81, where F1 is best, at IoU 0.5: "
        "F1 0.400, precision 1.000, recall 0.250",
        "detections 1: 1 correct, 0 duplicate, 0 class, 0 location, 0 class and location, "
        "0 background",
        "objects 4: 1 found, 0 class, 0 location, 3 missed",
        "most often without a detection: cat 2 of 3, dog 1 of 1",
        "recall                0.0   0.1   0.2   0.3   0.4   0.5   0.6   0.7   0.8   0.9   1.0",
        "precision, IoU 0.5   0.50  0.50  0.50  0.50  0.00  0.00  0.00  0.00  0.00  0.00  0.00",
        "precision, IoU 0.75  0.50  0.50  0.50  0.50  0.00  0.00  0.00  0.00  0.00  0.00  0.00",
    ]


def test_confusions():
    """Without the cat that is found nothing is right, and what has a score of 0.5 counts."""
    truth, entries = scene()
    errors = errors_of(truth, entries[1:])
    lines = str(errors).splitlines()
    assert "score >= 0.50" in lines[0]
    assert "most confused: cat as dog 1" in lines
    tree = errors.to_dict()
    assert tree["confusions"] == [["cat", "dog", 1], ["cat", None, 2], ["dog", None, 1]]
    assert tree["objects"] == {"found": 0, "class": 1, "location": 0, "missed": 3}


def test_nothing_found_and_nothing_to_find():
    truth, entries = scene()
    assert "detections 0: 0 correct" in str(errors_of(truth, []))
    truth["annotations"] = []
    text = str(errors_of(truth, entries))
    assert "objects 0: 0 found" in text


def test_the_flags(tmp_path, capsys):
    """--plots draws and prints; the JSON holds the errors, too."""
    truth, entries = random_set(2)
    truth["categories"][0]["name"] = "_a $100 bill$"
    flags = write_files(tmp_path, truth, entries)
    flags += ["--plots", tmp_path / "new" / "errors.png", "--json", tmp_path / "metrics.json"]
    command.main([str(flag) for flag in flags])
    output = capsys.readouterr().out
    assert "masks with score >= " in output
    with Image.open(tmp_path / "new" / "errors.png") as image:
        assert image.format == "PNG"
        assert np.asarray(image.convert("L")).std() > 10
    errors = json.loads((tmp_path / "metrics.json").read_text())["errors"]
    assert errors == json.loads(json.dumps(errors_of(truth, entries, "segm").to_dict()))
    assert len(errors["precision_at_recalls"]["0.5"]) <= len(CATEGORIES)


def test_an_unknown_type_of_figure():
    with pytest.raises(UserError, match=r"--plots e\.doc: must end in \.png, \.svg or \.pdf"):
        command.main(["--results", "r", "--data", "d", "--plots", "e.doc"])
