"""Every command of docs/data.md runs, on small data sets in the formats it describes."""

import json
from pathlib import Path

import pytest

from mrcnn.cli import app
from mrcnn.data.coco.read import read_splits
from mrcnn.data.coco.truth import as_coco
from mrcnn.data.formats import find_splits
from mrcnn.evaluation.truth import GroundTruth
from tests.data.test_formats import FORMATS as LISTED
from tests.data.test_formats import simplest, strange
from tests.helpers import annotation_writers as writers
from tests.helpers import documents, short_runs

COMMANDS = documents.commands("data.md")
FOLDERS = {  # of the page -> format
    "photos": "labelme", "balloons": "VIA 1", "parts": "YOLO", "cells": "mask files",
    "people": "indexed masks", "VOC2012": "VOC", "cityscapes": "Cityscapes", "lvis": "LVIS",
}  # fmt: skip


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """The folders that the page names."""
    folder = tmp_path_factory.mktemp("docs")
    content = strange(folder / "source")
    for name, kind in FOLDERS.items():
        format_ = LISTED[kind]
        format_.write(folder / name, simplest(content, format_), folder / "source")
    for i, split in enumerate(("train", "val")):
        images = content["images"][2 * i : 2 * i + 2]
        ids = {image["id"] for image in images}
        drawn = [a for a in content["annotations"] if a["image_id"] in ids]
        part = {**content, "images": images, "annotations": drawn}
        writers.write_text(folder / "birds" / f"{split}.json", part)
    for image in content["images"]:
        name = image["file_name"]
        writers.place_image(folder / "source" / name, folder / "birds" / "images" / name)
    return folder


def parameter(command: list[str]) -> object:
    """Mark all training runs but the first as slow."""
    marks = [pytest.mark.slow] if command[1] == "train" and command != COMMANDS[0] else []
    return pytest.param(command, id=" ".join(command[1:4]), marks=marks)


@pytest.mark.parametrize("command", [*map(parameter, COMMANDS)])
def test_commands(workplace, monkeypatch, capsys, command):
    monkeypatch.chdir(workplace)
    before = sorted(workplace.glob("*/**/*"))
    flags = [*short_runs.FLAGS, "--steps", "1"] if command[1] == "train" else []
    assert documents.run(command, *flags) == 0, capsys.readouterr().err
    outputs = {"run", "runs", "photos-coco", "photos-by-place"}
    new = set(workplace.glob("*/**/*")) - set(before)
    assert {path.relative_to(workplace).parts[0] for path in new} <= outputs


def test_the_page_has_a_command_for_every_format():
    trained = {words[words.index("--data") + 1] for words in COMMANDS if "train" in words}
    assert trained == {*FOLDERS, "birds"}


def test_report_can_be_written_again(workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    words = ["--data", "photos", "--out", "again", *short_runs.FLAGS, "--steps", "1"]
    assert app.main(["train", *words]) == 0
    (workplace / "again" / "report.html").unlink()
    assert app.main(["report", "again"]) == 0, capsys.readouterr().err
    assert "Nüsse" in (workplace / "again" / "report.html").read_text(encoding="utf-8")


def test_ground_truth_is_the_file_where_there_is_one(workplace):
    labelme = read_splits(find_splits(workplace / "photos"))["val"]
    assert GroundTruth.of_dataset(labelme).records == as_coco(labelme)
    coco = read_splits(find_splits(workplace / "birds"))["val"]
    stored = json.loads(coco.annotations.read_text())["annotations"][0]
    assert GroundTruth.of_dataset(coco).records["annotations"][0].items() >= stored.items()
