"""A detector as a file of ONNX, with standard operators alone."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from onnxscript import ir, optimizer

from mrcnn.config import ModelConfig
from mrcnn.exporting.detector import OUTPUTS
from mrcnn.exporting.onnx_pixels import prepare
from mrcnn.exporting.program import description, export_program
from mrcnn.exporting.quiet import quiet
from mrcnn.models import MaskRCNN
from mrcnn.ops.to_onnx import OPSET, TRANSLATIONS

_NO_LIMIT = 1 << 40  # elements: weights with their norms, too, are folded


def export_onnx(model: MaskRCNN, config: ModelConfig, *, preprocess: bool = False) -> ir.Model:
    """A graph with the inputs `pixels` and `sizes` of `Detector`; or with `images`, (N, h, w, 3)
    uint8 RGB of one size, whose outputs then are in the pixels of those images.

    Args:
        model: in evaluation mode, on CPU.
        preprocess: resize, normalise and pad within the graph.
    """
    program = export_program(model, config, cut=True, original_sizes=preprocess)
    inputs = ["pixels", "sizes", "original_sizes"][: 3 if preprocess else 2]
    outputs = OUTPUTS if config.masks else OUTPUTS[:-1]
    with quiet():
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            input_names=inputs,
            output_names=outputs,
            opset_version=OPSET,
            custom_translation_table=TRANSLATIONS,
            optimize=False,
            verbose=False,
        )
    assert exported is not None
    graph: ir.Model = exported.model
    if preprocess:
        _prepend(graph, config)
    optimizer.optimize(graph, input_size_limit=_NO_LIMIT, output_size_limit=_NO_LIMIT)
    _name_sizes(graph.graph)
    for key, value in description(model, config).items():
        graph.metadata_props[key] = json.dumps(value)
    graph.metadata_props["preprocess"] = json.dumps(preprocess)
    return graph


def _prepend(model: ir.Model, config: ModelConfig) -> None:
    """Let images be the input, and what is made of them take the place of the inputs before."""
    graph = model.graph
    shape = ir.Shape(["batch", "h", "w", 3])
    images = ir.Value(name="images", type=ir.TensorType(ir.DataType.UINT8), shape=shape)
    prepared, nodes = prepare(images, config)
    graph.insert_before(graph[0], nodes)
    for value in graph.inputs:
        ir.convenience.replace_all_uses_with(value, prepared[value.name])
    graph.inputs[:] = [images]


def _name_sizes(graph: ir.Graph) -> None:
    """Call the free sizes of inputs and outputs by what they are."""
    for value in (*graph.inputs, *graph.outputs):
        assert value.shape is not None
        rest = ["height", "width"] if value.name == "pixels" else list(value.shape)[2:]
        value.shape = ir.Shape(["batch", *list(value.shape)[1:2], *rest])


def save_onnx(model: ir.Model, path: Path) -> None:
    """Write the file."""
    ir.save(model, path)
