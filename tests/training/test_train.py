"""The training command: the files of a run, precision, weight decay, and learning."""

import dataclasses
import json
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image

import mrcnn
from mrcnn import train
from mrcnn.checkpoints import load, load_backbone
from mrcnn.config import MODELS
from mrcnn.data.augment.transforms import Augmentation
from mrcnn.data.coco.read import read_coco
from mrcnn.data.loading.loader import train_loader
from mrcnn.data.synthetic import write_shapes
from mrcnn.evaluation import evaluate
from mrcnn.inference.predictor import Predictor
from mrcnn.models import build
from mrcnn.models.fpn import FPN
from mrcnn.training.config import TrainConfig
from mrcnn.training.loop import StepRecord, contention, train_steps
from mrcnn.training.optim import make_optimizer
from mrcnn.training.step import TrainStep
from tests.helpers.short_runs import rows


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(folder, train=8, val=4, size=64)
    return folder


FLAGS = (
    "--steps 4 --batch-size 2 --image-size 64 --eval-every 2 --print-every 2 --device cpu".split()
)


@pytest.fixture(scope="module")
def finished(shapes, tmp_path_factory):
    """A run of four steps."""
    out = tmp_path_factory.mktemp("runs") / "first"
    train.main(["--data", str(shapes), "--out", str(out), *FLAGS])
    return out


def test_contents_of_a_run_folder(finished):
    names = {path.name for path in finished.iterdir()}
    assert names == {
        "config.json", "environment.json", "state", "last_results.json", "val_results.json",
        "report.html", "results.csv", "timing.csv", "curves.png", "train_batch.jpg",
        "val_predictions.jpg", "last.safetensors", "best.safetensors", ".lock",
    }  # fmt: skip
    table = rows(finished)
    assert [row["step"] for row in table] == ["2", "4"]
    parts = sum(float(table[0][name]) for name in table[0] if name.startswith("loss_"))
    assert float(table[0]["loss"]) == pytest.approx(parts, rel=1e-4)
    assert all(row["segm_AP"] for row in table)
    for figure in ("curves.png", "train_batch.jpg", "val_predictions.jpg"):
        assert np.asarray(Image.open(finished / figure)).std() > 10  # something is drawn
    config = json.loads((finished / "config.json").read_text())
    assert config["train"]["steps"] == 4
    assert config["model"]["class_names"][0] == "circle"


def test_images_for_both_training_and_validation_are_reported(shapes, tmp_path, capsys):
    content = json.loads((shapes / "train.json").read_text())
    (tmp_path / "images").symlink_to(shapes / "images")
    (tmp_path / "train.json").write_text(json.dumps(content))
    kept = {image["id"] for image in content["images"][:3]}
    content["images"] = content["images"][:3]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    (tmp_path / "val.json").write_text(json.dumps(content))
    words = ["--steps", "1", "--batch-size", "1", "--image-size", "32", "--device", "cpu"]
    for data, times in ((tmp_path, 1), (shapes, 0)):
        out = tmp_path / f"run{times}"
        assert train.main(["--data", str(data), "--out", str(out), *words]) == 0
        note = "3 of 3 validation images are for training, too"
        assert capsys.readouterr().out.count(note) == times


def test_a_run_loads_as_a_predictor(finished, shapes):
    model = mrcnn.load(finished)
    assert model.config.min_size == 64
    result = model.predict(next(iter(sorted((shapes / "images").glob("val*")))), 0.0)
    assert len(result.to_coco()) == len(result)


def test_the_report_exists_during_a_run(shapes, tmp_path, monkeypatch, capsys):
    """From the first row on; its page reloads itself until the run ends or is stopped."""
    out, pages, take = tmp_path / "run", {}, TrainStep.__call__

    def watched(self, parts, lr, now):
        if (out / "report.html").exists():
            pages[now] = (out / "report.html").read_text()
        if now == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(self, parts, lr, now)

    monkeypatch.setattr(TrainStep, "__call__", watched)
    flags = ("--print-every", "1", "--eval-every", "2", "--steps", "5")
    assert train.main(["--data", str(shapes), "--out", str(out), *FLAGS, *flags]) == 143
    pages[5] = (out / "report.html").read_text()
    assert sorted(pages) == [2, 3, 4, 5]
    assert ["Average precision" in pages[step] for step in (2, 3, 5)] == [False, True, True]
    assert ["first evaluation" in pages[step] for step in (2, 3, 5)] == [True, False, False]
    for step, page in pages.items():
        assert page.count('<meta http-equiv="refresh" content="30">') == (step < 5)
        assert page.count("The run has not ended") == (step < 5)
    last = capsys.readouterr().out.splitlines()[-2:]
    assert f"saved after step 4; continue with: mrcnn train --resume {out}" in last[0]
    assert last[1] == f"predict other images: mrcnn predict IMAGES --weights {out}"


def test_amp_trains_and_evaluates_in_bfloat16(shapes, tmp_path, monkeypatch):
    seen = []
    forward = FPN.forward

    def watched(self, pixels):
        maps = forward(self, pixels)
        seen.extend((self.training, m.dtype) for m in maps.values())
        return maps

    monkeypatch.setattr(FPN, "forward", watched)
    train.main(["--data", str(shapes), "--out", str(tmp_path / "run"), *FLAGS, "--amp", "bf16"])
    assert set(seen) == {(True, torch.bfloat16), (False, torch.bfloat16)}
    state = load(tmp_path / "run").state
    assert {t.dtype for t in state.values()} == {torch.float32}


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_norms_and_biases_are_not_decayed(name):
    model = build(dataclasses.replace(MODELS["small"], class_names=("disc",)))
    options = TrainConfig(optimizer=name, lr=0.1, decay_biases=False)
    optimizer = make_optimizer(model, options)
    decayed, plain = optimizer.param_groups
    assert decayed["weight_decay"] == 1e-4
    assert plain["weight_decay"] == 0
    assert {p.dim() for p in plain["params"]} == {1}
    count = sum(len(group["params"]) for group in (decayed, plain))
    assert count == len(list(model.parameters()))


@pytest.mark.slow
def test_overfits_eight_real_images(shared_data, tmp_path):
    """ResNet-18-FPN reaches segm AP 0.8 on the images it was shown."""
    source = shared_data / "coco_mini"
    content = json.loads((source / "annotations.json").read_text())
    counts: dict[int, int] = {}
    for annotation in content["annotations"]:
        counts[annotation["image_id"]] = counts.get(annotation["image_id"], 0) + 1
    chosen = [image for image in content["images"] if 1 <= counts.get(image["id"], 0) <= 6][:8]
    ids = {image["id"] for image in chosen}
    content["images"] = chosen
    content["annotations"] = [
        a for a in content["annotations"] if a["image_id"] in ids and not a["iscrowd"]
    ]
    (tmp_path / "few.json").write_text(json.dumps(content))
    dataset = read_coco(tmp_path / "few.json", source / "images")
    config = dataclasses.replace(
        MODELS["small-imagenet"],
        class_names=dataset.class_names,
        category_ids=dataset.category_ids,
        anchor_sizes=(24, 64, 128, 256),
        min_size=256,
        max_size=384,
    )
    torch.manual_seed(0)
    model = build(config)
    load_backbone(
        model.backbone.body, shared_data / "weights" / "resnet18_imagenet_stem_to_layer3.pt"
    )
    options = TrainConfig(
        optimizer="adamw",
        decay_biases=False,
        steps=1100,
        lr=1e-3,
        warmup=50,
        schedule="cosine",
        clip_norm=5.0,
    )
    plain = Augmentation(horizontal_flip=False)
    batches = train_loader(dataset, config, plain, batch_size=2, steps=1100)
    for _ in train_steps(
        TrainStep(model, options), batches, options, read_at=lambda record: record.step % 100 == 0
    ):
        pass
    assert evaluate(Predictor(model, config), dataset).metrics["segm_AP"] >= 0.8


@pytest.mark.slow
def test_resnet50_trains_and_predicts_at_full_size():
    """800 x 1344, 80 classes: finite losses, a gradient for all that is not frozen."""
    from mrcnn.structures import ImageBatch
    from tests.models.test_fixed_shapes import square_targets

    torch.manual_seed(0)
    names = tuple(f"class {i}" for i in range(80))
    model = build(dataclasses.replace(MODELS["resnet50-fpn"], class_names=names))
    batch = ImageBatch(torch.randn(2, 3, 800, 1344), torch.tensor([[800, 1344], [750, 1333]]))
    losses = model(batch, square_targets())
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    model.eval()
    with torch.no_grad():
        found = model(batch)
    assert found.boxes.shape == (2, 100, 4)


@pytest.mark.parametrize(
    ("cpu_seconds", "loading", "threads", "is_noted"),
    [
        (6.0, 0.0, 2, True),  # one thread on a whole core needs 6 s
        (9.0, 0.0, 2, False),
        (6.0, 0.3, 2, False),  # 10 steps waited 3 of 10 s for images
        (6.0, 0.0, 1, False),  # nothing to gain
        (0.5, 0.9, 2, False),  # too short to tell
    ],
)
def test_lost_cores_are_noted(cpu_seconds, loading, threads, is_noted):
    records = [StepRecord(i, 0.1, {}, 1.0, 2, 1.0, loading) for i in range(10)]
    note = contention(records, cpu_seconds, threads)
    assert note.startswith("other processes use the cores: 10 steps took 10 s") == is_noted
    assert bool(note) == is_noted
