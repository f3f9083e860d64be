"""COCO metrics of random sets equal pycocotools' own, and wrong result files are reported."""

import sys

import numpy as np
import pytest

from mrcnn.errors import UserError
from mrcnn.evaluation.result_files import kinds_of, read_results
from mrcnn.evaluation.truth import GroundTruth
from mrcnn.ops import rle
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
    "a score beyond floats": ({"score": 10**400}, "score must be a finite number, got 10000"),
    "a box beyond floats": ({"bbox": [1, 1, 10**400, 2]}, "bbox must be four finite numbers"),
    "half a polygon": ({"segmentation": [[1, 1, 9, 1]]}, "hold x and y of at least 3 points"),
    "polygon far away": ({"segmentation": [[1, 1, 9e9, 1, 9, 9]]}, "in or near its image of 320"),
    "mask of another size": (
        {"segmentation": {"size": [9, 9], "counts": "0"}},
        r"segmentation\.size must be \[240, 320\], the \[height, width\] of the image",
    ),
    "mask of a turned size": (
        {"segmentation": {"size": [320, 240], "counts": [76800]}}, r"it is \[width, height\]",
    ),
    "mask of 2^62 pixels": (
        {"segmentation": {"size": [2**31, 2**31], "counts": [2**62]}}, r"segmentation\.size must"
    ),
    "mask cut short": (
        {"segmentation": {"size": [240, 320], "counts": "01"}}, "be the RLE of a mask of 320 x 240"
    ),
    "counts that overflow": (
        {"segmentation": {"size": [240, 320], "counts": [2**63 - 1, 2**63 - 1, 76802]}}, "got more"
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


OTHER_MASKS = {  # of the pixels (1, 1) to (3, 4) of an image of 240 x 320
    "counts": {"size": [240, 320], "counts": [241, 3, 237, 3, 76316]},
    "polygon": [[1, 1, 3, 1, 3, 4, 1, 4]],
    "flat polygon": [1, 1, 3, 1, 3, 4, 1, 4],
    "points": [[1, 1], [3, 1], [3, 4], [1, 4]],
}


@pytest.mark.parametrize("mask", OTHER_MASKS.values(), ids=OTHER_MASKS)
def test_masks_in_other_forms(mask, tmp_path):
    truth, entries = random_set(2)
    expected = rle.from_box(np.array([1, 1, 3, 4]), 240, 320)
    entries[0]["segmentation"] = expected
    metrics = metrics_of(truth, entries, "segm")
    entries[0] |= {"segmentation": mask, "score": str(entries[0]["score"])}
    entries[0] |= {key: float(entries[0][key]) for key in ("image_id", "category_id")}
    content = read(tmp_path, truth, entries)
    assert content[0]["segmentation"] == expected
    assert metrics_of(truth, content, "segm") == metrics


def test_annotations_in_place_of_detections(tmp_path):
    truth, _ = random_set(2)
    with pytest.raises(UserError, match="it is an annotation file; name the file of detections"):
        read(tmp_path, truth, truth)


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
