"""Inference of a detector's configuration from the names and shapes of its tensors."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from mrcnn.checkpoints.foreign.naming import Fields, Layout
from mrcnn.checkpoints.weights import COUNTER
from mrcnn.config import ModelConfig
from mrcnn.data.coco.names import COCO_NAMES
from mrcnn.errors import UserError
from mrcnn.models.anchors import make_cell_anchors
from mrcnn.models.backbones.resnet import RESNETS

PIXELS = "backbone.body.conv1.weight"  # the layer that reads the pixels


def infer_fields(
    file: Path, layout: Layout, sources: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> Fields:
    """Infer fields of `ModelConfig` from the source name and the shape of each mrcnn tensor.

    Raises:
        UserError: if a tensor that every detector has is missing or has a wrong shape, or the
            backbone is unknown.
    """

    def need(name: str, dims: int) -> tuple[int, ...]:
        source = sources.get(name)
        if source is None:
            example = layout.source_name(name, ModelConfig(class_names=("a",)))
            raise UserError(f"{file}: lacks {example}, which every detector of {layout.name} has")
        if len(shapes[name]) != dims or 0 in shapes[name]:
            raise UserError(
                f"{file}: {source} has shape {shapes[name]}; it must have {dims} dimensions, "
                "none of them empty"
            )
        return shapes[name]

    classes = need("box_head.class_logits.weight", 2)[0] - 1
    if classes < 1:
        raise UserError(
            f"{file}: {sources['box_head.class_logits.weight']} has one row; "
            "it must have one for background and one for each class"
        )
    box_rows = need("box_head.deltas.weight", 2)[0]
    background = 1 if layout.background_first else 0
    conv5 = "box_head.pooler.conv5.0.conv1.weight" in sources
    # Only Detectron2 has models of one level, and their backbones have different names.
    fpn = sources.get(PIXELS) != "backbone.stem.conv1.weight"
    levels = _count(shapes, r"backbone\.lateral\.(\d+)\.weight") or 4
    fields: Fields = {
        **_classes(classes),
        "backbone": _backbone(file, sources, shapes, conv5, levels),
        "norm": _backbone_norm(shapes),
        "neck": "fpn" if fpn else "c4" if conv5 else "dc5",
        "rpn_convs": _count(shapes, r"rpn\.convs\.(\d+)\.weight"),
        "box_head_convs": _count(shapes, r"box_head\.convs\.(\d+)\.weight"),
        "box_head_layers": _count(shapes, r"box_head\.layers\.(\d+)\.weight"),
        "class_agnostic_boxes": box_rows == 4 * (1 + background) and classes > 1,
        "masks": any(name.startswith("mask_head.") for name in shapes),
    }
    if fpn:
        fields["fpn_channels"] = need("backbone.lateral.0.weight", 4)[0]
        fields["fpn_levels"] = levels
    else:
        fields["anchor_sizes"] = ((32, 64, 128, 256, 512),)
    if fields["box_head_convs"]:
        fields["box_head_conv_width"] = need("box_head.convs.0.weight", 4)[0]
    if fields["box_head_layers"]:
        fields["box_head_width"], inputs = need("box_head.layers.0.weight", 2)
        deepest = RESNETS[fields["backbone"]].channels(3)
        channels: int = fields.get("box_head_conv_width") or fields.get("fpn_channels") or deepest
        if (bins := math.isqrt(inputs // channels)) ** 2 * channels == inputs:
            fields["box_bins"] = bins
    if fields["masks"]:
        fields["mask_head_convs"] = _count(shapes, r"mask_head\.convs\.(\d+)\.weight")
        fields["mask_head_width"] = need("mask_head.upsample.weight", 4)[1]
        mask_rows = need("mask_head.mask_logits.weight", 4)[0]
        fields["class_agnostic_masks"] = mask_rows == 1 + background and classes > 1
    elif conv5:
        fields["mask_head_convs"] = 0
    fields["head_norm"] = "none"
    norms = [name for name in shapes if re.fullmatch(r"(?!backbone\.body).*\.norm\.(.*)", name)]
    if norms:  # nobody freezes norms that are trained from scratch
        live = any(name.endswith(".running_mean") for name in norms)
        fields["head_norm"] = "batch" if live else "group"
    return fields


def infer_buffers(
    file: Path, state: Mapping[str, Tensor], config: ModelConfig, bgr: bool, given: Collection[str]
) -> Fields:
    """Return fields from the buffers of older files: pixel values and anchors.

    Args:
        file: for messages.
        state: tensors under source names.
        config: the configuration without them.
        bgr: whether pixels are BGR.
        given: fields that the user sets, which are not compared.

    Raises:
        UserError: if the anchors are not sizes times ratios.
    """
    fields: Fields = {}
    for name in ("pixel_mean", "pixel_std"):
        if name in state and state[name].numel() == 3:
            values = state[name].flatten()
            fields[name] = tuple((values.flip(0) if bgr else values).tolist())
    names = sorted(name for name in state if re.fullmatch(r".*\.cell_anchors\.\d", name))
    anchors = [state[name].float() for name in names]
    if not anchors or anchors[0].is_meta or {"anchor_sizes", "anchor_ratios"} & set(given):
        return fields
    if config.conventions.anchor_rounding == "none":  # otherwise they do not tell the ratios
        shapes = [(level[:, 2:] - level[:, :2]).double() for level in anchors]
        sizes = [sorted({round(size, 2) for size in s.prod(1).sqrt().tolist()}) for s in shapes]
        fields["anchor_sizes"] = tuple(s[0] if len(s) == 1 else tuple(s) for s in sizes)
        ratios = (shapes[0][:, 1] / shapes[0][:, 0]).tolist()
        fields["anchor_ratios"] = tuple(sorted({round(ratio, 3) for ratio in ratios}))
    # Boxes of maskrcnn-benchmark end at their last pixel; see `mrcnn.numerics`.
    last = 1 if config.conventions.last_pixel else 0
    try:
        derived = dataclasses.replace(config, **fields)
        strides = [4 << i for i in range(len(anchors))] if config.neck == "fpn" else [16]
        made = make_cell_anchors(
            derived.level_anchor_sizes, derived.anchor_ratios, strides, config.conventions
        )
        stored = torch.stack(anchors) + torch.tensor([0, 0, last, last])
        agree = made.shape == stored.shape and torch.allclose(made, stored, atol=0.1)
    except (ValueError, RuntimeError):
        agree = False
    if not agree:
        raise UserError(
            f"{file}: {names[0]} does not hold the anchors of sizes times ratios that were "
            "expected; give them, such as --set 'anchor_sizes=[32,64,128,256,512]'"
        )
    return fields


def check_anchors(file: Path, source: str, rows: int, config: ModelConfig) -> None:
    """Raise a UserError if the RPN does not predict one score for each anchor of a cell."""
    per_cell = len(config.level_anchor_sizes[0]) * len(config.anchor_ratios)
    if rows != per_cell:
        raise UserError(
            f"{file}: {source} scores {rows} anchors per cell, but anchor_sizes "
            f"{config.anchor_sizes} and anchor_ratios {config.anchor_ratios} make {per_cell}; give "
            "those it was trained with, such as --set 'anchor_ratios=[0.25,0.5,1,2]' or "
            "'anchor_sizes=[[32,40],[64,80],…]', one list per level"
        )


def _classes(count: int) -> Fields:
    """Return class names and ids: COCO's for 80 classes or 90 ids, otherwise numbers."""
    if count == len(COCO_NAMES):
        return {"class_names": tuple(COCO_NAMES.values()), "category_ids": tuple(COCO_NAMES)}
    ids = range(1, count + 1)
    names = [f"class {id}" for id in ids]
    if count == max(COCO_NAMES):
        names = [COCO_NAMES.get(id, f"unused {id}") for id in ids]
    return {"class_names": tuple(names), "category_ids": tuple(ids)}


def _count(names: Iterable[str], pattern: str) -> int:
    """Count the different numbers that the first group of a pattern has in these names."""
    return len({match[1] for name in names if (match := re.match(pattern, name))})


def _backbone_norm(shapes: Mapping[str, tuple[int, ...]]) -> str:
    if "backbone.body.bn1.running_mean" not in shapes:
        return "group"
    return "batch" if "backbone.body.bn1" + COUNTER in shapes else "frozen_batch"


def _backbone(
    file: Path,
    sources: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
    conv5: bool,
    stages: int,
) -> str:
    """Return the key of `RESNETS` with as many blocks in the first stages and the same width."""
    last = "box_head.pooler.conv5" if conv5 else "backbone.body.layer4"
    names = (*(f"backbone.body.layer{i}" for i in (1, 2, 3)), last)[:stages]
    depths = tuple(_count(shapes, re.escape(name) + r"\.(\d+)\.") for name in names)
    block = "backbone.body.layer1.0."
    shape = shapes.get(block + "conv2.weight", (0, 0, 0, 0))
    actual = (depths, block + "conv3.weight" in shapes, shape[:2])
    for name, known in RESNETS.items():
        width = known.groups * known.group_width if known.bottleneck else 64
        if actual == (known.depths[:stages], known.bottleneck, (width, width // known.groups)):
            return name
    source = sources.get(block + "conv2.weight", block + "conv2.weight")
    raise UserError(
        f"{file}: its backbone has {depths} blocks in its stages, and {source} has shape "
        f"{tuple(shape)}; that is none of {', '.join(RESNETS)}"
    )
