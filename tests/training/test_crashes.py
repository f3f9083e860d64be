"""A save that fails leaves older files whole: kills, full disks, failing system calls."""

import errno
import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mrcnn import checkpoints
from mrcnn.errors import UserError
from mrcnn.training.state import TrainingState, load_state, save_state, sweep
from tests.helpers import tiny
from tests.helpers.failing_disk import COMPILER, SOURCE, check, content, save_both

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes as on Linux")


@contextmanager
def child(action: Callable[[int], None]) -> Iterator[tuple[int, int]]:
    """Run `action` in a forked process; yield its id and pipe; kill it at the end."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            action(writing)
        except BaseException:
            os.write(writing, traceback.format_exc().encode())
        finally:
            os._exit(0)
    os.close(writing)
    try:
        yield pid, reading
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reading)


def read_all(handle: int) -> bytes:
    return b"".join(iter(lambda: os.read(handle, 1 << 16), b""))


def drafts(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.is_file()]


KILLS = [20, pytest.param(200, marks=pytest.mark.slow)]


@pytest.mark.parametrize("kills", KILLS)
def test_kills_lose_nothing(tmp_path, kills):
    """Each process resumes where the last one was killed."""

    def keep_saving(pipe: int) -> None:
        while True:
            step = load_state(tmp_path)[0].step + 1
            save_both(tmp_path, step)
            checkpoints.save(tmp_path / "last.safetensors", content(step), tiny.CONFIG, {})
            os.write(pipe, struct.pack("q", step))

    draw, swept = random.Random(0), 0
    save_both(tmp_path, 1)
    for _ in range(kills):
        with child(keep_saving) as (pid, pipe):
            reports = os.read(pipe, 8)
            time.sleep(draw.uniform(0, 0.1))
            os.kill(pid, signal.SIGKILL)
            reports += read_all(pipe)
        assert len(reports) % 8 == 0, reports.decode(errors="replace")
        reported = struct.unpack("q", reports[-8:])[0]
        swept += len(sweep(tmp_path))
        assert drafts(tmp_path) == []
        state, best = check(tmp_path)
        assert state >= reported
        assert best >= reported
        checkpoints.load(tmp_path / "last.safetensors")
    assert swept > 0  # some were killed within a save


def test_the_drafts_of_the_living_stay(tmp_path, monkeypatch):
    """Another process writes while this one sweeps; then it waits forever."""

    def stop_within_a_save(pipe: int) -> None:
        def tell_and_wait(*_: object) -> None:
            os.write(pipe, b"writing")
            signal.pause()

        monkeypatch.setattr(os, "replace", tell_and_wait)
        save_state(tmp_path, TrainingState(1, content(1), {}))

    with child(stop_within_a_save) as (_, pipe):
        assert os.read(pipe, 100) == b"writing"
        left = drafts(tmp_path)
        assert len(left) == 1
        assert sweep(tmp_path) == []
        assert save_state(tmp_path, TrainingState(2, content(2), {})).is_file()
        assert drafts(tmp_path) == left
    assert sweep(tmp_path) == left
    assert load_state(tmp_path)[0].step == 2


def test_other_hidden_files_stay(tmp_path):
    (tmp_path / ".draft-of-mine.txt").touch()
    assert sweep(tmp_path) == []
    assert drafts(tmp_path) == [tmp_path / ".draft-of-mine.txt"]


def test_files_that_may_not_grow(tmp_path):
    """`ulimit -f`: every size at which a save can be cut off, in steps."""
    save_both(tmp_path, 1)
    state, best = (
        p.stat().st_size for p in (*tmp_path.glob("state/*"), tmp_path / "best.safetensors")
    )
    limits = [0, 1, 8, 100, 500, *range(1000, state, 7777), state - 1]

    def save_under_limits(pipe: int) -> None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        for limit in limits:
            for save, size in ((save_state_2, state), (save_best_2, best)):
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
                with pytest.raises(UserError) as caught:
                    save(tmp_path)
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
                message = str(caught.value)
                assert ".safetensors: cannot be written (File too large; it needs" in message, (
                    message
                )
                assert f"it needs {size:,} bytes); choose another location" in message, message
                assert drafts(tmp_path) == []
                assert check(tmp_path) == (1, 1)
        os.write(pipe, b"done")

    with child(save_under_limits) as (_, pipe):
        assert read_all(pipe).decode() == "done"


def save_state_2(folder: Path) -> None:
    save_state(folder, TrainingState(2, content(2), {"step": 2}))


def save_best_2(folder: Path) -> None:
    checkpoints.save(folder / "best.safetensors", content(2), tiny.CONFIG, {"step": 2})


@pytest.fixture(scope="module")
def failing_calls(tmp_path_factory):
    if shutil.which(COMPILER) is None:
        pytest.skip(f"no compiler {COMPILER} here")
    library = tmp_path_factory.mktemp("failing") / "failing_calls.so"
    command = [COMPILER, "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o", str(library)]
    subprocess.run([*command, str(SOURCE), "-ldl"], check=True)
    return library


FAILURES = {
    "the disk fills up": (errno.ENOSPC, "lasting"),
    "one read or write fails": (errno.EIO, "once"),
}
MORE_FAILURES = {
    "the disk is full for a moment": (errno.ENOSPC, "once"),
    "the disk dies": (errno.EIO, "lasting"),
    "the quota is used up": (errno.EDQUOT, "lasting"),
    "the disk becomes read-only": (errno.EROFS, "lasting"),
}


@pytest.mark.parametrize(
    "case", [*FAILURES, *(pytest.param(case, marks=pytest.mark.slow) for case in MORE_FAILURES)]
)
def test_every_call_may_fail(tmp_path, failing_calls, case):
    number, lasting = (FAILURES | MORE_FAILURES)[case]
    script = str(Path(__file__).parents[1] / "helpers" / "failing_disk.py")
    done = subprocess.run(
        [sys.executable, script, str(tmp_path / "run"), str(number), lasting],
        env=os.environ
        | {"LD_PRELOAD": str(failing_calls), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # Each kind of call is counted, so each was made to fail; a save does not read.
    assert min(count for kind, count in found["kinds"].items() if kind not in ("read", "room")) > 0
    assert len(found["messages"]) > sum(found["kinds"].values()) / 2
    for message in found["messages"]:
        assert message.startswith(f"{tmp_path}"), message
        assert os.strerror(number) in message
    written = [m for m in found["messages"] if ".safetensors: cannot be written" in m]
    assert len(written) > 20
    assert all("; it needs 20" in message for message in written)  # 200 kB of weights
    assert True in found["refused"]
    assert found["refused"][-1] is False
