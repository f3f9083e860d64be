"""Evaluations, saved states and flags of a training run."""

import dataclasses
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import mrcnn
from mrcnn import train
from mrcnn.cli import flags
from mrcnn.data.augment.transforms import Augmentation
from mrcnn.data.coco.read import read_coco
from mrcnn.data.loading.loader import eval_loader, train_loader
from mrcnn.models import build
from mrcnn.training import state as states
from mrcnn.training.activation_checkpointing import checkpoint_stages
from mrcnn.training.config import TrainConfig
from mrcnn.training.options import set_evaluation_interval
from mrcnn.training.trainer import Trainer
from tests.helpers import tiny
from tests.helpers.short_runs import arguments, contents, rows, run

pytestmark = pytest.mark.usefixtures("no_drawing")


@pytest.fixture
def scores(monkeypatch):
    """Evaluations with given AP; the weights that each one evaluated."""
    asked = []

    def give(*values: float) -> list[dict[str, torch.Tensor]]:
        def evaluate(predictor, dataset, *, results, **_):
            asked.append({k: v.clone() for k, v in predictor.model.state_dict().items()})
            results.write_text(json.dumps([len(asked)]))
            metrics = {"bbox_AP": 0.0, "segm_AP": values[len(asked) - 1]}
            return SimpleNamespace(metrics=metrics, truth=None)

        monkeypatch.setattr("mrcnn.training.trainer.evaluate", evaluate)
        return asked

    return give


def test_training_ends_when_the_score_no_longer_rises(data, tmp_path, scores, capsys):
    """Best stays the best, last is the last, and both are the EMA of the weights."""
    out, asked = tmp_path / "run", scores(0.1, 0.3, 0.3, 0.2, 0.9)
    assert run(data, out, "--eval-every", "2", "--patience", "2", "--no-val-loss") == 0
    assert "AP has not improved in 2 evaluations; stopping at step 8" in capsys.readouterr().out
    assert [row["segm_AP"] for row in rows(out) if row["segm_AP"]] == ["0.1", "0.3", "0.3", "0.2"]
    best, last = (load_file(out / f"{name}.safetensors") for name in ("best", "last"))
    saved = load_file(max((out / "state").iterdir()))
    for name, value in last.items():
        assert torch.equal(best[name], asked[1][name])
        assert torch.equal(value, asked[3][name])
        assert torch.equal(value, saved[f"ema.{name}"])
    changed = [name for name in last if not torch.equal(last[name], saved[f"model.{name}"])]
    assert len(changed) > 50
    assert json.loads((out / "val_results.json").read_text()) == [2]
    assert json.loads((out / "last_results.json").read_text()) == [4]
    before = contents(out)
    assert train.main(["--resume", str(out), "--device", "cpu"]) == 0
    assert contents(out) == before


def test_keep_every_and_eval_every(data, tmp_path, scores):
    scores(*[0.5] * 9)
    flags = ("--save-every", "2", "--keep-every", "6", "--eval-every", "5", "--no-val-loss")
    assert run(data, tmp_path / "run", *flags) == 0
    assert sorted(states._state_files(tmp_path / "run")) == [6, 12, 18, 20]
    evaluated = [row["step"] for row in rows(tmp_path / "run") if row["segm_AP"]]
    assert evaluated == ["5", "10", "15", "20"]


@pytest.mark.parametrize(
    ("flags", "images", "interval"),
    [
        ({"steps": 1350}, 8, 140),  # a tenth, in two digits
        ({"steps": 90_001, "batch_size": 16}, 5000, 9100),
        ({"steps": 1350}, 100, 550),  # ten times as many images are trained on between evaluations
        ({"steps": 20}, 4, 70),  # only at the end
        ({"steps": 10, "batch_size": 1000}, 1, 1),
        ({"steps": 1350, "eval_every": 0}, 8, 0),
        ({"steps": 1350, "eval_every": 7}, 8, 7),
    ],
)
def test_the_interval_of_evaluations(flags, images, interval):
    assert set_evaluation_interval(TrainConfig(**flags), images).eval_every == interval


def test_evaluations_do_not_change_the_training(data, tmp_path, monkeypatch):
    """Nor do reports, which follow each evaluation, and rows between them if time allows."""
    pages = []

    def write_report(self, is_running=True):
        pages.append((self.evaluated, is_running))

    monkeypatch.setattr(Trainer, "_write_report", write_report)
    for name, interval in (("end", "0"), ("often", "5")):
        assert run(data, tmp_path / name, "--steps", "12", "--eval-every", interval) == 0
    once = [(0, True)] * 3 + [(12, False)]
    often = [(0, True), *[(5, True)] * 3, (10, True), (12, False)]
    assert pages == once + often
    ends = [contents(tmp_path / name) for name in ("end", "often")]
    for end in ends:
        del end["results.csv"]
    assert ends[0] == ends[1]


def test_the_validation_loss_is_the_mean_over_images(data, tmp_path):
    """Each image is a batch; the weights are those that are saved."""
    assert run(data, tmp_path / "run", "--steps", "3", "--eval-every", "0") == 0
    predictor = mrcnn.load(tmp_path / "run" / "last.safetensors", device="cpu")
    dataset = read_coco(data / "val.json", data / "images")
    with torch.no_grad():
        losses = [
            sum(float(loss) for loss in predictor.model(batch.images, batch.targets).values())
            for batch in eval_loader(dataset, predictor.config)
        ]
    assert len(losses) == 3
    assert float(rows(tmp_path / "run")[-1]["val_loss"]) == pytest.approx(
        sum(losses) / 3, rel=1e-5  # six digits
    )  # fmt: skip


def test_flags_change_a_run_that_is_resumed(data, tmp_path):
    """The optimizer's hyperparameters and weight decay change; moments stay with their weights."""
    out, other = tmp_path / "run", ("--weight-decay", "0.5", "--momentum", "0.7", "--decay-norms")
    assert run(data, out, "--steps", "3", "--optimizer", "sgd") == 0
    seen = {}

    take = Trainer.fit

    def fit(self):
        optimizer = self.take_step.optimizer
        seen["groups"] = [(g["weight_decay"], g["momentum"]) for g in optimizer.param_groups]
        names = {p: name for name, p in self.take_step.model.named_parameters()}
        seen["moments"] = {
            names[p]: moments["momentum_buffer"].clone() for p, moments in optimizer.state.items()
        }
        return take(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "fit", fit)
        assert train.main(["--resume", str(out), "--device", "cpu", "--steps", "5", *other]) == 0
    assert seen["groups"] == [(0.5, 0.7), (0.0, 0.7)]
    saved = load_file(out / "state" / "00000003.safetensors")
    assert len(seen["moments"]) > 50
    for name, moment in seen["moments"].items():
        assert torch.equal(moment, saved[f"optimizer.{name}.momentum_buffer"]), name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--optimizer", "sgd"], "it was saved with the optimizer AdamW, not SGD"),
        (["--set", "fpn_channels=16"], "it belongs to another model"),
        (["--tensorboard"], "--tensorboard: "),
        (["--checkpoint-activations", "--set", "norm=batch"], "--checkpoint-activations: "),
    ],
)
def test_a_refused_resume_leaves_the_run_unchanged(
    words, message, data, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    out = tmp_path / "run"
    assert run(data, out, "--steps", "2") == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert flags.run(train.main, ["--resume", str(out), "--device", "cpu", *words]) == 2
    assert message in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def gradients(config, data, checkpoints: bool) -> tuple[list[torch.Tensor], int]:
    """Return the gradients of one step, and the bytes stored for its backward pass."""
    dataset = read_coco(data / "train.json", data / "images")
    torch.manual_seed(0)
    model = build(dataclasses.replace(config, class_names=dataset.class_names)).train()
    if checkpoints:
        checkpoint_stages(model.backbone.body)
    batch = next(train_loader(dataset, config, Augmentation(), batch_size=2, steps=1))
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = model(batch.images, batch.targets)
        forward = sum(kept.values())
        torch.stack(list(losses.values())).sum().backward()
    return [p.grad for p in model.parameters() if p.grad is not None], forward


@pytest.mark.parametrize("backbone", ["resnet18", pytest.param("vgg11", marks=pytest.mark.slow)])
def test_checkpointed_activations_are_bit_identical_and_need_less_memory(backbone, data):
    norm = "none" if backbone == "vgg11" else "group_of_8"
    config = dataclasses.replace(
        tiny.CONFIG, norm=norm, backbone=backbone, category_ids=(1, 2, 3), class_names=tuple("abc")
    )
    (plain, whole), (again, less) = (gradients(config, data, flag) for flag in (False, True))
    assert len(plain) > 20
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert less < 0.8 * whole


@pytest.mark.parametrize("words", ["--amp fp16", "--deterministic", "--amp bf16 --accumulate 2"])
def test_switches_train(words, data, tmp_path):
    """fp16 begins with a scale that is too large: such steps are counted as skipped."""
    flags = ("--steps", "8", "--eval-every", "0", "--print-every", "4", *words.split())
    assert run(data, tmp_path / "run", *flags) == 0
    first, last = rows(tmp_path / "run")
    assert float(last["loss"]) < float(first["loss"])
    assert all(math.isfinite(float(row["gradient_norm"])) for row in (first, last))
    assert (int(first["skipped"]) > 0) == ("fp16" in words)
    assert last["skipped"] == "0"


def test_events_for_tensorboard_can_be_read_back(data, tmp_path):
    """Those after the last saved state are purged when a run is resumed."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    out = tmp_path / "run"
    assert run(data, out, "--tensorboard", "--steps", "6") == 0
    assert train.main(["--resume", str(out), "--device", "cpu", "--steps", "9"]) == 0
    found = events.EventAccumulator(str(out / "tensorboard"))
    found.Reload()
    table = rows(out)
    for tag, name in (("loss/loss", "loss"), ("AP/segm_AP", "segm_AP"), ("run/lr", "lr")):
        wanted = {int(row["step"]): float(row[name]) for row in table if row[name]}
        assert {e.step: e.value for e in found.Scalars(tag)} == pytest.approx(wanted, rel=1e-4)
    assert "batch_size: 2" in str(found.Tensors("config/text_summary")[0].tensor_proto)


@pytest.mark.slow
def test_memory_does_not_grow(data, tmp_path):
    """Less than 1 MB in 1,000 steps, after 500 in which caches fill; files mapped do not count."""
    found: list[tuple[int, float]] = []

    class Memory:
        def start(self, *_: object) -> None: ...

        def end(self) -> None: ...

        def log(self, step, values) -> None:
            if "loss" in values:
                status = Path("/proc/self/status").read_text()
                kibibytes = int(status.split("RssAnon:")[1].split()[0])
                found.append((step, kibibytes * 1024 / 1e6))

    words = ("--steps", "2600", "--eval-every", "0", "--print-every", "100", "--save-every", "9999")
    assert train.main(arguments(data, tmp_path / "run", *words), loggers=(Memory(),)) == 0
    steps, megabytes = np.array([row for row in found if 500 <= row[0] < 2600]).T
    slope = np.polyfit(steps, megabytes, 1)[0] * 1000
    print(f"{slope:.2f} MB in 1,000 steps")
    assert slope < 1
