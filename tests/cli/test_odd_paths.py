"""Odd paths: every command refuses or takes them, without a traceback and without waiting."""

import errno
import os
from pathlib import Path

import pytest

from mrcnn.cli import app
from tests.helpers import tiny

# Each word that is a path, and a valid value for it.
COMMANDS = {
    "predict": {"": "data/images", "--weights": "run", "--out": "new"},
    "evaluate": {
        "--weights": "run", "--data": "data", "--out": "new.json", "--image-ids": "ids",
        "--json": "new2.json",
    },
    "evaluate --details": {"--results": "results.json", "--ground-truth": "data/val.json"},
    "evaluate --protocol cityscapes --weights run --data data": {"--instance-ids": "data"},
    "compare results.json results.json": {"--data": "data", "--json": "new.json"},
    "compare": {"": "results.json", " ": "results.json", "--ground-truth": "data/val.json"},
    "report": {"": "run"},
    "export": {"--weights": "run", "--out": "new.pt2"},
    "convert": {"": "run", " ": "new.safetensors"},
    "convert-data": {"": "data", " ": "new"},
    "check-data --workers 0": {"": "data", "--out": "new", "--fix": "new2"},
    "train --steps 1 --device cpu": {
        "--data": "data", "--out": "new", "--weights": "run", "--config": "train.json"
    },
    "train --device cpu": {"--resume": "new"},
    "serve --port 0": {"--weights": "run"},
}  # fmt: skip
PATHS = [
    "", " ", ".", "..", "/", "x" * 300, "d/" * 2500 + "x", "loop", "loop/x", "broken", "pipe",
    "/dev/zero", "/dev/null", "/proc/self/mem", "~", "[",
    "C:\\x", "two\nlines", "\x1b[2J\x07", "latin\udcff", "ids/x", "no/such/place",
    "ids", "ids/", "data/images/a.png", "empty", "*", "-", "huge",
]  # fmt: skip
OUTSIDE = ("/", "..")
CASES = [(command, flag) for command, flags in COMMANDS.items() for flag in flags]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    tiny.write_data(folder / "data")
    (folder / "empty").mkdir()
    (folder / "results.json").write_text("[]")
    (folder / "train.json").write_text('{"train": {}}')
    (folder / "ids").write_text("1\n")
    tiny.run(folder / "run")
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    (folder / "broken").symlink_to("nothing")
    with (folder / "huge").open("wb") as file:
        file.truncate(2**40)
    return folder


def words_of(command: str, flag: str, path: str) -> list[str]:
    """Return the command line with one path replaced."""
    words = command.split()
    for name, value in COMMANDS[command].items():
        value = path if name == flag else value
        words += [f"{name}={value}"] if name.startswith("--") else [value]
    return words


def contents() -> dict[Path, bytes | None]:
    """Return what the current folder holds."""
    paths = [path for path in Path().rglob("*") if path.name not in ("pipe", "huge")]
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


@pytest.fixture
def inside(place, monkeypatch) -> Path:
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(place / "nowhere"))
    monkeypatch.setattr("sys.stdin", None)
    return place


def exit_code(words: list[str]) -> object:
    try:
        return app.main(words)
    except SystemExit as stop:  # from the parser of flags
        return stop.code


@pytest.mark.parametrize(("command", "flag"), CASES)
def test_odd_paths(command, flag, inside, capsys):
    """Any other exception than SystemExit fails; what was there before stays as it was."""
    before = contents()
    is_output = COMMANDS[command][flag].startswith("new")
    paths = [path for path in PATHS if path not in OUTSIDE or not (is_output or "ids" in flag)]
    if command.startswith("train") and is_output:
        paths = paths[:8]  # what can be written trains for a second
    for path in paths:
        code = exit_code(words_of(command, flag, path))
        message = capsys.readouterr().err
        assert code in (0, 1, 2), path
        assert (code == 2) == bool(message), path
        assert not {"\x1b", "\x07"} & set(message), path
        after = contents()
        for new in sorted(after.keys() - before.keys(), reverse=True):
            new.rmdir() if new.is_dir() and not new.is_symlink() else new.unlink()
        assert {name: after.get(name) for name in before} == before, path


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENAMETOOLONG, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("command", ["predict", "evaluate", "convert-data", "check-data", "export"])
def test_a_path_that_the_system_refuses(command, number, inside, capsys, monkeypatch):
    """Root may read everything, so the error is raised here."""
    stat = Path.stat

    def refuse(self, **options):
        if "data" in self.parts or "run" in self.parts:
            raise OSError(number, os.strerror(number), str(self))
        return stat(self, **options)

    command = next(name for name in COMMANDS if name.split()[0] == command)
    monkeypatch.setattr(Path, "stat", refuse)
    assert exit_code(words_of(command, "none", "")) == 2
    message = capsys.readouterr().err
    assert os.strerror(number) in message
    assert "data" in message or "run" in message


def test_the_current_folder_is_gone(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert exit_code(["convert-data", "data", "new"]) == 2
    assert "the current folder has been removed" in capsys.readouterr().err


OTHERS = {  # output of each command, and what it must not replace
    "evaluate --weights run --data data --out": ("val.json", '{"annotations": [{"image_id": 1}]}'),
    "evaluate --weights run --data data --json": ("results.json", '[{"image_id": 1}]'),
    "evaluate --weights run --data data --plots": ("a.png", "an image"),
    "compare results.json results.json --data data --json": ("a.json", '{\n "weights": null}'),
    "export --weights run --out": ("a.onnx", "another model"),
    "convert run": ("a.safetensors", "other weights"),
    "convert run --to torchvision": ("a.pth", "other weights"),
    "check-data data --workers 0 --out": ("check.html", "<html>"),
    "check-data data --workers 0 --out ": ("findings.jsonl", '{"annotations": []}'),
    "report": ("report.html", "<html>"),
}


@pytest.mark.parametrize("command", OTHERS)
@pytest.mark.parametrize("is_link", [False, True])
def test_files_of_others_are_not_overwritten(command, is_link, inside, tmp_path, capsys):
    name, content = OTHERS[command]
    (tmp_path / "original").write_text(content)
    if is_link:
        (tmp_path / name).symlink_to(tmp_path / "original")
    else:
        os.link(tmp_path / "original", tmp_path / name)
    is_folder = command.startswith(("check-data", "report"))
    assert exit_code([*command.split(), str(tmp_path if is_folder else tmp_path / name)]) == 2
    message = capsys.readouterr().err
    assert f"{tmp_path / name}: cannot be written (it exists, and " in message
    assert (tmp_path / name).read_text() == content
    assert (tmp_path / name).is_symlink() == is_link


@pytest.mark.parametrize(
    "command",
    [
        "evaluate --weights run --data data --out new.json --json new2.json --plots new.png",
        "evaluate --weights run --data data --out new.json --plots new.pdf",
        "evaluate --weights run --data data --out new.json --plots new.svg",
        "compare results.json results.json --data data --json new.json",
        "check-data data --workers 0 --out new",
    ],
)
def test_a_command_replaces_its_own_files(command, inside, capsys):
    before = contents()
    for _ in range(2):
        assert exit_code(command.split()) in (0, 1), capsys.readouterr().err
    for new in sorted(contents().keys() - before.keys(), reverse=True):
        new.rmdir() if new.is_dir() else new.unlink()
