"""Names and shapes of the tensors of other frameworks' detectors, by their published definitions.

Written from the modules of each framework alone, not from the tables of `mrcnn.checkpoints`, which
are tested against it. A list of shapes maps each name, in the order of the framework's own state
dict where that is known, to the shape of its tensor.
"""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]

# Blocks a stage, groups of the 3 x 3 convolutions and their channels a group in the first stage.
RESNETS = {
    18: ((2, 2, 2, 2), 1, 64),
    50: ((3, 4, 6, 3), 1, 64),
    101: ((3, 4, 23, 3), 1, 64),
    "x101": ((3, 4, 23, 3), 32, 8),
}


def with_values(shapes: Shapes) -> dict[str, Tensor]:
    """Tensors of values in [0, 1), of which those of two names differ."""
    pool = torch.rand(2**16, generator=torch.Generator().manual_seed(0))
    state = {}
    for name, shape in shapes.items():
        count = torch.Size(shape).numel()
        if "cell_anchors" in name:
            state[name] = cell_anchors(int(name[-1]), shape[0], name.startswith("rpn."))
            continue
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(zlib.crc32(name.encode()) % 1000 + 1)
            continue
        # Runs of 64 Ki values, each with a whole number of its own that float32 keeps apart.
        start = zlib.crc32(name.encode()) % len(pool)
        runs = torch.cat([pool[start:], pool[:start]])[None].expand(count // len(pool) + 1, -1)
        offsets = torch.arange(len(runs), dtype=torch.float32)[:, None]
        state[name] = ((runs + offsets).flatten()[:count] / len(runs)).view(shape).clone()
    return state


def cell_anchors(level: int, count: int, rounded: bool) -> Tensor:
    """Buffers of older files: 3 anchors per level, or 15 at stride 16.

    Args:
        rounded: by the definition of Detectron 1 (generate_anchors.py), which maskrcnn-benchmark
            uses: the sides of the ratios of a box of one stride are rounded, and boxes end at
            their last pixel. Else by that of Detectron2 (anchor_generator.py).
    """
    sizes = [32 << level] if count == 3 else [32, 64, 128, 256, 512]
    boxes = []
    for size in sizes:
        for ratio in (0.5, 1.0, 2.0):
            width = (size**2 / ratio) ** 0.5
            height, last, center = width * ratio, 0, 0.0
            if rounded:
                stride = 4 << level
                base = round((stride**2 / ratio) ** 0.5)
                width, height = (side * size / stride for side in (base, round(base * ratio)))
                last, center = 1, (stride - 1) / 2
            half = (width - last) / 2, (height - last) / 2
            boxes.append([center + sign * side for sign in (-1, 1) for side in half])
    return torch.tensor(boxes)


def without_values(shapes: Shapes) -> dict[str, Tensor]:
    """The same on the device meta, which takes no memory."""
    return {
        name: torch.empty(
            shape, device="meta", dtype=torch.int64 if "num_batches" in name else torch.float32
        )
        for name, shape in shapes.items()
    }


def layer(name: str, *shape: int, bias: bool = True) -> Shapes:
    """A convolution, transposed or not, or a fully connected layer."""
    # Biases are as many as the outputs, which come second for a transposed convolution of 2 x 2.
    outputs = shape[1] if shape[2:] == (2, 2) else shape[0]
    return {f"{name}.weight": shape} | ({f"{name}.bias": (outputs,)} if bias else {})


def norm(name: str, channels: int, kind: str) -> Shapes:
    """Tensors of a norm: "frozen" or "live" batch norm, "counterless", or "group" norm."""
    fields = ["weight", "bias"]
    if kind != "group":
        fields += ["running_mean", "running_var"]
    shapes: Shapes = {f"{name}.{field}": (channels,) for field in fields}
    return shapes | ({f"{name}.num_batches_tracked": ()} if kind == "live" else {})


def block_shapes(depth: int | str, stage: int, block: int) -> tuple[list[tuple[int, ...]], int]:
    """Weights of the convolutions of a block, and the channels that enter it."""
    _, groups, group_width = RESNETS[depth]
    if depth == 18:
        channels = 64 * 2**stage
        entering = channels if block else max(64, channels // 2)
        return [(channels, entering, 3, 3), (channels, channels, 3, 3)], entering
    channels = 256 * 2**stage
    entering = channels if block else (channels // 2 if stage else 64)
    width = groups * group_width * 2**stage
    return [
        (width, entering, 1, 1),
        (width, width // groups, 3, 3),
        (channels, width, 1, 1),
    ], entering


def resnet_stage(prefix: str, depth: int | str, stage: int, kind: str, norms: str) -> Shapes:
    """One of the stages 0 to 3.

    Args:
        norms: how norms are named, "bn" beside the convolutions, as torchvision does, "norm" within
            them, as Detectron2 does, or "gn".
    """
    shapes: Shapes = {}
    for i in range(RESNETS[depth][0][stage]):
        weights, entering = block_shapes(depth, stage, i)
        leaving = weights[-1][0]
        shortcut = "shortcut" if norms == "norm" else "downsample"
        if entering != leaving and norms == "norm":
            shapes |= layer(f"{prefix}.{i}.shortcut", leaving, entering, 1, 1, bias=False)
            shapes |= norm(f"{prefix}.{i}.shortcut.norm", leaving, kind)
        for k, weight in enumerate(weights, 1):
            shapes |= layer(f"{prefix}.{i}.conv{k}", *weight, bias=False)
            place = f"conv{k}.norm" if norms == "norm" else f"{norms}{k}"
            shapes |= norm(f"{prefix}.{i}.{place}", weight[0], kind)
        if entering != leaving and norms != "norm":
            shapes |= layer(f"{prefix}.{i}.{shortcut}.0", leaving, entering, 1, 1, bias=False)
            shapes |= norm(f"{prefix}.{i}.{shortcut}.1", leaving, kind)
    return shapes


def stage_channels(depth: int | str) -> list[int]:
    return [(64 if depth == 18 else 256) * 2**stage for stage in range(4)]


def torchvision(
    depth: int | str = 50,
    kind: str = "frozen",
    outputs: int = 91,
    *,
    version: int = 1,
    published: bool = False,
    masks: bool = True,
) -> Shapes:
    """`maskrcnn_resnet50_fpn` and its kin.

    Args:
        outputs: background among them.
        version: 2 has norms in FPN and heads, two convolutions in the RPN, four in the box head.
        published: under the names of torchvision 0.3, as in the files that are downloaded.
    """
    body = "backbone.body"
    shapes = layer(f"{body}.conv1", 64, 3, 7, 7, bias=False) | norm(f"{body}.bn1", 64, kind)
    for stage in range(4):
        shapes |= resnet_stage(f"{body}.layer{stage + 1}", depth, stage, kind, "bn")
    for group, kernel in (("inner_blocks", 1), ("layer_blocks", 3)):
        for i, channels in enumerate(stage_channels(depth)):
            entering = channels if kernel == 1 else 256
            name = f"backbone.fpn.{group}.{i}" + ("" if published else ".0")
            shapes |= layer(name, 256, entering, kernel, kernel, bias=version == 1)
            if version == 2:
                shapes |= norm(f"backbone.fpn.{group}.{i}.1", 256, "live")
    for i in range(version):
        shapes |= layer("rpn.head.conv" + ("" if published else f".{i}.0"), 256, 256, 3, 3)
    shapes |= layer("rpn.head.cls_logits", 3, 256, 1, 1)
    shapes |= layer("rpn.head.bbox_pred", 12, 256, 1, 1)
    heads = "roi_heads"
    if version == 1:
        shapes |= layer(f"{heads}.box_head.fc6", 1024, 256 * 7 * 7)
        shapes |= layer(f"{heads}.box_head.fc7", 1024, 1024)
    else:
        for i in range(4):
            shapes |= layer(f"{heads}.box_head.{i}.0", 256, 256, 3, 3, bias=False)
            shapes |= norm(f"{heads}.box_head.{i}.1", 256, "live")
        shapes |= layer(f"{heads}.box_head.5", 1024, 256 * 7 * 7)
    shapes |= layer(f"{heads}.box_predictor.cls_score", outputs, 1024)
    shapes |= layer(f"{heads}.box_predictor.bbox_pred", 4 * outputs, 1024)
    if not masks:
        return shapes
    for i in range(4):
        name = f"{heads}.mask_head." + (f"mask_fcn{i + 1}" if published else f"{i}.0")
        shapes |= layer(name, 256, 256, 3, 3, bias=version == 1)
        if version == 2:
            shapes |= norm(f"{heads}.mask_head.{i}.1", 256, "live")
    shapes |= layer(f"{heads}.mask_predictor.conv5_mask", 256, 256, 2, 2)
    return shapes | layer(f"{heads}.mask_predictor.mask_fcn_logits", outputs, 256, 1, 1)


def detectron2(
    depth: int | str = 50,
    kind: str = "frozen",
    classes: int = 80,
    *,
    neck: str = "fpn",
    head_kind: str = "none",
    rpn_convs: int = 1,
    box_convs: int = 0,
    box_layers: int = 2,
    agnostic_boxes: bool = False,
    agnostic_masks: bool = False,
    masks: bool = True,
    leftovers: bool = False,
) -> Shapes:
    """`GeneralizedRCNN` of ResNets: FPN, C4 or DC5.

    Args:
        head_kind: of the norms of FPN, box and mask head.
        leftovers: buffers of older versions.
    """
    shapes: Shapes = {}
    if leftovers:
        shapes |= {"pixel_mean": (3, 1, 1), "pixel_std": (3, 1, 1)}
    bare = head_kind == "none"
    channels = stage_channels(depth)
    if neck == "fpn":
        for i in range(4):
            for name, entering, kernel in (("lateral", channels[i], 1), ("output", 256, 3)):
                name = f"backbone.fpn_{name}{i + 2}"
                shapes |= layer(name, 256, entering, kernel, kernel, bias=bare)
                shapes |= {} if bare else norm(f"{name}.norm", 256, head_kind)
    body = "backbone.bottom_up" if neck == "fpn" else "backbone"
    shapes |= layer(f"{body}.stem.conv1", 64, 3, 7, 7, bias=False)
    shapes |= norm(f"{body}.stem.conv1.norm", 64, kind)
    for stage in range(3 if neck == "c4" else 4):
        shapes |= resnet_stage(f"{body}.res{stage + 2}", depth, stage, kind, "norm")
    width = {"fpn": 256, "c4": channels[2], "dc5": channels[3]}[neck]
    anchors = 3 if neck == "fpn" else 15
    if leftovers:
        for i in range(5 if neck == "fpn" else 1):
            name = f"proposal_generator.anchor_generator.cell_anchors.{i}"
            shapes |= {name: (anchors, 4)}
    head = "proposal_generator.rpn_head"
    for i in range(rpn_convs):
        shapes |= layer(f"{head}.conv" + (f".conv{i}" if rpn_convs > 1 else ""), width, width, 3, 3)
    shapes |= layer(f"{head}.objectness_logits", anchors, width, 1, 1)
    shapes |= layer(f"{head}.anchor_deltas", 4 * anchors, width, 1, 1)
    if neck == "c4":
        shapes |= resnet_stage("roi_heads.res5", depth, 3, kind, "norm")
        features = width = channels[3]
    else:
        channels_in = width
        for i in range(box_convs):
            name = f"roi_heads.box_head.conv{i + 1}"
            shapes |= layer(name, 256, channels_in, 3, 3, bias=bare)
            shapes |= {} if bare else norm(f"{name}.norm", 256, head_kind)
            channels_in = 256
        features = channels_in * 7 * 7
        for i in range(box_layers):
            shapes |= layer(f"roi_heads.box_head.fc{i + 1}", 1024, features)
            features = 1024
    boxes = 1 if agnostic_boxes else classes
    shapes |= layer("roi_heads.box_predictor.cls_score", classes + 1, features)
    shapes |= layer("roi_heads.box_predictor.bbox_pred", 4 * boxes, features)
    if not masks:
        return shapes
    for i in range(0 if neck == "c4" else 4):
        name = f"roi_heads.mask_head.mask_fcn{i + 1}"
        shapes |= layer(name, 256, width, 3, 3, bias=bare)
        shapes |= {} if bare else norm(f"{name}.norm", 256, head_kind)
        width = 256
    # A transposed convolution's weight has its inputs first.
    shapes |= layer("roi_heads.mask_head.deconv", width, 256, 2, 2)
    planes = 1 if agnostic_masks else classes
    return shapes | layer("roi_heads.mask_head.predictor", planes, 256, 1, 1)


def maskrcnn_benchmark(
    depth: int | str = 50, outputs: int = 81, *, masks: bool = True, anchors: bool = True
) -> Shapes:
    """FPN models; `anchors` are buffers that its files hold."""
    body = "backbone.body"
    shapes = layer(f"{body}.stem.conv1", 64, 3, 7, 7, bias=False)
    shapes |= norm(f"{body}.stem.bn1", 64, "frozen")
    for stage in range(4):
        shapes |= resnet_stage(f"{body}.layer{stage + 1}", depth, stage, "frozen", "bn")
    for i, channels in enumerate(stage_channels(depth), 1):
        shapes |= layer(f"backbone.fpn.fpn_inner{i}", 256, channels, 1, 1)
        shapes |= layer(f"backbone.fpn.fpn_layer{i}", 256, 256, 3, 3)
    if anchors:
        shapes |= {f"rpn.anchor_generator.cell_anchors.{i}": (3, 4) for i in range(5)}
    shapes |= layer("rpn.head.conv", 256, 256, 3, 3)
    shapes |= layer("rpn.head.cls_logits", 3, 256, 1, 1)
    shapes |= layer("rpn.head.bbox_pred", 12, 256, 1, 1)
    box, mask = "roi_heads.box", "roi_heads.mask"
    shapes |= layer(f"{box}.feature_extractor.fc6", 1024, 256 * 7 * 7)
    shapes |= layer(f"{box}.feature_extractor.fc7", 1024, 1024)
    shapes |= layer(f"{box}.predictor.cls_score", outputs, 1024)
    shapes |= layer(f"{box}.predictor.bbox_pred", 4 * outputs, 1024)
    if not masks:
        return shapes
    for i in range(4):
        shapes |= layer(f"{mask}.feature_extractor.mask_fcn{i + 1}", 256, 256, 3, 3)
    shapes |= layer(f"{mask}.predictor.conv5_mask", 256, 256, 2, 2)
    return shapes | layer(f"{mask}.predictor.mask_fcn_logits", outputs, 256, 1, 1)


def mmdetection(
    depth: int | str = 50,
    kind: str = "live",
    classes: int = 80,
    *,
    head_kind: str = "none",
    box_convs: int = 0,
    masks: bool = True,
) -> Shapes:
    """`MaskRCNN` of MMDetection 2 and 3; norms of its heads are named after their kind."""
    bare, norms = head_kind == "none", "gn" if kind == "group" else "bn"
    suffix = "gn" if head_kind == "group" else "bn"

    def module(name: str, *shape: int) -> Shapes:
        own = layer(f"{name}.conv", *shape, bias=bare)
        return own if bare else own | norm(f"{name}.{suffix}", shape[0], head_kind)

    shapes = layer("backbone.conv1", 64, 3, 7, 7, bias=False)
    shapes |= norm(f"backbone.{norms}1", 64, kind)
    for stage in range(4):
        shapes |= resnet_stage(f"backbone.layer{stage + 1}", depth, stage, kind, norms)
    for i, channels in enumerate(stage_channels(depth)):
        shapes |= module(f"neck.lateral_convs.{i}", 256, channels, 1, 1)
    for i in range(4):
        shapes |= module(f"neck.fpn_convs.{i}", 256, 256, 3, 3)
    shapes |= layer("rpn_head.rpn_conv", 256, 256, 3, 3)
    shapes |= layer("rpn_head.rpn_cls", 3, 256, 1, 1)
    shapes |= layer("rpn_head.rpn_reg", 12, 256, 1, 1)
    box, mask = "roi_head.bbox_head", "roi_head.mask_head"
    shapes |= layer(f"{box}.fc_cls", classes + 1, 1024)
    shapes |= layer(f"{box}.fc_reg", 4 * classes, 1024)
    for i in range(box_convs):
        shapes |= module(f"{box}.shared_convs.{i}", 256, 256, 3, 3)
    for i in range(1 if box_convs else 2):
        shapes |= layer(f"{box}.shared_fcs.{i}", 1024, 1024 if i else 256 * 7 * 7)
    if not masks:
        return shapes
    for i in range(4):
        shapes |= module(f"{mask}.convs.{i}", 256, 256, 3, 3)
    shapes |= layer(f"{mask}.upsample", 256, 256, 2, 2)
    return shapes | layer(f"{mask}.conv_logits", classes, 256, 1, 1)
