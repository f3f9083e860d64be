"""The code of docs/mrcnn.ipynb runs, cell by cell, in a folder as the notebook describes it."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mrcnn import checkpoints
from tests.helpers import tiny

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "mrcnn.ipynb"


def test_the_notebook_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = tiny.model()
    torch.nn.init.constant_(model.box_head.class_logits.bias[:1], 3.0)  # many sure cats
    state = model.state_dict()
    checkpoints.save(tmp_path / "runs/1/last.safetensors", state, tiny.CONFIG, {"step": 1})
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for name in ("photo.jpg", "photos/a.png", "photos/b.png"):
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(name)
    notebook = json.loads(NOTEBOOK.read_text())
    assert notebook["nbformat"] == 4
    names: dict = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec("".join(cell["source"]), names)
    assert capsys.readouterr().out.count("Result(") == 2
    assert {"a-found.png", "b-found.png"} <= {path.name for path in tmp_path.iterdir()}
    assert len(names["crops"]) > 0
