"""Measure a model: parameters, multiply-adds by part, CPU time and memory of a training step.

Also list the published checkpoints with the same layers; see benchmarks/models/table.py.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import multiprocessing
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import measure
from benchmarks.models.training import IMAGES, MrcnnStep, make_objects, mrcnn_targets
from benchmarks.models.twins import rescale
from mrcnn.checkpoints import PUBLISHED
from mrcnn.config import MODELS, ModelConfig
from mrcnn.models import build
from mrcnn.structures import ImageBatch

T = TypeVar("T")

CLASSES = 80  # of COCO
SIDE = 512  # of the images that are timed and trained on, pixels
REPEATS = 3
PARTS = ("backbone", "neck", "RPN", "box head", "mask head")

# From the metadata of torchvision's weights: parameters; 10^9 multiply-adds for noise resized to
# 800 x 800, with 1000 proposals; and the number of detections in that noise.
TORCHVISION = {
    "resnet50-fpn": (44_401_393, 134.38, 0),
    "resnet50-fpn-v2": (46_359_409, 333.577, 100),
}

# Published checkpoints for COCO by name, the model that has the same heads, the backbone, and
# whether its strides are in the 1 x 1 convolutions (in mrcnn: in the 3 x 3).
ARCHITECTURES = (
    ("torchvision/maskrcnn_resnet50_fpn", "resnet50-fpn", "resnet50", False),
    ("torchvision/maskrcnn_resnet50_fpn_v2", "resnet50-fpn-v2", "resnet50", False),
    ("detectron2/mask_rcnn_R_50_C4_?x", "resnet50-c4", "resnet50", True),
    ("detectron2/mask_rcnn_R_101_C4_?x", "resnet50-c4", "resnet101", True),
    ("detectron2/mask_rcnn_R_50_DC5_?x", "resnet50-dc5", "resnet50", True),
    ("detectron2/mask_rcnn_R_101_DC5_?x", "resnet50-dc5", "resnet101", True),
    ("detectron2/mask_rcnn_R_50_FPN_?x", "resnet50-fpn", "resnet50", True),
    ("detectron2/mask_rcnn_R_101_FPN_?x", "resnet50-fpn", "resnet101", True),
    ("detectron2/mask_rcnn_X_101_32x8d_FPN_?x", "resnet50-fpn", "resnext101_32x8d", False),
    ("detectron2/mask_rcnn_R_50_FPN_*ep_LSJ", "resnet50-fpn-v2", "resnet50", True),
    ("detectron2/mask_rcnn_R_101_FPN_*ep_LSJ", "resnet50-fpn-v2", "resnet101", True),
    ("mmdetection/mask_rcnn_r50_caffe_fpn_*", "resnet50-fpn", "resnet50", True),
    ("mmdetection/mask_rcnn_r50_fpn_*", "resnet50-fpn", "resnet50", False),
    ("mmdetection/mask_rcnn_r101_caffe_fpn_*", "resnet50-fpn", "resnet101", True),
    ("mmdetection/mask_rcnn_r101_fpn_*", "resnet50-fpn", "resnet101", False),
    ("mmdetection/mask_rcnn_x101_32x4d_fpn_*", "resnet50-fpn", "resnext101_32x4d", False),
    ("mmdetection/mask_rcnn_x101_64x4d_fpn_*", "resnet50-fpn", "resnext101_64x4d", False),
)
LAYERS = (  # the fields that determine a model's layers
    "backbone", "norm", "neck", "fpn_channels", "fpn_levels", "anchor_sizes", "anchor_ratios",
    "rpn_convs", "head_norm", "box_head_convs", "box_head_conv_width", "box_head_layers",
    "box_head_width", "class_agnostic_boxes", "masks", "mask_head_convs", "mask_head_width",
    "class_agnostic_masks",
)  # fmt: skip


def with_classes(config: ModelConfig, count: int, **changes: Any) -> ModelConfig:
    """Return the configuration with `count` classes and with changed fields."""
    names = tuple(f"class {i}" for i in range(count))
    return dataclasses.replace(config, class_names=names, **changes)


def count(config: ModelConfig, height: int, width: int) -> tuple[int, dict[str, float]]:
    """Count parameters, and 10^9 multiply-adds per image by part, on tensors without values.

    The heads take `post_nms_top_k` and `max_detections` RoIs.
    """
    with torch.device("meta"):
        model = build(config).eval()
        images = ImageBatch(torch.empty(1, 3, height, width), torch.empty(1, 2, dtype=torch.int64))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(images)
    counts = counter.get_flop_counts()

    def gflops_of(part: str) -> float:
        return (
            sum(counts.get(f"MaskRCNN.{part}", {}).values()) / 2e9
        )  # the counter counts 2 per multiply-add

    body = gflops_of("backbone.body")
    neck = gflops_of("backbone") - body
    heads = (gflops_of(part) for part in ("rpn", "box_head", "mask_head"))
    gflops = dict(zip(PARTS, (body, neck, *heads), strict=True))
    assert abs(sum(gflops.values()) - counter.get_total_flops() / 2e9) < 1e-6, gflops
    return sum(p.numel() for p in model.parameters()), gflops


@dataclass
class Comparison:
    """Counts of mrcnn, and what torchvision adds to them; the sums are the published counts."""

    parameters: int
    background: int  # parameters that predict deltas and masks of the background
    gflops: float
    background_gflops: float
    other_masks_gflops: float  # mask logits of classes that were not detected


def as_torchvision(name: str) -> Comparison:
    """Count a model of `TORCHVISION` under the conditions of the published counts.

    Its 91 outputs are 90 classes and the background, whose deltas and masks are never used.
    """
    detections, classes, proposals = TORCHVISION[name][2], 90, 1000
    config = with_classes(
        MODELS[name], classes, numerics="torchvision", post_nms_top_k=proposals,
        max_detections=detections,
    )  # fmt: skip
    parameters, gflops = count(config, 800, 800)
    box, mask = config.box_head_width, config.mask_head_width
    return Comparison(
        parameters,
        4 * (box + 1) + (mask + 1),
        sum(gflops.values()),
        proposals * 4 * box / 1e9,
        detections * 28 * 28 * mask * classes / 1e9,
    )


def checkpoints(config: ModelConfig) -> list[tuple[str, bool]]:
    """List the checkpoints in `PUBLISHED` with the layers of `config`.

    Returns:
        (name, whether its strides are in the 1 x 1 convolutions), False first, then by AP.
    """
    names = [
        (name, stride_in_1x1)
        for pattern, heads, backbone, stride_in_1x1 in ARCHITECTURES
        for name in fnmatch.filter(PUBLISHED, pattern)
        if all(
            getattr(config, field)
            == getattr(dataclasses.replace(MODELS[heads], backbone=backbone), field)
            for field in LAYERS
        )
    ]

    def order(item: tuple[str, bool]) -> tuple[bool, float, float]:
        published = PUBLISHED[item[0]]
        return item[1], -(published.box_ap or 0), -(published.mask_ap or 0)

    return sorted(names, key=order)


def alone(run: Callable[[ModelConfig], T], config: ModelConfig) -> T:
    """Return the result of `run` in a new process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(run, config).result()


def time_forward(config: ModelConfig) -> tuple[float, int]:
    """Time detection in one image, from pixels to masks of RoIs.

    Returns:
        The median in milliseconds, and the number of detections.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build(config).eval()
    pixels = torch.randn(1, 3, SIDE, SIDE)
    rescale(model, None, pixels)
    images = ImageBatch(pixels, torch.tensor([[SIDE, SIDE]]))
    with torch.inference_mode():
        detections = int(model(images).counts[0])
        timing = measure({"mrcnn": lambda: model(images)}, REPEATS)["mrcnn"]
    return 1e3 * timing.median, detections


def step_memory(config: ModelConfig) -> float:
    """Measure by how many GiB two training steps raise this process's peak resident memory.

    Two steps, because the first one's momenta are held in the second. A process inherits the peak
    of its parent, which must be lower than its own.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build(config)
    # A small image: memory allocated before the step is not counted as its own.
    rescale(model, None, torch.randn(1, 3, 128, 128), heads=False)
    boxes, labels, polygons = make_objects(SIDE, SIDE)
    targets = mrcnn_targets(boxes, labels % config.num_classes, polygons, SIDE, SIDE)
    step = MrcnnStep(model, torch.randn(IMAGES, 3, SIDE, SIDE), targets)
    before = _peak()
    for _ in range(2):
        step()
    return (_peak() - before) / 2**30


def _peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
