"""`Result`: selection, conversions and files of the objects of one image."""

import dataclasses
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mrcnn.errors import UserError
from mrcnn.inference.results import Result
from mrcnn.ops import rle
from tests.helpers.tiny import noise


@pytest.fixture
def result() -> Result:
    masks = np.zeros((3, 30, 40), np.uint8)
    masks[0, 5:15, 10:20] = masks[1, 20:, :5] = 1
    return Result(
        image=noise(30, 40),
        boxes=np.array([[10, 5, 20, 15], [0, 20, 5, 30], [1.5, 2, 3, 4]], np.float32),
        scores=np.array([0.9, 0.8, 0.25], np.float32),
        labels=np.array([1, 1, 0]),
        rles=[rle.encode(mask) for mask in masks],
        class_names=("cat", "dog"),
        category_ids=(3, 7),
        path=Path("somewhere/a.jpg"),
    )


def test_names_masks_and_repr(result):
    assert repr(result) == "Result(a.jpg, 30 x 40 pixels: 2 dog, 1 cat)"
    assert result.names == ["dog", "dog", "cat"]
    assert result.masks.dtype == bool
    assert result.masks.shape == (3, 30, 40)
    assert result.masks.sum(axis=(1, 2)).tolist() == [100, 50, 0]
    assert result.masks[0, 5:15, 10:20].all()


def test_coco_entries(result):
    entries = result.to_coco(12)
    assert [list(entry) for entry in entries] == [
        ["image_id", "category_id", "bbox", "score", "segmentation"]
    ] * 3
    assert [entry["category_id"] for entry in entries] == [7, 7, 3]
    assert entries[2]["bbox"] == [1.5, 2, 1.5, 2]
    assert entries[1]["segmentation"] == result.rles[1]
    assert json.loads(json.dumps(entries)) == entries
    named = result.to_coco()
    assert {entry["file_name"] for entry in named} == {"a.jpg"}
    assert not any("image_id" in entry for entry in named)


def test_overlay_files(result, tmp_path):
    result.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as saved:
        np.testing.assert_array_equal(np.asarray(saved), np.asarray(result.plot()))
    with Image.open(io.BytesIO(result._repr_png_())) as shown:
        assert shown.size == result.plot().size
    for wrong in ("missing/a.png", "a.xyz"):
        with pytest.raises(UserError, match=f"{wrong}: cannot be written"):
            result.save(tmp_path / wrong)


def test_without_masks(result):
    boxes_only = dataclasses.replace(result, rles=[], path=None)
    assert boxes_only.masks.shape == (0, 30, 40)
    assert list(boxes_only.to_coco(1)[0]) == ["image_id", "category_id", "bbox", "score"]
    assert repr(boxes_only).startswith("Result(30 x 40 pixels")
    assert boxes_only.plot().size == result.plot().size
    assert boxes_only.polygons() == []
    assert len(boxes_only[1:]) == 2


INDICES = {
    "a position": (1, [1]),
    "from the end": (-1, [2]),
    "a slice": (slice(2), [0, 1]),
    "positions": ([2, 0], [2, 0]),
    "a mask": (np.array([True, False, True]), [0, 2]),
    "nothing": (np.zeros(3, bool), []),
}


@pytest.mark.parametrize("case", INDICES)
def test_indexing(result, case):
    index, expected = INDICES[case]
    some = result[index]
    for name in ("boxes", "scores", "labels"):
        np.testing.assert_array_equal(getattr(some, name), getattr(result, name)[expected])
    assert some.rles == [result.rles[i] for i in expected]
    assert some.image is result.image
    assert some.path == result.path


def test_selecting_by_score_and_name(result):
    assert len(result[result.scores > 0.5]) == 2
    assert result.of("cat").scores.tolist() == [0.25]
    assert len(result.of("cat", "dog")) == 3
    with pytest.raises(ValueError, match=r"must be classes of the model \(cat, dog\), got 'cow'"):
        result.of("cow")
    with pytest.raises(IndexError):
        result[3]
    assert [single.names for single in result] == [["dog"], ["dog"], ["cat"]]


def test_polygons(result):
    (square,), (corner,), nothing = result.polygons()
    assert square.tolist() == [[10, 5], [20, 5], [20, 15], [10, 15]]
    assert corner.tolist() == [[0, 20], [5, 20], [5, 30], [0, 30]]
    assert nothing == []


def test_crops(result):
    """Crops have whole pixels; a box beyond the image gives its nearest pixel."""
    boxes = np.array([[10, 5, 20, 15], [1.5, 2, 3, 4.5], [-4, -4, 99, 99], [50, 50, 60, 60]])
    crops = dataclasses.replace(result, boxes=boxes.astype(np.float32)).crop()
    expected = [np.s_[5:15, 10:20], np.s_[2:5, 1:3], np.s_[:, :], np.s_[29:, 39:]]
    for crop, part in zip(crops, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(crop), result.image[part])


def test_to_supervision(result, monkeypatch):
    """Use a stand-in for the library; its arguments are those of supervision 0.26."""
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=SimpleNamespace))
    detections = result.to_supervision()
    np.testing.assert_array_equal(detections.xyxy, result.boxes)
    np.testing.assert_array_equal(detections.confidence, result.scores)
    np.testing.assert_array_equal(detections.class_id, result.labels)
    np.testing.assert_array_equal(detections.mask, result.masks)
    assert detections.data["class_name"].tolist() == ["dog", "dog", "cat"]
    assert dataclasses.replace(result, rles=[]).to_supervision().mask is None
    assert result[[]].to_supervision().data["class_name"].shape == (0,)


def test_to_supervision_without_the_library(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UserError, match="run: pip install supervision"):
        result.to_supervision()
