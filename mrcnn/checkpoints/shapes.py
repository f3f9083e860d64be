"""What the shapes of a detector's tensors say of its configuration."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from mrcnn.checkpoints.naming import Fields, Layout
from mrcnn.config import ModelConfig
from mrcnn.errors import UserError
from mrcnn.models.resnet import RESNETS, Shape

PIXELS = "backbone.body.conv1.weight"
COUNTER = ".num_batches_tracked"  # of live batch norm; nothing depends on it


def fields_of_shapes(
    file: Path,
    framework: str,
    layout: Layout,
    theirs: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
) -> tuple[Fields, int]:
    """What the names and shapes of the tensors say of `ModelConfig`, and the number of classes.

    Args:
        file, framework: for messages.
        theirs: their names by ours.
        shapes: by our names.
    Raises:
        UserError: if a tensor that every detector has is absent or misshaped, or the backbone is
            not known.
    """

    def count(pattern: str) -> int:
        return _count(shapes, pattern)

    def need(name: str, dims: int) -> tuple[int, ...]:
        key = theirs.get(name)
        if key is None:
            example = layout.theirs(name, ModelConfig(class_names=("a",)))
            raise UserError(f"{file}: lacks {example}, which every detector of {framework} has")
        if len(shapes[name]) != dims or 0 in shapes[name]:
            raise UserError(
                f"{file}: {key} has shape {shapes[name]}, it must have {dims} dimensions, "
                "none of them empty"
            )
        return shapes[name]

    classes = need("box_head.class_logits.weight", 2)[0] - 1
    if classes < 1:
        raise UserError(
            f"{file}: {theirs['box_head.class_logits.weight']} has one row; "
            "it must have one for background and one for each class"
        )
    box_rows = need("box_head.deltas.weight", 2)[0]
    background = 1 if layout.background_first else 0
    conv5 = "box_head.pooler.conv5.0.conv1.weight" in theirs
    # Detectron2 alone has models of one level, and their backbones have names of their own.
    fpn = theirs.get(PIXELS) != "backbone.stem.conv1.weight"
    fields: Fields = {
        "backbone": _backbone(file, theirs, shapes, conv5),
        "norm": _norm("backbone.body.bn1", shapes),
        "neck": "fpn" if fpn else "c4" if conv5 else "dc5",
        "rpn_convs": count(r"rpn\.convs\.(\d+)\.weight"),
        "box_head_convs": count(r"box_head\.convs\.(\d+)\.weight"),
        "box_head_layers": count(r"box_head\.layers\.(\d+)\.weight"),
        "class_agnostic_boxes": box_rows == 4 * (1 + background) and classes > 1,
        "masks": any(name.startswith("mask_head.") for name in shapes),
    }
    if fpn:
        fields["fpn_channels"] = need("backbone.lateral.0.weight", 4)[0]
        fields["fpn_levels"] = count(r"backbone\.lateral\.(\d+)\.weight")
    else:
        fields["anchor_sizes"] = ((32, 64, 128, 256, 512),)
    if fields["box_head_convs"]:
        fields["box_head_conv_width"] = need("box_head.convs.0.weight", 4)[0]
    if fields["box_head_layers"]:
        fields["box_head_width"] = need("box_head.layers.0.weight", 2)[0]
    if fields["masks"]:
        fields["mask_head_convs"] = count(r"mask_head\.convs\.(\d+)\.weight")
        fields["mask_head_width"] = need("mask_head.upsample.weight", 4)[1]
        mask_rows = need("mask_head.mask_logits.weight", 4)[0]
        fields["class_agnostic_masks"] = mask_rows == 1 + background and classes > 1
    elif conv5:
        fields["mask_head_convs"] = 0
    norms = [name for name in shapes if re.fullmatch(r"(?!backbone\.body).*\.norm\.(.*)", name)]
    if norms:  # nobody freezes norms that are trained from scratch
        live = any(name.endswith(".running_mean") for name in norms)
        fields["head_norm"] = "batch" if live else "group"
    else:
        fields["head_norm"] = "none"
    return fields, classes


def _count(names: Iterable[str], pattern: str) -> int:
    """How many different numbers the first group of a pattern has in these names."""
    return len({match[1] for name in names if (match := re.match(pattern, name))})


def _norm(layer: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Of the backbone."""
    if f"{layer}.running_mean" not in shapes:
        return "group"
    return "batch" if layer + COUNTER in shapes else "frozen_batch"


def _backbone(
    file: Path, theirs: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], conv5: bool
) -> str:
    """The key of `RESNETS` that has these blocks, as wide as these."""

    def depth(stage: str) -> int:
        return _count(shapes, re.escape(stage) + r"\.(\d+)\.")

    last = "box_head.pooler.conv5" if conv5 else "backbone.body.layer4"
    depths = tuple(depth(s) for s in (*(f"backbone.body.layer{i}" for i in (1, 2, 3)), last))
    block = "backbone.body.layer1.0."
    shape = shapes.get(block + "conv2.weight", (0, 0, 0, 0))
    for name, known in RESNETS.items():
        wanted = (known.depths, known.bottleneck, _second_convolution(known))
        if wanted == (depths, block + "conv3.weight" in shapes, shape[:2]):
            return name
    where = theirs.get(block + "conv2.weight", block + "conv2.weight")
    raise UserError(
        f"{file}: its backbone has {depths} blocks in its four stages, and {where} has shape "
        f"{tuple(shape)}; that is none of {', '.join(RESNETS)}"
    )


def _second_convolution(shape: Shape) -> tuple[int, int]:
    """Channels out, and in a group in, of the second convolution of the first block."""
    width = shape.groups * shape.group_width if shape.bottleneck else 64
    return width, width // shape.groups
