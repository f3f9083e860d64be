"""Our checkpoints as files of torchvision or Detectron2, with the settings that they need there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mrcnn.checkpoints.files import Checkpoint
from mrcnn.checkpoints.foreign import to_theirs
from mrcnn.config import ModelConfig
from mrcnn.data.coco_names import COCO_NAMES
from mrcnn.errors import UserError
from mrcnn.models.resnet import RESNETS

_NEVER = -1e4  # logit of a class that no training saw; its probability is 0 in float16, too


def state_for(framework: str, checkpoint: Checkpoint) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict of a checkpoint under the names and in the order of another framework.

    A checkpoint that came from that framework gives every tensor as it was. Otherwise COCO's
    classes are put into torchvision's 90 ids or Detectron2's 80 classes, and background, which has
    no box or mask of its own here, gets zeros.

    Args:
        framework: a key of `layouts.LAYOUTS`.
    Returns:
        The state, and the settings with which the framework builds the model.
    Raises:
        UserError: if the framework has no such model.
    """
    state, config, rest = checkpoint.state, checkpoint.config, checkpoint.rest
    source = checkpoint.extra.get("source", {})
    if source.get("framework") == framework:
        bgr = bool(source["bgr"])
    else:
        rest, bgr = {}, framework != "torchvision"
        if framework == "torchvision" and config.category_ids == tuple(COCO_NAMES):
            state, config = with_classes(state, config, range(1, max(COCO_NAMES) + 1))
        elif framework != "torchvision" and set(config.category_ids) > set(COCO_NAMES):
            state, config = with_classes(state, config, list(COCO_NAMES))
    if framework == "torchvision":
        _check_torchvision(config)
    try:
        written = to_theirs(framework, state, config, rest, bgr)
    except ValueError as error:
        raise UserError(f"convert --to {framework}: {error}") from None
    if source.get("framework") == framework and not source.get("counters", True):
        written = {k: v for k, v in written.items() if not k.endswith(".num_batches_tracked")}
    tell = {"torchvision": _torchvision_settings, "detectron2": _detectron2_settings}
    return written, tell[framework](config, bgr) if framework in tell else []


def with_classes(
    state: Mapping[str, Tensor], config: ModelConfig, category_ids: Sequence[int]
) -> tuple[dict[str, Tensor], ModelConfig]:
    """A model of other classes: those it has keep their weights, others are never found."""
    at = {id: i for i, id in enumerate(config.category_ids)}
    old, rows = config.num_classes, {"box_head.deltas": 4, "mask_head.mask_logits": 1}
    changed = dict(state)
    for name, value in state.items():
        layer, _, kind = name.rpartition(".")
        per_class = rows.get(layer, 1)
        if layer not in (*rows, "box_head.class_logits") or len(value) == per_class < old:
            continue
        blank = value.new_zeros(per_class, *value.shape[1:])
        if layer == "box_head.class_logits" and kind == "bias":
            blank.fill_(_NEVER)
        parts = [
            value[at[id] * per_class : (at[id] + 1) * per_class] if id in at else blank
            for id in category_ids
        ]
        changed[name] = torch.cat([*parts, value[old * per_class :]])
    ids = tuple(category_ids)
    names = dict(zip(config.category_ids, config.class_names, strict=True))
    named = tuple(names.get(id, f"unused {id}") for id in ids)
    return changed, dataclasses.replace(config, class_names=named, category_ids=ids)


def _check_torchvision(config: ModelConfig) -> None:
    convs, layers = config.box_head_convs, config.box_head_layers
    problems = {
        "a neck other than FPN": config.neck != "fpn",
        "class-agnostic boxes or masks": config.class_agnostic_boxes or config.class_agnostic_masks,
        f"a box head of {convs} convolutions and {layers} layers": (convs, layers)
        not in ((0, 2), (4, 1)),
    }
    for problem, present in problems.items():
        if present:
            raise UserError(f"convert --to torchvision: its models cannot have {problem}")


def _torchvision_settings(config: ModelConfig, bgr: bool) -> list[str]:
    mean = [round(value / 255, 6) for value in config.pixel_mean]
    std = [round(value / 255, 6) for value in config.pixel_std]
    told = [f"num_classes={config.num_classes + 1}"]
    if (mean, std) != ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]):
        told.append(f"image_mean={mean}, image_std={std}")
    if config.norm_eps != 1e-5:
        told.append(
            f"then torchvision.models.detection._utils.overwrite_eps(model, {config.norm_eps:g})"
        )
    if config.stride_in_1x1 and RESNETS[config.backbone].bottleneck:
        told.append(
            "then, as its strides are in the 1 x 1, in the first block of layer2, layer3, layer4 "
            "of model.backbone.body: conv1.stride = (2, 2); conv2.stride = (1, 1)"
        )
    if config.numerics != "torchvision":
        told.append(f"its numbers will differ a little: it was trained with {config.numerics}'s")
    return told


def _detectron2_settings(config: ModelConfig, bgr: bool) -> list[str]:
    shape = RESNETS[config.backbone]
    norms = {"frozen_batch": "FrozenBN", "batch": "SyncBN", "group": "GN", "none": ""}
    aligned = config.numerics in ("detectron2", "mmdetection")
    order = -1 if bgr else 1
    pooler = "ROIAlignV2" if aligned else "ROIAlign"
    settings: dict[str, object] = {
        "INPUT.FORMAT": "BGR" if bgr else "RGB",
        "MODEL.PIXEL_MEAN": list(config.pixel_mean[::order]),
        "MODEL.PIXEL_STD": list(config.pixel_std[::order]),
        "MODEL.RESNETS.DEPTH": 2 + sum(shape.depths) * (3 if shape.bottleneck else 2),
        "MODEL.RESNETS.NORM": norms[config.norm],
        "MODEL.RESNETS.STRIDE_IN_1X1": config.stride_in_1x1,
        "MODEL.RESNETS.NUM_GROUPS": shape.groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": shape.group_width,
        "MODEL.ROI_HEADS.NUM_CLASSES": config.num_classes,
        "MODEL.MASK_ON": config.masks,
    }
    if not shape.bottleneck:
        settings["MODEL.RESNETS.RES2_OUT_CHANNELS"] = 64
    if config.neck == "fpn":
        settings |= {
            "MODEL.FPN.NORM": norms[config.head_norm],
            "MODEL.ROI_BOX_HEAD.NUM_CONV": config.box_head_convs,
            "MODEL.ROI_BOX_HEAD.NUM_FC": config.box_head_layers,
            "MODEL.ROI_BOX_HEAD.NORM": norms[config.head_norm],
            "MODEL.ROI_MASK_HEAD.NORM": norms[config.head_norm],
        }
    for head in ("BOX", "MASK"):
        settings |= {
            f"MODEL.ROI_{head}_HEAD.POOLER_TYPE": pooler,
            f"MODEL.ROI_{head}_HEAD.POOLER_SAMPLING_RATIO": 0 if aligned else 2,
        }
    told = [f"{name} {value!r}" for name, value in settings.items()]
    if config.rpn_convs > 1:
        told.append(f"MODEL.RPN.CONV_DIMS {[-1] * config.rpn_convs}")
    if config.class_agnostic_boxes:
        told.append("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG True")
    if config.class_agnostic_masks:
        told.append("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK True")
    if config.numerics != "detectron2":
        told.append(f"its numbers will differ a little: it was trained with {config.numerics}'s")
    return told
