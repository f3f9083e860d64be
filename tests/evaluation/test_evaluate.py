"""Metrics are COCO's: published ones, hand-made cases, a detector that knows the truth."""

import contextlib
import dataclasses
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle_codec
from pycocotools.coco import COCO

import mrcnn
from mrcnn import evaluate as command
from mrcnn.checkpoints import PUBLISHED
from mrcnn.checkpoints import checkpoint as checkpoint_files
from mrcnn.config import ModelConfig
from mrcnn.data.coco.read import CocoDataset, read_coco
from mrcnn.data.coco.write import coco_results
from mrcnn.errors import UserError
from mrcnn.evaluation import evaluate
from mrcnn.evaluation.result_files import read_results
from mrcnn.evaluation.truth import GroundTruth
from mrcnn.io.atomic import write_json
from mrcnn.structures import Detections
from tests.helpers import tiny
from tests.helpers.random_results import METRICS, metrics_of


def published(folder: Path, kind: str) -> list[float]:
    text = (folder / "val2014_fake_eval_res.txt").read_text()
    section = text.partition(f"type={kind}")[2].partition("-----")[0]
    return [float(value) for value in re.findall(r"\] = (\d\.\d+)", section)]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_published_metrics(shared_data, tmp_path, kind):
    """COCO's own example: its detections through our detections, our writer and our metrics."""
    folder = shared_data / "coco_eval"
    truth = folder / "instances_val2014_100.json"
    ids = sorted(category["id"] for category in json.loads(truth.read_text())["categories"])
    fake = json.loads((folder / f"instances_val2014_fake{kind}100_results.json").read_text())
    by_image: dict[int, list[dict]] = {}
    for entry in fake:
        by_image.setdefault(entry["image_id"], []).append(entry)
    entries = []
    for image_id, group in by_image.items():
        masks = [entry["segmentation"] for entry in group if kind == "segm"]
        xywh = rle_codec.toBbox(masks) if masks else np.array([e["bbox"] for e in group])
        boxes = torch.tensor(np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)).float()
        found = Detections(
            boxes=boxes,
            scores=torch.tensor([entry["score"] for entry in group]),
            labels=torch.tensor([ids.index(entry["category_id"]) for entry in group]),
            masks=masks,
        )
        arrays = (tensor.numpy() for tensor in (found.boxes, found.scores, found.labels))
        records = coco_results(*arrays, found.masks, ids)
        entries += [{"image_id": image_id, **record} for record in records]
    write_json(tmp_path / "results.json", entries)
    records = json.loads(truth.read_text())
    entries = read_results(tmp_path / "results.json", GroundTruth.from_records(records))
    metrics = metrics_of(records, entries, kind)
    expected = published(folder, kind)
    assert len(expected) == 12
    assert [round(metrics[name], 3) for name in METRICS] == expected


# Hand-made cases


def square(x: float, y: float, side: float = 8) -> list[list[float]]:
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def grid_of_squares(count: int) -> tuple[dict, list[dict]]:
    """Ground truth of `count` squares in one image, and detections that equal them."""
    corners = [(i % 20 * 10, i // 20 * 10) for i in range(count)]
    truth = {
        "images": [{"id": 5, "width": 200, "height": 200}],
        "categories": [{"id": 4, "name": "square"}],
        "annotations": [
            {"id": i, "image_id": 5, "category_id": 4, "segmentation": square(x, y),
             "bbox": [x, y, 8, 8], "area": 64, "iscrowd": 0}
            for i, (x, y) in enumerate(corners, start=1)
        ],
    }  # fmt: skip
    results = [
        {"image_id": 5, "category_id": 4, "bbox": [x, y, 8, 8], "score": 1 - i / 1000,
         "segmentation": rle_codec.frPyObjects(square(x, y), 200, 200)[0]}
        for i, (x, y) in enumerate(corners)
    ]  # fmt: skip
    return truth, results


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("limit", [4, 10, 100, 150, 400])
def test_the_limit_of_detections(kind, limit):
    """Of 150 objects `limit` can be found: AP averages precision over 101 recalls."""
    truth, results = grid_of_squares(150)
    metrics = metrics_of(truth, results, kind, limit)
    recall = min(limit, 150) / 150
    assert metrics["AR"] == pytest.approx(recall)
    assert metrics["AR10"] == pytest.approx(min(limit, 10) / 150)
    assert metrics["AR1"] == pytest.approx(1 / 150)
    expected = sum(step / 100 <= recall for step in range(101)) / 101
    for name in ("AP", "AP50", "AP75", "APs", "AP/square"):
        assert metrics[name] == pytest.approx(expected)
    assert metrics["APl"] == metrics["ARm"] == -1


def test_optional_fields_are_filled_in():
    truth, results = grid_of_squares(3)
    bare = {**truth, "annotations": [dict(record) for record in truth["annotations"]]}
    for record, runs in zip(bare["annotations"], results, strict=True):
        del record["area"], record["bbox"], record["iscrowd"]
        if record["id"] == 2:  # RLE as a list of counts
            mask = rle_codec.decode(runs["segmentation"]).ravel(order="F")
            edges = np.flatnonzero(np.diff(mask, prepend=0, append=0))
            counts = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
            record["segmentation"] = {"size": [200, 200], "counts": counts}
    for kind in ("bbox", "segm"):
        assert metrics_of(bare, results, kind) == metrics_of(truth, results, kind)


def test_the_area_of_a_mask_is_not_that_of_its_box():
    """A wrong thin mask in a wide box is a small error, so it lowers the AP of small objects."""
    truth, results = grid_of_squares(1)
    thin = np.zeros((200, 200), np.uint8, order="F")
    np.fill_diagonal(thin[20:, 20:], 1)
    wrong = {"image_id": 5, "category_id": 4, "bbox": [20, 20, 180, 180], "score": 1.0,
             "segmentation": rle_codec.encode(thin)}  # fmt: skip
    results[0]["score"] = 0.5
    assert metrics_of(truth, [wrong, *results], "segm")["APs"] == pytest.approx(0.5)
    assert metrics_of(truth, [wrong, *results], "bbox")["APs"] == pytest.approx(1.0)


def test_crowds_are_not_errors():
    truth, results = grid_of_squares(2)
    truth["annotations"][1]["iscrowd"] = 1
    assert metrics_of(truth, results, "segm")["AP"] == pytest.approx(1)
    assert metrics_of(truth, results[:1], "segm")["AR"] == pytest.approx(1)


def test_some_images():
    truth, results = grid_of_squares(2)
    other = {"id": 6, "width": 200, "height": 200}
    truth["images"].append(other)
    truth["annotations"].append({**truth["annotations"][0], "id": 9, "image_id": 6})
    assert metrics_of(truth, results, "bbox")["AR"] == pytest.approx(2 / 3)
    assert metrics_of(truth, results, "bbox", image_ids=[5])["AR"] == 1
    assert metrics_of(truth, results, "bbox", image_ids=[6])["AR"] == 0


# A whole evaluation


class Oracle:
    """A detector that returns the annotations."""

    def __init__(self, dataset: CocoDataset, max_detections: int = 100) -> None:
        self.config = ModelConfig(
            class_names=dataset.class_names,
            category_ids=dataset.category_ids,
            max_detections=max_detections,
            min_size=32,
        )
        self.model = SimpleNamespace(mask_head=True)
        self.dataset, self.next = dataset, 0
        file = COCO()
        file.dataset = json.loads(dataset.annotations.read_text())
        with contextlib.redirect_stdout(io.StringIO()):
            file.createIndex()
        self.file = file

    def detect(self, images, original_sizes) -> list[Detections]:
        found = []
        for height, width in original_sizes:
            rows = self.dataset.targets(self.next)[: self.config.max_detections]
            assert (height, width) == tuple(self.dataset.sizes[self.next].tolist())
            ids = self.dataset.annotation_ids[rows].tolist()
            masks = [self.file.annToRLE(self.file.anns[id]) for id in ids]
            scores = torch.linspace(1, 0.5, len(rows))
            boxes, labels = self.dataset.boxes[rows], self.dataset.labels[rows]
            found.append(Detections(boxes, scores, labels, masks))
            self.next += 1
        assert len(images.pixels) == len(original_sizes)
        return found


@pytest.fixture(scope="module")
def coco_mini(shared_data) -> CocoDataset:
    folder = shared_data / "coco_mini"
    return read_coco(folder / "annotations.json", folder / "images")


def test_the_truth_scores_one(coco_mini, tmp_path):
    calls = []
    metrics = evaluate(
        Oracle(coco_mini),
        coco_mini,
        batch_size=4,
        results=tmp_path / "new" / "results.json",
        progress=lambda *call: calls.append(call),
    ).metrics
    assert metrics["segm_AP"] == metrics["segm_AR"] == pytest.approx(1)
    assert metrics["bbox_AP50"] == pytest.approx(1)
    assert (metrics["images"], metrics["max_detections"]) == (139, 100)
    assert metrics["images_at_limit"] == 0
    assert calls[-1] == (139, 139)
    assert len(calls) == 35
    with contextlib.redirect_stdout(io.StringIO()):
        entries = COCO(coco_mini.annotations).loadRes(str(tmp_path / "new" / "results.json"))
    assert len(entries.anns) == int((~coco_mini.crowd).sum())


def test_some_images_at_the_limit(coco_mini):
    counts = coco_mini.start.diff()
    chosen = torch.argsort(counts, descending=True)[:3].tolist()
    ids = coco_mini.image_ids[chosen].tolist()
    taken = coco_mini.subset(sorted(chosen))
    evaluation = evaluate(Oracle(taken, max_detections=5), coco_mini, image_ids=ids)
    metrics = evaluation.metrics
    assert metrics["images"] == metrics["images_at_limit"] == 3
    assert metrics["max_detections"] == 5
    assert 0 < metrics["segm_AR"] < 1
    text = str(evaluation)
    assert "3 images, at most 5 detections each" in text
    assert "images with as many detections as are allowed (5): 3; they may hold more" in text


def test_truth_of_all_images_does_not_count_for_some(coco_mini):
    truth = GroundTruth.of_dataset(coco_mini)
    ids = coco_mini.image_ids[:2].tolist()
    metrics = evaluate(Oracle(coco_mini), coco_mini, image_ids=ids, truth=truth).metrics
    assert metrics["images"] == 2
    assert metrics["segm_AR"] == pytest.approx(1)


def test_an_id_of_no_image(coco_mini):
    with pytest.raises(UserError, match=r"has no image with id -1 \(1 of the given ids"):
        evaluate(Oracle(coco_mini), coco_mini, image_ids=[-1, int(coco_mini.image_ids[0])])


def test_subset(coco_mini):
    taken = coco_mini.subset([7, 2, 7])
    assert len(taken) == 3
    for new, old in enumerate([7, 2, 7]):
        assert taken.path(new) == coco_mini.path(old)
        assert taken.image_ids[new] == coco_mini.image_ids[old]
        rows, old_rows = taken.targets(new), coco_mini.targets(old)
        assert torch.equal(taken.annotation_ids[rows], coco_mini.annotation_ids[old_rows])
        assert torch.equal(taken.boxes[rows], coco_mini.boxes[old_rows])
        assert torch.equal(taken.masks.frame[rows], coco_mini.masks.frame[old_rows])
    assert len(taken.masks) == len(taken.boxes)
    nothing = coco_mini.subset([])
    assert len(nothing) == len(nothing.boxes) == len(nothing.masks) == 0
    with pytest.raises(UserError, match="holds no images; there is nothing to evaluate"):
        evaluate(Oracle(coco_mini), nothing)


def two_images(folder: Path) -> Path:
    """A data set of noise with one cat."""
    (folder / "images").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "images" / "a.png")
    Image.fromarray(noise).save(folder / "images" / "b.png")
    truth = {
        "images": [{"id": i, "file_name": f"{name}.png", "width": 64, "height": 48}
                   for i, name in ((1, "a"), (2, "b"))],
        "categories": [{"id": 50, "name": "dog"}, {"id": 60, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 60, "segmentation": square(2, 3)}],
    }  # fmt: skip
    (folder / "val.json").write_text(json.dumps(truth))
    return folder


def test_the_command(tmp_path, capsys):
    """Category ids are those of the file at hand, also where the model learnt from another."""
    folder = two_images(tmp_path / "data")
    (tmp_path / "ids").write_text("1\n")
    run = tiny.run(tmp_path / "run", dataclasses.replace(tiny.CONFIG, max_detections=9))
    flags = ["--weights", run, "--data", folder, "--image-ids", tmp_path / "ids", "--max-dets", 7]
    command.main([str(flag) for flag in [*flags, "--device", "cpu"]])
    results = run / "coco_results_val.json"
    output = capsys.readouterr().out
    assert "1 images, at most 7 detections each" in output
    assert str(results) in output
    assert "pycocotools" not in output
    assert "DONE" not in output
    entries = json.loads(results.read_text())
    assert len(entries) == 7
    assert {entry["image_id"] for entry in entries} == {1}
    assert {entry["category_id"] for entry in entries} <= {50, 60}


def test_the_python_api(tmp_path, capsys):
    """A folder by name; the metrics and the table are those of the command."""
    folder = two_images(tmp_path / "data")
    run = tiny.run(tmp_path / "run")
    evaluation = mrcnn.load(run).evaluate(str(folder), batch_size=2)
    flags = ["--weights", run, "--data", folder, "--json", tmp_path / "metrics.json"]
    command.main([str(flag) for flag in [*flags, "--device", "cpu"]])
    assert str(evaluation) in capsys.readouterr().out
    tree = json.loads((tmp_path / "metrics.json").read_text())
    assert evaluation.to_dict().items() <= tree.items()
    assert sum(evaluation.errors.objects.values()) == 1
    (by_id,) = evaluate(mrcnn.load(run), folder, image_ids=[2]).truth.image_ids
    assert by_id == 2


def test_a_published_checkpoint(tmp_path, monkeypatch):
    """Nothing is written into the cache, and its file is hashed once."""
    data = two_images(tmp_path / "data")
    run = tiny.run(tmp_path / "cache")
    fetched = []

    def fetch(name: str) -> Path:
        fetched.append(name)
        return run / "last.safetensors"

    monkeypatch.setattr(checkpoint_files, "fetch", fetch)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = sorted(run.iterdir())
    name = next(iter(PUBLISHED))
    command.main(["--weights", name, "--data", str(data), "--device", "cpu"])
    assert fetched == [name]
    assert sorted(run.iterdir()) == before
    assert (tmp_path / "here" / "coco_results_val.json").is_file()
