"""Every command and code block of docs/checkpoints.md runs.

Files of other frameworks contain a ResNet-18 with few classes; published detectors are tiny models.
"""

import dataclasses
import json
import pickle
from pathlib import Path

import pytest
import torch
from PIL import Image

from mrcnn import checkpoints
from mrcnn.config import MODELS
from mrcnn.models import build
from mrcnn.models.backbones.resnet import ResNet
from tests.docs.test_use import write_run
from tests.helpers import documents, foreign_states, short_runs, tiny
from tests.helpers.foreign_states import with_values

COMMANDS = documents.commands("checkpoints.md")
TRAINING = (*short_runs.FLAGS, "--steps", "1", "--eval-every", "0")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """The files that the page names."""
    folder = tmp_path_factory.mktemp("docs")
    short_runs.write_data(folder / "DIR")
    (folder / "COCO").symlink_to("DIR")
    torchvision = with_values(foreign_states.torchvision(18, outputs=3))
    for name in ("maskrcnn_resnet50_fpn_coco.pth", "mine.pth"):
        torch.save(torchvision, folder / name)
    detectron2 = with_values(foreign_states.detectron2(18, classes=2))
    arrays = {name: value.numpy() for name, value in detectron2.items()}
    for name in ("model_final_f10217.pkl", "model_final.pkl"):
        (folder / name).write_bytes(pickle.dumps({"model": arrays}))
    config = dataclasses.replace(
        MODELS["resnet18-fpn"], class_names=("cat", "dog"), category_ids=(3, 7)
    )
    checkpoints.save(folder / "runs/1/best.safetensors", build(config).state_dict(), config, {})
    torch.save(ResNet("resnet18", norm="frozen_batch").state_dict(), folder / "R-50.pth")
    categories = json.loads((folder / "DIR/val.json").read_text())["categories"]
    write_run(folder / "published", *([c[key] for c in categories] for key in ("id", "name")), 0)
    (folder / "photos").mkdir()
    Image.fromarray(tiny.noise(32, 48)).save(folder / "photos/a.png")
    return folder


@pytest.fixture(autouse=True)
def in_workplace(workplace, monkeypatch):
    """Work in that folder, and replace downloads of published files."""

    def fetch(name: str) -> Path:
        return workplace / ("R-50.pth" if "R-50" in name else "published/best.safetensors")

    monkeypatch.chdir(workplace)
    monkeypatch.setattr("mrcnn.checkpoints.checkpoint.fetch", fetch)
    short_runs.without_drawing(monkeypatch.setattr)


@pytest.mark.parametrize("command", COMMANDS, ids=documents.name_of)
def test_commands(command, capsys):
    flags = {"predict": ("--device", "cpu"), "evaluate": ("--device", "cpu")}.get(command[1], ())
    if "mrcnn.train" in command:
        flags = (*TRAINING, *(["--model", "small-imagenet"] if "--model" in command else []))
    assert documents.run(command, *flags) == 0, capsys.readouterr().err
    if command[1] == "convert":
        assert checkpoints.load(Path(command[3])).state


def test_code():
    for code in documents.blocks("checkpoints.md", "python"):
        names: dict = {}
        exec(f"import mrcnn\n{code}", names)
    assert names["model"].config.class_names == ("car", "person")
