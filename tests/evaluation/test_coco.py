"""COCO metrics of random sets equal pycocotools' own, and wrong result files are reported."""

import sys

import numpy as np
import pytest

from mrcnn.errors import UserError
from mrcnn.evaluation.result_files import kinds_of, read_results
from mrcnn.evaluation.truth import GroundTruth
from tests.helpers.random_results import (
    METRICS,
    metrics_of,
    random_set,
    scored_by_pycocotools,
    write_files,
)

POSITIONS = {"AP": (slice(None), 0), "AP50": (0, 0), "AP75": (5, 0), "APs": (slice(None), 1),
             "APm": (slice(None), 2), "APl": (slice(None), 3)}  # fmt: skip


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(50))
def test_random_sets(seed, kind):
    """Crowds, ties, images without objects or detections, no detections, more than 100."""
    truth, entries = random_set(seed)
    metrics = metrics_of(truth, entries, kind)
    evaluator = scored_by_pycocotools(truth, entries, kind)
    evaluator.summarize()
    assert [metrics[name] for name in METRICS] == evaluator.stats.tolist()
    for k, category in enumerate(truth["categories"]):
        for name, (at, area) in POSITIONS.items():
            values = evaluator.eval["precision"][at, ..., k, area, 2]
            expected = np.mean(values) if values.max() > -1 else -1
            assert metrics[f"{name}/{category['name']}"] == expected
        recall = evaluator.eval["recall"][:, k, 0, 2].mean()
        assert metrics[f"AR/{category['name']}"] == recall


def test_an_annotation_with_id_0_can_be_found():
    """COCOeval takes 0 for "no object"; annotations are often numbered from 0."""
    truth, entries = random_set(1)
    expected = metrics_of(truth, entries, "bbox")
    for record in truth["annotations"]:
        record["id"] -= 1
    assert metrics_of(truth, entries, "bbox") == expected


def test_a_backend_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    truth, entries = random_set(4)
    with pytest.raises(UserError, match=r"--backend hotcoco: .*pip install 'mrcnn\[eval\]'"):
        metrics_of(truth, entries, "bbox", backend="hotcoco")


# Files of results


def read(folder, truth: dict, entries: object) -> list[dict]:
    write_files(folder, truth, entries)
    return read_results(folder / "results.json", GroundTruth.from_records(truth))


def test_a_file_of_results(tmp_path):
    truth, entries = random_set(2)
    content = read(tmp_path, truth, entries)
    assert kinds_of(content) == ("bbox", "segm")
    assert metrics_of(truth, content, "segm") == metrics_of(truth, entries, "segm")
    del entries[3]["bbox"]
    assert kinds_of(read(tmp_path, truth, entries)) == ("segm",)
    assert read(tmp_path, truth, []) == []


BAD_ENTRIES = {
    "no image": ({"image_id": 77}, "image_id must be the id of an image of .*, got 77"),
    "a list for an id": ({"image_id": [1]}, r"image_id must be the id of an image .*, got \[1\]"),
    "a name for a class": ({"category_id": "cat"}, "category_id must be a whole number"),
    "half a class": ({"category_id": 2.5}, "category_id must be a whole number, got 2.5"),
    "no score": ({"score": None}, "score must be a finite number, got None"),
    "NaN for a score": ({"score": float("nan")}, "score must be a finite number, got nan"),
    "three numbers": ({"bbox": [1, 2, 3]}, r"bbox must be four finite numbers .*, got \[1, 2, 3\]"),
    "reversed box": ({"bbox": [1, 2, -3, 4]}, "bbox must be four finite numbers"),
    "polygon": ({"segmentation": [[1, 1, 9, 1, 9, 9]]}, r"RLE whose size is \[240, 320\]"),
    "mask of another size": (
        {"segmentation": {"size": [9, 9], "counts": "0"}}, r"RLE whose size is \[240, 320\]"
    ),
    "mask cut short": (
        {"segmentation": {"size": [240, 320], "counts": "01"}}, "RLE that fills the image"
    ),
    "list of counts": (
        {"segmentation": {"size": [240, 320], "counts": [5, 76795]}}, "compressed RLE that"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ENTRIES)
def test_bad_entries(case, tmp_path):
    """The message names file, entry, field, value and fix; pycocotools accepts some of them."""
    change, message = BAD_ENTRIES[case]
    truth, entries = random_set(2)
    entries[4].update(change)
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, truth, entries)
    assert f"{tmp_path / 'results.json'}: entry 4: " in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1}, "must be a list of detections, got {'a': 1}"),
        ([3], "entry 0 lacks all fields, got 3"),
        ([{"image_id": 5, "category_id": 4, "bbox": [0, 0, 1, 1]}], "entry 0 lacks score"),
        ([{"image_id": 30, "category_id": 2, "score": 0.5}], "neither has every entry a bbox, nor"),
    ],
)
def test_bad_results(content, message, tmp_path):
    truth, _ = random_set(2)
    truth["images"][0]["id"] = 30
    with pytest.raises(UserError, match=rf"results\.json: {message}"):
        read(tmp_path, truth | {"annotations": []}, content)
