"""A detector as an ONNX model that consists of standard operators only."""

from __future__ import annotations

import json

import torch
from onnxscript import ir, optimizer

from mrcnn.config import ModelConfig
from mrcnn.exporting.detector import OUTPUTS
from mrcnn.exporting.onnx_ops import OPSET, TRANSLATIONS
from mrcnn.exporting.onnx_pixels import prepare
from mrcnn.exporting.program import description, export_program, quiet
from mrcnn.models import MaskRCNN

_NO_LIMIT = 1 << 40  # elements; the largest weights are folded with their norms, too


def export_onnx(model: MaskRCNN, config: ModelConfig, *, preprocess: bool = False) -> ir.Model:
    """Convert a model to ONNX, with the inputs `pixels` and `sizes` of `Detector`.

    Args:
        model: in evaluation mode, on CPU.
        config: of the model.
        preprocess: resize, normalise and pad within the graph. Its only input is then `images`,
            (N, h, w, 3) uint8 RGB of one size, and boxes are in pixels of these images.
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
    onnx_model: ir.Model = exported.model
    if preprocess:
        _prepend_preprocessing(onnx_model.graph, config)
    optimizer.optimize(onnx_model, input_size_limit=_NO_LIMIT, output_size_limit=_NO_LIMIT)
    _name_dimensions(onnx_model.graph)
    for key, value in description(model, config).items():
        onnx_model.metadata_props[key] = json.dumps(value)
    onnx_model.metadata_props["preprocess"] = json.dumps(preprocess)
    return onnx_model


def _prepend_preprocessing(graph: ir.Graph, config: ModelConfig) -> None:
    """Replace the inputs of a graph by `images`, from which the former inputs are computed."""
    shape = ir.Shape(["batch", "h", "w", 3])
    images = ir.Value(name="images", type=ir.TensorType(ir.DataType.UINT8), shape=shape)
    prepared, nodes = prepare(images, config)
    graph.insert_before(graph[0], nodes)
    for value in graph.inputs:
        ir.convenience.replace_all_uses_with(value, prepared[value.name])
    graph.inputs[:] = [images]


def _name_dimensions(graph: ir.Graph) -> None:
    """Give the free dimensions of inputs and outputs readable names."""
    for value in (*graph.inputs, *graph.outputs):
        assert value.shape is not None
        rest = ["height", "width"] if value.name == "pixels" else list(value.shape)[2:]
        value.shape = ir.Shape(["batch", *list(value.shape)[1:2], *rest])
