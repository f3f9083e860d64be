"""Torchvision's Mask R-CNN with a ResNet-FPN: its weights under our names and in our order, and
the configuration that they need."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from mrcnn.config import ModelConfig
from mrcnn.data.coco_names import COCO_NAMES
from mrcnn.errors import UserError
from mrcnn.models.resnet import RESNETS, Bottleneck

# Published files hold the names of torchvision 0.3, its models those of 0.13 and later, with one
# more ".0" where a convolution became a sequence of layers.
_NAMES = (
    (r"backbone\.body\.(.*)", r"backbone.body.\1"),
    (r"backbone\.fpn\.inner_blocks\.(\d)(?:\.0)?\.(\w+)", r"backbone.lateral.\1.\2"),
    (r"backbone\.fpn\.layer_blocks\.(\d)(?:\.0)?\.(\w+)", r"backbone.output.\1.\2"),
    (r"rpn\.head\.conv(?:\.0\.0)?\.(\w+)", r"rpn.conv.\1"),
    (r"rpn\.head\.cls_logits\.(\w+)", r"rpn.objectness_logits.\1"),
    (r"rpn\.head\.bbox_pred\.(\w+)", r"rpn.deltas.\1"),
    (r"roi_heads\.box_head\.(fc[67])\.(\w+)", r"box_head.\1.\2"),
    (r"roi_heads\.box_predictor\.cls_score\.(\w+)", r"box_head.class_logits.\1"),
    (r"roi_heads\.box_predictor\.bbox_pred\.(\w+)", r"box_head.deltas.\1"),
    (r"roi_heads\.mask_head\.(\d)\.0\.(\w+)", r"mask_head.convs.\1.\2"),
    (r"roi_heads\.mask_head\.mask_fcn1\.(\w+)", r"mask_head.convs.0.\1"),
    (r"roi_heads\.mask_head\.mask_fcn2\.(\w+)", r"mask_head.convs.1.\1"),
    (r"roi_heads\.mask_head\.mask_fcn3\.(\w+)", r"mask_head.convs.2.\1"),
    (r"roi_heads\.mask_head\.mask_fcn4\.(\w+)", r"mask_head.convs.3.\1"),
    (r"roi_heads\.mask_predictor\.conv5_mask\.(\w+)", r"mask_head.upsample.\1"),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits\.(\w+)", r"mask_head.mask_logits.\1"),
)
_BINS = 7  # of the box head, a side


_COUNTER = ".num_batches_tracked"  # of live batch norm; nothing depends on it


def is_torchvision(state: Mapping[str, Tensor]) -> bool:
    """Whether these are names of torchvision's detectors."""
    return "roi_heads.box_predictor.cls_score.weight" in state and any(
        name.startswith("backbone.body.") for name in state
    )


def read_torchvision(
    file: Path, state: Mapping[str, Tensor], norm_eps: float | None
) -> tuple[dict[str, Tensor], ModelConfig, list[str]]:
    """Our state dict and configuration for a state dict of torchvision's.

    Args:
        file: where the state comes from, for messages.
        norm_eps: of the frozen batch norms. None: 0 for the names of the published file, which
            torchvision runs with 0; else 1e-5.
    Returns:
        The state, the configuration, and sentences about what was inferred.
    Raises:
        UserError: if the file holds another network.
    """
    if "roi_heads.mask_predictor.mask_fcn_logits.weight" not in state:
        raise UserError(f"{file}: is a detector of torchvision without a mask head; give one with")
    backbone = _backbone(file, state)
    published = "rpn.head.conv.weight" in state
    live = any(name.endswith(_COUNTER) for name in state)
    if norm_eps is None:
        norm_eps = 0.0 if published and not live else 1e-5
    classifier = "roi_heads.box_predictor.cls_score.weight"
    if state[classifier].dim() != 2 or len(state[classifier]) < 2:
        raise UserError(
            f"{file}: {classifier} has shape {tuple(state[classifier].shape)}, "
            "it must be (classes + 1, features)"
        )
    classes = len(state[classifier]) - 1
    config = ModelConfig(
        class_names=_class_names(classes),
        category_ids=tuple(range(1, classes + 1)),
        numerics="torchvision",
        backbone=backbone,
        norm="batch" if live else "frozen_batch",
        norm_eps=norm_eps,
    )
    try:
        converted = convert_torchvision(state)
    except ValueError as error:
        raise UserError(f"{file}: {error}; it is another network than this version reads") from None
    if live:  # modules of live norms have counters
        converted |= {_rename(name): v for name, v in state.items() if name.endswith(_COUNTER)}
    notes = [
        f"{file}: torchvision's Mask R-CNN, {backbone}, {classes} classes, "
        f"{'live' if live else 'frozen'} batch norm",
        f"inferred: epsilon {norm_eps:g} of its norms, and the sizes, thresholds and anchors of "
        "torchvision's default",
    ]
    return converted, config, notes


def _backbone(file: Path, state: Mapping[str, Tensor]) -> str:
    blocks = [
        {name.split(".")[3] for name in state if name.startswith(f"backbone.body.layer{i}.")}
        for i in (1, 2, 3, 4)
    ]
    depths = tuple(map(len, blocks))
    wide = "backbone.body.layer1.0.conv3.weight" in state
    for name, (block, known) in RESNETS.items():
        if known == depths and (block is Bottleneck) == wide:
            second = state.get("backbone.body.layer1.0.conv2.weight")
            shape = None if second is None else tuple(second.shape)
            if shape != (64, 64, 3, 3):
                raise UserError(
                    f"{file}: backbone.body.layer1.0.conv2.weight has shape {shape}, that of a "
                    f"{name} is (64, 64, 3, 3); ResNeXt and wide ResNets are not built by this "
                    "version"
                )
            return name
    known_names = ", ".join(RESNETS)
    raise UserError(
        f"{file}: its backbone has {depths} blocks in its four stages, which is none of "
        f"{known_names}"
    )


def _class_names(classes: int) -> tuple[str, ...]:
    """COCO's by category id where there are as many as COCO has ids, else numbers."""
    if classes == max(COCO_NAMES):
        return tuple(COCO_NAMES.get(id, f"unused {id}") for id in range(1, classes + 1))
    return tuple(f"class {i}" for i in range(1, classes + 1))


def convert_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of our model, with `numerics="torchvision"`, from that of torchvision's.

    Torchvision counts background as class 0, we as the last class logit, and boxes and masks of
    background, which nothing reads, are left out. It flattens pooled features as (channel, row,
    column), we as (row, column, channel). Counters of live batch norm are left out.

    Args:
        state: of `torchvision.models.detection.MaskRCNN` with a backbone of
            `resnet_fpn_backbone`, C classes and background.
    Returns:
        For a `MaskRCNN` of C classes; tensors share memory with those of `state` where they can.
    Raises:
        ValueError: if a name is none of that model.
    """
    converted = {}
    for name, value in state.items():
        if name.endswith(_COUNTER):
            continue
        ours = _rename(name)
        if ours == "box_head.fc6.weight":
            value = value.view(len(value), -1, _BINS, _BINS).permute(0, 2, 3, 1).flatten(1)
        elif ours.startswith("box_head.class_logits."):
            value = value.roll(-1, 0)
        elif ours.startswith("box_head.deltas."):
            value = value[4:]
        elif ours.startswith("mask_head.mask_logits."):
            value = value[1:]
        converted[ours] = value
    return converted


def _rename(name: str) -> str:
    for theirs, ours in _NAMES:
        if match := re.fullmatch(theirs, name):
            return match.expand(ours)
    raise ValueError(f"convert_torchvision: {name} is no tensor of torchvision's Mask R-CNN")
