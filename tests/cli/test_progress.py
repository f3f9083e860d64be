"""Progress of a run: one line that is redrawn in a terminal, plain lines elsewhere."""

import fcntl
import os
import pty
import re
import struct
import sys
import termios

import pytest

from tests.helpers.short_runs import arguments, exit_code, fork, run, without_drawing, write_data

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="terminals as on Linux")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data") / "shapes")


def on_terminal(argv, output, columns: int) -> str:
    """Return what the command writes to a terminal."""
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))

    def attach() -> None:
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            os.environ.pop(name, None)
        os.environ["TERM"] = "xterm"
        for stream in (0, 1, 2):
            os.dup2(terminal, stream)
        sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1)

    pid = fork(argv, output, attach)
    os.close(terminal)
    text = b""
    try:
        while block := os.read(master, 1 << 16):
            text += block
    except OSError:  # Linux: the other side is closed
        pass
    assert exit_code(pid) == 0, text
    os.close(master)
    return text.decode()


def shown(text: str, columns: int) -> list[str]:
    """Return the lines shown at the end; knows only the codes that are used here."""
    lines, row = [""], 0
    for part in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)", text):
        if part == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part.startswith("\x1b[") and part.endswith("A"):
            row -= int(part[2:-1] or 1)
        elif part and part != "\r" and not part.startswith("\x1b"):
            assert "img/s" not in part or len(part) <= columns, part
            lines[row] = part
    return lines


@pytest.mark.parametrize("columns", [80, pytest.param(200, marks=pytest.mark.slow)])
def test_a_terminal_redraws_one_line(columns, data, tmp_path, monkeypatch):
    """Messages stand above it, and the end is cut off where the window is narrow."""
    without_drawing(monkeypatch.setattr)
    flags = ("--steps", "8", "--eval-every", "4", "--print-every", "1")
    text = on_terminal(arguments(data, tmp_path / "run", *flags), tmp_path / "out.txt", columns)
    assert len(set(re.findall(r"step \d/8", text))) > 1  # it is drawn ten times a second at most
    lines = [line.rstrip() for line in shown(text, columns)]
    running = [line for line in lines if "step " in line]
    assert len(running) == 1
    for figure in ("step 8/8", "loss ", " img/s", "lr ", "loader ", " 0:00 left"):
        assert figure in running[0]
    assert ("classifier" in running[0]) == (columns == 200)
    assert sum(line.startswith("segm ") for line in lines) == 2
    assert lines.index(running[0]) > max(i for i, x in enumerate(lines) if x.startswith("ring "))


def test_a_terminal_shows_every_step_and_image(data, tmp_path, monkeypatch):
    """Also where losses are read every 20 steps; the time left is shown from step 2 on."""
    without_drawing(monkeypatch.setattr)
    monkeypatch.setattr("mrcnn.cli.progress._REDRAW_SECONDS", 0.0)
    flags = ("--steps", "6", "--eval-every", "0", "--print-every", "20", "--save-every", "500")
    text = on_terminal(arguments(data, tmp_path / "run", *flags), tmp_path / "out.txt", 80)
    for step in range(1, 7):
        lines = re.findall(rf"step {step}/6  loss \d[^\r\n\x1b]*", text)
        assert lines, step
        assert all((" left" in line) == (step > 1) for line in lines)
    for done in (1, 2, 3):
        assert f"step 6/6  evaluating, {done} of 3 images" in text


def test_elsewhere_lines_are_plain(data, tmp_path, capsys, monkeypatch):
    without_drawing(monkeypatch.setattr)
    assert run(data, tmp_path / "run", "--steps", "4", "--eval-every", "0") == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "\r" not in text
    lines = [line for line in text.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in lines] == ["1/4", "3/4", "4/4"]
    assert all("objectness 0." in line for line in lines)
    assert ["left" in line for line in lines] == [False, True, True]
