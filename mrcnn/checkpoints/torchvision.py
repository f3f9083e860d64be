"""Weights of torchvision's Mask R-CNN with a ResNet-FPN, under our names and in our order."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

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
        if name.endswith(".num_batches_tracked"):
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
