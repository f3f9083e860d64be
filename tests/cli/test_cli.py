"""The command line: commands, flags from dataclasses, exit codes, and help without waiting."""

import importlib
import os
import re
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

import mrcnn
from mrcnn.cli import app
from mrcnn.cli.flags import group, parse, run
from mrcnn.errors import UserError


def test_help(capsys):
    assert app.main(["--help"]) == 0
    output = capsys.readouterr().out
    for command, (_, text) in app.COMMANDS.items():
        assert f"  {command}" in output
        assert text in output
    assert app.main([]) == 2


HEAVY = "{'torch', 'numpy', 'PIL', 'matplotlib', 'pycocotools', 'yaml', 'safetensors'}"


@pytest.mark.parametrize("command", ["", *app.COMMANDS])
def test_help_does_not_wait_for_torch(command):
    """Importing PyTorch takes two seconds, so help must not; nor may the package itself."""
    script = f"""
import sys, mrcnn
from mrcnn.cli.app import main
try:
    code = main({command.split()} + ["--help"])
except SystemExit as end:
    code = end.code
heavy = {HEAVY} & set(sys.modules) | ({{"tyro"}} & set(sys.modules) if {not command} else set())
sys.exit(f"imported {{heavy}}" if heavy else code)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: mrcnn {command or 'COMMAND'}")
    # Boxes, and text above them, fit 80 columns; usage is one line.
    assert max(map(len, done.stdout.splitlines()[1:])) <= (100 if not command else 80)
    assert not re.search(r"None|\(default: \)|\(default: False\)", done.stdout)


def test_version(capsys):
    assert app.main(["--version"]) == 0
    assert capsys.readouterr().out == f"mrcnn {mrcnn.__version__}\n"


@pytest.mark.parametrize(
    ("word", "hint"), [("trian", "did you mean train?"), ("evalute", "evaluate?"), ("7", "")]
)
def test_an_unknown_command(capsys, word, hint):
    assert app.main([word]) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"mrcnn: unknown command {word!r}")
    assert hint in output.err
    assert output.out == ""


@pytest.mark.parametrize(
    ("words", "expected"),
    [("mrcnn tra", "train"), ("mrcnn predict --score", "--score-threshold"),
     ("mrcnn check-data --fi", "--fix")],
)  # fmt: skip
def test_completion_in_bash(tmp_path, capsys, words, expected):
    assert app.main(["completion", "bash"]) == 0
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out)
    place = len(words.split()) - 1
    line = f"COMP_WORDS=({words}); COMP_CWORD={place}; _tyro_mrcnn; echo ${{COMPREPLY[*]}}"
    done = subprocess.run(
        ["bash", "-c", f"source {script}; {line}"], capture_output=True, text=True
    )
    assert done.stdout.split() == [expected]


@pytest.mark.parametrize(("argv", "code"), [(["zsh"], 0), (["fish"], 0), (["cmd"], 2), ([], 2)])
def test_completion_of_other_shells(capsys, argv, code):
    assert app.main(["completion", *argv]) == code
    output = capsys.readouterr()
    assert ("check-data" in output.out) == (code == 0)
    assert ("mrcnn completion bash|zsh|fish" in output.err) == (code == 2)


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_waiting_threads_give_up_their_core(monkeypatch, given, expected):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # restored afterwards
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert run(lambda _: 0, []) == 0
    assert os.environ.get("GOMP_SPINCOUNT") == expected


def test_every_command_has_its_help(capsys):
    for command in app.COMMANDS:
        with pytest.raises(SystemExit) as caught:
            app.main([command, "--help"])
        assert caught.value.code == 0
        assert f"usage: mrcnn {command} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ImportError("mrcnn: the kernels are not built\n  run: it"), "mrcnn: the kernels are not"),
        (ModuleNotFoundError("No module named 'numpy'"), "missing or broken: No module named 'nu"),
    ],
)
def test_a_library_that_does_not_load(capsys, monkeypatch, error, message):
    def fail(name):
        raise error

    monkeypatch.setattr(importlib, "import_module", fail)
    assert app.main(["train"]) == 2
    output = capsys.readouterr().err
    assert message in output
    assert "run: " in output.lower()


def test_a_command_gets_its_flags(monkeypatch):
    got = []
    module = types.SimpleNamespace(main=lambda argv: got.append(argv))
    monkeypatch.setattr(importlib, "import_module", lambda name: module)
    assert app.main(["train", "--steps", "3"]) == 0
    assert got == [["--steps", "3"]]


# flags


@dataclass(frozen=True)
class Flags:
    """What it does."""

    steps: int
    """How many."""
    schedule: Literal["cosine", "step"] = "cosine"
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"--steps must be at least 1, got {self.steps}")


@dataclass(frozen=True, kw_only=True)
class Shared:
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Grouped(Shared):
    """What it does."""

    steps: int
    """How many."""
    out: Path | None = None
    """Where to
    write."""
    speed: float = group("machine", 1.0)
    """How fast."""


def test_groups_of_flags(capsys):
    """Fields of base classes come last, and are in the last group."""
    argv = ["--speed", "2", "--out", "x", "--steps", "3"]
    assert parse(Grouped, argv) == Grouped(steps=3, out=Path("x"), speed=2.0)
    assert parse(Grouped, argv[4:], Grouped(1, speed=4.0)).speed == 4.0
    with pytest.raises(SystemExit):
        parse(Grouped, ["--help"], shown={"out": "as it comes"})
    text = capsys.readouterr().out.split("options", 1)[1]
    parts = ["--out PATH", "Where to write. (default: as it comes)", " machine ", "--speed FLOAT"]
    places = [text.index(part) for part in ["--steps INT", *parts, "--sizes INT ..."]]
    assert places == sorted(places)


def test_flags():
    assert parse(Flags, ["--steps", "3", "--sizes", "1", "2"]) == Flags(3, "cosine", (1, 2))
    with pytest.raises(UserError, match="--steps must be at least 1, got 0"):
        parse(Flags, ["--steps", "0"])


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        ([], ["--steps"]),
        (["--steps", "many"], ["--steps", "many"]),
        (["--steps", "3", "--step", "4"], ["--step", "--steps"]),
        (["--steps", "3", "--schedule", "line"], ["line", "cosine"]),
    ],
)
def test_wrong_flags(capsys, argv, parts):
    with pytest.raises(SystemExit) as caught:
        parse(Flags, argv)
    assert caught.value.code == 2
    output = capsys.readouterr()
    for part in parts:
        assert part in output.err
    assert output.out == ""


@pytest.mark.parametrize(
    ("outcome", "code", "message"),
    [
        (None, 0, ""),
        (3, 3, ""),
        (UserError("a.png: is empty; remove it"), 2, "mrcnn: a.png: is empty; remove it\n"),
        (KeyboardInterrupt(), 130, "mrcnn: stopped\n"),
    ],
)
def test_exit_codes(capsys, outcome, code, message):
    def main(argv):
        assert argv == ["x"]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    assert run(main, ["x"]) == code
    assert capsys.readouterr().err == message


def test_other_errors_keep_their_traceback():
    def main(argv):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run(main, [])
