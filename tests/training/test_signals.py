"""A run can be stopped at any moment; the resumed run is bit-identical."""

import os
import random
import signal
import sys
import time
from pkgutil import resolve_name

import pytest

from mrcnn import train
from mrcnn.training import state as states
from mrcnn.training.step import TrainStep
from tests.helpers.short_runs import (
    arguments,
    contents,
    exit_code,
    fork,
    run,
    start,
    without_drawing,
)

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="processes as on Linux"),
    pytest.mark.usefixtures("no_drawing"),
]

SHORT = ("--steps", "12")  # evaluated after 8 and 12, saved after 5 and 10


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run without an interruption, and the seconds it took."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        without_drawing(patch.setattr)
        assert run(data, folder / "short", "--steps", "1") == 0  # imports what is imported late
        begun = time.monotonic()
        assert run(data, folder / "run", *SHORT) == 0
    return contents(folder / "run"), time.monotonic() - begun


def resume(data, out) -> None:
    assert train.main(arguments(data, out, *SHORT, "--auto-resume")) == 0


def last_row(out) -> int:
    """The step of the last row of results.csv."""
    table = out / "results.csv"
    rows = table.read_text().splitlines()[1:] if table.exists() else []
    return int(rows[-1].partition(",")[0]) if rows else 0


@pytest.mark.parametrize("moments", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_a_signal_at_any_moment(moments, data, whole, tmp_path):
    """Before training it ends the process as it ends any other; then the state is saved."""
    draw, (wanted, seconds) = random.Random(0), whole
    saved = 0
    for moment in range(moments):
        out, output = tmp_path / str(moment), tmp_path / f"{moment}.txt"
        number = draw.choice([signal.SIGTERM, signal.SIGINT])
        # Were a state saved every so many steps, too, nothing would be seen of this one.
        pid = fork(arguments(data, out, *SHORT, "--save-every", "1000"), output)
        time.sleep(draw.uniform(0, seconds))
        os.kill(pid, number)
        code, text = exit_code(pid), output.read_text()
        if code == 128 + number and "saving after this step" in text:
            saved += 1
            newest = max(states._state_files(out), default=0)
            assert 0 <= newest - last_row(out) <= 3, text  # rows come every third step
        else:
            assert code in (0, -number, 130), text
        assert "Traceback" not in text
        resume(data, out)
        assert contents(out) == wanted, (moment, text)
    assert saved >= moments / 5


@pytest.mark.slow
def test_a_signal_at_any_moment_of_a_process(data, whole, tmp_path, monkeypatch):
    """The same from the first import on, with drawing and kills."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    draw, begun = random.Random(1), time.monotonic()
    assert start(arguments(data, tmp_path / "undisturbed", *SHORT)).wait() == 0
    seconds = time.monotonic() - begun
    for moment in range(30):
        number = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)[moment % 3]
        out = tmp_path / str(moment)
        with start(arguments(data, out, *SHORT)) as process:
            time.sleep(draw.uniform(0, seconds))
            process.send_signal(number)
            text = process.communicate()[0].decode()
        assert process.returncode in (0, -number, 128 + number), text
        resume(data, out)
        assert contents(out) == whole[0], (moment, text)


def test_a_second_interrupt_ends_at_once(data, whole, tmp_path, monkeypatch):
    """In the middle of step 11; the state of step 10 is whole."""
    take = TrainStep.__call__

    def impatient(self, parts, lr, now):
        for _ in range(2 * (now == 11)):
            os.kill(os.getpid(), signal.SIGINT)
        return take(self, parts, lr, now)

    out, output = tmp_path / "run", tmp_path / "out.txt"
    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "__call__", impatient)
        assert exit_code(fork(arguments(data, out, *SHORT), output)) == 130
    assert output.read_text().count("SIGINT: saving after this step") == 1
    assert sorted(states._state_files(out)) == [8, 10]
    resume(data, out)
    assert contents(out) == whole[0]


@pytest.mark.parametrize(
    ("number", "before", "saved"),
    [
        (signal.SIGHUP, signal.SIG_DFL, True),
        (signal.SIGUSR1, signal.SIG_DFL, True),
        (signal.SIGHUP, signal.SIG_IGN, False),  # nohup
    ],
)
def test_other_signals_save_unless_they_are_ignored(
    number, before, saved, data, tmp_path, monkeypatch
):
    take = TrainStep.__call__

    def interrupted(self, parts, lr, now):
        if now == 2:
            os.kill(os.getpid(), number)
        return take(self, parts, lr, now)

    monkeypatch.setattr(TrainStep, "__call__", interrupted)
    out, output = tmp_path / "run", tmp_path / "out.txt"
    argv = arguments(data, out, "--steps", "4", "--eval-every", "0", "--save-every", "1000")
    pid = fork(argv, output, lambda: signal.signal(number, before))
    assert exit_code(pid) == (128 + number if saved else 0), output.read_text()
    assert max(states._state_files(out)) == (2 if saved else 4)


def kill_in(monkeypatch, target: str, count: int, after: bool) -> None:
    """Kill the process before or after call number `count` of a function."""
    original, calls = resolve_name(target), []

    def fatal(*args, **kwargs):
        calls.append(1)
        if len(calls) == count and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    monkeypatch.setattr(target, fatal)


# Around all that is written: the folder, the first state, a row, the state after an evaluation.
@pytest.mark.parametrize(
    ("target", "count", "after"),
    [
        ("mrcnn.training.trainer.Trainer._write_rows", 3, True),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("mrcnn.training.setup.write_json", 1, False),
                ("mrcnn.training.setup.write_json", 1, True),
                ("mrcnn.training.trainer.save_state", 1, False),
                ("mrcnn.training.state.write_tensors", 1, False),
                ("mrcnn.training.trainer.append_row", 1, True),
                ("mrcnn.training.trainer.Trainer._evaluate", 1, True),
                ("mrcnn.training.trainer.save_state", 3, True),
            )
        ),
    ],
)
def test_a_kill_before_or_after_a_write(target, count, after, data, whole, tmp_path, monkeypatch):
    out, output = tmp_path / "run", tmp_path / "out.txt"
    with monkeypatch.context() as patch:
        kill_in(patch, target, count, after)
        assert exit_code(fork(arguments(data, out, *SHORT), output)) == -signal.SIGKILL
    resume(data, out)
    assert contents(out) == whole[0]


@pytest.mark.parametrize(
    "target",
    [
        "mrcnn.training.setup.write_json",
        pytest.param("mrcnn.training.trainer.save_state", marks=pytest.mark.slow),
    ],
)
def test_a_kill_within_the_first_file(target, data, whole, tmp_path, monkeypatch):
    """Of the run, and of its states: only a draft is there."""
    out, output = tmp_path / "run", tmp_path / "out.txt"

    def begin(place, *_, **__):
        folder = out / "state" if place == out else out
        folder.mkdir(exist_ok=True)
        (folder / ".draft-0123456789abcdef").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(target, begin)
        assert exit_code(fork(arguments(data, out, *SHORT), output)) == -signal.SIGKILL
    resume(data, out)
    assert contents(out) == whole[0]
