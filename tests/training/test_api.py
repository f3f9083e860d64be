"""Training from Python: the same run as the command, with errors as exceptions."""

import signal
import threading

import pytest
import torch

import mrcnn
from mrcnn.cli import app
from mrcnn.training import TrainConfig, train
from mrcnn.training.options import make_options, parse_options
from mrcnn.training.stop import StopRequest
from tests.helpers import short_runs

MODEL = short_runs.FLAGS[short_runs.FLAGS.index("--set") + 1 :]
OPTIONS = {
    "device": "cpu", "image_size": 64, "batch_size": 2, "steps": 20, "print_every": 3,
    "eval_every": 8, "save_every": 5, "ema": 0.9, "warmup": 4, "set": MODEL,
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("no_drawing")


class Steps:
    """A logger that keeps the steps of the rows."""

    def __init__(self):
        self.steps = []

    def start(self, config, step): ...

    def log(self, step, values):
        self.steps.append(step)

    def end(self):
        self.steps.append("end")


def test_it_trains_as_the_command_does(data, tmp_path, capsys):
    assert short_runs.run(data, tmp_path / "command") == 0
    printed = capsys.readouterr().out
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    steps = Steps()
    result = train(data=data, out=str(tmp_path / "python"), loggers=[steps], **OPTIONS)
    assert short_runs.contents(result.folder) == short_runs.contents(tmp_path / "command")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert len(capsys.readouterr().out.splitlines()) == len(printed.splitlines())
    assert steps.steps[-2:] == [20, "end"]
    assert result.exit_code == 0
    assert result.weights.is_file()
    assert {"bbox_AP", "segm_AP50", "val_loss"} <= result.best.keys() & result.last.keys()
    assert result.best["segm_AP"] >= result.last["segm_AP"]
    assert result.load("cpu").model.training is False

    more = train(resume=result.folder, device="cpu", steps=21)
    assert more.folder == result.folder
    assert more.last["segm_AP"] >= 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"momentun": 0.9}, "train has no field 'momentun'; did you mean momentum"),
        ({"steps": "many"}, "train.steps must be of type int | None, got 'many'"),
        ({"steps": 0}, "--steps must be more than 0, got 0"),
        ({"data": "absent"}, "absent"),
    ],
)
def test_errors_are_exceptions(flags, message, data, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(mrcnn.UserError) as error:
        train(**{"data": data, "out": out, "device": "cpu", **flags})
    assert message in str(error.value)
    assert not out.exists()


def test_options_equal_those_of_the_command(tmp_path):
    flags = {"recipe": "finetune", "data": "DIR", "lr": 1, "milestones": (0.5, 0.75)}
    words = "--recipe finetune --data DIR --lr 1 --milestones 0.5 0.75"
    assert make_options(flags) == parse_options(words.split())
    file = tmp_path / "some.json"
    file.write_text('{"train": {"recipe": "3x", "steps": 9, "momentum": 0.8}}')
    flags, words = {"config": file, "epochs": 2.0}, f"--config {file} --epochs 2"
    assert make_options(flags) == parse_options(words.split())


def test_a_ready_configuration_is_used_as_it_is(data, tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr("mrcnn.training.setup.run_training", lambda *args: taken.append(args[0]))
    config = TrainConfig(data=data, recipe="finetune", device="cpu")
    train(config)
    train(config, steps=3)
    assert taken == [config, TrainConfig(data=data, recipe="finetune", device="cpu", steps=3)]
    with pytest.raises(mrcnn.UserError, match="give all options as keyword arguments"):
        train(TrainConfig(resume=tmp_path))


def test_deterministic_algorithms_end_with_the_run(data, tmp_path):
    short = {**OPTIONS, "steps": 1, "eval_every": 0, "val_loss": False}
    train(data=data, out=tmp_path / "run", deterministic=True, **short)
    assert not torch.are_deterministic_algorithms_enabled()


def test_other_threads_leave_signals_alone():
    handlers = []

    def stop():
        with StopRequest() as request:
            handlers.append((signal.getsignal(signal.SIGINT), request.exit_code))

    thread = threading.Thread(target=stop)
    thread.start()
    thread.join()
    assert handlers == [(signal.getsignal(signal.SIGINT), 0)]


def test_shapes_in_a_folder_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("a file")  # root may write to any folder
    assert app.main(["train", "--steps", "1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mrcnn: runs/shapes: the generated shapes cannot be written (")
    assert "--data" in error
