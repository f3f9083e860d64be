"""Wrong command lines: exit code 2, one message with name, value and fix, and nothing written."""

from pathlib import Path

import pytest

from mrcnn.cli import app
from tests.helpers import tiny

# Valid command lines; each case changes some of their flags.
SOUND = {
    "train": {"--data": "data", "--out": "out", "--device": "cpu", "--steps": "1"},
    "evaluate": {"--weights": "run", "--data": "data", "--out": "out.json", "--device": "cpu"},
    "predict": {"--weights": "run", "images": "data/images", "--out": "out", "--device": "cpu"},
}
CASES = {  # command, changed flags (None leaves the flag out), words of the message
    "no weights": ("predict", {"--weights": None}, ["--weights", "required"]),
    "no images": ("predict", {"images": None}, ["name at least one image"]),
    "unknown flag": ("train", {"--epoch": "3"}, ["--epoch"]),
    "misspelt flag": ("evaluate", {"--max-det": "3"}, ["--max-det", "--max-dets"]),
    "word for a number": ("train", {"--steps": "many"}, ["--steps", "many"]),
    "fraction for a count": ("train", {"--steps": "1.5"}, ["--steps", "1.5"]),
    "no steps": ("train", {"--steps": "0"}, ["--steps must be more than 0, got 0"]),
    "rate that is not a number": ("train", {"--lr": "nan"}, ["--lr must be more than 0, got nan"]),
    "batch of a trillion": (
        "train", {"--batch-size": str(10**12)}, ["--batch-size must be at most 65,536, got"]
    ),
    "tiles of a pixel": ("predict", {"--tiles": "1"}, ["--tiles must be at least 32, got 1"]),
    "negative batch size": ("train", {"--batch-size": "-1"}, ["--batch-size must be more than 0"]),
    "negative warm-up": ("train", {"--warmup": "-5"}, ["--warmup must be 0 or more, got -5"]),
    "training size of 0": ("train", {"--multi-scale": "0"}, ["--multi-scale must be more than 0"]),
    "negative anchor size": (
        "train", {"--set": "anchor_sizes=[8,16,32,-1]"}, ["anchor_sizes must be in [0.001, 100000]"]
    ),
    "absent weights": ("train", {"--weights": "absent.pth"}, ["absent.pth: does not exist"]),
    "unknown model": ("train", {"--model": "resnet19"}, ["--model", "resnet19", "resnet18-fpn"]),
    "anchors of other levels": (
        "train", {"--anchor-sizes": "8"}, ["anchor_sizes", "sizes, one for each of", "got (8.0,)"]
    ),
    "set, unknown field": ("predict", {"--set": "min_sizes=9"}, ["min_sizes=9", "mean min_size?"]),
    "set, a flag's field": (
        "predict", {"--set": "score_threshold=0.1"}, ["has a flag for it, which is 0.5; use that"]
    ),
    "set, another model": ("evaluate", {"--set": "fpn_channels=32"}, ["not fit the", "leave out"]),
    "set, a bad value": ("evaluate", {"--set": "scale=-1"}, ["changed (ModelConfig: scale"]),
    "set, without a model": (
        "evaluate",
        {"--weights": None, "--out": None, "--results": "ids", "--set": "masks=false"},
        ["--set and --bgr go with --weights"],
    ),
    "no such device": ("train", {"--device": "gpu"}, ["--device gpu", "use cpu"]),
    "device that is not there": ("predict", {"--device": "cuda:99"}, ["--device cuda:99", "cpu"]),
    "no such data": ("train", {"--data": "nowhere"}, ["--data nowhere: does not exist"]),
    "a file for data": ("evaluate", {"--data": "ids"}, ["--data ids: is not a COCO file; name"]),
    "run folder in use": ("train", {"--out": "run"}, ["--out run: ", "name a new folder"]),
    "no such run": ("evaluate", {"--weights": "nowhere"}, ["nowhere: does not exist; give a"]),
    "folder without a run": ("evaluate", {"--weights": "data"}, ["data: does not contain a"]),
    "an image for weights": (
        "predict", {"--weights": "data/images/a.png"}, ["a.png: is damaged, or not a file of weig"]
    ),
    "a pickle for weights": ("predict", {"--weights": "old.pkl"}, ["old.pkl: does not hold a"]),
    "damaged backbone": ("train", {"--weights": "bad.pth"}, ["bad.pth: is damaged"]),
    "threshold of 50": (
        "predict", {"--score-threshold": "50"}, ["--score-threshold must be in [0, 1], got 50"]
    ),
    "empty output": ("predict", {"--out": ""}, ["--out must not be empty", "shell variable"]),
    "empty data": ("evaluate", {"--data": ""}, ["--data must not be empty"]),
    "empty images": ("predict", {"images": ""}, ["an argument must not be empty"]),
    "output among the images": ("predict", {"--out": "data/images"}, ["--out data/images: is a"]),
    "seed beyond 64 bits": ("train", {"--seed": "1" + "0" * 30}, ["--seed must be less than 2^62"]),
    "infinite rate": ("train", {"--lr": "inf"}, ["--lr must be less than 2^62, got inf"]),
    "no ids at all": ("evaluate", {"--image-ids": "none"}, ["--image-ids none: is empty"]),
    "no detections": ("evaluate", {"--max-dets": "0"}, ["--max-dets must be at least 1, got 0"]),
    "no such split": ("evaluate", {"--split": "test"}, ["--split", "test", "val"]),
    "ids that are names": ("evaluate", {"--image-ids": "ids"}, ["--image-ids ids", "got 'a.png'"]),
    "no such ids": ("evaluate", {"--image-ids": "no.txt"}, ["no.txt: does not exist"]),
    "no such image": ("predict", {"images": "data/b.png"}, ["data/b.png: does not exist"]),
    "folder without images": ("predict", {"images": "run"}, ["run: has no images"]),
    "output under a file": (
        "predict", {"--out": "ids/out"}, ["ids/out/predictions.json: cannot be", "ids is a file"]
    ),
    "results over a folder": (
        "evaluate", {"--out": "data"}, ["data: cannot be written (it is a folder)"]
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A sound data set and run, and a few files that are neither."""
    folder = tmp_path_factory.mktemp("place")
    tiny.write_data(folder / "data")
    tiny.run(folder / "run")
    (folder / "none").write_text("\n")
    (folder / "ids").write_text("a.png\n")
    (folder / "old.pkl").write_bytes(b"\x80\x04N.")
    (folder / "bad.pth").write_bytes(b"\x80\x04")
    return folder


def contents(folder: Path) -> dict[str, bytes | None]:
    paths = sorted(folder.rglob("*"))
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


@pytest.mark.parametrize("case", CASES)
def test_malformed_flags(place, case, capsys, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("COLUMNS", "200")
    command, changes, parts = CASES[case]
    words = []
    for name, value in {**SOUND[command], **changes}.items():
        if value is not None:
            words += [name, value] if name.startswith("--") else [value]
    before = contents(place)
    try:
        code = app.main([command, *words])
    except SystemExit as stop:  # from the parser of flags
        code = stop.code
    message = capsys.readouterr().err
    assert code == 2
    for part in parts:
        assert part in message
    assert "Traceback" not in message
    assert contents(place) == before


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_the_unchanged_command_lines_are_valid(place, command, capsys, monkeypatch):
    """The unchanged command lines are valid."""
    monkeypatch.chdir(place)
    before = contents(place)
    words = [word for pair in SOUND[command].items() for word in pair if word != "images"]
    assert app.main([command, *words]) == 0
    assert capsys.readouterr().err == ""
    new = set(contents(place)) - set(before)
    assert new
    for path in sorted(map(Path, new), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
