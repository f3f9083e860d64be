"""Programs of `mrcnn export` used instead of a checkpoint."""

import dataclasses
import io
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch

import mrcnn
from mrcnn.cli import app
from mrcnn.data.synthetic import write_shapes
from mrcnn.errors import UserError
from mrcnn.export import main as export
from mrcnn.exporting.program import description, export_program, save_pt2
from tests.helpers import tiny
from tests.helpers.exported import decided, random_images

CONFIG = dataclasses.replace(tiny.CONFIG, score_threshold=0.3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run, and the same model as a program."""
    folder = tmp_path_factory.mktemp("programs")
    predictor = decided(CONFIG)
    tiny.saved(folder / "run", predictor.model, CONFIG)
    write(folder / "model.pt2", predictor)
    return folder


def write(path, predictor, **changes):
    about = {**description(predictor.model, predictor.config), **changes}
    save_pt2(export_program(predictor.model, predictor.config), about, path)


def pictures(*sizes):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def assert_equal(found, wanted):
    assert found.labels.tolist() == wanted.labels.tolist()
    np.testing.assert_allclose(found.boxes, wanted.boxes, rtol=0, atol=1e-3)
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=0, atol=1e-5)
    assert (found.masks == wanted.masks).mean() > 0.9999


@pytest.mark.parametrize("limits", [{}, {"score_threshold": 0.8}, {"max_detections": 3}], ids=str)
def test_the_same_detections_as_the_checkpoint(folder, limits):
    """Single images and batches, with the limits of the program or stricter ones."""
    program = mrcnn.load(folder / "model.pt2", trust=True, **limits)
    checkpoint = mrcnn.load(folder / "run", **limits)
    images = pictures((70, 100), (70, 100), (64, 64), (200, 90))
    found = program.predict(images, 0.0)
    wanted = checkpoint.predict(images, 0.0)
    for one, other in zip(found, wanted, strict=True):
        assert_equal(one, other)
    assert sum(map(len, wanted)) >= 8
    assert program.config == checkpoint.config
    assert program.category_ids == (3, 7)


def test_padded_slots_are_padding(folder):
    images = random_images(CONFIG, [(64, 100), (90, 96)], seed=0)
    with torch.inference_mode():
        found = mrcnn.load(folder / "model.pt2", trust=True, score_threshold=0.8).model(images)
        wanted = mrcnn.load(folder / "run", score_threshold=0.8).model(images)
    assert found.counts.tolist() == wanted.counts.tolist()
    assert 0 < int(found.counts.min()) < CONFIG.max_detections
    assert torch.equal(found.labels, wanted.labels)
    torch.testing.assert_close(found.boxes, wanted.boxes, rtol=0, atol=1e-3)
    torch.testing.assert_close(found.scores, wanted.scores, rtol=0, atol=1e-5)


def test_images_smaller_than_the_program_takes(tmp_path):
    """A strip that is one cell high on the coarsest level."""
    levels = {"fpn_levels": 4, "anchor_sizes": (16, 32, 64, 128, 256)}
    predictor = decided(dataclasses.replace(CONFIG, **levels))
    write(tmp_path / "model.pt2", predictor)
    program = mrcnn.load(tmp_path / "model.pt2", trust=True)
    assert program.model.least_side == 96
    (strip,) = pictures((20, 400))
    found = program.predict(strip, 0.0)
    assert len(found)
    assert found.boxes[:, 3].max() <= 20


def test_boxes_only(tmp_path):
    config = dataclasses.replace(CONFIG, masks=False)
    predictor = decided(config)
    write(tmp_path / "boxes.pt2", predictor)
    (image,) = pictures((70, 100))
    found, wanted = (
        model.predict(image, 0.0)
        for model in (mrcnn.load(tmp_path / "boxes.pt2", trust=True), predictor)
    )
    assert found.labels.tolist() == wanted.labels.tolist()
    np.testing.assert_allclose(found.boxes, wanted.boxes, rtol=0, atol=1e-3)


def test_predict_and_evaluate_accept_programs(folder, tmp_path, capsys):
    """Metrics and predictions are those of the checkpoint."""
    write_shapes(tmp_path / "data", train=1, val=3, size=64)
    truth = json.loads((tmp_path / "data/val.json").read_text())
    ids, names = (tuple(c[key] for c in truth["categories"]) for key in ("id", "name"))
    predictor = decided(dataclasses.replace(CONFIG, class_names=names, category_ids=ids))
    tiny.saved(tmp_path / "run", predictor.model, predictor.config)
    write(tmp_path / "model.pt2", predictor)
    outcomes = []
    for weights in ("run", "model.pt2"):
        out = tmp_path / f"out of {weights}"
        flags = ["--device", "cpu", "--weights", str(tmp_path / weights), "--trust"]
        images = [str(tmp_path / "data/images"), "--score-threshold", "0.4", "--out", str(out)]
        assert app.main(["predict", *images, *flags]) == 0
        capsys.readouterr()
        results = ["--out", str(out / "results.json")]
        data = ["--data", str(tmp_path / "data"), "--batch-size", "3"]
        assert app.main(["evaluate", *data, *flags, *results]) == 0
        metrics = [line for line in capsys.readouterr().out.splitlines() if line[:4] in KINDS]
        predictions = json.loads((out / "predictions.json").read_text())
        outcomes.append((metrics, [a["category_id"] for a in predictions["annotations"]]))
    assert len(outcomes[0][0]) == 2
    assert outcomes[0][1]
    assert outcomes[0] == outcomes[1]


KINDS = ("bbox", "segm")
WRONG = {
    "more objects": ({"max_detections": 21}, "is a program with max_detections 20, got 21"),
    "lower scores": ({"score_threshold": 0.2}, "with score_threshold 0.3, got 0.2; export"),
    "another size": ({"min_size": 99}, "with min_size 64, got 99"),
    "bfloat16": ({"amp": True}, "with amp fixed, got True"),
    "other channels": ({"bgr": True}, "with bgr fixed, got True"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_settings_that_are_fixed(folder, case):
    wanted, message = WRONG[case]
    with pytest.raises(UserError, match=message):
        mrcnn.load(folder / "model.pt2", trust=True, **wanted)


def test_augmentation_needs_the_checkpoint(folder):
    with pytest.raises(UserError, match="--tta requires a checkpoint"):
        mrcnn.load(folder / "model.pt2", trust=True).predict(pictures((70, 100)), tta=True)


def test_a_program_cannot_be_exported_again(folder, tmp_path):
    flags = ["--weights", str(folder / "model.pt2"), "--out", str(tmp_path / "again.pt2")]
    with pytest.raises(UserError, match=r"model.pt2: is already a program; name its checkpoint"):
        export(flags)


def _zip(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(f"model/{name}", text)
    return buffer.getvalue()


DAMAGED = {
    "empty": (lambda data: b"", "it is empty"),
    "no archive": (lambda data: b"<html>404</html>", "is a web page, not the file"),
    "cut": (lambda data: data[: len(data) // 2], "it is cut short, or no zip archive"),
    "another archive": (lambda data: _zip(**{"data.pkl": "x"}), "is damaged"),
    "an empty archive": (lambda data: _zip(), "is a zip archive with no weights"),
    "no program": (lambda data: _zip(archive_format="pt2"), "cannot be loaded"),
    "something compiled": (lambda data: _zip(**{"data/aotinductor/model/x.so": "x"}), "be loaded"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files(folder, tmp_path, case):
    change, message = DAMAGED[case]
    file = tmp_path / "damaged.pt2"
    file.write_bytes(change((folder / "model.pt2").read_bytes()))
    with pytest.raises(UserError, match=f"damaged.pt2: .*{message}"):
        mrcnn.load(file, trust=True)


class Canary:
    """Makes a file when it is unpickled."""

    def __reduce__(self):
        return open, ("canary", "w")


@pytest.mark.parametrize("command", ["predict", "evaluate", "serve", "export", "convert", "train"])
def test_no_command_runs_a_program_that_it_was_not_told_to_trust(
    folder, tmp_path, monkeypatch, capsys, command
):
    """PyTorch unpickles the examples of a program, and so runs whatever they name."""
    monkeypatch.chdir(tmp_path)
    with (
        zipfile.ZipFile(folder / "model.pt2") as sound,
        zipfile.ZipFile("evil.pt2", "w") as evil,
    ):
        for entry in sound.infolist():
            is_example = "sample_inputs" in entry.filename
            evil.writestr(entry, pickle.dumps(Canary()) if is_example else sound.read(entry))
    write_shapes(tmp_path / "data", train=1, val=1, size=64)
    flags = {
        "predict": "data/images --weights evil.pt2",
        "evaluate": "--data data --weights evil.pt2",
        "serve": "--port 0 --weights evil.pt2",
        "export": "--out a.onnx --weights evil.pt2",
        "convert": "evil.pt2 a.safetensors",
        "train": "--data data --weights evil.pt2",
    }
    assert app.main([command, *flags[command].split()]) == 2
    assert "evil.pt2: is " in capsys.readouterr().err
    assert not (tmp_path / "canary").exists()


def test_programs_without_a_valid_description(folder, tmp_path):
    file = tmp_path / "other.pt2"
    program = torch.export.export(torch.nn.ReLU(), (torch.zeros(1),))
    torch.export.save(program, file)
    with pytest.raises(UserError, match=r"other.pt2: has no valid description of its model"):
        mrcnn.load(file, trust=True)
    predictor = mrcnn.load(folder / "run")
    write(file, predictor, format=2)
    with pytest.raises(UserError, match=r"other.pt2: has format 2, this mrcnn reads up to 1"):
        mrcnn.load(file, trust=True)


def test_training_and_conversion_need_the_checkpoint(folder, tmp_path, capsys):
    model = str(folder / "model.pt2")
    write_shapes(tmp_path / "data", train=1, val=1, size=64)
    train = ["train", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    message = f"{model}: is a program with fixed weights; give its checkpoint"
    for words in (
        [*train, "--weights", model],
        ["convert", model, str(tmp_path / "m.safetensors")],
    ):
        assert app.main(words) == 2
        assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
