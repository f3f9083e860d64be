"""Tensors in files of other frameworks, and the configurations that belong to them."""

from pathlib import Path

from mrcnn.checkpoints import Checkpoint
from mrcnn.checkpoints.foreign.convert import import_state_dict
from mrcnn.config import ModelConfig
from tests.helpers import foreign_states

FILE = Path("theirs.pth")
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
ONES = (1.0, 1.0, 1.0)
SIZES_OF_ONE_LEVEL = ((32, 64, 128, 256, 512),)

# What each framework's models have where a case below says nothing else, by the configurations that
# its files are published with: Detectron2's Base-RCNN-FPN.yaml, maskrcnn-benchmark's defaults.py
# and e2e_mask_rcnn_R_50_FPN_1x.yaml, MMDetection's mask-rcnn_r50_fpn.py, torchvision's defaults.
COMMON = {
    "backbone": "resnet50",
    "norm": "frozen_batch",
    "norm_eps": 1e-5,
    "neck": "fpn",
    "fpn_levels": 4,
    "fpn_channels": 256,
    "anchor_sizes": (32, 64, 128, 256, 512),
    "anchor_ratios": (0.5, 1.0, 2.0),
    "rpn_convs": 1,
    "pre_nms_top_k": 1000,
    "post_nms_top_k": 1000,
    "training_post_nms_top_k": 1000,
    "head_norm": "none",
    "box_head_convs": 0,
    "box_head_layers": 2,
    "box_head_width": 1024,
    "class_agnostic_boxes": False,
    "masks": True,
    "mask_head_convs": 4,
    "mask_head_width": 256,
    "class_agnostic_masks": False,
    "score_threshold": 0.05,
    "nms_threshold": 0.5,
    "max_detections": 100,
    "min_size": 800,
    "max_size": 1333,
    "pixel_mean": IMAGENET_MEAN,
    "num_classes": 80,
}
HABITS = {
    "torchvision": {
        "numerics": "torchvision",
        "stride_in_1x1": False,
        "pixel_std": IMAGENET_STD,
        "training_post_nms_top_k": 2000,
        "num_classes": 90,
        "bgr": False,
    },
    "detectron2": {"numerics": "detectron2", "stride_in_1x1": True, "pixel_std": ONES, "bgr": True},
    "maskrcnn_benchmark": {
        "numerics": "maskrcnn_benchmark",
        "norm_eps": 0.0,
        "stride_in_1x1": True,
        "pixel_mean": (122.7717, 115.9465, 102.9801),
        "pixel_std": ONES,
        "bgr": True,
    },
    "mmdetection": {
        "numerics": "mmdetection",
        "stride_in_1x1": False,
        "pixel_std": IMAGENET_STD,
        "bgr": False,
    },
}
ONE_LEVEL = {  # Detectron2's Base-RCNN-C4.yaml, Base-RCNN-DilatedC5.yaml
    "anchor_sizes": SIZES_OF_ONE_LEVEL,
    "pre_nms_top_k": 6000,
    "training_post_nms_top_k": 2000,
}
FOUR_CONVS = {"box_head_convs": 4, "box_head_layers": 1}
GROUP = {"norm": "group", "head_norm": "group", "stride_in_1x1": False} | FOUR_CONVS
# configs/Misc/mask_rcnn_R_50_FPN_3x_syncbn.yaml
SYNC = {"norm": "batch", "head_norm": "batch"} | FOUR_CONVS
X101 = {"backbone": "resnext101_32x8d", "stride_in_1x1": False}
V2 = {"norm": "batch", "head_norm": "batch", "rpn_convs": 2} | FOUR_CONVS
D2_SYNC = {"head_kind": "live", "box_convs": 4, "box_layers": 1}
CAFFE = """
img_norm_cfg = dict(
    mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)
model = dict(backbone=dict(style='caffe'), bbox_coder=dict(target_means=[0., 0., 0., 0.]))
"""
OLD_CAFFE = CAFFE.replace("103.53, 116.28, 123.675", "102.9801,\n    115.9465, 122.7717")
PYTORCH = """
model = dict(
    data_preprocessor=dict(
        bgr_to_rgb=True,
        mean=[
            123.675,
            116.28,
            103.53,
        ],
        std=[
            58.395,
            57.12,
            57.375,
        ]),
    backbone=dict(style='pytorch'))
"""
FROM_CAFFE2 = """
data_preprocessor=dict(
    mean=[103.530, 116.280, 123.675], std=[57.375, 57.120, 58.395], bgr_to_rgb=False)
backbone=dict(type='ResNeXt', style='pytorch')
"""

# Name -> framework, arguments of its function in foreign_states, fields that differ from its habits
CASES = {
    "torchvision R50": ("torchvision", {}, {}),
    "torchvision live": ("torchvision", {"kind": "live"}, {"norm": "batch"}),
    "torchvision published": ("torchvision", {"published": True}, {"norm_eps": 0.0}),
    "torchvision v2": ("torchvision", {"kind": "live", "version": 2}, V2),
    "torchvision Faster R-CNN": ("torchvision", {"masks": False}, {"masks": False}),
    "torchvision Faster R-CNN published": (
        "torchvision",
        {"masks": False, "published": True},
        {"masks": False, "norm_eps": 0.0},
    ),
    "torchvision Faster R-CNN v2": (
        "torchvision",
        {"kind": "live", "version": 2, "masks": False},
        {"masks": False} | V2,
    ),
    "torchvision R18": ("torchvision", {"depth": 18}, {"backbone": "resnet18"}),
    "torchvision X101": ("torchvision", {"depth": "x101"}, {"backbone": "resnext101_32x8d"}),
    "torchvision one class": ("torchvision", {"outputs": 2}, {"num_classes": 1}),
    "detectron2 R50": ("detectron2", {}, {}),
    "detectron2 R101": ("detectron2", {"depth": 101}, {"backbone": "resnet101"}),
    "detectron2 X101": ("detectron2", {"depth": "x101"}, X101 | {"pixel_std": IMAGENET_STD}),
    "detectron2 C4": (
        "detectron2",
        {"neck": "c4"},
        ONE_LEVEL | {"neck": "c4", "box_head_layers": 0, "mask_head_convs": 0},
    ),
    "detectron2 C4 boxes only": (
        "detectron2",
        {"neck": "c4", "masks": False},
        ONE_LEVEL | {"neck": "c4", "box_head_layers": 0, "mask_head_convs": 0, "masks": False},
    ),
    "detectron2 DC5": ("detectron2", {"neck": "dc5"}, ONE_LEVEL | {"neck": "dc5"}),
    "detectron2 GN": (
        "detectron2",
        {"kind": "group", "head_kind": "group", "box_convs": 4, "box_layers": 1},
        GROUP,
    ),
    "detectron2 SyncBN": ("detectron2", {"kind": "live"} | D2_SYNC, SYNC),
    "detectron2 SyncBN without counters": (
        "detectron2",
        D2_SYNC | {"kind": "counterless", "head_kind": "counterless"},
        SYNC,
    ),
    # configs/new_baselines, with the strides of configs/common/models/mask_rcnn_fpn.py
    "detectron2 LSJ": (
        "detectron2",
        {"kind": "live", "rpn_convs": 2} | D2_SYNC,
        SYNC | {"stride_in_1x1": True, "rpn_convs": 2},
    ),
    "detectron2 four convolutions": ("detectron2", {"box_convs": 4, "box_layers": 1}, FOUR_CONVS),
    "detectron2 RPN of two": ("detectron2", {"rpn_convs": 2}, {"rpn_convs": 2}),
    "detectron2 class-agnostic": (
        "detectron2",
        {"agnostic_boxes": True, "agnostic_masks": True},
        {"class_agnostic_boxes": True, "class_agnostic_masks": True},
    ),
    "detectron2 class-agnostic boxes": (
        "detectron2",
        {"agnostic_boxes": True},
        {"class_agnostic_boxes": True},
    ),
    "detectron2 Faster R-CNN": ("detectron2", {"masks": False}, {"masks": False}),
    "detectron2 one class": ("detectron2", {"classes": 1}, {"num_classes": 1}),
    "detectron2 three classes": ("detectron2", {"classes": 3}, {"num_classes": 3}),
    "detectron2 LVIS": ("detectron2", {"classes": 1203}, {"num_classes": 1203}),
    "maskrcnn_benchmark R50": ("maskrcnn_benchmark", {}, {}),
    "maskrcnn_benchmark R101": ("maskrcnn_benchmark", {"depth": 101}, {"backbone": "resnet101"}),
    "maskrcnn_benchmark X101": ("maskrcnn_benchmark", {"depth": "x101"}, X101),
    "maskrcnn_benchmark boxes only": (
        "maskrcnn_benchmark",
        {"masks": False, "anchors": False},
        {"masks": False},
    ),
    "mmdetection R50": ("mmdetection", {}, {}),
    "mmdetection without counters": ("mmdetection", {"kind": "counterless"}, {}),
    "mmdetection R101": ("mmdetection", {"depth": 101}, {"backbone": "resnet101"}),
    "mmdetection X101": (
        "mmdetection",
        {"depth": "x101"},
        {"backbone": "resnext101_32x8d", "bgr": True},
    ),
    "mmdetection GN in the heads": (
        "mmdetection",
        {"head_kind": "group", "box_convs": 4},
        {"head_norm": "group"} | FOUR_CONVS,
    ),
    "mmdetection GN": (
        "mmdetection",
        {"kind": "group", "head_kind": "group", "box_convs": 4},
        GROUP,
    ),
    "mmdetection BN in the heads": (
        "mmdetection",
        {"head_kind": "live", "box_convs": 4},
        {"head_norm": "batch"} | FOUR_CONVS,
    ),
    "mmdetection Faster R-CNN": (
        "mmdetection",
        {"masks": False, "classes": 3},
        {"masks": False, "num_classes": 3},
    ),
}


def imported(shapes: foreign_states.Shapes, facts: dict | None = None, **assumed) -> Checkpoint:
    """Import a state dict without values."""
    return import_state_dict(FILE, foreign_states.without_values(shapes), facts or {}, assumed)


def shapes_of(case: str, **other: int) -> foreign_states.Shapes:
    framework, arguments, _ = CASES[case]
    return getattr(foreign_states, framework)(**arguments | other)


def fields_of(config: ModelConfig, names) -> dict:
    return {name: getattr(config, name) for name in names}
