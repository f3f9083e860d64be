"""A detector whose convolutions and linear layers compute in 8 bits, as a program to compile.

Their inputs are uint8 with one scale and zero point a tensor, found on pictures; weights are int8
with one scale a channel (Jacob et al., 2018). All else stays float32: RoIAlign, boxes, scores, the
class-wise product of the mask head, and depthwise convolutions, which have few products and, one
scale for all their channels, lose most. It is fast where the CPU multiplies bytes (VNNI), once
AOTInductor has compiled it with constants frozen: each layer and the ReLU or sum behind it is then
one call of oneDNN that reads and writes bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
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
    x86_inductor_quantizer,  # noqa: F401  teaches the compiler the fused layers
)

from mrcnn.config import ModelConfig
from mrcnn.exporting.program import export_program, free_sizes
from mrcnn.models import MaskRCNN
from mrcnn.structures import ImageBatch

_CONV, _LINEAR, _ADD = "aten.conv2d.default", "aten.linear.default", "aten.add_.Tensor"
_EPS = 2**-12  # the least scale
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


@torch.no_grad()
def quantize(
    model: MaskRCNN, config: ModelConfig, batches: Iterable[ImageBatch]
) -> ExportedProgram:
    """The program of `export_program(model, config, cut=True)` with layers in 8 bits.

    Args:
        model: in evaluation mode, on the CPU; with norms folded it is faster.
        batches: some 32 pictures like those to come, from which the ranges of activations are.
    """
    source = export_program(model, config, cut=True)
    program = source.module()
    assert isinstance(program, GraphModule)
    _give_own_constants(program)
    prepared = prepare_pt2e(program, _Layers())
    for images in batches:
        prepared(images.pixels.contiguous(), images.sizes)
    assert source.example_inputs is not None
    return torch.export.export(
        convert_pt2e(prepared), source.example_inputs[0], dynamic_shapes=free_sizes(model, config)
    )


class _Layers(Quantizer):  # type: ignore[misc]
    """Asks for 8 bits at the inputs of every layer, and of every sum with the result of a
    convolution, which oneDNN takes in with it.

    torchao's own quantizer for these layers finds those alone that are called as modules.
    """

    def annotate(self, model: GraphModule) -> GraphModule:
        for node in model.graph.nodes:
            if _is_layer(node) and not _is_depthwise(node, model):
                specs = {node.args[0]: _ACTIVATION, node.args[1]: _WEIGHT}
            elif str(node.target) == _ADD and _is_conv(node.args[0]):
                specs = {node.args[1]: _ACTIVATION}
            else:
                continue
            node.meta["quantization_annotation"] = QuantizationAnnotation(
                input_qspec_map=specs, _annotated=True
            )
        return model

    def validate(self, model: GraphModule) -> None:
        """Nothing to check."""


def _is_conv(value: Any) -> bool:
    return isinstance(value, Node) and str(value.target) == _CONV


def _is_layer(node: Node) -> bool:
    return str(node.target) in (_CONV, _LINEAR)


def _is_depthwise(layer: Node, program: GraphModule) -> bool:
    weight = layer.args[1]
    assert isinstance(weight, Node)
    return _is_conv(layer) and program.get_parameter(str(weight.target)).shape[1] == 1


def _give_own_constants(program: GraphModule) -> None:
    """Give each call of a layer a weight and a bias that are its own, row-major, and no result.

    The compiler takes no weight into 8 bits that several calls share, as those of the RPN do, and
    PyTorch 2.13 computes wrong results in 8 bits with a weight of a linear layer that is not
    row-major, as the mask head has for its upsampling.
    """

    def value(node: Node) -> Any:
        if node.op == "get_attr":
            return attrgetter(str(node.target))(program)
        assert callable(node.target)
        return node.target(*map_arg(node.args, value), **map_arg(node.kwargs, value))

    for i, node in enumerate(list(program.graph.nodes)):
        if not _is_layer(node):
            continue
        for place, constant in enumerate(node.args[1:3], start=1):
            if constant is None:
                continue
            name = f"constant_{place}_of_{i}"
            own = value(constant).clone(memory_format=torch.contiguous_format)
            own = nn.Parameter(own, requires_grad=False)
            program.register_parameter(name, own)
            with program.graph.inserting_before(node):
                node.update_arg(place, program.graph.get_attr(name))
    program.graph.eliminate_dead_code()
    program.recompile()
