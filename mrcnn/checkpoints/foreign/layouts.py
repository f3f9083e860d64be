"""Tensor names and conventions of other frameworks, and the defaults that their files leave out.

Sources: the modules of torchvision 0.29, Detectron2, MMDetection 3 and maskrcnn-benchmark.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from mrcnn.checkpoints.foreign.naming import Fields, Layout, Row
from mrcnn.config import ModelConfig
from mrcnn.models.backbones.resnet import RESNETS

_BLOCK = "backbone.body.layer{n}.{i}."


def _import_only(config: ModelConfig) -> bool:
    return False


def _blocks(name: str, source: str, when: Callable[[ModelConfig], bool]) -> tuple[Row, ...]:
    """Return the rows of a ResNet stage whose norms are named after their convolutions."""
    return (
        Row(name + ".{i}.conv{k}.{t}", source + ".{i}.conv{k}.{t}", when),
        Row(name + ".{i}.bn{k}.{t}", source + ".{i}.conv{k}.norm.{t}", when),
        Row(name + ".{i}.downsample.0.{t}", source + ".{i}.shortcut.{t}", when),
        Row(name + ".{i}.downsample.1.{t}", source + ".{i}.shortcut.norm.{t}", when),
    )


def _same_blocks(source: str) -> tuple[Row, ...]:
    """Return the rows of ResNet stages with torchvision's names, which mrcnn uses, too."""
    source += ".layer{n}.{i}."
    return tuple(
        Row(_BLOCK + part, source + part)
        for part in ("conv{k}.{t}", "bn{k}.{t}", "downsample.{k}.{t}")
    )


# Torchvision


def _torchvision(fields: Fields, state: Mapping[str, Tensor]) -> tuple[Fields, bool]:
    # The published files have frozen norms, for which torchvision sets epsilon to 0.
    published = "rpn.head.conv.weight" in state and fields["norm"] == "frozen_batch"
    return {
        "numerics": "torchvision",
        "norm_eps": 0.0 if published else 1e-5,
        "training_post_nms_top_k": 2000,
    }, False


_TORCHVISION = Layout(
    name="torchvision",
    signature=re.compile(r"backbone\.body\.conv1\.weight"),
    ignored=re.compile(r"$^"),
    background_first=True,
    defaults=_torchvision,
    rows=(
        Row("backbone.body.conv1.{t}", "backbone.body.conv1.{t}"),
        Row("backbone.body.bn1.{t}", "backbone.body.bn1.{t}"),
        *_same_blocks("backbone.body"),
        Row("backbone.lateral.{i}.{t}", "backbone.fpn.inner_blocks.{i}.0.{t}"),
        Row("backbone.lateral.{i}.norm.{t}", "backbone.fpn.inner_blocks.{i}.1.{t}"),
        Row("backbone.output.{i}.{t}", "backbone.fpn.layer_blocks.{i}.0.{t}"),
        Row("backbone.output.{i}.norm.{t}", "backbone.fpn.layer_blocks.{i}.1.{t}"),
        Row("rpn.convs.{i}.{t}", "rpn.head.conv.{i}.0.{t}"),
        Row("rpn.objectness_logits.{t}", "rpn.head.cls_logits.{t}"),
        Row("rpn.deltas.{t}", "rpn.head.bbox_pred.{t}"),
        Row("box_head.convs.{i}.{t}", "roi_heads.box_head.{i}.0.{t}"),
        Row("box_head.convs.{i}.norm.{t}", "roi_heads.box_head.{i}.1.{t}"),
        # Index in a sequence of four convolutions, one flattening and this layer.
        Row("box_head.layers.0.{t}", "roi_heads.box_head.5.{t}", lambda c: c.box_head_convs > 0),
        Row("box_head.layers.{i}.{t}", "roi_heads.box_head.fc{i+6}.{t}"),
        Row("box_head.class_logits.{t}", "roi_heads.box_predictor.cls_score.{t}"),
        Row("box_head.deltas.{t}", "roi_heads.box_predictor.bbox_pred.{t}"),
        Row("mask_head.convs.{i}.{t}", "roi_heads.mask_head.{i}.0.{t}"),
        Row("mask_head.convs.{i}.norm.{t}", "roi_heads.mask_head.{i}.1.{t}"),
        Row("mask_head.upsample.{t}", "roi_heads.mask_predictor.conv5_mask.{t}"),
        Row("mask_head.mask_logits.{t}", "roi_heads.mask_predictor.mask_fcn_logits.{t}"),
        # Published files use the names of torchvision 0.3.
        Row("backbone.lateral.{i}.{t}", "backbone.fpn.inner_blocks.{i}.{t}", _import_only),
        Row("backbone.output.{i}.{t}", "backbone.fpn.layer_blocks.{i}.{t}", _import_only),
        Row("rpn.convs.0.{t}", "rpn.head.conv.{t}", _import_only),
        Row("mask_head.convs.{i}.{t}", "roi_heads.mask_head.mask_fcn{i+1}.{t}", _import_only),
    ),
)

# Detectron2

_ONES = (1.0, 1.0, 1.0)
_IMAGENET_STD = (58.395, 57.12, 57.375)


def _detectron2(fields: Fields, _: Any) -> tuple[Fields, bool]:
    # The ImageNet weights of ResNeXt were trained with a standard deviation. The others, from MSRA,
    # were trained without, and with strides in the 1 x 1, except those with group norm. (A SyncBN
    # model of early 2020 had them in the 3 x 3: facebookresearch/detectron2 issue 909.)
    grouped = RESNETS[fields["backbone"]].groups > 1
    defaults: Fields = {
        "numerics": "detectron2",
        "stride_in_1x1": not grouped and fields["norm"] != "group",
        "pixel_std": _IMAGENET_STD if grouped else _ONES,
    }
    if fields["head_norm"] == "batch":  # published files may lack counters
        defaults["norm"] = "batch"
    if fields["neck"] != "fpn":
        defaults |= {"pre_nms_top_k": 6000, "training_post_nms_top_k": 2000}
    return defaults, True


def _pyramid(config: ModelConfig) -> bool:
    return config.neck == "fpn"


def _one_level(config: ModelConfig) -> bool:
    return config.neck != "fpn"


_DETECTRON2 = Layout(
    name="detectron2",
    signature=re.compile(r"backbone\.(bottom_up\.)?stem\.conv1\.weight"),
    ignored=re.compile(
        r"pixel_(mean|std)|proposal_generator\.anchor_generator\.cell_anchors\.\d+"
        r"|(backbone|roi_heads)\..*\.num_batches_tracked"
    ),
    background_first=False,
    defaults=_detectron2,
    rows=(
        Row("backbone.body.conv1.{t}", "backbone.bottom_up.stem.conv1.{t}", _pyramid),
        Row("backbone.body.bn1.{t}", "backbone.bottom_up.stem.conv1.norm.{t}", _pyramid),
        *_blocks("backbone.body.layer{n}", "backbone.bottom_up.res{n+1}", _pyramid),
        Row("backbone.body.conv1.{t}", "backbone.stem.conv1.{t}", _one_level),
        Row("backbone.body.bn1.{t}", "backbone.stem.conv1.norm.{t}", _one_level),
        *_blocks("backbone.body.layer{n}", "backbone.res{n+1}", _one_level),
        *_blocks("box_head.pooler.conv5", "roi_heads.res5", _one_level),
        Row("backbone.lateral.{i}.{t}", "backbone.fpn_lateral{i+2}.{t}"),
        Row("backbone.lateral.{i}.norm.{t}", "backbone.fpn_lateral{i+2}.norm.{t}"),
        Row("backbone.output.{i}.{t}", "backbone.fpn_output{i+2}.{t}"),
        Row("backbone.output.{i}.norm.{t}", "backbone.fpn_output{i+2}.norm.{t}"),
        Row(
            "rpn.convs.{i}.{t}",
            "proposal_generator.rpn_head.conv.conv{i}.{t}",
            lambda c: c.rpn_convs > 1,
        ),
        Row("rpn.convs.0.{t}", "proposal_generator.rpn_head.conv.{t}"),
        Row("rpn.objectness_logits.{t}", "proposal_generator.rpn_head.objectness_logits.{t}"),
        Row("rpn.deltas.{t}", "proposal_generator.rpn_head.anchor_deltas.{t}"),
        Row("box_head.convs.{i}.{t}", "roi_heads.box_head.conv{i+1}.{t}"),
        Row("box_head.convs.{i}.norm.{t}", "roi_heads.box_head.conv{i+1}.norm.{t}"),
        Row("box_head.layers.{i}.{t}", "roi_heads.box_head.fc{i+1}.{t}"),
        Row("box_head.class_logits.{t}", "roi_heads.box_predictor.cls_score.{t}"),
        Row("box_head.deltas.{t}", "roi_heads.box_predictor.bbox_pred.{t}"),
        Row("mask_head.convs.{i}.{t}", "roi_heads.mask_head.mask_fcn{i+1}.{t}"),
        Row("mask_head.convs.{i}.norm.{t}", "roi_heads.mask_head.mask_fcn{i+1}.norm.{t}"),
        Row("mask_head.upsample.{t}", "roi_heads.mask_head.deconv.{t}"),
        Row("mask_head.mask_logits.{t}", "roi_heads.mask_head.predictor.{t}"),
    ),
)

# maskrcnn-benchmark


def _maskrcnn_benchmark(fields: Fields, *_: Any) -> tuple[Fields, bool]:
    return {
        "numerics": "maskrcnn_benchmark",
        "norm_eps": 0.0,  # its frozen norms do not add one
        "stride_in_1x1": RESNETS[fields["backbone"]].groups == 1,
        "pixel_mean": (122.7717, 115.9465, 102.9801),
        "pixel_std": _ONES,
    }, True


_MASKRCNN_BENCHMARK = Layout(
    name="maskrcnn_benchmark",
    signature=re.compile(r"backbone\.body\.stem\.conv1\.weight"),
    ignored=re.compile(r"rpn\.anchor_generator\.cell_anchors\.\d+"),
    background_first=True,
    defaults=_maskrcnn_benchmark,
    rows=(
        Row("backbone.body.conv1.{t}", "backbone.body.stem.conv1.{t}"),
        Row("backbone.body.bn1.{t}", "backbone.body.stem.bn1.{t}"),
        *_same_blocks("backbone.body"),
        Row("backbone.lateral.{i}.{t}", "backbone.fpn.fpn_inner{i+1}.{t}"),
        Row("backbone.output.{i}.{t}", "backbone.fpn.fpn_layer{i+1}.{t}"),
        Row("rpn.convs.0.{t}", "rpn.head.conv.{t}"),
        Row("rpn.objectness_logits.{t}", "rpn.head.cls_logits.{t}"),
        Row("rpn.deltas.{t}", "rpn.head.bbox_pred.{t}"),
        Row("box_head.layers.{i}.{t}", "roi_heads.box.feature_extractor.fc{i+6}.{t}"),
        Row("box_head.class_logits.{t}", "roi_heads.box.predictor.cls_score.{t}"),
        Row("box_head.deltas.{t}", "roi_heads.box.predictor.bbox_pred.{t}"),
        Row("mask_head.convs.{i}.{t}", "roi_heads.mask.feature_extractor.mask_fcn{i+1}.{t}"),
        Row("mask_head.upsample.{t}", "roi_heads.mask.predictor.conv5_mask.{t}"),
        Row("mask_head.mask_logits.{t}", "roi_heads.mask.predictor.mask_fcn_logits.{t}"),
    ),
)

# MMDetection


def _mmdetection(fields: Fields, *_: Any) -> tuple[Fields, bool]:
    defaults: Fields = {"numerics": "mmdetection"}
    if fields["norm"] == "batch":  # its backbones train with fixed statistics
        defaults["norm"] = "frozen_batch"
    # Of its configurations without `style="caffe"`, only those of this backbone have BGR.
    return defaults, fields["backbone"] == "resnext101_32x8d"


def _module(name: str, source: str) -> tuple[Row, ...]:
    """Return the rows of convolutions with norms, which are named after their type."""
    return (
        Row(name + ".{i}.{t}", source + ".{i}.conv.{t}"),
        Row(name + ".{i}.norm.{t}", source + ".{i}.gn.{t}", lambda c: c.head_norm == "group"),
        Row(name + ".{i}.norm.{t}", source + ".{i}.bn.{t}"),
    )


_MMDETECTION = Layout(
    name="mmdetection",
    signature=re.compile(r"rpn_head\.rpn_cls\.weight"),
    ignored=re.compile(r"backbone\..*\.num_batches_tracked"),
    background_first=False,
    defaults=_mmdetection,
    rows=(
        Row("backbone.body.conv1.{t}", "backbone.conv1.{t}"),
        Row("backbone.body.bn1.{t}", "backbone.gn1.{t}", lambda c: c.norm == "group"),
        Row(_BLOCK + "bn{k}.{t}", "backbone.layer{n}.{i}.gn{k}.{t}", lambda c: c.norm == "group"),
        Row("backbone.body.bn1.{t}", "backbone.bn1.{t}"),
        *_same_blocks("backbone"),
        *_module("backbone.lateral", "neck.lateral_convs"),
        *_module("backbone.output", "neck.fpn_convs"),
        Row("rpn.convs.{i}.{t}", "rpn_head.rpn_conv.{i}.conv.{t}", lambda c: c.rpn_convs > 1),
        Row("rpn.convs.0.{t}", "rpn_head.rpn_conv.{t}"),
        Row("rpn.objectness_logits.{t}", "rpn_head.rpn_cls.{t}"),
        Row("rpn.deltas.{t}", "rpn_head.rpn_reg.{t}"),
        *_module("box_head.convs", "roi_head.bbox_head.shared_convs"),
        Row("box_head.layers.{i}.{t}", "roi_head.bbox_head.shared_fcs.{i}.{t}"),
        Row("box_head.class_logits.{t}", "roi_head.bbox_head.fc_cls.{t}"),
        Row("box_head.deltas.{t}", "roi_head.bbox_head.fc_reg.{t}"),
        *_module("mask_head.convs", "roi_head.mask_head.convs"),
        Row("mask_head.upsample.{t}", "roi_head.mask_head.upsample.{t}"),
        Row("mask_head.mask_logits.{t}", "roi_head.mask_head.conv_logits.{t}"),
    ),
)

LAYOUTS = {
    layout.name: layout for layout in (_TORCHVISION, _DETECTRON2, _MASKRCNN_BENCHMARK, _MMDETECTION)
}
