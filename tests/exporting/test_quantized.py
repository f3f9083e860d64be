"""INT8 quantization of detectors."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from mrcnn.cli import app
from mrcnn.config import MODELS
from mrcnn.data.synthetic import write_shapes
from tests.helpers.exported import decided, random_images

LIMITS = {"class_names": ("cat", "dog"), "max_detections": 20, "score_threshold": 0.3}
CONFIG = dataclasses.replace(MODELS["small-mobilenet"], **LIMITS)
CELL = 4  # pixels of the finest level: most boxes move by less


@pytest.fixture(scope="module")
def quantized():
    """The module of quantization."""
    pytest.importorskip("torchao", reason="8 bits need torchao")
    from mrcnn.exporting import quantized

    return quantized


def test_every_layer_computes_in_8_bits(quantized):
    """Inputs and weights of all layers come from 8 bits, except in depthwise convolutions."""
    predictor = decided(CONFIG)
    examples = [random_images(CONFIG, [(96, 128)], seed=1)]
    program = quantized.quantize(predictor.model, CONFIG, examples)
    layers = [node for node in program.graph.nodes if "aten.conv2d" in str(node.target)]
    layers += [node for node in program.graph.nodes if "aten.linear" in str(node.target)]
    whole, depthwise = [], []
    for node in layers:
        from_8_bits = ["dequantize" in str(source.target) for source in node.args[:2]]
        groups = node.args[6] if len(node.args) > 6 else 1
        (depthwise if groups > 1 else whole).append(all(from_8_bits))
    assert len(depthwise) == 13
    assert len(whole) == 2 + 2 * 12 + 6 + 8 + 4 + 5  # body, FPN, RPN on four levels, heads
    assert all(whole)
    assert not any(depthwise)
    values = [*program.constants.values(), *program.state_dict.values()]
    assert [value.dtype for value in values].count(torch.int8) == len(whole)


def test_boxes_change_only_by_rounding(quantized):
    """Separate constants per call change nothing, and 8 bits change little."""
    predictor = decided(CONFIG)
    images = random_images(CONFIG, [(96, 128), (90, 100)], seed=1)
    program = quantized.export_program(predictor.model, CONFIG, cut=True).module()
    with torch.no_grad():
        before = program(images.pixels, images.sizes)
        quantized._unshare_constants(program)
        after = program(images.pixels, images.sizes)
        in_8_bits = quantized.quantize(predictor.model, CONFIG, [images]).module()
        coarse = in_8_bits(images.pixels, images.sizes)
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
    near = (coarse[0][:, :, None] - before[0][:, None]).abs().amax(-1).amin(2)  # pixels
    assert 0 < near.median() < CELL


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if "small" in name or "18-c4" in name])
def test_models_of_every_kind(quantized, name):
    """At a size that was not traced; most boxes stay where they were."""
    config = dataclasses.replace(MODELS[name], **{**LIMITS, "score_threshold": 0.0})
    predictor = decided(config)
    images = random_images(config, [(96, 128), (120, 100)], seed=1)
    program = quantized.quantize(predictor.model, config, [images]).module()
    coarse = program(images.pixels, images.sizes)
    with torch.inference_mode():
        exact = predictor.model(images)
    near = (coarse[0][:, :, None] - exact.boxes[:, None]).abs().amax(-1).amin(2)  # pixels
    assert 0 < near.median() < CELL


@pytest.mark.slow
def test_a_trained_model_keeps_its_precision(quantized, tmp_path):
    """AP on drawn shapes, of compiled code, within 0.02 of that of the checkpoint."""
    data, run, target = tmp_path / "data", tmp_path / "run", tmp_path / "model.pt2"
    write_shapes(data, train=200, val=60)
    train = f"train --data {data} --out {run} --device cpu --steps 300"
    assert app.main(train.split()) == 0
    export = f"export --weights {run} --out {target} --format aoti --int8 {data}/images"
    assert app.main(export.split()) == 0
    wanted, found = (_precision(weights, data, tmp_path) for weights in (run, target))
    assert all(found[kind] >= wanted[kind] - 0.02 for kind in wanted)
    assert wanted["segm"] > 0.1  # it has learnt


def _precision(weights: Path, data: Path, folder: Path) -> dict[str, float]:
    out, metrics = str(folder / "results.json"), folder / "metrics.json"
    words = ["--weights", str(weights), "--data", str(data), "--out", out, "--json", str(metrics)]
    assert app.main(["evaluate", *words, "--device", "cpu", "--trust"]) == 0
    tree = json.loads(metrics.read_text())
    return {kind: tree[kind]["AP"] for kind in ("bbox", "segm")}
