"""A run folder belongs to one process at a time; tables that were edited are not lost."""

import errno
import fcntl
import os
import signal
import sys

import pytest

from mrcnn.errors import UserError
from mrcnn.training.run_folder import (
    COLUMNS,
    LOCK,
    RESULTS,
    append_row,
    cut_tables,
    locked,
    new_run_folder,
)
from tests.helpers.short_runs import exit_code

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes as on Unix")


def in_another_process(folder) -> str:
    """Lock a folder in a fork; return the message of the error, or nothing."""
    reading, writing = os.pipe()
    if not (pid := os.fork()):
        try:
            with locked(folder):
                pass
        except UserError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    assert exit_code(pid) == 0
    with os.fdopen(reading) as pipe:
        return pipe.read()


def test_a_second_trainer_is_refused_and_told_of_the_first(tmp_path):
    with locked(tmp_path):
        message = in_another_process(tmp_path)
        assert f"{tmp_path}: process {os.getpid()} on " in message
        assert "is training here" in message
    assert in_another_process(tmp_path) == ""


def test_a_kill_releases_the_lock_though_children_live_on(tmp_path):
    reading, writing = os.pipe()
    if not (pid := os.fork()):
        with locked(tmp_path):
            child = os.fork()
            if child:
                os.write(writing, str(child).encode())
            signal.pause()
    child = int(os.read(reading, 20))
    try:
        assert in_another_process(tmp_path) != ""
        os.kill(pid, signal.SIGKILL)
        assert exit_code(pid) == -signal.SIGKILL
        assert in_another_process(tmp_path) == ""
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(reading)
        os.close(writing)


def test_without_locks_there_is_a_warning(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", fail)
    with locked(tmp_path):
        assert "cannot be locked (No locks available)" in caplog.text


def test_new_folders_are_empty_but_for_a_lock(tmp_path):
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / LOCK).touch()
    with new_run_folder(tmp_path / "killed", tmp_path) as folder:
        assert folder == tmp_path / "killed"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.jpg").touch()
    with (
        pytest.raises(UserError, match="exists and is not empty"),
        new_run_folder(tmp_path / "other", tmp_path),
    ):
        pass
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["photo.jpg"]
    (tmp_path / "7").touch()
    with new_run_folder(None, tmp_path) as first, new_run_folder(None, tmp_path) as second:
        assert (first.name, second.name) == ("8", "9")


HEADER = ",".join(COLUMNS[RESULTS]) + "\n"
ROW = "{},0.1" + "," * (len(COLUMNS[RESULTS]) - 2) + "\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER + ROW.format("two"), "line 2 must begin with a step, got 'two'"),
        (HEADER.replace(",", ";"), "must begin with step,lr,"),
        (HEADER.encode() + b"\xff\n", r"results\.csv"),
    ],
)
def test_an_edited_table_is_refused_and_stays(content, message, tmp_path):
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / RESULTS).write_bytes(content)
    with pytest.raises(UserError, match=message):
        cut_tables(tmp_path, 1)
    assert (tmp_path / RESULTS).read_bytes() == content


@pytest.mark.parametrize("content", ["", "step,l"])
def test_a_table_with_half_a_heading_is_written_again(content, tmp_path):
    (tmp_path / RESULTS).write_text(content)
    cut_tables(tmp_path, 1)
    append_row(tmp_path, RESULTS, {"step": 1})
    assert (tmp_path / RESULTS).read_text().startswith(HEADER + "1,")


def test_a_row_that_was_cut_off_is_removed(tmp_path):
    (tmp_path / RESULTS).write_text(HEADER + ROW.format(1) + ROW.format(2) + "3,0.")
    cut_tables(tmp_path, 1)
    assert (tmp_path / RESULTS).read_text() == HEADER + ROW.format(1)
