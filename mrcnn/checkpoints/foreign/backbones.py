"""ImageNet weights of classification networks, converted to the names of mrcnn's backbones.

Torchvision's names are used unchanged, and timm's except for MobileNetV2. Detectron2 and Caffe2
(the MSRA and FAIR files of Detectron's model zoo) have other names and other pixels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrcnn.models.backbones.mobilenet import folded_to_frozen

# Names in a classifier, or in parts that no detector has.
UNUSED = re.compile(
    r"(fc|classifier|AuxLogits|head|pre_logits|linear|pred|fc1000)\..*|features\.18\..*"
)

_NORM_EPS = 1e-5
_STAGE = {"res2": "layer1", "res3": "layer2", "res4": "layer3", "res5": "layer4"}


class Backbone(NamedTuple):
    """Weights of a backbone and the configuration that they require."""

    state: dict[str, Tensor]  # under torchvision's names
    fields: dict[str, Any]  # of ModelConfig
    notes: list[str]


def convert_backbone(state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Backbone:
    """Rename the tensors of a classification network; an unknown one is returned unchanged.

    Args:
        state: tensors under the names of the file.
        facts: values that the file has beside the tensors.
    """
    if "conv1_w" in state:
        return _caffe2(state)
    if "stem.conv1.weight" in state:
        renamed = {_from_detectron2(name): value for name, value in state.items()}
        if facts.get("__author__") == "torchvision":  # keeps its pixels and strides
            return Backbone(renamed, {}, [])
        return _from_bgr(renamed, "Detectron2")
    if "0.0.weight" in state and any(".conv." in name for name in state):
        fields = {"pixel_mean": (127.5,) * 3, "pixel_std": (127.5,) * 3}
        notes = ["a MobileNetV2 with folded norms, for pixels from -1 to 1"]
        return Backbone(folded_to_frozen(state, _NORM_EPS), fields, notes)
    if "conv_stem.weight" in state and "blocks.0.0.conv_dw.weight" in state:
        return Backbone(_from_timm(state), {}, [])
    return Backbone(dict(state), {}, [])


def _from_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a MobileNetV2: `blocks.1.0.conv_dw.weight` to `features.2.conv.1.0.weight`."""
    positions = {"conv_stem": "0.0", "bn1": "0.1", "conv_head": "18.0", "bn2": "18.1"}
    blocks = {tuple(map(int, name.split(".")[1:3])) for name in state if name.startswith("blocks.")}
    for k, (stage, i) in enumerate(sorted(blocks), 1):
        block = f"blocks.{stage}.{i}"
        layers = ["conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"]
        steps = ["0.0", "0.1", "1.0", "1.1", "2", "3"]
        if f"{block}.conv_pwl.weight" not in state:  # the first block does not widen
            layers, steps = ["conv_dw", "bn1", "conv_pw", "bn2"], ["0.0", "0.1", "1", "2"]
        for layer, step in zip(layers, steps, strict=True):
            positions[f"{block}.{layer}"] = f"{k}.conv.{step}"
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        layer, _, kind = name.rpartition(".")
        renamed[f"features.{positions[layer]}.{kind}" if layer in positions else name] = value
    return renamed


def _from_detectron2(name: str) -> str:
    """Rename `res2.0.conv1.norm.weight` to `layer1.0.bn1.weight`."""
    name = re.sub(r"^stem\.", "", name)
    name = re.sub(r"^res[2-5]", lambda match: _STAGE[match[0]], name)
    name = re.sub(r"conv(\d)\.norm\.", r"bn\1.", name)
    return name.replace("shortcut.norm.", "downsample.1.").replace("shortcut.", "downsample.0.")


def _caffe2(state: Mapping[str, Tensor]) -> Backbone:
    """Rename `res2_0_branch2a_bn_s` to `layer1.0.bn1.weight`; norms without statistics only add."""
    kinds = {"w": "weight", "b": "bias", "s": "weight", "rm": "running_mean", "riv": "running_var"}
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        match = re.fullmatch(
            r"(?:(?:res_)?conv1|(res\d)_(\d+)_branch(1|2[abc]))(_[bg]n)?_(w|b|s|rm|riv)", name
        )
        if match is None:
            renamed[name.replace("_", ".")] = value  # in the classifier
            continue
        stage, block, branch, norm, kind = match.groups()
        if stage is None:
            layer = "bn1" if norm else "conv1"
        elif branch == "1":
            layer = f"{_STAGE[stage]}.{block}.downsample.{1 if norm else 0}"
        else:
            layer = (
                f"{_STAGE[stage]}.{block}.{'bn' if norm else 'conv'}{'abc'.index(branch[1]) + 1}"
            )
        renamed[f"{layer}.{kinds[kind]}"] = value
    if any(name.endswith("_bn_s") for name in state):
        for name, scale in list(renamed.items()):
            layer = name.removesuffix(".weight")
            if scale.dim() == 1 and f"{layer}.bias" in renamed and "fc" not in name:
                renamed.setdefault(f"{layer}.running_mean", torch.zeros_like(scale))
                renamed.setdefault(f"{layer}.running_var", torch.ones_like(scale) - _NORM_EPS)
    return _from_bgr(renamed, "Caffe2")


def _from_bgr(state: dict[str, Tensor], framework: str) -> Backbone:
    """Convert weights for BGR pixels to weights for RGB pixels."""
    state = {**state, "conv1.weight": state["conv1.weight"].flip(1)}
    group_norm = "bn1.weight" in state and "bn1.running_mean" not in state
    second = state.get("layer1.0.conv2.weight")
    grouped = second is not None and second.dim() == 4 and second.shape[1] < second.shape[0]
    fields: dict[str, Any] = {"stride_in_1x1": not (group_norm or grouped)}
    if not grouped:
        fields["pixel_std"] = (1.0, 1.0, 1.0)
    shown = ", ".join(f"{name} {value}" for name, value in fields.items())
    note = f"ImageNet weights of {framework}, so pixels blue, green, red, {shown}"
    return Backbone(state, fields, [note])
