"""`mrcnn convert-data`: the same data set as COCO files, and what it refuses."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from mrcnn.cli import app
from mrcnn.data.coco.read import CocoDataset, read_splits
from mrcnn.data.formats import find_splits
from tests.helpers import annotation_writers as writers


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Ten images of labelme in nested folders, two of each of five scenes."""
    shape = {"label": "ö", "points": [[1, 1], [6, 1], [6, 5]]}
    for number in range(10):
        base = tmp_path / "in" / f"scene{number // 2}" / f"{number}.PNG"
        base.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (number, 0, 0)).save(base)
        content = {"shapes": [shape] * (number % 3), "imagePath": base.name}
        writers.write_text(base.with_suffix(".json"), content)
    return tmp_path / "in"


def instances(datasets: dict[str, CocoDataset]) -> dict[bytes, list]:
    """Boxes and points by the content of the image file."""
    found = {}
    for dataset in datasets.values():
        for i in range(len(dataset)):
            rows = slice(int(dataset.start[i]), int(dataset.start[i + 1]))
            found[dataset.path(i).read_bytes()] = dataset.boxes[rows].tolist()
    return found


def test_the_same_data_set_comes_out(source, tmp_path, capsys):
    out = tmp_path / "out"
    before = sorted(source.rglob("*"))
    assert app.main(["convert-data", str(source), str(out)]) == 0
    assert sorted(source.rglob("*")) == before
    assert sorted(path.name for path in out.iterdir()) == ["images", "train.json", "val.json"]
    original, written = (read_splits(find_splits(folder)) for folder in (source, out))
    assert instances(written) == instances(original)
    for name, dataset in original.items():
        assert written[name].class_names == dataset.class_names == ("ö",)
        for field, tensor in written[name].masks.tensors().items():
            assert torch.equal(tensor, getattr(dataset.masks, field))
        judge = COCO(out / f"{name}.json")
        assert all(a["area"] > 0 and len(a["bbox"]) == 4 for a in judge.anns.values())
    output = capsys.readouterr().out
    assert "10 images linked, 0 copied" in output
    assert "are drawn with seed 0" in output


def test_groups_and_seeds(source, tmp_path):
    for seed in (0, 1):
        out = tmp_path / f"out{seed}"
        flags = ["--split", "0.4", "--seed", str(seed), "--group", r"scene\d"]
        assert app.main(["convert-data", str(source), str(out), *flags]) == 0
        names = {
            name: {image["file_name"].split("/")[0]
                   for image in json.loads((out / f"{name}.json").read_text())["images"]}
            for name in ("train", "val")
        }  # fmt: skip
        assert (len(names["train"]), len(names["val"])) == (3, 2)
        assert not names["train"] & names["val"]


def test_one_coco_file_is_divided(source, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    app.main(["convert-data", str(source), str(first)])
    (first / "train.json").rename(first / "annotations.json")
    (first / "val.json").unlink()
    assert app.main(["convert-data", str(first), str(second)]) == 0
    counts = [len(d) for d in read_splits(find_splits(second)).values()]
    assert counts == [6, 2]


def test_images_are_copied_where_they_cannot_be_linked(source, tmp_path, monkeypatch, capsys):
    def refuse(*_: object) -> None:
        raise OSError("another disk")

    monkeypatch.setattr("os.link", refuse)
    assert app.main(["convert-data", str(source), str(tmp_path / "out")]) == 0
    assert "0 images linked, 10 copied" in capsys.readouterr().out
    shutil.rmtree(source)
    assert len(read_splits(find_splits(tmp_path / "out"))["train"]) == 8


REFUSED = {  # flags after IN OUT, what the message says
    "split 0": (["--split", "0"], "--split must be between 0 and 1, got 0.0"),
    "split 1": (["--split", "1"], "--split must be between 0 and 1, got 1.0"),
    "split NaN": (["--split", "nan"], "--split must be between 0 and 1, got nan"),
    "a broken expression": (["--group", "("], "--group '(': is not a regular expression"),
    "an expression that does not match": (["--group", "x"], "--group 'x': must match the name of"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_flags(source, tmp_path, capsys, case):
    flags, message = REFUSED[case]
    assert app.main(["convert-data", str(source), str(tmp_path / "out"), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_refused_folders(source, tmp_path, capsys):
    full = tmp_path / "full"
    writers.write_text(full / "a.txt", "mine")
    for out, message in (
        (full, "full: is not empty"),
        (full / "a.txt", "a.txt: is not empty"),
        (source / "out", "out: is inside the source"),
        (source, "in: is inside the source"),
        (full / "a.txt" / "out", "out: cannot be written"),
    ):
        assert app.main(["convert-data", str(source), str(out)]) == 2
        assert message in capsys.readouterr().err
    assert (full / "a.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "in"]


def test_a_broken_source_writes_nothing(source, tmp_path, capsys):
    (source / "scene0" / "0.json").write_text("{")
    assert app.main(["convert-data", str(source), str(tmp_path / "out")]) == 2
    assert "0.json: is not JSON" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
