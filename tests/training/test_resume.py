"""Interrupted and resumed runs are bit-identical to uninterrupted ones."""

import dataclasses
import json
import os
import signal

import pytest
import torch

from mrcnn import checkpoints, train
from mrcnn.errors import UserError
from mrcnn.training.state import load_state, save_state
from mrcnn.training.step import TrainStep
from mrcnn.training.trainer import Trainer
from tests.helpers.short_runs import contents, run, write_data


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """20 steps without an interruption."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert run(data, out) == 0
    return contents(out)


def interrupt_at(monkeypatch, step: int, number: int = signal.SIGTERM) -> None:
    """Send this process a signal in the middle of a step."""
    take = TrainStep.__call__

    def watched(self, parts, lr, now):
        if now == step:
            os.kill(os.getpid(), number)
        return take(self, parts, lr, now)

    monkeypatch.setattr(TrainStep, "__call__", watched)


# The first step, the middle of an epoch, the end of one, an evaluation, the last step but one.
@pytest.mark.parametrize("cut", [1, 6, 9, pytest.param(8, marks=pytest.mark.slow), 19])
@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_an_interrupted_run_is_bit_identical(cut, workers, data, whole, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        interrupt_at(patched, cut)
        assert run(data, out, "--workers", workers) == 143
    assert train.main(["--resume", str(out), "--device", "cpu"]) == 0
    assert contents(out) == whole


def test_an_interrupted_run_with_micro_batches_is_bit_identical(data, tmp_path, monkeypatch):
    flags = ("--accumulate", "2", "--optimizer", "sgd", "--steps", "6")
    assert run(data, tmp_path / "whole", *flags) == 0
    with monkeypatch.context() as patched:
        interrupt_at(patched, 4, signal.SIGINT)
        assert run(data, tmp_path / "run", *flags) == 130
    assert train.main(["--resume", str(tmp_path / "run"), "--device", "cpu"]) == 0
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_a_signal_during_an_evaluation_loses_no_step(data, whole, tmp_path, monkeypatch):
    from mrcnn.inference.predictor import Predictor

    detect = Predictor.detect

    def interrupted(self, *args):
        os.kill(os.getpid(), signal.SIGTERM)
        return detect(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(Predictor, "detect", interrupted)
        assert run(data, tmp_path / "run") == 143
    assert max(p.name for p in (tmp_path / "run" / "state").iterdir()) == "00000008.safetensors"
    assert train.main(["--resume", str(tmp_path / "run"), "--device", "cpu"]) == 0
    assert contents(tmp_path / "run") == whole


def test_differences_from_the_saved_state_are_reported(data, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        interrupt_at(patched, 2)
        run(data, out)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert train.main(["--resume", str(out), "--device", "cpu", "--steps", "3"]) == 0
    text = capsys.readouterr().out
    assert "the run will not be bit-identical: threads was 1, is now 64" in text
    assert "resumed at step 2" in text
    assert json.loads((out / "config.json").read_text())["train"]["steps"] == 3


def test_a_finished_run_has_nothing_more_to_do(data, tmp_path):
    """And --auto-resume starts a run that does not exist yet."""
    out = tmp_path / "run"
    assert run(data, out, "--auto-resume", "--steps", "2") == 0
    before = contents(out)
    assert run(data, out, "--auto-resume", "--steps", "2") == 0
    assert train.main(["--resume", str(out), "--device", "cpu"]) == 0
    assert contents(out) == before


def test_a_run_is_not_resumed_with_other_classes(tmp_path):
    """Their meaning counts, not their number; the run stays as it is."""
    data, out = write_data(tmp_path / "shapes"), tmp_path / "run"
    assert run(data, out, "--steps", "1") == 0
    before = contents(out)
    for split in ("train", "val"):
        file = data / f"{split}.json"
        tree = json.loads(file.read_text())
        names = [category["name"] for category in tree["categories"]]
        for category, name in zip(tree["categories"], reversed(names), strict=True):
            category["name"] = name
        file.write_text(json.dumps(tree))
    with pytest.raises(UserError, match="the order of the classes differs"):
        train.main(["--resume", str(out), "--device", "cpu", "--steps", "2"])
    assert contents(out) == before


def test_other_data_are_reported(tmp_path, capsys):
    """Also if the run was saved by a version without digests."""
    data, out = write_data(tmp_path / "shapes"), tmp_path / "run"
    assert run(data, out, "--steps", "1") == 0
    tree = json.loads((data / "train.json").read_text())
    tree["annotations"][0]["iscrowd"] = 1
    (data / "train.json").write_text(json.dumps(tree))
    capsys.readouterr()
    assert train.main(["--resume", str(out), "--device", "cpu", "--steps", "2"]) == 0
    text = capsys.readouterr().out
    assert "train.json: differs from the data of the run so far: 1 of 9 images are new or" in text
    assert "val.json: differs" not in text
    state, _ = load_state(out)
    old = {name: value for name, value in state.tensors.items() if not name.startswith("data.")}
    save_state(out, dataclasses.replace(state, tensors=old))
    assert train.main(["--resume", str(out), "--device", "cpu"]) == 0
    assert capsys.readouterr().out.count("has not saved which data it used") == 1


def test_a_run_without_a_state_starts_from_its_pretrained_weights_again(
    data, tmp_path, monkeypatch, capsys
):
    assert run(data, tmp_path / "first", "--steps", "1") == 0
    flags = ("--weights", str(tmp_path / "first"), "--steps", "1")
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "fit", lambda _: 143)  # stopped before the first step
        assert run(data, tmp_path / "run", *flags) == 143
    assert train.main(["--resume", str(tmp_path / "run"), "--device", "cpu"]) == 0
    assert run(data, tmp_path / "whole", *flags) == 0
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_an_interrupted_run_predicts(data, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        interrupt_at(patched, 2)
        assert run(data, out) == 143
    text = capsys.readouterr().out
    assert f"SIGTERM: saved after step 2; continue with: mrcnn train --resume {out}" in text
    saved = checkpoints.load(out)
    assert saved.extra == {"step": 2}
    ema = load_state(out)[0].tensors  # the run keeps one, which is what is evaluated
    assert all(torch.equal(value, ema[f"ema.{name}"]) for name, value in saved.state.items())


def test_there_must_be_a_run_to_resume(tmp_path):
    with pytest.raises(UserError, match=r"config\.json: does not exist"):
        train.main(["--resume", str(tmp_path / "nothing")])
