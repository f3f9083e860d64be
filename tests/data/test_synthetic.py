"""The generated data set: valid, reproducible, and not solved by trivial predictions."""

import contextlib
import io
import json
import os

import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mrcnn.data.coco.read import read_coco
from mrcnn.data.formats import find_splits
from mrcnn.data.images import read_image
from mrcnn.data.synthetic import CLASS_NAMES, write_shapes
from mrcnn.errors import UserError

TRAIN, VAL = 10, 60


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", train=TRAIN, val=VAL)


@pytest.fixture(scope="module")
def judge(shapes) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(shapes["val"].annotations)


def test_the_folder_is_read_without_notes(shapes):
    splits = find_splits(shapes["train"].annotations.parent)
    assert {name: split.notes for name, split in splits.items()} == {"train": (), "val": ()}


def segm_ap(judge: COCO, masks: list[np.ndarray]) -> float:
    """AP of one mask for each annotation, with its class and a score of 1."""
    results = []
    for annotation, mask in zip(judge.anns.values(), masks, strict=True):
        code = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
        results.append({"image_id": annotation["image_id"], "score": 1.0, "segmentation": code,
                        "category_id": annotation["category_id"]})  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(judge, judge.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


def test_the_data_set_is_valid(shapes):
    for name, count in (("train", TRAIN), ("val", VAL)):
        dataset = read_coco(shapes[name].annotations, shapes[name].images)
        assert len(dataset) == count
        assert dataset.class_names == CLASS_NAMES
        assert (dataset.sizes == 128).all()
        assert (dataset.start.diff() >= 1).all()
        assert (dataset.start.diff() <= 5).all()
    assert len(set(dataset.labels.tolist())) == len(CLASS_NAMES)
    sides = (dataset.boxes[:, 2:] - dataset.boxes[:, :2]).amax(1)
    assert sides.max() <= 85
    assert sides.quantile(0.2) < 34
    assert sides.quantile(0.9) > 50


def test_masks_do_not_overlap_and_match_boxes_and_areas(judge):
    for image in judge.imgs:
        annotations = judge.imgToAnns[image]
        masks = np.stack([rle.decode(a["segmentation"]) for a in annotations])
        assert masks.sum(0).max() == 1
        for annotation, mask in zip(annotations, masks, strict=True):
            assert annotation["area"] == mask.sum()
            assert annotation["bbox"] == rle.toBbox(annotation["segmentation"]).tolist()


def test_masks_end_at_the_edges_of_objects(shapes):
    """The mask lies on the object: colours jump at its edge, more than one pixel further out."""
    dataset = read_coco(shapes["val"].annotations, shapes["val"].images)
    judge_ = json.loads(shapes["val"].annotations.read_text())
    jumps = {"at the edge": [], "outside": []}
    for annotation in judge_["annotations"]:
        image = read_image(dataset.path(annotation["image_id"] - 1)).astype(float)
        mask = rle.decode(annotation["segmentation"]).astype(bool)
        padded = np.pad(mask, 3)
        rings = [padded]
        for _ in range(3):
            ring = rings[-1].copy()
            for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
                ring |= np.roll(rings[-1], step, axis)
            rings.append(ring)
        rings = [ring[3:-3, 3:-3] for ring in rings]
        inside, near, far = image[mask], image[rings[2] & ~rings[1]], image[rings[3] & ~rings[2]]
        jumps["at the edge"].append(np.abs(inside.mean(0) - near.mean(0)).max())
        jumps["outside"].append(np.abs(near.mean(0) - far.mean(0)).max())
    assert np.median(jumps["at the edge"]) > 10 * np.median(jumps["outside"])


def test_trivial_predictions_score_low(judge):
    exact = [rle.decode(a["segmentation"]) for a in judge.anns.values()]
    assert segm_ap(judge, exact) > 0.999
    boxes = []
    for annotation in judge.anns.values():
        x, y, w, h = annotation["bbox"]
        mask = np.zeros((128, 128))
        mask[y : y + h, x : x + w] = 1
        boxes.append(mask)
    assert segm_ap(judge, boxes) < 0.25
    constant = np.zeros((128, 128))
    constant[32:96, 32:96] = 1
    assert segm_ap(judge, [constant] * len(judge.anns)) < 0.02


def test_the_seed_fixes_every_byte_and_counts_do_not_matter(shapes, tmp_path):
    again = write_shapes(tmp_path / "again", train=2, val=3)
    other = write_shapes(tmp_path / "other", train=2, val=3, seed=1)
    for name in ("train_00001.png", "val_00002.png"):
        same = (shapes["train"].images / name).read_bytes()
        assert (again["train"].images / name).read_bytes() == same
        assert (other["train"].images / name).read_bytes() != same
    a, b = ((again["train"].images / f"{split}_00000.png").read_bytes() for split in again)
    assert a != b


def test_shapes_are_rewritten_only_for_other_parameters(tmp_path):
    folder = tmp_path / "shapes"
    image = write_shapes(folder, train=1, val=1)["train"].images / "train_00000.png"
    os.utime(image, (0, 0))
    write_shapes(folder, train=1, val=1)
    assert image.stat().st_mtime == 0
    write_shapes(folder, train=1, val=1, size=64)
    assert read_image(image).shape == (64, 64, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


def test_other_files_are_not_overwritten(tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="has other files"):
        write_shapes(tmp_path, train=1, val=1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("mrcnn.data.synthetic.json.dumps", fail)
    with pytest.raises(KeyboardInterrupt):
        write_shapes(tmp_path / "shapes", train=1, val=1)
    assert list(tmp_path.iterdir()) == []
