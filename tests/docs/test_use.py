"""Every command and code block of the pages about a trained model runs, with a tiny one."""

import dataclasses
import io
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from PIL import Image

from mrcnn import checkpoints
from mrcnn.data.synthetic import write_shapes
from mrcnn.evaluate import main as evaluate
from tests.helpers import documents, tiny
from tests.helpers.predicting import interrupted_after
from tests.inference import test_video

PREDICT, EVALUATE = documents.commands("predict.md"), documents.commands("evaluate.md")


def write_run(folder: Path, category_ids: list[int], names: list[str], seed: int) -> None:
    """Write a run whose model detects many objects with high scores."""
    config = dataclasses.replace(
        tiny.CONFIG, class_names=tuple(names), category_ids=tuple(category_ids)
    )
    model = tiny.model(config, seed)
    torch.nn.init.constant_(model.box_head.class_logits.bias[:1], 3.0)
    checkpoints.save(folder / "best.safetensors", model.state_dict(), config, {"step": 1})


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """The files that the pages name."""
    folder = tmp_path_factory.mktemp("docs")
    write_shapes(folder / "DIR", train=2, val=3, size=64)
    shutil.copy(folder / "DIR/val.json", folder / "truth.json")
    categories = json.loads((folder / "truth.json").read_text())["categories"]
    ids, names = ([c[key] for c in categories] for key in ("id", "name"))
    for run in ("1", "2"):
        write_run(folder / "runs" / run, ids, names, seed=int(run))
        words = ["--weights", str(folder / "runs" / run), "--data", str(folder / "DIR")]
        evaluate([*words, "--device", "cpu"])
    shutil.copy(folder / "runs/2/coco_results_val.json", folder / "results.json")
    with (folder / "clip.mp4").open("wb") as file:
        np.save(file, np.zeros((2, 40, 60, 3), np.uint8))  # as the stand-in for OpenCV reads it
    for name in (
        "photos/a.png", "photos/deeper/b.png", "shots/c.jpg", "shots/deeper/d.jpg", "one.png",
        "archive/e.tif", "photo.jpg", "a.jpg", "b.jpg",
    ):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tiny.noise(40, 60)).save(folder / name)
    return folder


IMAGES = {  # words after the weights -> number of images in the predictions
    "photos/": 1,
    "photos/ --recursive --no-overlays": 2,
    "photos/ --csv --masks --out measured": 1,
    "shots/**/*.jpg one.png --out found": 3,
    "-": 1,
    "clip.mp4 camera:0": 2 + 3,
}


@pytest.mark.parametrize("command", PREDICT, ids=documents.name_of)
def test_predict(workplace, tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(workplace)
    monkeypatch.setitem(sys.modules, "cv2", test_video.STAND_IN)
    if command[0] == "find":
        bar = command.index("|")
        listing = ["archive" if word == "/archive" else word for word in command[:bar]]
        found = subprocess.run(listing, stdout=subprocess.PIPE, text=True, check=True).stdout
        monkeypatch.setattr(sys, "stdin", io.StringIO(found))
        command = command[bar + 1 :]
    out = tmp_path / "out"
    flags = ["--device", "cpu", "--out", str(out)]
    if "--out" in command:
        out, flags = Path(command[command.index("--out") + 1]), flags[:2]
    with interrupted_after(6):  # 2 frames and the end of a video, then 3 frames of the camera
        assert documents.run(command, *flags) == 0, capsys.readouterr().err
    content = json.loads((out / "predictions.json").read_text())
    assert len(content["images"]) == IMAGES[" ".join(command[4:])]
    assert content["annotations"]
    assert {path.suffix for path in out.iterdir()} - {".json", ".jsonl", ".csv", ""} == (
        set() if "--no-overlays" in command else {".mp4"} if "clip.mp4" in command else {".jpg"}
    )


@pytest.mark.parametrize("command", EVALUATE, ids=documents.name_of)
def test_evaluate(workplace, monkeypatch, capsys, command):
    monkeypatch.chdir(workplace)
    assert documents.run(command, *(["--device", "cpu"] if "--weights" in command else [])) == 0
    assert "AP50" in capsys.readouterr().out


def test_evaluate_in_python(workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    names: dict = {}
    (code,) = documents.blocks("evaluate.md", "python")
    exec(code, names)
    assert "AP50" in capsys.readouterr().out


def test_python(workplace, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("runs", "photo.jpg", "a.jpg", "b.jpg", "photos"):
        Path(name).symlink_to(workplace / name)
    for name in ("supervision", "pandas"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    first, training, stream, *others = documents.blocks("python.md", "python")
    assert training.startswith("from mrcnn.training import train")  # test_training runs it
    names: dict = {}
    exec(first, names)
    assert len(names["results"]) == 2
    assert len(names["result"]) > 1
    folder = Path("photos").resolve()
    with pytest.warns(UserWarning, match="left out 1 subfolders"):
        exec(stream, names)
    assert f"{folder.name}/a.png {{" in capsys.readouterr().out
    renamed = dataclasses.replace(names["results"][0], class_names=("cat", "dog", "cow"))
    names["result"] = renamed
    for code in others:
        exec(code, names)
    assert len(names["single"]) == 1
    for name in ("found/photo.csv", "new/overlay.png", "masks/a_001.png", "objects.geojson"):
        assert Path(name).is_file()


def test_notebook(workplace, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for link, target in [("runs", "runs"), ("photo.jpg", "photo.jpg"), ("photos", "photos/deeper")]:
        Path(link).symlink_to(workplace / target)
    notebook = json.loads((documents.DOCS / "mrcnn.ipynb").read_text())
    assert notebook["nbformat"] == 4
    names: dict = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec("".join(cell["source"]), names)
    assert "Result(b.png" in capsys.readouterr().out
    assert Path("b-found.png").is_file()
    assert len(names["crops"]) > 0


EXPORT = [words for words in documents.commands("export.md") if words[0] == "mrcnn"]
TO_ONNX, _, TO_PROGRAM = EXPORT[:3]


@pytest.mark.parametrize(
    "command",
    [pytest.param(words, marks=[pytest.mark.slow] if "aoti" in words else []) for words in EXPORT],
    ids=documents.name_of,
)
def test_export(workplace, tmp_path, monkeypatch, command):
    monkeypatch.chdir(workplace)
    if "model.onnx" in command:
        pytest.importorskip("onnxscript")
    if "--int8" in command:
        pytest.importorskip("torchao")
    flags = []
    if command[1] != "export":
        assert documents.run(TO_PROGRAM) == 0
        flags = ["--device", "cpu", "--out", str(tmp_path / "out")]
    assert documents.run(command, *flags) == 0


def test_exported_in_python(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    _, program, _, loaded = documents.blocks("export.md", "python")
    assert documents.run(TO_PROGRAM) == 0
    names = {"pixels": torch.zeros(1, 3, 128, 160), "sizes": torch.tensor([[120, 150]])}
    exec(program, names)
    assert names["boxes"].shape == (1, tiny.CONFIG.max_detections, 4)
    exec(loaded, names)
    assert names["model"].config.score_threshold == 0.5


def test_exported_to_onnx(workplace, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(workplace)
    assert documents.run(TO_ONNX) == 0
    names: dict = {}
    exec(f"import numpy as np, onnxruntime\nfrom PIL import Image\n{SESSION}", names)
    assert names["boxes"].shape == (1, tiny.CONFIG.max_detections, 4)


SESSION = documents.blocks("export.md", "python")[0]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_serve(workplace, monkeypatch):
    """Use a free port instead of the default one."""
    monkeypatch.chdir(workplace)
    serve, curl = documents.commands("serve.md")
    assert serve[0] == "mrcnn"
    words = [sys.executable, "-m", *serve, "--port", "0", "--device", "cpu"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = process.stdout.readline().split()[0]
            curl = [word.replace("http://127.0.0.1:8008", address) for word in curl]
            answer = json.loads(subprocess.run(curl, stdout=subprocess.PIPE, check=True).stdout)
        finally:
            process.send_signal(signal.SIGINT)
    assert (answer["width"], answer["height"]) == (60, 40)
    assert answer["scores"]
