"""INT8 quantization: a detector whose convolutions and linear layers compute in 8 bits.

Inputs of layers are uint8 with one scale and zero point per tensor, calibrated on images. Weights
are int8 with one scale per channel (Jacob et al., 2018). Everything else stays float32: RoIAlign,
boxes, scores, the class-wise product of the mask head, and depthwise convolutions. The latter have
few products, and lose most precision from one scale for all channels.

Quantization is fast on CPUs that multiply bytes (VNNI), after AOTInductor has compiled the program
with frozen constants. Each layer and the ReLU or sum after it is then one call of oneDNN that reads
and writes bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg
from torchao.quantization.pt2e.observer import MinMaxObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
    x86_inductor_quantizer,  # noqa: F401  registers the fused layers with the compiler
)

from mrcnn.config import ModelConfig
from mrcnn.data.images import check_network_size, network_size, pad_images, read_image, to_pixels
from mrcnn.exporting.program import dynamic_shapes, export_program
from mrcnn.models import MaskRCNN
from mrcnn.structures import ImageBatch

_CONV, _LINEAR, _ADD = "aten.conv2d.default", "aten.linear.default", "aten.add_.Tensor"
CALIBRATION_IMAGES = 32
_EPS = 2**-12  # the smallest scale
_ACTIVATION = QuantizationSpec(
    dtype=torch.uint8,
    quant_min=0,
    quant_max=255,
    qscheme=torch.per_tensor_affine,
    observer_or_fake_quant_ctr=MinMaxObserver.with_args(eps=_EPS),
)
_WEIGHT = QuantizationSpec(
    dtype=torch.int8,
    quant_min=-128,
    quant_max=127,
    qscheme=torch.per_channel_symmetric,
    ch_axis=0,
    observer_or_fake_quant_ctr=PerChannelMinMaxObserver.with_args(eps=_EPS),
)


def calibration_batches(paths: Sequence[Path], config: ModelConfig) -> Iterator[ImageBatch]:
    """Yield up to `CALIBRATION_IMAGES` of the images, evenly spaced, in batches of one."""
    for path in paths[:: -(-len(paths) // CALIBRATION_IMAGES)]:
        image = read_image(path)
        height, width = image.shape[:2]
        size = network_size(height, width, config)
        check_network_size(path, (height, width), size, config)
        yield pad_images([to_pixels(image, size, config)], config.size_multiple)


@torch.no_grad()
def quantize(
    model: MaskRCNN, config: ModelConfig, batches: Iterable[ImageBatch]
) -> ExportedProgram:
    """Return the program of `export_program(model, config, cut=True)` with layers in 8 bits.

    Args:
        model: in evaluation mode, on the CPU. It is faster with norms folded.
        config: of the model.
        batches: images like those to be processed, which give the ranges of activations.
    """
    source = export_program(model, config, cut=True)
    program = source.module()
    assert isinstance(program, GraphModule)
    _unshare_constants(program)
    prepared = prepare_pt2e(program, _Layers())
    for images in batches:
        prepared(images.pixels.contiguous(), images.sizes)
    assert source.example_inputs is not None
    quantized = convert_pt2e(prepared)
    shapes = dynamic_shapes(model, config)
    return torch.export.export(quantized, source.example_inputs[0], dynamic_shapes=shapes)


class _Layers(Quantizer):  # type: ignore[misc]
    """Marks the inputs of layers, and of sums that oneDNN fuses with a convolution, for 8 bits.

    The quantizer of torchao for these layers finds only those that are called as modules.
    """

    def annotate(self, model: GraphModule) -> GraphModule:
        """Attach the types of inputs to the nodes."""
        for node in model.graph.nodes:
            if _calls(node, _CONV, _LINEAR) and not _is_depthwise(node, model):
                specs = {node.args[0]: _ACTIVATION, node.args[1]: _WEIGHT}
            elif _calls(node, _ADD) and _calls(node.args[0], _CONV):
                specs = {node.args[1]: _ACTIVATION}
            else:
                continue
            node.meta["quantization_annotation"] = QuantizationAnnotation(
                input_qspec_map=specs, _annotated=True
            )
        return model

    def validate(self, model: GraphModule) -> None:
        """Do nothing."""


def _calls(value: Any, *functions: str) -> bool:
    return isinstance(value, Node) and str(value.target) in functions


def _is_depthwise(layer: Node, program: GraphModule) -> bool:
    weight = layer.args[1]
    assert isinstance(weight, Node)
    return _calls(layer, _CONV) and program.get_parameter(str(weight.target)).shape[1] == 1


def _unshare_constants(program: GraphModule) -> None:
    """Give each call of a layer a separate, row-major weight and bias that are parameters.

    The compiler does not quantize a weight that several calls share, such as those of the RPN. In 8
    bits PyTorch 2.13 computes wrong results if the weight of a linear layer is not row-major, such
    as the one for upsampling in the mask head.
    """

    def value(node: Node) -> Any:
        if node.op == "get_attr":
            return attrgetter(str(node.target))(program)
        assert callable(node.target)
        return node.target(*map_arg(node.args, value), **map_arg(node.kwargs, value))

    for i, node in enumerate(list(program.graph.nodes)):
        if not _calls(node, _CONV, _LINEAR):
            continue
        for position, constant in enumerate(node.args[1:3], start=1):
            if constant is None:
                continue
            name = f"constant_{position}_of_{i}"
            copy = value(constant).clone(memory_format=torch.contiguous_format)
            program.register_parameter(name, nn.Parameter(copy, requires_grad=False))
            with program.graph.inserting_before(node):
                node.update_arg(position, program.graph.get_attr(name))
    program.graph.eliminate_dead_code()
    program.recompile()
