"""Export of checkpoints to torchvision or Detectron2, with the settings that build the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mrcnn.checkpoints.foreign.convert import (
    CLASS_LOGITS,
    CLASS_ROWS,
    Checkpoint,
    export_state_dict,
)
from mrcnn.checkpoints.foreign.settings import DETECTRON2
from mrcnn.config import MODELS, ModelConfig
from mrcnn.data.coco.names import COCO_NAMES
from mrcnn.errors import UserError
from mrcnn.models.backbones.resnet import RESNETS

_NEVER = -1e4  # logit of a class that was never trained; its probability is 0 even in float16
_DETECTRON2_NORMS = {
    "frozen_batch": "FrozenBN",
    "batch": "SyncBN",
    "sync_batch": "SyncBN",
    "group": "GN",
    "none": "",
}
# Settings that are listed if they differ from the defaults of the framework's models.
_TORCHVISION_ARGUMENTS = {
    "min_size": "min_size",
    "max_size": "max_size",
    "pre_nms_top_k": "rpn_pre_nms_top_n_test",
    "post_nms_top_k": "rpn_post_nms_top_n_test",
    "score_threshold": "box_score_thresh",
    "nms_threshold": "box_nms_thresh",
    "max_detections": "box_detections_per_img",
    "training_post_nms_top_k": "rpn_post_nms_top_n_train",
    "rpn_samples": "rpn_batch_size_per_image",
    "roi_samples": "box_batch_size_per_image",
    "roi_positive_fraction": "box_positive_fraction",
}
_DETECTRON2_NAMES = {
    **DETECTRON2,
    "fpn_channels": "MODEL.FPN.OUT_CHANNELS",
    "box_head_width": "MODEL.ROI_BOX_HEAD.FC_DIM",
    "box_head_conv_width": "MODEL.ROI_BOX_HEAD.CONV_DIM",
    "mask_head_convs": "MODEL.ROI_MASK_HEAD.NUM_CONV",
    "mask_head_width": "MODEL.ROI_MASK_HEAD.CONV_DIM",
}
_NORM_EPS = 1e-5  # of all norms in both frameworks, except torchvision's frozen ones


def export_checkpoint(
    framework: str, checkpoint: Checkpoint
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the state dict of another framework, and the settings that build its model there.

    A checkpoint that came from that framework returns bit-identical to its file. Otherwise COCO's
    classes are mapped to torchvision's 90 ids or Detectron2's 80 classes, and the box and mask of
    background, which mrcnn does not have, are zeros.

    Raises:
        UserError: if the framework cannot build such a model.
    """
    state, config, rest = checkpoint.state, checkpoint.config, checkpoint.rest
    source = checkpoint.extra.get("source", {})
    if source.get("framework") == framework:
        bgr = bool(source["bgr"])
    else:
        rest, bgr = {}, framework != "torchvision"
        if framework == "torchvision" and config.category_ids == tuple(COCO_NAMES):
            state, config = remap_classes(state, config, range(1, max(COCO_NAMES) + 1))
        elif framework != "torchvision" and set(config.category_ids) > set(COCO_NAMES):
            state, config = remap_classes(state, config, list(COCO_NAMES))
        _check(framework, config)
    is_set_there = framework == "torchvision" and config.norm == "frozen_batch"
    if framework in ("torchvision", "detectron2") and not is_set_there:
        state = _with_usual_eps(state, config.norm_eps)
    try:
        exported = export_state_dict(framework, state, config, rest, bgr)
    except ValueError as error:
        raise UserError(f"convert --to {framework}: {error}") from None
    if source.get("framework") == framework and not source.get("counters", True):
        exported = {k: v for k, v in exported.items() if not k.endswith(".num_batches_tracked")}
    settings = []
    if framework == "torchvision":
        settings = _torchvision_settings(config)
    elif framework == "detectron2":
        settings = _detectron2_settings(config, bgr)
    if settings and config.numerics != framework:
        settings.append(
            f"its results will differ slightly: it was trained with {config.numerics} numerics"
        )
    if settings and config.scale is not None and (framework, config.scale) != ("detectron2", 1):
        settings.append(f"images resized by the factor {config.scale:g}, not to a size")
    return exported, settings


def _with_usual_eps(state: Mapping[str, Tensor], norm_eps: float) -> dict[str, Tensor]:
    """Add the difference of the epsilons to the variances of the backbone's norms."""
    body = ("backbone.body.", "box_head.pooler.conv5.")
    return {
        name: value + (norm_eps - _NORM_EPS)
        if name.startswith(body) and name.endswith(".running_var") and norm_eps != _NORM_EPS
        else value
        for name, value in state.items()
    }


def remap_classes(
    state: Mapping[str, Tensor], config: ModelConfig, category_ids: Sequence[int]
) -> tuple[dict[str, Tensor], ModelConfig]:
    """Change the classes of a model: known ones keep their weights, others are never detected."""
    ids, old = tuple(category_ids), config.num_classes
    names = dict(zip(config.category_ids, config.class_names, strict=True))
    known = [i for i, id in enumerate(ids) if id in names]
    sources = [config.category_ids.index(ids[i]) for i in known]
    changed = dict(state)
    for name, value in state.items():
        per_class = CLASS_ROWS.get(name.rpartition(".")[0])
        if per_class is None or len(value) == per_class < old:
            continue
        rows = value.new_zeros(len(ids), per_class, *value.shape[1:])
        if name == f"{CLASS_LOGITS}.bias":
            rows.fill_(_NEVER)
        rows[known] = value[: old * per_class].reshape(old, per_class, *value.shape[1:])[sources]
        changed[name] = torch.cat([rows.flatten(0, 1), value[old * per_class :]])
    named = tuple(names.get(id, f"unused {id}") for id in ids)
    return changed, dataclasses.replace(config, class_names=named, category_ids=ids)


def _check(framework: str, config: ModelConfig) -> None:
    """Refuse models that a framework cannot build without custom code."""
    convs, layers, shape = config.box_head_convs, config.box_head_layers, config.backbone
    problems = {
        f"the backbone {shape}": shape not in RESNETS,
        f"neck {config.neck!r}": config.neck == "single",
    }
    pooled = () if framework == "detectron2" and config.neck != "c4" else ("box_bins", "mask_bins")
    for name in ("roi_op", *pooled):
        value = getattr(config, name)
        problems[f"{name} {value!r}"] = value != getattr(ModelConfig, name)
    if framework == "torchvision":
        widths = (config.fpn_channels, config.box_head_width, config.mask_head_width)
        problems |= {
            "a neck other than FPN": config.neck != "fpn",
            "class-agnostic boxes or masks": config.class_agnostic_boxes
            or config.class_agnostic_masks,
            f"a box head of {convs} convolutions and {layers} layers": (convs, layers)
            not in ((0, 2), (4, 1)),
            f"{config.norm} norm in the backbone": config.norm
            not in ("frozen_batch", "batch", "sync_batch"),
            f"{config.head_norm} norm in FPN and heads, except as in its second R50-FPN": (
                config.head_norm != "none" and not _second_version(config)
            ),
            f"{widths[0]} channels in FPN, {widths[1]} in the box and {widths[2]} in the mask head "
            "(only 256, 1024, 256)": widths != (256, 1024, 256),
            f"a mask head of {config.mask_head_convs} convolutions": config.mask_head_convs != 4,
        }
    if framework == "detectron2":
        problems |= {
            f"{norm} norm": norm not in _DETECTRON2_NORMS
            for norm in (config.norm, config.head_norm)
        }
        problems["C4 without bottlenecks"] = (
            config.neck == "c4" and shape in RESNETS and not RESNETS[shape].bottleneck
        )
    for problem, present in problems.items():
        if present:
            raise UserError(f"convert --to {framework}: its models cannot have {problem}")


def _second_version(config: ModelConfig) -> bool:
    """Return whether the model is torchvision's second version of its R50-FPN."""
    second = MODELS["resnet50-fpn-v2"]
    return all(
        getattr(config, name) == getattr(second, name)
        for name in ("backbone", "norm", "head_norm", "rpn_convs", "box_head_convs")
    )


def _changed(config: ModelConfig, default: ModelConfig, names: dict[str, str]) -> dict[str, object]:
    """Return the fields that differ from the default, under the names of the framework."""
    return {
        renamed: getattr(config, name)
        for name, renamed in names.items()
        if getattr(config, name) != getattr(default, name)
    }


def _torchvision_settings(config: ModelConfig) -> list[str]:
    mean = [round(value / 255, 6) for value in config.pixel_mean]
    std = [round(value / 255, 6) for value in config.pixel_std]
    kind, classes = "mask" if config.masks else "faster", config.num_classes + 1
    if _second_version(config):
        settings = [
            f"{kind}rcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, "
            f"num_classes={classes})"
        ]
    else:
        norm = "" if config.norm == "frozen_batch" else ", norm_layer=torch.nn.BatchNorm2d"
        if config.fpn_levels < 4:
            norm += f", returned_layers={list(range(1, config.fpn_levels + 1))}"
        if config.frozen_stages != ModelConfig.frozen_stages:
            norm += f", trainable_layers={5 - config.frozen_stages}"
        settings = [
            f"{kind.capitalize()}RCNN(resnet_fpn_backbone("
            f"backbone_name={config.backbone!r}, weights=None{norm}), num_classes={classes})"
        ]
        if config.rpn_convs > 1:
            settings.append(f"rpn_head=RPNHead(256, 3, conv_depth={config.rpn_convs})")
        if config.box_head_convs:
            settings.append("box_head=FastRCNNConvFCHead((256, 7, 7), [256] * 4, [1024])")
    if (mean, std) != ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]):
        settings.append(f"image_mean={mean}, image_std={std}")
    default = ModelConfig(training_post_nms_top_k=2000)
    if config.anchor_sizes != default.anchor_sizes or config.anchor_ratios != default.anchor_ratios:
        sizes = tuple(config.level_anchor_sizes)
        ratios = f"({config.anchor_ratios},) * {len(sizes)}"
        settings.append(f"rpn_anchor_generator=AnchorGenerator({sizes}, {ratios})")
    changed = _changed(config, default, _TORCHVISION_ARGUMENTS)
    settings += [f"{argument}={value}" for argument, value in changed.items()]
    if config.norm_eps != _NORM_EPS and config.norm == "frozen_batch":
        settings.append(
            f"then torchvision.models.detection._utils.overwrite_eps(model, {config.norm_eps:g})"
        )
    if config.stride_in_1x1 and RESNETS[config.backbone].bottleneck:
        settings.append(
            "then, because the strides are in the 1 x 1, in the first block of layer2, layer3 and "
            "layer4 of model.backbone.body: conv1.stride = (2, 2); conv2.stride = (1, 1)"
        )
    return settings


def _detectron2_settings(config: ModelConfig, bgr: bool) -> list[str]:
    shape = RESNETS[config.backbone]
    norm, head_norm = (_DETECTRON2_NORMS[name] for name in (config.norm, config.head_norm))
    aligned = config.numerics in ("detectron2", "mmdetection")
    order = -1 if bgr else 1
    base = {"fpn": "FPN", "c4": "C4", "dc5": "DilatedC5"}[config.neck]
    settings: dict[str, object] = {
        "INPUT.FORMAT": "BGR" if bgr else "RGB",
        "MODEL.PIXEL_MEAN": list(config.pixel_mean[::order]),
        "MODEL.PIXEL_STD": list(config.pixel_std[::order]),
        "MODEL.RESNETS.DEPTH": 2 + sum(shape.depths) * (3 if shape.bottleneck else 2),
        "MODEL.RESNETS.NORM": norm,
        "MODEL.RESNETS.STRIDE_IN_1X1": config.stride_in_1x1,
        "MODEL.RESNETS.NUM_GROUPS": shape.groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": shape.group_width,
        "MODEL.ROI_HEADS.NUM_CLASSES": config.num_classes,
        "MODEL.MASK_ON": config.masks,
    }
    if not shape.bottleneck:
        settings["MODEL.RESNETS.RES2_OUT_CHANNELS"] = 64
    if config.neck != "c4":
        settings |= {
            "MODEL.ROI_BOX_HEAD.NUM_CONV": config.box_head_convs,
            "MODEL.ROI_BOX_HEAD.NUM_FC": config.box_head_layers,
            "MODEL.ROI_BOX_HEAD.NORM": head_norm,
            "MODEL.ROI_MASK_HEAD.NORM": head_norm,
        }
    if config.neck == "fpn":
        settings["MODEL.FPN.NORM"] = head_norm
    if config.neck == "fpn" and config.fpn_levels != 4:
        stages = [f"res{i + 2}" for i in range(config.fpn_levels)]
        levels = [f"p{i + 2}" for i in range(config.fpn_levels + 1)]
        settings |= {
            "MODEL.RESNETS.OUT_FEATURES": stages,
            "MODEL.FPN.IN_FEATURES": stages,
            "MODEL.RPN.IN_FEATURES": levels,
            "MODEL.ROI_HEADS.IN_FEATURES": levels[:-1],
        }
    for head in ("BOX", "MASK"):
        settings |= {
            f"MODEL.ROI_{head}_HEAD.POOLER_TYPE": "ROIAlignV2" if aligned else "ROIAlign",
            f"MODEL.ROI_{head}_HEAD.POOLER_SAMPLING_RATIO": 0 if aligned else 2,
        }
    default = MODELS[f"resnet50-{config.neck}"]
    if config.anchor_sizes != default.anchor_sizes:
        sizes = [list(level) for level in config.level_anchor_sizes]
        settings["MODEL.ANCHOR_GENERATOR.SIZES"] = sizes
    if config.anchor_ratios != default.anchor_ratios:
        settings["MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"] = [list(config.anchor_ratios)]
    settings |= _changed(config, default, _DETECTRON2_NAMES)
    for kind, beta in (("rpn_box_loss", "rpn_smooth_l1_beta"), ("box_loss", "box_smooth_l1_beta")):
        value = getattr(config, beta)
        value = getattr(config.conventions, beta) if value is None else value
        if value and getattr(config, kind) == "smooth_l1":
            settings[DETECTRON2[beta]] = value
    if config.scale == 1:  # images keep their size
        settings[DETECTRON2["min_size"]] = 0
    if config.rpn_convs > 1:
        settings["MODEL.RPN.CONV_DIMS"] = [-1] * config.rpn_convs
    if config.class_agnostic_boxes:
        settings["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG"] = True
    if config.class_agnostic_masks:
        settings["MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK"] = True
    lines = [f"configs/Base-RCNN-{base}.yaml"]
    lines += [f"{name} {value!r}" for name, value in settings.items()]
    if config.neck == "fpn" and config.fpn_levels != 4:
        # Detectron2 adds the last level to p5, and pads images to the stride of the last stage.
        lines.append(
            f"then, after building it: model.backbone.top_block.in_feature = "
            f"'p{config.fpn_levels + 1}'; model.backbone._size_divisibility = "
            f"{config.size_multiple}"
        )
    return lines
