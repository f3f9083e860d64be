"""Construction of a model from a `ModelConfig`. A new backbone is one more entry of `BACKBONES`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import torch

from mrcnn.config import ModelConfig
from mrcnn.models.backbones.common import Backbone
from mrcnn.models.backbones.inception import INCEPTIONS, Inception
from mrcnn.models.backbones.mobilenet import MOBILENETS, MobileNet
from mrcnn.models.backbones.resnet import RESNETS, ResNet, make_stage
from mrcnn.models.backbones.vgg import VGG, VGGS
from mrcnn.models.box_head import BoxHead
from mrcnn.models.fpn import FPN, SingleLevel
from mrcnn.models.layers import check_choice
from mrcnn.models.mask_head import MaskHead
from mrcnn.models.mask_rcnn import MaskRCNN
from mrcnn.models.pooling import Conv5Pooler, Pooler, RoIPooler
from mrcnn.models.rpn import RPN
from mrcnn.numerics import Numerics

BACKBONES: dict[str, Callable[..., Backbone]] = {
    **{name: partial(ResNet, name) for name in RESNETS},
    **{name: partial(VGG, name) for name in VGGS},
    **{name: partial(Inception, name) for name in INCEPTIONS},
    **{name: partial(MobileNet, name) for name in MOBILENETS},
}

BOX_BINS = ModelConfig.box_bins  # the default


def build(config: ModelConfig) -> MaskRCNN:
    """Build the model of a configuration, initialised as published, in channels_last.

    The weights are random. `mrcnn.load` reads a trained model.

    Args:
        config: must name at least one class.

    Raises:
        ValueError: if there are no classes, or backbone, neck and norm do not fit together.

    Example:
        >>> config = dataclasses.replace(MODELS["resnet50-fpn"], class_names=("cat", "dog"))
        >>> model = build(config)
        >>> losses = model.train()(images, targets)  # an ImageBatch and Targets
        >>> detections = model.eval()(images)
    """
    check_choice("build: backbone", config.backbone, BACKBONES)
    if not config.num_classes:
        raise ValueError("build: class_names must name at least one class, got none")
    numerics = _numerics(config)
    backbone = _backbone(config)
    rpn = RPN(
        backbone.channels,
        convs=config.rpn_convs,
        strides=backbone.strides,
        anchor_sizes=config.level_anchor_sizes,
        anchor_ratios=config.anchor_ratios,
        samples=config.rpn_samples,
        box_loss=config.rpn_box_loss,
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
        box_loss=config.box_loss,
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


def _numerics(config: ModelConfig) -> Numerics:
    """Return the numerics that the configuration names, with its own betas if it sets them."""
    numerics = config.conventions
    rpn_beta, box_beta = config.rpn_smooth_l1_beta, config.box_smooth_l1_beta
    return dataclasses.replace(
        numerics,
        rpn_smooth_l1_beta=numerics.rpn_smooth_l1_beta if rpn_beta is None else rpn_beta,
        box_smooth_l1_beta=numerics.box_smooth_l1_beta if box_beta is None else box_beta,
    )


def _backbone(config: ModelConfig) -> FPN | SingleLevel:
    stages = {"c4": 3, "dc5": 4}.get(config.neck, config.fpn_levels)
    options = {}
    if config.backbone in RESNETS:
        options = {"stride_in_1x1": config.stride_in_1x1, "dilate_last": config.neck == "dc5"}
    elif config.neck in ("c4", "dc5"):
        raise ValueError(
            f"build: neck {config.neck!r} requires a ResNet, got backbone {config.backbone!r}; "
            "choose neck 'single' or 'fpn'"
        )
    if config.neck == "dc5" and not RESNETS[config.backbone].bottleneck:
        raise ValueError(
            f"build: neck 'dc5' requires bottlenecks, which backbone {config.backbone!r} does not "
            "have; choose resnet50 or larger, or neck 'single'"
        )
    body = BACKBONES[config.backbone](
        norm=config.norm,
        norm_eps=config.norm_eps,
        stages=stages,
        frozen_stages=config.frozen_stages,
        **options,
    )
    body.fixes_frozen_norms = config.conventions.fixes_frozen_norms
    body.train()
    if config.neck == "fpn":
        return FPN(body, config.fpn_channels, config.head_norm, config.fpn_top)
    return SingleLevel(body)


def _poolers(
    config: ModelConfig, backbone: FPN | SingleLevel, numerics: Numerics
) -> tuple[Pooler, Pooler]:
    """Make the poolers of the box head and the mask head; a C4 model has one for both."""
    channels, strides = backbone.channels, backbone.strides
    if config.neck == "fpn":
        strides = strides[: config.fpn_levels]  # only the RPN uses the level on top
    mask_pooler = RoIPooler(channels, config.mask_bins, strides, numerics, config.roi_op)
    if config.neck != "c4":
        box_pooler = RoIPooler(channels, config.box_bins, strides, numerics, config.roi_op)
        return box_pooler, mask_pooler
    conv5 = make_stage(
        config.backbone,
        3,
        norm=config.norm,
        norm_eps=config.norm_eps,
        stride_in_1x1=config.stride_in_1x1,
    )
    pooler = Conv5Pooler(mask_pooler, conv5, RESNETS[config.backbone].channels(3))
    return pooler, pooler
