"""Losses and gradients that are not finite, and memory that runs out: told, and nothing is lost."""

import csv
import dataclasses
import hashlib
import math
import os
import socket

import pytest
import torch

from mrcnn import train
from mrcnn.cli import flags
from mrcnn.inference.predictor import Predictor
from mrcnn.models import MaskRCNN
from mrcnn.training.step import TrainStep
from tests.helpers.short_runs import (
    FLAGS,
    arguments,
    contents,
    exit_code,
    fork,
    run,
    without_drawing,
    write_data,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    without_drawing(monkeypatch.setattr)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        without_drawing(patch.setattr)
        assert run(data, out) == 0
    return contents(out)


def poison(monkeypatch, steps, where: str = "pixels", rank: int = 0, seen=lambda *_: None) -> None:
    """NaN in the pixels, and so in the losses, of some steps, or in the gradient alone.

    Args:
        rank: of the process that this is done in.
        seen: called with the step, the `TrainStep`, and whether the step is done.
    """
    take = TrainStep.__call__

    def poisoned(self, parts, lr, now):
        handle = None
        if now in steps and self.world.rank == rank and where == "gradient":
            bias = self.model.mask_head.mask_logits.bias
            handle = bias.register_hook(lambda gradient: gradient * math.nan)
        elif now in steps and self.world.rank == rank:
            images = parts[0].images
            images = dataclasses.replace(images, pixels=images.pixels * math.nan)
            parts = [parts[0]._replace(images=images), *parts[1:]]
        seen(now, self, False)
        values = take(self, parts, lr, now)
        seen(now, self, True)
        if handle:
            handle.remove()
        return values

    monkeypatch.setattr(TrainStep, "__call__", poisoned)


def command(data, out, *words: str) -> int:
    """Exit code of the command in this process."""
    return flags.run(train.main, arguments(data, out, *words))


def sums(folder) -> dict[str, str]:
    files = [*folder.glob("*.safetensors"), *folder.glob("state/*"), folder / "results.csv"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(
    ("where", "named"),
    [("pixels", "loss_mask"), pytest.param("gradient", "gradient_", marks=pytest.mark.slow)],
)
def test_a_run_stops_and_keeps_what_was_sound(
    where, named, data, whole, tmp_path, monkeypatch, capsys
):
    out, kept = tmp_path / "run", {}
    with monkeypatch.context() as patch:
        poison(patch, {12}, where, seen=lambda now, *_: now == 12 and kept.update(sums(out)))
        assert command(data, out, "--print-every", "20") == 2
    told = capsys.readouterr().err
    assert told.startswith("mrcnn: step 12: ")
    assert named in told.splitlines()[0]
    assert told.count(str(data / "images" / "train_")) == 2
    assert "--on-nan skip skips such steps" in told
    assert sums(out) == kept
    assert kept.keys() >= {"best.safetensors", "00000008.safetensors", "00000010.safetensors"}
    assert train.main(["--resume", str(out), "--device", "cpu"]) == 0
    again = contents(out)
    assert again.pop("results.csv")  # rows of other steps
    assert again.items() <= whole.items()


@pytest.mark.parametrize("where", ["pixels", pytest.param("gradient", marks=pytest.mark.slow)])
def test_a_step_that_is_left_out_changes_nothing(where, data, tmp_path, monkeypatch, caplog):
    """Weights, moments, running mean, and the statistics of live batch norm."""
    states = []

    def seen(now, take_step, _):
        if now == 5:
            optimizer = take_step.optimizer.state.values()
            moments = [value.clone() for state in optimizer for value in state.values()]
            model = [value.clone() for value in take_step.model.state_dict().values()]
            states.append([*model, *moments, *(v.clone() for v in take_step.ema.mean.values())])

    poison(monkeypatch, {5}, where, seen=seen)
    tiny = FLAGS[FLAGS.index("--set") :]
    options = ("--on-nan", "skip", "--steps", "9", "--eval-every", "0", *tiny, "norm=batch")
    assert command(data, tmp_path / "run", *options) == 0
    before, after = states
    assert len(before) > 300
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    with (tmp_path / "run" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["skipped"] for row in rows] == ["0", "1", "0"]
    assert all(math.isfinite(float(row["loss"])) for row in rows)
    assert "step 5: " in caplog.text
    assert "The step is skipped." in caplog.text
    assert caplog.text.count("train_") == 2


def test_ten_bad_steps_in_a_row_end_the_run(data, tmp_path, monkeypatch, capsys):
    poison(monkeypatch, {2, *range(4, 100)})
    assert command(data, tmp_path / "run", "--on-nan", "skip") == 2
    assert "mrcnn: step 13: the last 10 steps were not finite" in capsys.readouterr().err
    assert (tmp_path / "run" / "best.safetensors").exists()


@pytest.mark.parametrize("on_nan", ["stop", pytest.param("skip", marks=pytest.mark.slow)])
def test_processes_agree_on_a_bad_step(on_nan, data, tmp_path, monkeypatch):
    """That only one of them met."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    poison(monkeypatch, {5}, rank=1)

    def prepare(rank: int) -> None:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        }  # fmt: skip

    out = tmp_path / "run"
    options = ("--on-nan", on_nan, "--steps", "7", "--eval-every", "0")
    pids = [
        fork(arguments(data, out, *options), tmp_path / str(rank), lambda r=rank: prepare(r))
        for rank in range(2)
    ]
    codes = [exit_code(pid) for pid in pids]
    told = "".join((tmp_path / str(rank)).read_text() for rank in range(2))
    assert codes == ([2, 2] if on_nan == "stop" else [0, 0]), told
    assert told.count("step 5: ") == 1
    assert told.count(str(data / "images" / "train_")) == 1  # of the share that was bad


OUT_OF_MEMORY = [
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError(),
]


@pytest.mark.parametrize(
    "error",
    [OUT_OF_MEMORY[0], *(pytest.param(e, marks=pytest.mark.slow) for e in OUT_OF_MEMORY[1:])],
)
def test_memory_that_runs_out_is_told(error, data, tmp_path, monkeypatch, capsys):
    out, kept, calls = tmp_path / "run", {}, []
    forward = MaskRCNN.forward

    def failing(self, *args):
        calls.append(1)
        if self.training and len(calls) == 7:
            kept.update(sums(out))
            raise error
        return forward(self, *args)

    monkeypatch.setattr(MaskRCNN, "forward", failing)
    assert command(data, out) == 2
    told = capsys.readouterr().err
    assert told.startswith("mrcnn: step 7: out of memory with 2 images of 64 x 64 at a time (")
    assert "Raise --accumulate or lower --batch-size" in told
    assert "Traceback" not in told
    assert sums(out) == kept
    assert "00000005.safetensors" in kept


@pytest.mark.slow
def test_memory_that_runs_out_in_an_evaluation_is_told(data, whole, tmp_path, monkeypatch, capsys):
    def failing(*_):
        raise OUT_OF_MEMORY[1]

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "detect", failing)
        assert command(data, out) == 2
    told = capsys.readouterr().err
    assert told.startswith("mrcnn: evaluation after step 8: out of memory (CUDA out of memory.")
    assert train.main(["--resume", str(out), "--device", "cpu"]) == 0
    assert contents(out) == whole
