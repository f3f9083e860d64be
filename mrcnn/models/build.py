"""From a `ModelConfig` to modules. A new backbone is one more entry of `BACKBONES`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from mrcnn.config import ModelConfig
from mrcnn.models.box_head import BoxHead
from mrcnn.models.fpn import FPN
from mrcnn.models.inception import INCEPTIONS, Inception
from mrcnn.models.mask_head import MaskHead
from mrcnn.models.mask_rcnn import MaskRCNN
from mrcnn.models.mobilenet import MOBILENETS, MobileNet
from mrcnn.models.pooling import Conv5Pooler, Pooler, RoIPooler
from mrcnn.models.resnet import RESNETS, ResNet, make_stage
from mrcnn.models.rpn import RPN
from mrcnn.models.single_level import SingleLevel
from mrcnn.models.vgg import VGG, VGGS
from mrcnn.numerics import NUMERICS, Numerics

BACKBONES: dict[str, Callable[..., nn.Module]] = {
    **{name: partial(ResNet, name) for name in RESNETS},
    **{name: partial(VGG, name) for name in VGGS},
    **{name: partial(Inception, name) for name in INCEPTIONS},
    **{name: partial(MobileNet, name) for name in MOBILENETS},
}

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
    backbone = _backbone(config)
    rpn = RPN(
        backbone.channels,
        convs=config.rpn_convs,
        strides=backbone.strides,
        anchor_sizes=config.level_anchor_sizes,
        anchor_ratios=config.anchor_ratios,
        samples=config.rpn_samples,
        pre_nms_top_k=config.pre_nms_top_k,
        post_nms_top_k=config.post_nms_top_k,
        training_post_nms_top_k=config.training_post_nms_top_k,
        numerics=numerics,
    )
    box_pooler, mask_pooler = _poolers(config, backbone, numerics)
    box_head = BoxHead(
        box_pooler,
        convs=config.box_head_convs,
        conv_width=config.box_head_conv_width,
        norm=config.head_norm,
        layers=config.box_head_layers,
        width=config.box_head_width,
        num_classes=config.num_classes,
        class_agnostic=config.class_agnostic_boxes,
        positive_fraction=config.roi_positive_fraction,
        score_threshold=config.score_threshold,
        nms_threshold=config.nms_threshold,
        max_detections=config.max_detections,
    )
    mask_head = MaskHead(
        mask_pooler,
        convs=config.mask_head_convs,
        norm=config.head_norm,
        width=config.mask_head_width,
        num_classes=config.num_classes,
        class_agnostic=config.class_agnostic_masks,
        positive_fraction=config.roi_positive_fraction,
    )
    model = MaskRCNN(
        backbone,
        rpn,
        box_head,
        mask_head if config.masks else None,
        roi_samples=config.roi_samples,
    )
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def _backbone(config: ModelConfig) -> FPN | SingleLevel:
    stages = {"fpn": config.fpn_levels, "c4": 3, "dc5": 4}[config.neck]
    options = {}
    if config.backbone in RESNETS:
        options = {"stride_in_1x1": config.stride_in_1x1, "dilate_last": config.neck == "dc5"}
    elif config.neck != "fpn":
        raise ValueError(f"build: neck {config.neck!r} needs a ResNet, got {config.backbone!r}")
    body = BACKBONES[config.backbone](
        norm=config.norm,
        norm_eps=config.norm_eps,
        stages=stages,
        frozen_stages=config.frozen_stages,
        **options,
    )
    if config.neck == "fpn":
        return FPN(body, config.fpn_channels, config.head_norm)
    return SingleLevel(body)


def _poolers(
    config: ModelConfig, backbone: FPN | SingleLevel, numerics: Numerics
) -> tuple[Pooler, Pooler]:
    """Of the box head and of the mask head; a C4 model has one for both."""
    channels, strides = backbone.channels, backbone.strides
    if config.neck == "fpn":
        strides = strides[: config.fpn_levels]  # the level on top is for the RPN alone
    mask_pooler = RoIPooler(channels, MASK_BINS, strides, numerics)
    if config.neck != "c4":
        return RoIPooler(channels, BOX_BINS, strides, numerics), mask_pooler
    conv5 = make_stage(
        config.backbone,
        3,
        norm=config.norm,
        norm_eps=config.norm_eps,
        stride_in_1x1=config.stride_in_1x1,
    )
    pooler = Conv5Pooler(mask_pooler, conv5, RESNETS[config.backbone].channels(3))
    return pooler, pooler
