"""`Result`: selection, conversions and files of the objects of one image."""

import csv
import dataclasses
import io
import json
import pickle
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mrcnn.errors import UserError
from mrcnn.inference.results import Result
from mrcnn.inference.tables import COLUMNS
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
    assert result.counts == {"dog": 2, "cat": 1}
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
    result.save(tmp_path / "new" / "deeper" / "a.png", labels=False)
    assert (tmp_path / "new" / "deeper" / "a.png").is_file()
    for wrong in ("a.png/b.png", "a.xyz"):
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
    with pytest.raises(IndexError, match=r"has 3 objects .* predict\(\[image\]\) a list"):
        result[3]
    assert [single.names for single in result] == [["dog"], ["dog"], ["cat"]]


def test_single_objects(result):
    first, second, nothing = result
    assert (first.name, second.name, nothing.name) == ("dog", "dog", "cat")
    assert [one.score for one in result] == pytest.approx([0.9, 0.8, 0.25])
    assert first.box.tolist() == [10, 5, 20, 15]
    assert [one.area for one in result] == [100, 50, 0]
    np.testing.assert_array_equal(second.mask, result.masks[1])
    assert first.polygon.tolist() == [[10, 5], [20, 5], [20, 15], [10, 15]]
    assert nothing.polygon.shape == (0, 2)
    assert repr(second) == "Result(a.jpg, 30 x 40 pixels: dog 0.80, box [0, 20, 5, 30])"
    for name, plural in {"name": "names", "box": "boxes", "area": "to_pandas"}.items():
        with pytest.raises(ValueError, match=rf"has 3; write result\.{plural}.* for one in result"):
            getattr(result, name)


def test_the_polygon_of_the_largest_part(result):
    mask = np.zeros((30, 40), np.uint8)
    mask[2:4, 2:4] = mask[10:20, 5:9] = 1
    one = dataclasses.replace(result[0], rles=[rle.encode(mask)])
    assert len(one.polygons()[0]) == 2
    assert one.polygon.tolist() == [[5, 10], [9, 10], [9, 20], [5, 20]]


NAMES = {
    "conf": "write result.scores",
    "scors": "did you mean score",
    "to_df": "write result.to_pandas()",
    "show": "write result.plot().show()",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_other_libraries(result, name):
    with pytest.raises(AttributeError, match=re.escape(NAMES[name])):
        getattr(result, name)
    assert not hasattr(result, "_nothing")
    assert len(pickle.loads(pickle.dumps(result))) == 3


@pytest.mark.parametrize(
    ("key", "line"),
    [("boxes", "result.boxes"), ("dog", "result.of('dog')"), ("conf", "result.scores")],
)
def test_keys_are_not_positions(result, key, line):
    with pytest.raises(TypeError, match=re.escape(f"not by '{key}'; write {line}")):
        result[key]


ROWS = [
    ("somewhere/a.jpg", 1, "dog", 0.9, 10, 5, 20, 15, 100, 15, 10),
    ("somewhere/a.jpg", 2, "dog", 0.8, 0, 20, 5, 30, 50, 2.5, 25),
    ("somewhere/a.jpg", 3, "cat", 0.25, 1.5, 2, 3, 4, 0, 2.25, 3),
]


def test_tables(result, tmp_path, monkeypatch):
    result.to_csv(tmp_path / "new" / "a.csv")
    with (tmp_path / "new" / "a.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header == list(COLUMNS)
    assert [(*line[:1], int(line[1]), line[2], *map(float, line[3:])) for line in lines] == ROWS

    def made(rows, columns):
        return SimpleNamespace(astype=lambda types: (rows, columns) * (list(types) == columns))

    stand_in = SimpleNamespace(DataFrame=made)
    monkeypatch.setitem(sys.modules, "pandas", stand_in)
    assert result.to_pandas() == (ROWS, list(COLUMNS))
    boxes_only = dataclasses.replace(result, rles=[], path=None)
    assert boxes_only.to_pandas()[0][2] == ("", 3, "cat", 0.25, 1.5, 2, 3, 4, 3, 2.25, 3)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="run: pip install pandas"):
        result.to_pandas()


def test_geojson(result, tmp_path):
    result.to_geojson(tmp_path / "a.geojson")
    content = json.loads((tmp_path / "a.geojson").read_text())
    assert content["type"] == "FeatureCollection"
    square, _, nothing = content["features"]
    assert square["properties"] == {"name": "dog", "score": 0.9, "area": 100}
    ring = [[10, 5], [20, 5], [20, 15], [10, 15], [10, 5]]
    assert square["geometry"] == {"type": "Polygon", "coordinates": [ring]}
    assert nothing["geometry"] == {"type": "MultiPolygon", "coordinates": []}
    dataclasses.replace(result, rles=[]).to_geojson(tmp_path / "b.geojson")
    boxes = json.loads((tmp_path / "b.geojson").read_text())["features"]
    assert boxes[0]["geometry"] == square["geometry"]


def test_label_image(result):
    """The higher score has the pixels of an overlap, in any order of the objects."""
    masks = np.zeros((3, 30, 40), np.uint8)
    masks[0, :20, :20] = masks[1, 10:, 10:] = masks[2, 15:18, 15:18] = 1
    some = dataclasses.replace(result, rles=[rle.encode(mask) for mask in masks])[[1, 2, 0]]
    labels = some.label_image()
    assert labels.dtype == np.uint16
    assert labels[15:18, 15:18].tolist() == [[3] * 3] * 3
    assert np.bincount(labels.ravel()).tolist() == [1200 - 400 - 500, 500, 0, 400]
    with pytest.raises(UserError, match="detects boxes only"):
        dataclasses.replace(result, rles=[]).label_image()


def test_mask_files(result, tmp_path):
    paths = result.save_masks(tmp_path / "new")
    assert [path.name for path in paths] == ["a_001.png", "a_002.png", "a_003.png"]
    with Image.open(paths[0]) as image:
        np.testing.assert_array_equal(np.asarray(image.convert("L")), 255 * result.masks[0])


def test_plot_options(result):
    mask = np.zeros((600, 800), np.uint8)
    mask[200:300, 300:400] = 1
    one = dataclasses.replace(
        result[0],
        image=np.zeros((600, 800, 3), np.uint8),
        boxes=np.float32([[100, 100, 500, 500]]),
        rles=[rle.encode(mask)],
    )

    def drawn(**options):
        return np.asarray(one.plot(**{"colors": "red", **options}))

    inside, on_box = (250, 350), (300, 100)
    assert drawn(alpha=0.6)[inside].tolist() == [153, 0, 0]
    assert drawn(alpha=0)[inside].tolist() == [0, 0, 0]
    assert drawn()[on_box].tolist() == [255, 0, 0]
    assert not drawn(boxes=False)[on_box].any()
    assert not drawn(masks=False)[inside].any()
    assert (drawn(labels=False) != drawn()).any()
    assert not drawn(masks=False, boxes=False, labels=False).any()
    assert drawn(line_width=9)[300, 107].tolist() == [255, 0, 0]
    for colors in ("#f00", (255, 0, 0), ["red"], {"dog": "red"}, np.array([[255, 0, 0]])):
        np.testing.assert_array_equal(drawn(colors=colors), drawn())
    np.testing.assert_array_equal(drawn(colors={"cat": "red"}), one.plot())
    for wrong in ("reddish", ["red", "blue"], (1, 2), {"cow": "red"}, [(1.0, 0, 0)], (0, 0, 300)):
        with pytest.raises(ValueError, match=r"color|cow"):
            one.plot(colors=wrong)
    with pytest.raises(TypeError, match=r"no option 'colours'; write colors="):
        one.plot(colours="red")
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\], got 60"):
        one.plot(alpha=60)


def test_polygons(result):
    (square,), (corner,), nothing = result.polygons()
    assert square.dtype == np.int32
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
