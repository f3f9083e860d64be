"""Training in two processes equals one process, and ends when one of them dies."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mrcnn
from mrcnn.data.coco.read import read_coco
from mrcnn.data.synthetic import write_shapes
from mrcnn.evaluation import evaluate
from tests.helpers.short_runs import arguments, contents, rows, run, torchrun, wait_for, write_data

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes as on Linux")

END = 60.0  # seconds within which the others end after a death


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Exit code and output."""
    text = process.communicate(timeout=300)[0]
    return process.returncode, text


def rank_of(pid: str) -> int | None:
    words = Path("/proc", pid, "environ").read_bytes().split(b"\0")
    return next((int(word[5:]) for word in words if word.startswith(b"RANK=")), None)


def process_of(rank: int, agent: subprocess.Popen) -> int:
    """The process that torchrun started for a rank."""
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
    return next(int(pid) for pid in children if rank_of(pid) == rank)


def test_two_processes_train_and_score_as_one(data, tmp_path):
    """Three validation images, so that the shares are uneven.

    Gradients are summed in another order, in float32, whose rounding (6e-8) grows over six steps
    and in the smallest parts of the loss, but not to 1e-4. The scores of equal weights are equal.
    """
    flags = ("--steps", "6", "--eval-every", "3")
    code, text = finish(torchrun(arguments(data, tmp_path / "two", *flags)))
    assert code == 0, text
    assert run(data, tmp_path / "one", *flags) == 0
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert [row["step"] for row in two] == ["3", "6"]
    for name in one[0]:
        if "AP" in name:
            assert one[0][name] == two[0][name], name
        else:
            a, b = ([float(row[name] or "nan") for row in found] for found in (one, two))
            assert a == pytest.approx(b, rel=1e-4, nan_ok=name == "val_loss"), name

    dataset = read_coco(data / "val.json", data / "images")
    model = mrcnn.load(tmp_path / "two" / "last.safetensors", device="cpu")
    again = evaluate(model, dataset, results=tmp_path / "again.json").metrics
    found = (tmp_path / "two" / "last_results.json").read_bytes()
    assert (tmp_path / "again.json").read_bytes() == found
    assert len(found) > 1000
    for name in ("bbox_AP", "segm_AP"):
        assert two[-1][name] == f"{again[name]:.6g}"


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run of two processes without an interruption."""
    out = tmp_path_factory.mktemp("whole") / "run"
    code, text = finish(torchrun(arguments(data, out, *LONG)))
    assert code == 0, text
    return contents(out)


LONG = ("--steps", "60")  # time to be interrupted in


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_after_a_kill_torchrun_names_the_rank_and_the_run_can_be_resumed(
    rank, data, whole, tmp_path
):
    """The agent sees the death first, stops the others, and names the root cause itself."""
    out = tmp_path / "run"
    agent = torchrun(arguments(data, out, *LONG))
    wait_for(out / "best.safetensors", agent)
    killed = time.monotonic()
    os.kill(process_of(rank, agent), signal.SIGKILL)
    code, text = finish(agent)
    assert time.monotonic() - killed < END
    assert code == 1
    cause = text[text.index("Root Cause") :]
    assert f"rank      : {rank} " in cause
    assert "(SIGKILL)" in cause
    code, text = finish(torchrun(["--resume", str(out), "--device", "cpu"]))
    assert code == 0, text
    assert contents(out) == whole


@pytest.mark.slow
def test_torchrun_restarts_what_was_killed(data, whole, tmp_path):
    out = tmp_path / "run"
    agent = torchrun(arguments(data, out, *LONG), "--max-restarts", "1")
    wait_for(out / "best.safetensors", agent)
    os.kill(process_of(1, agent), signal.SIGKILL)
    code, text = finish(agent)
    assert code == 0, text
    assert "resumed at step" in text
    assert contents(out) == whole


@pytest.mark.slow
def test_the_state_is_saved_when_torchrun_is_terminated(data, whole, tmp_path):
    out = tmp_path / "run"
    agent = torchrun(arguments(data, out, *LONG, "--save-every", "1000"))
    wait_for(out / "best.safetensors", agent)
    agent.terminate()
    code, text = finish(agent)
    assert code == 1, text
    assert "SIGTERM: saving after this step" in text
    saved = max(int(path.stem) for path in (out / "state").iterdir())
    assert saved >= int(rows(out)[-1]["step"])
    code, text = finish(torchrun(["--resume", str(out), "--device", "cpu"]))
    assert code == 0, text
    assert f"resumed at step {saved}" in text
    assert contents(out) == whole


def without_agent(argv: list[str]) -> list[subprocess.Popen]:
    """Both processes, as other launchers start them; none watches them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "mrcnn.train", *argv],
            env={**shared, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in "01"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_outlives_another_names_it(rank, data, tmp_path):
    out = tmp_path / "run"
    both = without_agent(arguments(data, out, "--steps", "1000"))
    wait_for(out / "best.safetensors", both[0])
    killed = time.monotonic()
    both[rank].kill()
    code, text = finish(both[1 - rank])
    both[rank].communicate()
    assert time.monotonic() - killed < END
    assert code == 2
    assert text.splitlines()[-1].startswith(
        f"mrcnn: process {1 - rank}: rank {rank} has stopped responding, so the run cannot "
    )


@pytest.mark.slow
def test_an_error_of_one_process_ends_the_others(data, tmp_path):
    """Here an image that only one of them reads."""
    bad = write_data(tmp_path / "bad")
    image = next(iter(sorted((bad / "images").glob("train*"))))
    image.write_bytes(image.read_bytes()[:100])
    both = without_agent(arguments(bad, tmp_path / "run"))
    results = [finish(process) for process in both]
    assert [code for code, _ in results] == [2, 2]
    reported = [f"{image}: cannot be read" in text for _, text in results]
    assert sorted(reported) == [False, True]
    assert (
        f"rank {reported.index(True)} has stopped responding" in results[reported.index(False)][1]
    )


@pytest.mark.slow
def test_a_message_of_all_processes_is_printed_once(data, tmp_path):
    both = without_agent(arguments(data, tmp_path / "run", "--batch-size", "3"))
    results = [finish(process) for process in both]
    assert [code for code, _ in results] == [2, 2]
    text = "".join(text for _, text in results)
    assert text.count("--batch-size 3: must be a multiple of 2, 2 processes x --accumulate 1") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_there_may_be_more_processes_than_images(tmp_path):
    write_shapes(tmp_path / "shapes", train=1, val=1, size=64)
    code, text = finish(torchrun(arguments(tmp_path / "shapes", tmp_path / "run", "--steps", "4")))
    assert code == 0, text
    assert rows(tmp_path / "run")[-1]["segm_AP"]
