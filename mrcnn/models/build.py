"""From a `ModelConfig` to modules. A new backbone is one more entry of `BACKBONES`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from mrcnn.config import ModelConfig
from mrcnn.models.box_head import BoxHead
from mrcnn.models.fpn import FPN
from mrcnn.models.mask_head import MaskHead
from mrcnn.models.mask_rcnn import MaskRCNN
from mrcnn.models.pooling import RoIPooler
from mrcnn.models.resnet import RESNETS, ResNet
from mrcnn.models.rpn import RPN
from mrcnn.numerics import NUMERICS

BACKBONES: dict[str, Callable[..., nn.Module]] = {name: partial(ResNet, name) for name in RESNETS}

BOX_BINS, MASK_BINS = 7, 14  # Mask R-CNN, figure 4


def build(config: ModelConfig) -> MaskRCNN:
    """The model of a configuration, initialised as published, in channels_last.

    Raises:
        ValueError: if the backbone is unknown or there are no classes.
    """
    if config.backbone not in BACKBONES:
        known = ", ".join(BACKBONES)
        raise ValueError(f"build: backbone must be one of {known}, got {config.backbone!r}")
    if not config.num_classes:
        raise ValueError("build: class_names must name at least one class, got none")
    numerics = NUMERICS[config.numerics]
    body = BACKBONES[config.backbone](
        norm=config.norm,
        norm_eps=config.norm_eps,
        stages=config.fpn_levels,
        frozen_stages=config.frozen_stages,
    )
    backbone = FPN(body, config.fpn_channels)
    rpn = RPN(
        config.fpn_channels,
        strides=backbone.strides,
        anchor_sizes=config.anchor_sizes,
        anchor_ratios=config.anchor_ratios,
        samples=config.rpn_samples,
        pre_nms_top_k=config.pre_nms_top_k,
        post_nms_top_k=config.post_nms_top_k,
        numerics=numerics,
    )
    pooled_strides = backbone.strides[: config.fpn_levels]
    box_head = BoxHead(
        RoIPooler(BOX_BINS, pooled_strides, numerics),
        config.fpn_channels,
        width=config.box_head_width,
        num_classes=config.num_classes,
        positive_fraction=config.roi_positive_fraction,
        score_threshold=config.score_threshold,
        nms_threshold=config.nms_threshold,
        max_detections=config.max_detections,
    )
    mask_head = MaskHead(
        RoIPooler(MASK_BINS, pooled_strides, numerics),
        config.fpn_channels,
        width=config.mask_head_width,
        num_classes=config.num_classes,
        positive_fraction=config.roi_positive_fraction,
    )
    model = MaskRCNN(backbone, rpn, box_head, mask_head, roi_samples=config.roi_samples)
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model
