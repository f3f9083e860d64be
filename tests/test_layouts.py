"""Detectors of other frameworks: their tensors in ours and back, and what their files imply."""

import dataclasses
import pickle
import random
import re
from pathlib import Path

import foreign_states
import pytest
import torch
from foreign_states import with_values, without_values

import mrcnn
from mrcnn import checkpoints
from mrcnn.checkpoints.exchange import state_for, with_classes
from mrcnn.checkpoints.files import Checkpoint
from mrcnn.checkpoints.foreign import to_ours
from mrcnn.config import MODELS, ModelConfig
from mrcnn.data.coco_names import COCO_NAMES
from mrcnn.errors import UserError
from mrcnn.models import build

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
    "detectron2": {
        "numerics": "detectron2",
        "stride_in_1x1": True,
        "pixel_std": ONES,
        "bgr": True,
    },
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


def shapes_of(case: str, **other: int) -> foreign_states.Shapes:
    framework, arguments, _ = CASES[case]
    return getattr(foreign_states, framework)(**arguments | other)


def fields_of(config: ModelConfig, names) -> dict:
    return {name: getattr(config, name) for name in names}


# Tensors without a place: buffers that older or other programs keep, and counters of norms whose
# statistics stay fixed.
LEFTOVERS = re.compile(
    r"pixel_(mean|std)|(proposal_generator|rpn)\.anchor_generator\.cell_anchors\.\d"
    r"|backbone\..*num_batches_tracked"
)


@pytest.mark.parametrize("case", CASES)
def test_every_tensor_has_a_place(case):
    """And the configuration is the one that the framework publishes such files with."""
    framework, _, differing = CASES[case]
    expected = COMMON | HABITS[framework] | differing
    state = without_values(shapes_of(case))
    found = to_ours(FILE, state, {}, {})
    assert found.source["framework"] == framework
    assert found.source["bgr"] == expected.pop("bgr")
    assert fields_of(found.config, expected) == expected
    assert len(found.config.class_names) == len(found.config.category_ids)
    assert found.notes[0].startswith(f"theirs.pth: {framework}, {found.config.backbone}, ")
    assert f"{expected['num_classes']} classes" in found.notes[0]
    with torch.device("meta"):
        model = build(found.config)
    model.load_state_dict(found.state, strict=True, assign=True)
    left = {name for name in found.rest if not name.endswith("[background]")}
    assert all(LEFTOVERS.fullmatch(name) for name in left)
    assert uncounted(found.state) + uncounted(left) == uncounted(state)


def uncounted(names) -> int:
    """How many there are but counters, which may be added."""
    return sum(not name.endswith(".num_batches_tracked") for name in names)


@pytest.mark.parametrize("case", [*CASES, "detectron2 leftovers"])
def test_there_and_back(tmp_path, case):
    """Every tensor, bit for bit, under exactly the names of the framework."""
    if case == "detectron2 leftovers":
        state = with_values(small(foreign_states.detectron2(18, leftovers=True)))
    elif any(word in case for word in ("R101", "X101", "LVIS")):
        state = without_values(shapes_of(case))
    elif any(word in case for word in ("R50", "C4", "DC5")):
        state = with_values(small(shapes_of(case)))
    else:
        state = with_values(small(shapes_of(case, depth=18)))
    found = to_ours(FILE, state, {}, {})
    checkpoint = Checkpoint(found.state, found.config, {"source": found.source}, found.rest)
    if not next(iter(state.values())).is_meta:
        checkpoints.save(tmp_path / "ours.safetensors", *checkpoint)
        checkpoint = checkpoints.load(tmp_path / "ours.safetensors")
        assert checkpoint.config == found.config
    written, _ = state_for(found.source["framework"], checkpoint)
    if "published" in case:
        state = {modern_name(name): value for name, value in state.items()}
    assert sorted(written) == sorted(state)
    for name, value in state.items():
        assert (written[name].shape, written[name].dtype) == (value.shape, value.dtype)
        assert value.is_meta or torch.equal(written[name], value), name


def test_a_pickle_as_detectron2_publishes_them(tmp_path):
    state = with_values(foreign_states.detectron2(depth=18, classes=3))
    content = {"model": {k: v.numpy() for k, v in state.items()}, "__author__": "Detectron2 Zoo"}
    (tmp_path / "model_final.pkl").write_bytes(pickle.dumps(content, protocol=2))
    torch.save({"model": state, "iteration": 9}, tmp_path / "model_final.pth")
    found = [checkpoints.load(tmp_path / f"model_final.{suffix}") for suffix in ("pkl", "pth")]
    assert found[0].config == found[1].config
    assert found[0].config.numerics == "detectron2"
    told = mrcnn.load(tmp_path / "model_final.pth").notes
    assert "detectron2, resnet18, 4-level FPN, 3 classes" in told[0]
    assert "assumed: norm_eps 1e-05, stride_in_1x1 True" in told[1]
    for name, value in found[0].state.items():
        assert torch.equal(value, found[1].state[name]), name


def small(shapes: foreign_states.Shapes) -> foreign_states.Shapes:
    """The same with a narrow fully connected layer behind the pooled features."""
    narrow = re.compile(r"roi_heads?\.(box|bbox).*")
    return {
        name: tuple(16 if n == 1024 and narrow.fullmatch(name) else n for n in shape)
        for name, shape in shapes.items()
    }


def modern_name(name: str) -> str:
    """Of a tensor in a published file of torchvision, as its hooks rename them."""
    name = re.sub(r"(inner_blocks|layer_blocks)\.(\d)\.", r"\1.\2.0.", name)
    name = re.sub(r"rpn\.head\.conv\.", "rpn.head.conv.0.0.", name)
    return re.sub(
        r"mask_head\.mask_fcn(\d)", lambda match: f"mask_head.{int(match[1]) - 1}.0", name
    )


# Where single values go


def converted(framework: str, **arguments):
    """A small state of theirs beside the same as ours."""
    state = with_values(small(getattr(foreign_states, framework)(18, **arguments)))
    return state, to_ours(FILE, state, {}, {})


def test_pixels_are_turned_round():
    for framework in ("detectron2", "torchvision"):
        name = {
            "detectron2": "backbone.bottom_up.stem.conv1.weight",
            "torchvision": "backbone.body.conv1.weight",
        }[framework]
        state, found = converted(framework)
        ours = found.state["backbone.body.conv1.weight"]
        for channel in range(3):
            other = 2 - channel if framework == "detectron2" else channel
            assert torch.equal(ours[:, channel], state[name][:, other])
    flipped = to_ours(FILE, state, {}, {}, bgr=True).state["backbone.body.conv1.weight"]
    assert torch.equal(flipped, ours[:, [2, 1, 0]])


@pytest.mark.parametrize(
    ("framework", "name"),
    [
        ("torchvision", "roi_heads.box_head.fc6.weight"),
        ("detectron2", "roi_heads.box_head.fc1.weight"),
        ("maskrcnn_benchmark", "roi_heads.box.feature_extractor.fc6.weight"),
        ("mmdetection", "roi_head.bbox_head.shared_fcs.0.weight"),
    ],
)
def test_flattened_features_are_reordered(framework, name):
    state, found = converted(framework)
    ours, theirs = found.state["box_head.layers.0.weight"], state[name]
    for channel, row, column in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (200, 3, 5)):
        there = channel * 49 + row * 7 + column
        here = (row * 7 + column) * 256 + channel
        assert torch.equal(ours[:, here], theirs[:, there])


@pytest.mark.parametrize(
    ("framework", "names"),
    [
        ("torchvision", ("box_predictor.cls_score", "box_predictor.bbox_pred",
                         "mask_predictor.mask_fcn_logits")),
        ("maskrcnn_benchmark", ("box.predictor.cls_score", "box.predictor.bbox_pred",
                                "mask.predictor.mask_fcn_logits")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["weight", "bias"])
def test_background_moves_from_first_to_last(framework, names, kind):
    state, found = converted(framework, outputs=4)
    scores, boxes, masks = (state[f"roi_heads.{name}.{kind}"] for name in names)
    ours = found.state
    for label in range(3):
        assert torch.equal(ours[f"box_head.class_logits.{kind}"][label], scores[label + 1])
        assert torch.equal(ours[f"mask_head.mask_logits.{kind}"][label], masks[label + 1])
        for k in range(4):  # dx, dy, dw, dh
            mine = ours[f"box_head.deltas.{kind}"][4 * label + k]
            assert torch.equal(mine, boxes[4 * (label + 1) + k])
    assert torch.equal(ours[f"box_head.class_logits.{kind}"][3], scores[0])


def test_background_that_is_last_stays():
    state, found = converted("detectron2", classes=3)
    for ours, theirs in (
        ("box_head.class_logits", "roi_heads.box_predictor.cls_score"),
        ("box_head.deltas", "roi_heads.box_predictor.bbox_pred"),
        ("mask_head.mask_logits", "roi_heads.mask_head.predictor"),
    ):
        assert torch.equal(found.state[f"{ours}.weight"], state[f"{theirs}.weight"])


def test_numbers_in_names_shift():
    state, found = converted("detectron2", box_convs=4)
    for ours, theirs in (
        ("backbone.lateral.0.weight", "backbone.fpn_lateral2.weight"),
        ("backbone.lateral.3.bias", "backbone.fpn_lateral5.bias"),
        ("backbone.output.1.weight", "backbone.fpn_output3.weight"),
        ("backbone.body.layer1.0.conv1.weight", "backbone.bottom_up.res2.0.conv1.weight"),
        ("backbone.body.layer4.1.bn2.running_var",
         "backbone.bottom_up.res5.1.conv2.norm.running_var"),
        ("backbone.body.layer3.0.downsample.0.weight",
         "backbone.bottom_up.res4.0.shortcut.weight"),
        ("backbone.body.layer3.0.downsample.1.bias",
         "backbone.bottom_up.res4.0.shortcut.norm.bias"),
        ("backbone.body.bn1.running_mean", "backbone.bottom_up.stem.conv1.norm.running_mean"),
        ("box_head.convs.2.weight", "roi_heads.box_head.conv3.weight"),
        ("box_head.layers.1.bias", "roi_heads.box_head.fc2.bias"),
        ("mask_head.convs.3.bias", "roi_heads.mask_head.mask_fcn4.bias"),
        ("rpn.deltas.weight", "proposal_generator.rpn_head.anchor_deltas.weight"),
    ):  # fmt: skip
        assert torch.equal(found.state[ours], state[theirs])
    state, found = converted("maskrcnn_benchmark")
    for ours, theirs in (
        ("backbone.lateral.0.weight", "backbone.fpn.fpn_inner1.weight"),
        ("backbone.output.3.bias", "backbone.fpn.fpn_layer4.bias"),
        ("box_head.layers.1.weight", "roi_heads.box.feature_extractor.fc7.weight"),
        ("mask_head.convs.0.weight", "roi_heads.mask.feature_extractor.mask_fcn1.weight"),
    ):
        assert torch.equal(found.state[ours], state[theirs])
    state, found = converted("mmdetection")
    for ours, theirs in (
        ("backbone.lateral.2.weight", "neck.lateral_convs.2.conv.weight"),
        ("backbone.output.3.bias", "neck.fpn_convs.3.conv.bias"),
        ("mask_head.convs.1.weight", "roi_head.mask_head.convs.1.conv.weight"),
    ):
        assert torch.equal(found.state[ours], state[theirs])


def test_what_torchvision_builds():
    """The lists of names and shapes above, against the real modules."""
    pytest.importorskip("torchvision")
    from torchvision.models import detection
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    plain = {"weights": None, "weights_backbone": None}  # norms are live, then
    with torch.device("meta"):
        real = {
            "torchvision live": detection.maskrcnn_resnet50_fpn(**plain),
            "torchvision v2": detection.maskrcnn_resnet50_fpn_v2(**plain),
            "torchvision Faster R-CNN v2": detection.fasterrcnn_resnet50_fpn_v2(**plain),
        }
        for case, name in (("R18", "resnet18"), ("X101", "resnext101_32x8d")):
            body = resnet_fpn_backbone(backbone_name=name, weights=None)
            real[f"torchvision {case}"] = detection.MaskRCNN(body, 91)
    for case, model in real.items():
        shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        assert list(shapes.items()) == list(shapes_of(case).items())


# What lies beside the tensors


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({"config": CAFFE}, {"stride_in_1x1": True, "pixel_std": ONES, "bgr": True}),
        (
            {"config": OLD_CAFFE},
            {"stride_in_1x1": True, "pixel_std": ONES, "bgr": True,
             "pixel_mean": (122.7717, 115.9465, 102.9801)},
        ),
        ({"cfg": CAFFE}, {"stride_in_1x1": True, "pixel_std": ONES, "bgr": True}),
        ({"cfg": PYTORCH}, {}),
        ({"cfg": FROM_CAFFE2}, {"bgr": True}),
        ({"config": None}, {}),
        ({}, {}),
        ("text", {}),
    ],
)  # fmt: skip
def test_mmdetections_own_configuration(meta, expected):
    expected = COMMON | HABITS["mmdetection"] | {"num_classes": 80} | expected
    state = without_values(foreign_states.mmdetection())
    found = to_ours(FILE, state, {"meta": meta}, {})
    assert found.source["bgr"] == expected.pop("bgr")
    assert fields_of(found.config, expected) == expected


def test_class_names_beside_the_tensors():
    state = without_values(foreign_states.mmdetection(classes=2))
    for meta in ({"CLASSES": ("cat", "dog")}, {"dataset_meta": {"CLASSES": ["cat", "dog"]}},
                 {"dataset_meta": {"classes": ("cat", "dog")}}):  # fmt: skip
        config = to_ours(FILE, state, {"meta": meta}, {}).config
        assert config.class_names == ("cat", "dog")
        assert config.category_ids == (1, 2)
    config = to_ours(FILE, state, {"meta": {"CLASSES": ("cat",)}}, {}).config
    assert config.class_names == ("class 1", "class 2")
    eighty = without_values(foreign_states.mmdetection())
    named = tuple(f"plant {i}" for i in range(80))
    config = to_ours(FILE, eighty, {"meta": {"CLASSES": named}}, {}).config
    assert (config.class_names, config.category_ids) == (named, tuple(range(1, 81)))
    config = to_ours(FILE, eighty, {"meta": {"CLASSES": tuple(COCO_NAMES.values())}}, {}).config
    assert config.category_ids == tuple(COCO_NAMES)


def test_classes_of_coco():
    ninety = to_ours(FILE, without_values(foreign_states.torchvision()), {}, {}).config
    assert ninety.category_ids == tuple(range(1, 91))
    assert (ninety.class_names[0], ninety.class_names[89]) == ("person", "toothbrush")
    assert ninety.class_names[11] == "unused 12"
    eighty = to_ours(FILE, without_values(foreign_states.detectron2()), {}, {}).config
    assert eighty.category_ids == tuple(COCO_NAMES)
    assert eighty.class_names[79] == "toothbrush"
    few = to_ours(FILE, without_values(foreign_states.detectron2(classes=2)), {}, {}).config
    assert (few.class_names, few.category_ids) == (("class 1", "class 2"), (1, 2))


def test_pixel_values_of_older_files_of_detectron2():
    state = without_values(foreign_states.detectron2(leftovers=True))
    state["pixel_mean"] = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    state["pixel_std"] = torch.tensor([4.0, 5.0, 6.0]).view(3, 1, 1)
    found = to_ours(FILE, state, {}, {})
    assert found.config.pixel_mean == (3.0, 2.0, 1.0)
    assert found.config.pixel_std == (6.0, 5.0, 4.0)
    assert {"pixel_mean", "proposal_generator.anchor_generator.cell_anchors.4"} <= set(found.rest)


def test_assumptions_replace_what_is_inferred():
    state = without_values(foreign_states.detectron2(classes=2))
    names = ("cat", "dog")
    assumed = {"stride_in_1x1": False, "norm_eps": 1e-3, "class_names": names, "min_size": 400}
    found = to_ours(FILE, state, {}, assumed, bgr=False)
    assert fields_of(found.config, assumed) == assumed
    assert found.source["bgr"] is False
    assert "stride_in_1x1" not in found.notes[1]
    assert "norm_eps" not in found.notes[1]
    assert "pixels" not in found.notes[1]


# Other frameworks' files from ours, and of other classes


def as_checkpoint(found) -> Checkpoint:
    return Checkpoint(found.state, found.config, {"source": found.source}, found.rest)


def test_torchvisions_ids_to_detectron2_and_back():
    """By category id: 80 of 90 keep their weights, and ten are never found."""
    torchvision = with_values(foreign_states.torchvision(18))
    there, told = state_for("detectron2", as_checkpoint(to_ours(FILE, torchvision, {}, {})))
    assert "MODEL.ROI_HEADS.NUM_CLASSES 80" in told
    assert {name: tuple(value.shape) for name, value in there.items()} == (
        foreign_states.detectron2(18)
    )
    back, told = state_for("torchvision", as_checkpoint(to_ours(FILE, there, {}, {})))
    assert "num_classes=91" in told[0]
    head, other = "roi_heads.box_predictor", "roi_heads.mask_predictor.mask_fcn_logits"
    for kind in ("weight", "bias"):
        scores, boxes = (torchvision[f"{head}.{x}.{kind}"] for x in ("cls_score", "bbox_pred"))
        masks = torchvision[f"{other}.{kind}"]
        for j, id in enumerate(COCO_NAMES):
            assert torch.equal(there[f"{head}.cls_score.{kind}"][j], scores[id])
            assert torch.equal(
                there[f"{head}.bbox_pred.{kind}"][4 * j : 4 * j + 4], boxes[4 * id : 4 * id + 4]
            )
            assert torch.equal(there[f"roi_heads.mask_head.predictor.{kind}"][j], masks[id])
            assert torch.equal(back[f"{head}.cls_score.{kind}"][id], scores[id])
            assert torch.equal(back[f"{other}.{kind}"][id], masks[id])
        assert torch.equal(there[f"{head}.cls_score.{kind}"][80], scores[0])
        assert torch.equal(back[f"{head}.cls_score.{kind}"][0], scores[0])
        assert not back[f"{head}.bbox_pred.{kind}"][:4].any()  # of background
    unused = [id for id in range(1, 91) if id not in COCO_NAMES]
    features = torch.randn(1024, generator=torch.Generator().manual_seed(0))
    logits = back[f"{head}.cls_score.weight"] @ features + back[f"{head}.cls_score.bias"]
    assert (logits.softmax(0)[unused] == 0).all()
    for name, value in torchvision.items():
        if not re.search("cls_score|bbox_pred|mask_fcn_logits", name):
            assert torch.equal(back[name], value), name
    assert torch.equal(back["rpn.head.bbox_pred.weight"], torchvision["rpn.head.bbox_pred.weight"])


def test_class_agnostic_layers_have_no_classes_to_choose():
    state = without_values(foreign_states.detectron2(agnostic_boxes=True, agnostic_masks=True))
    found = to_ours(FILE, state, {}, {})
    changed, config = with_classes(found.state, found.config, range(1, 91))
    assert changed["box_head.deltas.weight"].shape[0] == 4
    assert changed["mask_head.mask_logits.weight"].shape[0] == 1
    assert changed["box_head.class_logits.weight"].shape[0] == 91
    assert config.num_classes == 90


def from_scratch(**fields) -> Checkpoint:
    """A model of ours, of random weights."""
    config = dataclasses.replace(
        MODELS["resnet18-fpn"], class_names=("cat", "dog"), category_ids=(3, 7), **fields
    )
    with torch.device("meta"):
        state = build(config).state_dict()
    return Checkpoint(state, config, {"step": 1}, {})


@pytest.mark.parametrize("framework", ["torchvision", "detectron2", "maskrcnn_benchmark",
                                       "mmdetection"])  # fmt: skip
def test_a_model_trained_from_scratch(framework):
    written, _ = state_for(framework, from_scratch())
    classes = {
        "torchvision": {"outputs": 3},
        "detectron2": {"classes": 2},
        "maskrcnn_benchmark": {"outputs": 3, "anchors": False},
        "mmdetection": {"classes": 2, "kind": "frozen"},
    }
    shapes = getattr(foreign_states, framework)(18, **classes[framework])
    assert {name: tuple(value.shape) for name, value in written.items()} == shapes


SMALL = {"fpn_levels": 3, "anchor_sizes": (16, 32, 64, 128), "min_size": 256, "max_size": 448}


def test_settings_for_torchvision():
    _, told = state_for("torchvision", from_scratch(**SMALL, max_detections=7, rpn_convs=2))
    assert told == [
        "MaskRCNN(resnet_fpn_backbone(backbone_name='resnet18', weights=None, "
        "returned_layers=[1, 2, 3]), num_classes=3)",
        "rpn_head=RPNHead(256, 3, conv_depth=2)",
        "rpn_anchor_generator=AnchorGenerator(((16,), (32,), (64,), (128,)), "
        "((0.5, 1.0, 2.0),) * 4)",
        "min_size=256",
        "max_size=448",
        "box_detections_per_img=7",
        "its numbers will differ a little: it was trained with detectron2's",
    ]
    found = to_ours(FILE, without_values(foreign_states.detectron2(101)), {}, {"norm_eps": 0.01})
    _, told = state_for("torchvision", as_checkpoint(found))
    assert "resnet_fpn_backbone(backbone_name='resnet101', weights=None), num_classes=91" in told[0]
    assert "image_mean=[0.485, 0.456, 0.406], image_std=[0.003922, 0.003922, 0.003922]" in told
    assert any("overwrite_eps(model, 0.01)" in line for line in told)
    assert any("conv1.stride = (2, 2); conv2.stride = (1, 1)" in line for line in told)


def test_settings_for_detectron2():
    _, told = state_for("detectron2", from_scratch(**SMALL, fpn_channels=64, scale=2.0))
    for line in (
        "configs/Base-RCNN-FPN.yaml",
        "MODEL.RESNETS.DEPTH 18",
        "MODEL.RESNETS.RES2_OUT_CHANNELS 64",
        "MODEL.RESNETS.NORM 'FrozenBN'",
        "MODEL.FPN.IN_FEATURES ['res2', 'res3', 'res4']",
        "MODEL.RPN.IN_FEATURES ['p2', 'p3', 'p4', 'p5']",
        "MODEL.ROI_HEADS.IN_FEATURES ['p2', 'p3', 'p4']",
        "MODEL.ANCHOR_GENERATOR.SIZES [[16], [32], [64], [128]]",
        "MODEL.FPN.OUT_CHANNELS 64",
        "INPUT.MIN_SIZE_TEST 256",
        "MODEL.ROI_HEADS.NUM_CLASSES 2",
        "images that were resized by 2, not to a size",
    ):
        assert line in told
    cases = {
        "detectron2 X101": ("MODEL.RESNETS.NUM_GROUPS 32", "MODEL.RESNETS.WIDTH_PER_GROUP 8",
                            "MODEL.RESNETS.STRIDE_IN_1X1 False",
                            "MODEL.PIXEL_STD [57.375, 57.12, 58.395]", "INPUT.FORMAT 'BGR'"),
        "detectron2 C4": ("configs/Base-RCNN-C4.yaml", "MODEL.RESNETS.DEPTH 50"),
        "detectron2 DC5": ("configs/Base-RCNN-DilatedC5.yaml", "MODEL.ROI_BOX_HEAD.NUM_FC 2"),
        "detectron2 GN": ("MODEL.FPN.NORM 'GN'", "MODEL.ROI_BOX_HEAD.NUM_CONV 4"),
        "detectron2 LSJ": ("MODEL.RPN.CONV_DIMS [-1, -1]", "MODEL.RESNETS.NORM 'SyncBN'"),
        "detectron2 class-agnostic": ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG True",
                                      "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK True"),
        "torchvision R50": ("INPUT.FORMAT 'BGR'", "MODEL.ROI_BOX_HEAD.POOLER_TYPE 'ROIAlign'",
                            "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO 2"),
    }  # fmt: skip
    for case, lines in cases.items():
        found = to_ours(FILE, without_values(shapes_of(case)), {}, {})
        _, told = state_for("detectron2", as_checkpoint(found))
        assert set(lines) <= set(told)
        assert not any(line.startswith(("INPUT.MIN_SIZE", "MODEL.RPN.PRE")) for line in told)


@pytest.mark.parametrize(
    ("framework", "case", "words"),
    [
        ("torchvision", "detectron2 C4", "a neck other than FPN"),
        ("torchvision", "detectron2 class-agnostic boxes", "class-agnostic boxes or masks"),
        ("torchvision", "detectron2 GN", "group norm in the backbone"),
        ("torchvision", "mmdetection GN in the heads", "group norm in FPN and heads"),
        ("torchvision", "detectron2 SyncBN", "batch norm in FPN and heads, but for its second"),
        ("torchvision", {"box_head_convs": 2}, "a box head of 2 convolutions and 2 layers"),
        ("torchvision", {"mask_head_convs": 3}, "a mask head of 3 convolutions"),
        ("torchvision", {"fpn_channels": 64}, "64 channels in FPN, 1024 in the box and 256 in the"),
        ("torchvision", {"norm": "group_of_8"}, "group_of_8 norm in the backbone"),
        ("torchvision", {"roi_op": "pool"}, "roi_op 'pool'"),
        ("torchvision", {"fpn_top": "conv"}, "torchvision has no layer for backbone.top"),
        ("detectron2", {"box_bins": 5}, "box_bins 5"),
        ("detectron2", {"neck": "single", "anchor_sizes": ((32,),)}, "neck 'single'"),
        ("detectron2", {"norm": "group_of_8"}, "group_of_8 norm"),
        ("maskrcnn_benchmark", "detectron2 GN", "maskrcnn_benchmark has no layer for .*norm"),
        ("maskrcnn_benchmark", "detectron2 four convolutions", "has no layer for box_head.convs.0"),
        ("mmdetection", "detectron2 C4", "mmdetection has no layer for box_head.pooler.conv5"),
    ],
)
def test_models_that_a_framework_cannot_have(framework, case, words):
    if isinstance(case, dict):
        checkpoint = from_scratch(**case)
    else:
        checkpoint = as_checkpoint(to_ours(FILE, without_values(shapes_of(case)), {}, {}))
    with pytest.raises(UserError, match=f"convert --to {framework}: .*{words}"):
        state_for(framework, checkpoint)


# Files that are damaged, or hold something else


def without(pattern: str):
    return lambda state: {k: v for k, v in state.items() if not re.search(pattern, k)}


def with_shape(name: str, *shape: int, dtype: torch.dtype = torch.float32):
    return lambda state: state | {name: torch.zeros(shape, dtype=dtype)}


def renamed(pattern: str, replacement: str):
    return lambda state: {re.sub(pattern, replacement, k): v for k, v in state.items()}


D2_SCORES = "roi_heads.box_predictor.cls_score"
D2_BOXES = "roi_heads.box_predictor.bbox_pred"
D2_MASKS = "roi_heads.mask_head.predictor"
D2_BODY = "backbone.bottom_up"

# Framework and damage -> words of the message.
MALFORMED = {
    ("detectron2", "no stem"): (
        without(r"stem\.conv1\.weight"), r"holds no detector that is known \(torchvision, "),
    ("detectron2", "no norm of the stem"): (
        without(r"stem.*running_var"),
        r"lacks backbone\.bottom_up\.stem\.conv1\.norm\.running_var, \(64,\); is the file whole"),
    ("detectron2", "no convolution of a block"): (
        without(r"res4\.1\.conv2\.weight"),
        r"lacks backbone\.bottom_up\.res4\.1\.conv2\.weight, \(256, 256, 3, 3\)"),
    ("detectron2", "no first convolution to know the backbone by"): (
        without(r"res2\.0\.conv2\.weight"), r"has shape \(0, 0, 0, 0\); that is none of resnet18"),
    ("detectron2", "no lateral connection"): (
        without(r"fpn_lateral3\.bias"), r"lacks backbone\.fpn_lateral3\.bias, \(256,\)"),
    ("detectron2", "no head"): (
        without("cls_score"), r"lacks roi_heads\.box_predictor\.cls_score\.weight, which every"),
    ("detectron2", "no boxes"): (
        without(r"box_predictor\.bbox_pred"), r"lacks .*bbox_pred\.weight, which every detector"),
    ("detectron2", "half a mask head"): (
        without(r"mask_head\.deconv"), r"lacks roi_heads\.mask_head\.deconv\.weight, which every"),
    ("detectron2", "no mask convolution"): (
        without(r"mask_fcn2"), r"lacks .*mask_fcn\d\.(weight|bias)|mask_fcn4.* is no tensor"),
    ("detectron2", "no RPN"): (
        without("proposal_generator"), r"lacks proposal_generator\.rpn_head\.objectness_logits"),
    ("detectron2", "a misshaped convolution"): (
        with_shape(f"{D2_BODY}.res3.0.conv1.weight", 100, 256, 1, 1),
        r"res3\.0\.conv1\.weight has shape \(100, 256, 1, 1\), that of .* \(128, 256, 1, 1\)"),
    ("detectron2", "a misshaped bias"): (
        with_shape("proposal_generator.rpn_head.anchor_deltas.bias", 3),
        r"anchor_deltas\.bias has shape \(3,\), .* is \(12,\)"),
    ("detectron2", "a flattened layer of another size"): (
        with_shape("roi_heads.box_head.fc1.weight", 1024, 256 * 49 + 1),
        r"fc1\.weight has shape \(1024, 12545\), .* is \(1024, 12544\)"),
    ("detectron2", "grey pixels"): (
        with_shape(f"{D2_BODY}.stem.conv1.weight", 64, 1, 7, 7),
        r"stem\.conv1\.weight has shape \(64, 1, 7, 7\), .* is \(64, 3, 7, 7\)"),
    ("detectron2", "a flat first convolution"): (
        with_shape(f"{D2_BODY}.stem.conv1.weight", 64, 147),
        r"stem\.conv1\.weight has shape \(64, 147\), .* is \(64, 3, 7, 7\)"),
    ("detectron2", "a scalar"): (
        with_shape(f"{D2_BODY}.res2.0.conv1.norm.bias"), r"bias has shape \(\), .* is \(64,\)"),
    ("detectron2", "a flat class layer"): (
        with_shape(f"{D2_SCORES}.weight", 81), r"shape \(81,\), it must have 2 dimensions"),
    ("detectron2", "an empty class layer"): (
        with_shape(f"{D2_SCORES}.weight", 0, 1024), "none of them empty"),
    ("detectron2", "background alone"): (
        with_shape(f"{D2_SCORES}.weight", 1, 1024), "one for background and one for each class"),
    ("detectron2", "no channels"): (
        with_shape("backbone.fpn_lateral2.weight", 0, 256, 1, 1), "none of them empty"),
    ("detectron2", "an empty bias"): (
        with_shape("backbone.fpn_lateral2.bias", 0), r"bias has shape \(0,\), .* is \(256,\)"),
    ("detectron2", "integers"): (
        with_shape("backbone.fpn_lateral2.bias", 256, dtype=torch.int32),
        "fpn_lateral2.bias holds int32, weights must be dense and of float32, float16, "),
    ("detectron2", "complex numbers"): (
        with_shape("backbone.fpn_lateral2.bias", 256, dtype=torch.complex64),
        "fpn_lateral2.bias holds complex64, weights must be dense"),
    ("detectron2", "eight bits"): (
        with_shape("backbone.fpn_lateral2.bias", 256, dtype=torch.float8_e4m3fn),
        "fpn_lateral2.bias holds float8_e4m3fn, weights must be dense"),
    ("detectron2", "sparse weights"): (
        lambda state: state | {f"{D2_SCORES}.weight": torch.zeros(81, 1024).to_sparse()},
        "cls_score.weight holds sparse_coo, weights must be dense"),
    ("detectron2", "pixels without a spread"): (
        with_shape("pixel_std", 3), r"pixel_std must be more than 0 each, got \(0\.0, 0\.0, "),
    ("detectron2", "complex pixel values"): (
        with_shape("pixel_mean", 3, dtype=torch.complex64), "pixel_mean holds complex64"),
    ("detectron2", "boxes of fewer classes"): (
        with_shape(f"{D2_BOXES}.weight", 4 * 79, 1024),
        r"bbox_pred\.weight has shape \(316, 1024\), .* 80 classes is \(320, 1024\)"),
    ("detectron2", "masks of more classes"): (
        with_shape(f"{D2_MASKS}.weight", 81, 256, 1, 1),
        r"predictor\.weight has shape \(81, 256, 1, 1\), .* 80 classes is \(80, 256, 1, 1\)"),
    ("detectron2", "a bias of fewer classes"): (
        with_shape(f"{D2_SCORES}.bias", 80), r"cls_score\.bias has shape \(80,\), .* is \(81,\)"),
    ("detectron2", "one block more"): (
        renamed(r"res3\.3\.", "res3.17."), r"lacks .*res3\.3\."),
    ("detectron2", "one block less"): (
        without(r"res3\.3\."), r"has \(3, 3, 6, 3\) blocks in its four .* none of resnet18"),
    ("detectron2", "no last stage"): (without(r"\.res5\."), r"has \(3, 4, 6, 0\) blocks"),
    ("detectron2", "a pyramid of three levels"): (
        without("fpn_(lateral|output)5"), "anchor_sizes must hold 4 sizes"),
    ("detectron2", "a Keypoint R-CNN"): (
        with_shape("roi_heads.keypoint_head.conv_fcn1.weight", 512, 256, 3, 3),
        r"keypoint_head\.conv_fcn1\.weight is a tensor of a Keypoint R-CNN; of detectors, Mask R-"),
    ("detectron2", "a Cascade R-CNN"): (
        renamed(r"box_(head|predictor)\.", r"box_\1.0."), "a tensor of a Cascade R-CNN"),
    ("detectron2", "a panoptic model"): (
        with_shape("sem_seg_head.p2.0.weight", 128, 256, 3, 3), "a tensor of a panoptic model"),
    ("detectron2", "PointRend"): (
        with_shape("roi_heads.mask_head.point_head.fc1.weight", 256, 336, 1), "of PointRend"),
    ("detectron2", "deformable convolutions"): (
        with_shape(f"{D2_BODY}.res3.0.conv2_offset.weight", 18, 128, 3, 3), "deformable"),
    ("detectron2", "a RetinaNet"): (
        lambda state: without("roi_heads|proposal")(state) | {"head.cls_subnet.0.weight": state[
            "backbone.fpn_output3.weight"]}, "head.cls_subnet.0.weight is a tensor of a RetinaNet"),
    ("detectron2", "an unknown head"): (
        with_shape("roi_heads.depth_head.weight", 3, 3),
        r"depth_head\.weight, \(3, 3\), is no tensor of the Mask R-CNNs of detectron2"),
    ("detectron2", "a third norm"): (
        with_shape("backbone.fpn_lateral2.norm.weight", 256), r"lacks backbone\.fpn_.*norm"),
    ("torchvision", "two names of one tensor"): (
        lambda state: state | {"rpn.head.conv.weight": state["rpn.head.conv.0.0.weight"]},
        r"conv\.0\.0\.weight and rpn\.head\.conv\.weight are the same tensor; remove one"),
    ("torchvision", "half published names"): (
        with_shape("backbone.fpn.inner_blocks.2.weight", 256, 1024, 1, 1),
        r"inner_blocks\.2\.0\.weight and .*inner_blocks\.2\.weight are the same tensor"),
    ("torchvision", "no pyramid"): (
        without("fpn"), r"lacks backbone\.fpn\.inner_blocks\.0\.0\.weight, which every detector"),
    ("detectron2", "no pyramid"): (
        without(r"\.fpn_"), r"lacks backbone\.fpn_lateral2\.weight, which every detector"),
    ("torchvision", "tensors of another framework"): (
        lambda state: state | {"roi_head.bbox_head.fc_cls.weight": torch.zeros(81, 1024)},
        r"fc_cls\.weight, \(81, 1024\), is no tensor of the Mask R-CNNs of torchvision"),
    ("torchvision", "a Keypoint R-CNN"): (
        with_shape("roi_heads.keypoint_predictor.kps_score_lowres.bias", 17), "a Keypoint R-CNN"),
    ("torchvision", "a RetinaNet"): (
        lambda state: without("roi_heads|rpn")(state)
        | {"head.classification_head.cls_logits.bias": torch.zeros(9)}, "a RetinaNet"),
    ("torchvision", "a backbone alone"): (
        without("roi_heads|rpn"), r"lacks roi_heads\.box_predictor\.cls_score\.weight"),
    ("maskrcnn_benchmark", "C4"): (
        with_shape("roi_heads.box.feature_extractor.head.layer4.0.conv1.weight", 512, 1024, 1, 1),
        "a tensor of a C4 model of maskrcnn-benchmark"),
    ("maskrcnn_benchmark", "a Keypoint R-CNN"): (
        with_shape("roi_heads.keypoint.predictor.kps_score_lowres.bias", 17), "a Keypoint R-CNN"),
    ("maskrcnn_benchmark", "a RetinaNet"): (
        with_shape("rpn.head.cls_tower.0.weight", 256, 256, 3, 3), "a RetinaNet"),
    ("maskrcnn_benchmark", "norms in the pyramid"): (
        with_shape("backbone.fpn.fpn_inner1.1.weight", 256), "is no tensor of the Mask R-CNNs of"),
    ("mmdetection", "a Cascade R-CNN"): (
        renamed(r"roi_head\.bbox_head\.", "roi_head.bbox_head.1."), "a Cascade R-CNN"),
    ("mmdetection", "HTC"): (
        with_shape("roi_head.semantic_head.conv_logits.bias", 183), "a panoptic model"),
    ("mmdetection", "a RetinaNet"): (
        with_shape("bbox_head.retina_cls.weight", 720, 256, 3, 3), "a tensor of a RetinaNet"),
    ("mmdetection", "version 1"): (
        renamed(r"roi_head\.", ""), r"lacks roi_head\.bbox_head\.fc_cls\.weight, which every"),
    ("mmdetection", "norms of two kinds"): (
        with_shape("neck.fpn_convs.0.gn.weight", 256), r"lacks neck\.|has shape|is no tensor"),
}  # fmt: skip


@pytest.mark.parametrize(("framework", "damage"), MALFORMED)
def test_malformed(framework, damage):
    change, words = MALFORMED[framework, damage]
    state = change(without_values(getattr(foreign_states, framework)()))
    with pytest.raises(UserError, match=words) as caught:
        to_ours(FILE, state, {}, {})
    assert str(caught.value).startswith("theirs.pth: ")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.weight": torch.zeros(1000, 512)},
         "fc.weight is a tensor of a classification network.* mrcnn train --weights"),
        ({"backbone.layer1.0.conv1.weight": torch.zeros(1), "head.fc.weight": torch.zeros(1)},
         "a classification network"),
        ({"transformer.encoder.layers.0.linear1.weight": torch.zeros(1),
          "class_embed.weight": torch.zeros(92, 256)}, "is a tensor of DETR"),
        ({"backbone.conv1.weight": torch.zeros(1), "decoder.layers.0.norms.0.bias": torch.zeros(1)},
         "is a tensor of DETR"),
        ({"model.0.conv.weight": torch.zeros(1)},
         "holds no detector that is known .*; its names begin with model.0.conv.weight"),
        ({}, "holds no detector that is known"),
    ],
)  # fmt: skip
def test_other_networks(tmp_path, state, words):
    torch.save(state, tmp_path / "theirs.pth")
    with pytest.raises(UserError, match=words) as caught:
        checkpoints.load(tmp_path / "theirs.pth")
    assert str(caught.value).startswith(f"{tmp_path / 'theirs.pth'}: ")


def test_an_optimizer_is_no_detector(tmp_path):
    layer = torch.nn.Linear(2, 2)
    torch.save(torch.optim.SGD(layer.parameters(), 0.1).state_dict(), tmp_path / "theirs.pth")
    with pytest.raises(UserError, match=r"theirs\.pth: "):
        checkpoints.load(tmp_path / "theirs.pth")


@pytest.mark.parametrize("rounds", [8, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("framework", "arguments"),
    [("torchvision", {}), ("torchvision", {"version": 2, "kind": "live"}), ("detectron2", {}),
     ("detectron2", {"neck": "c4", "leftovers": True}), ("maskrcnn_benchmark", {}),
     ("mmdetection", {"head_kind": "group", "box_convs": 4})],
)  # fmt: skip
def test_random_damage(framework, arguments, rounds):
    """A complete model or one message, whatever is dropped, renamed, reshaped or exchanged."""
    shapes = getattr(foreign_states, framework)(**arguments)
    rng, refusals = random.Random(rounds), []
    for _ in range(rounds):
        state = damaged(without_values(shapes), rng)
        try:
            found = to_ours(FILE, state, {}, {})
        except UserError as error:
            refusals.append(str(error))
            continue
        with torch.device("meta"):
            build(found.config).load_state_dict(found.state, strict=True, assign=True)
    assert refusals
    assert all(text.startswith("theirs.pth: ") for text in refusals)


def damaged(state: dict[str, torch.Tensor], rng: random.Random) -> dict[str, torch.Tensor]:
    """One to three changes of single tensors."""
    if "pixel_mean" in state:
        state |= {"pixel_mean": torch.rand(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}
    for _ in range(rng.randint(1, 3)):
        name, other = rng.sample(sorted(state), 2)
        value = state[name]
        change = rng.choice(["drop", "rename", "reshape", "resize", "exchange", "retype", "whole"])
        if change == "drop":
            del state[name]
        elif change == "rename":
            part = rng.choice(name.split("."))
            new = {"weight": "bias", "bias": "weight"}.get(part, str(rng.randint(0, 9)))
            state[name.replace(part, new, 1)] = state.pop(name)
        elif change == "reshape":
            state[name] = value.flatten() if rng.random() < 0.5 else value[None]
        elif change == "resize":
            shape = [max(n + rng.randint(-n, 2), 0) for n in value.shape]
            state[name] = torch.empty(shape, device="meta")
        elif change == "exchange":
            state[name], state[other] = state[other], state[name]
        elif change == "retype":
            state[name] = value.to(rng.choice([torch.int64, torch.bool, torch.float64]))
        else:
            layer = name.rpartition(".")[0]
            state = {k: v for k, v in state.items() if not k.startswith(layer)}
    return state
