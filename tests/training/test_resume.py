"""Runs that are interrupted and go on: the same bits as if they had never stopped."""

import json
import os
import signal
import time

import pytest
import torch

from mrcnn import train
from mrcnn.errors import UserError
from mrcnn.training.step import TrainStep
from tests.helpers.short_runs import arguments, contents, run, start, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data") / "shapes")


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
def test_a_run_that_was_interrupted_ends_with_the_same_bits(
    cut, workers, data, whole, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        interrupt_at(patched, cut)
        assert run(data, out, "--workers", workers) == 143
    assert train.main(["--resume", str(out), "--device", "cpu"]) == 0
    assert contents(out) == whole


def test_accumulated_runs_resume_to_the_same_bits(data, tmp_path, monkeypatch):
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


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.5, 1.0, 1.5])
def test_a_killed_run_resumes_to_the_same_bits(delay, data, tmp_path):
    out, undisturbed = tmp_path / "run", tmp_path / "whole"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    assert start(arguments(data, undisturbed), env=environment).wait() == 0
    with start(arguments(data, out), env=environment) as process:
        while not (out / "results.csv").exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(delay)
        process.kill()
    auto = arguments(data, out, "--auto-resume")
    with start(auto, env=environment) as process:
        text = process.communicate()[0].decode()
    assert process.returncode == 0, text
    assert contents(out) == contents(undisturbed)


def test_what_differs_from_the_saved_state_is_told(data, tmp_path, monkeypatch, capsys):
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


def test_a_finished_run_has_nothing_more_to_do(data, tmp_path, capsys):
    out = tmp_path / "run"
    run(data, out, "--steps", "2")
    before = contents(out)
    assert train.main(["--resume", str(out), "--device", "cpu"]) == 0
    assert contents(out) == before


def test_auto_resume_begins_where_there_is_nothing(data, tmp_path):
    out = tmp_path / "run"
    assert run(data, out, "--auto-resume", "--steps", "2") == 0
    assert run(data, out, "--auto-resume", "--steps", "2") == 0


def test_there_must_be_a_run_to_resume(tmp_path):
    with pytest.raises(UserError, match=r"config.json: cannot be read \(No such file"):
        train.main(["--resume", str(tmp_path / "nothing")])
