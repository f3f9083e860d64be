"""`mrcnn export`: PyTorch programs, and the command."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import mrcnn
from mrcnn.cli import app
from mrcnn.config import MODELS
from mrcnn.errors import UserError
from mrcnn.export import main
from mrcnn.exporting import program as programs
from mrcnn.inference.predictor import Predictor
from mrcnn.models import build
from tests.helpers import tiny
from tests.helpers.exported import BATCHES, assert_same, decided, random_images

# Strides of anchors follow from the size of the image, and some slots stay padding.
BY_GRID = dataclasses.replace(
    tiny.CONFIG,
    numerics="torchvision",
    fpn_levels=4,
    anchor_sizes=(16, 32, 64, 128, 256),
    score_threshold=0.6,
)


@pytest.fixture(scope="module")
def traced():
    predictor = decided(BY_GRID)
    return predictor, programs.export_program(predictor.model, BY_GRID)


@pytest.mark.parametrize("sizes", BATCHES.values(), ids=BATCHES)
def test_a_program_equals_the_model_at_any_size(traced, sizes):
    predictor, program = traced
    images = random_images(predictor.config, sizes, seed=1)
    with torch.inference_mode():
        outputs = program.module()(images.pixels, images.sizes)
    assert assert_same(outputs, images, predictor) >= 10 * len(sizes)


def test_shapes_do_not_depend_on_values(traced):
    """All shapes follow from those of the inputs."""
    _, program = traced
    names = {str(node.target) for node in program.graph.nodes}
    assert {"aten.conv2d.default", "mrcnn.select_proposals.default"} <= names
    assert not names & {"aten.item.default", "aten.nonzero.default", "aten._local_scalar_dense"}
    assert _is_free(program)


def _is_free(program: torch.export.ExportedProgram) -> bool:
    """Return whether batch, height and width of the pixels are free."""
    (pixels,) = (node.meta["val"] for node in program.graph.nodes if node.name == "pixels")
    return [isinstance(side, torch.SymInt) for side in pixels.shape] == [True, False, True, True]


def test_images_without_objects(traced):
    predictor, program = traced
    images = random_images(predictor.config, BATCHES["three of one size"], seed=2)
    bias = predictor.model.box_head.class_logits.bias.data  # the program has the same tensor
    bias[-1] += 100  # background
    with torch.inference_mode():
        outputs = program.module()(images.pixels, images.sizes)
    assert assert_same(outputs, images, predictor) == 0
    bias[-1] -= 100


LOAD = """
import sys
import torch
import mrcnn_C
if sys.argv[1] == "compiled":
    model = torch._inductor.aoti_load_package("model.pt2")
    about = model.get_metadata()["mrcnn"]
else:
    files = {"mrcnn.json": ""}
    model = torch.export.load("model.pt2", extra_files=files).module()
    about = files["mrcnn.json"]
torch.save([model(*inputs) for inputs in torch.load("inputs.pt")], "outputs.pt")
assert not [name for name in sys.modules if name == "mrcnn" or name.startswith("mrcnn.")]
print(about)
"""


def run_without_mrcnn(folder, kind, batches):
    """Run folder/model.pt2 with the kernels alone; return its outputs and its description."""
    torch.save([(images.pixels, images.sizes) for images in batches], folder / "inputs.pt")
    where = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # of the kernels
    command = [sys.executable, "-c", LOAD, kind]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=where)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "outputs.pt"), json.loads(done.stdout)


def test_a_file_runs_without_the_python_package(tmp_path, capsys):
    """A file of an earlier export is replaced, and flags change the model."""
    target = tmp_path / "model.pt2"
    target.write_text("mine")
    model = decided(tiny.CONFIG).model
    config = dataclasses.replace(tiny.CONFIG, score_threshold=0.7, max_detections=9)
    flags = ["--out", str(target), "--score-threshold", "0.7", "--max-dets", "9"]
    words = ["export", "--weights", str(tiny.saved(tmp_path / "run", model)), *flags]
    assert app.main(words) == 2
    assert "was not written by this command" in capsys.readouterr().err
    target.write_text("the mrcnn.json of an earlier export")
    assert app.main(words) == 0
    assert capsys.readouterr().out.startswith(f"{target}: a program of ")
    images = random_images(config, BATCHES["three of different sizes"], seed=3)
    (outputs,), about = run_without_mrcnn(tmp_path, "program", [images])
    model.box_head.score_threshold, model.box_head.max_detections = 0.7, 9
    assert assert_same(outputs, images, Predictor(model, config)) >= 10
    assert about["class_names"] == ["cat", "dog"]
    assert about["category_ids"] == [3, 7]
    assert about["score_threshold"] == 0.7
    assert about["pixel_mean"] == list(config.pixel_mean)
    assert about["model"] == json.loads(json.dumps(config.to_dict()))


@pytest.mark.slow
def test_compiled_code_equals_the_model_at_any_size(tmp_path, capsys):
    config = dataclasses.replace(  # as wide as a real one: code depends on it
        MODELS["small"], class_names=("cat", "dog"), numerics="torchvision", score_threshold=0.6
    )
    predictor = decided(config)
    run = str(tiny.saved(tmp_path / "run", predictor.model, config))
    target = str(tmp_path / "model.pt2")
    assert app.main(["export", "--weights", run, "--out", target, "--format", "aoti"]) == 0
    assert capsys.readouterr().out.startswith(f"{target}: compiled for ")
    batches = [random_images(config, sizes, seed=1) for sizes in BATCHES.values()]
    dark = random_images(config, BATCHES["three of one size"], seed=1)
    batches.append(dataclasses.replace(dark, pixels=torch.zeros_like(dark.pixels)))
    results, about = run_without_mrcnn(tmp_path, "compiled", batches)
    assert about["class_names"] == ["cat", "dog"]
    for batch, outputs in zip(batches, results, strict=True):
        assert_same(outputs, batch, predictor)
    image = np.random.default_rng(0).integers(0, 256, (90, 200, 3), dtype=np.uint8)
    found, wanted = (model.predict(image) for model in (mrcnn.load(target, trust=True), predictor))
    assert found.labels.tolist() == wanted.labels.tolist()
    assert len(found) > 0


@pytest.mark.slow
@pytest.mark.parametrize("numerics", ["detectron2", "torchvision"])
@pytest.mark.parametrize("name", MODELS)
def test_every_model_can_be_traced(name, numerics):
    """On the device meta, which computes shapes alone."""
    config = dataclasses.replace(MODELS[name], class_names=("cat", "dog"), numerics=numerics)
    with torch.device("meta"):
        model = build(config).eval()
    assert _is_free(programs.export_program(model, config))


WRONG = {
    "another suffix": ("--out m.bin", r"--out m.bin: the name must end in .pt2 or .onnx$"),
    "the other suffix": ("--out m.pt2 --format onnx", r"--out m.pt2: the name must end in .onnx$"),
    "compiled into onnx": ("--out m.onnx --format aoti", "m.onnx: the name must end in .pt2$"),
    "images into a pt2": ("--out m.pt2 --preprocess", r"--preprocess requires an .onnx file, got"),
    "a score beyond 1": ("--out m.pt2 --score-threshold 2", r"--score-threshold must be in \[0"),
    "no detections": ("--out m.pt2 --max-dets 0", "--max-dets must be at least 1, got 0"),
    "a folder of this name": ("--out taken.pt2", "taken.pt2: cannot be written .it is a folder"),
    "int8 onnx": ("--out m.onnx --int8 images", "--int8 requires a compiled program; add --format"),
    "int8 program": (
        "--out m.pt2 --int8 images",
        "--int8 requires a compiled program; add --format",
    ),
    "no int8 images": ("--out m.pt2 --format aoti --int8 no", "no: does not exist; name an"),
    "no weights": ("--out m.pt2 --weights nothing", "nothing: does not exist; give a checkpoint"),
}


@pytest.mark.parametrize("case", WRONG)
def test_refused_flags(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mrcnn.export.INT8_LIBRARIES", ())
    (tmp_path / "taken.pt2").mkdir()
    tiny.run(tmp_path / "run")
    flags, message = WRONG[case]
    with pytest.raises(UserError, match=message):
        main(["--weights", "run", *flags.split()])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "taken.pt2"]


@pytest.mark.parametrize("flags", ["--out m.onnx", "--out m.pt2 --format aoti --int8 ."])
def test_missing_libraries(tmp_path, monkeypatch, flags):
    for libraries in ("ONNX_LIBRARIES", "INT8_LIBRARIES"):
        monkeypatch.setattr(f"mrcnn.export.{libraries}", ("json", "no_such_library"))
    monkeypatch.chdir(tmp_path)
    tiny.run(tmp_path / "run")
    message = 'requires no_such_library; run: pip install "mrcnn'
    with pytest.raises(UserError, match=message):
        main(["--weights", "run", *flags.split()])
