"""Detectors of other frameworks: conversion of tensors in both directions, and of settings."""

import pickle
import re

import pytest
import torch

import mrcnn
from mrcnn import checkpoints
from mrcnn.checkpoints.foreign.convert import import_state_dict
from mrcnn.checkpoints.foreign.write import export_checkpoint
from mrcnn.data.coco.names import COCO_NAMES
from mrcnn.models import build
from tests.helpers import foreign_states
from tests.helpers.foreign_states import with_values, without_values
from tests.helpers.layout_cases import (
    CAFFE,
    CASES,
    COMMON,
    FILE,
    FROM_CAFFE2,
    HABITS,
    OLD_CAFFE,
    ONES,
    PYTORCH,
    fields_of,
    imported,
    shapes_of,
)

# Tensors that mrcnn does not use: buffers, and counters of norms whose statistics stay fixed.
LEFTOVERS = re.compile(
    r"pixel_(mean|std)|(proposal_generator|rpn)\.anchor_generator\.cell_anchors\.\d"
    r"|backbone\..*num_batches_tracked"
)


@pytest.mark.parametrize("case", CASES)
def test_all_tensors_and_the_configuration_are_recognized(case):
    framework, _, differing = CASES[case]
    expected = COMMON | HABITS[framework] | differing
    state = shapes_of(case)
    found = imported(state)
    assert found.extra["source"]["framework"] == framework
    assert found.extra["source"]["bgr"] == expected.pop("bgr")
    assert fields_of(found.config, expected) == expected
    assert len(found.config.class_names) == len(found.config.category_ids)
    assert found.extra["notes"][0].startswith(f"theirs.pth: {framework}, {found.config.backbone}, ")
    assert f"{expected['num_classes']} classes" in found.extra["notes"][0]
    with torch.device("meta"):
        model = build(found.config)
    model.load_state_dict(found.state, strict=True, assign=True)
    left = {name for name in found.rest if not name.endswith("[background]")}
    assert all(LEFTOVERS.fullmatch(name) for name in left)
    assert uncounted(found.state) + uncounted(left) == uncounted(state)


def uncounted(names) -> int:
    """Count names, without counters, which may be added."""
    return sum(not name.endswith(".num_batches_tracked") for name in names)


@pytest.mark.parametrize("case", [*CASES, "detectron2 leftovers"])
def test_there_and_back(tmp_path, case):
    """Exporting restores every tensor, bit for bit, under the names of the framework."""
    if case == "detectron2 leftovers":
        state = with_values(small(foreign_states.detectron2(18, leftovers=True)))
    elif any(word in case for word in ("R101", "X101", "LVIS")):
        state = without_values(shapes_of(case))
    elif any(word in case for word in ("R50", "C4", "DC5")):
        state = with_values(small(shapes_of(case)))
    else:
        state = with_values(small(shapes_of(case, depth=18)))
    found = import_state_dict(FILE, state, {}, {})
    if not next(iter(state.values())).is_meta:
        checkpoints.save(tmp_path / "a.safetensors", *found)
        found = checkpoints.load(tmp_path / "a.safetensors")
    written, _ = export_checkpoint(found.extra["source"]["framework"], found)
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
    """Return the shapes with a narrow fully connected layer behind the pooled features."""
    narrow = re.compile(r"roi_heads?\.(box|bbox).*")
    return {
        name: tuple(16 if n == 1024 and narrow.fullmatch(name) else n for n in shape)
        for name, shape in shapes.items()
    }


def modern_name(name: str) -> str:
    """Rename a tensor of a published file as torchvision's hooks do."""
    name = re.sub(r"(inner_blocks|layer_blocks)\.(\d)\.", r"\1.\2.0.", name)
    name = re.sub(r"rpn\.head\.conv\.", "rpn.head.conv.0.0.", name)
    return re.sub(
        r"mask_head\.mask_fcn(\d)", lambda match: f"mask_head.{int(match[1]) - 1}.0", name
    )


# Single values


def converted(framework: str, **arguments):
    """Return a small state of a framework, and the imported checkpoint."""
    state = with_values(small(getattr(foreign_states, framework)(18, **arguments)))
    return state, import_state_dict(FILE, state, {}, {})


def test_bgr_pixels_are_reversed():
    name = "backbone.body.conv1.weight"
    state, found = converted("detectron2")
    bgr = state["backbone.bottom_up.stem.conv1.weight"]
    assert torch.equal(found.state[name], bgr[:, [2, 1, 0]])
    state, found = converted("torchvision")
    assert torch.equal(found.state[name], state[name])
    flipped = import_state_dict(FILE, state, {}, {}, bgr=True).state[name]
    assert torch.equal(flipped, state[name][:, [2, 1, 0]])


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


NAMES = {  # framework -> source names by mrcnn name
    "detectron2": {
        "backbone.lateral.0.weight": "backbone.fpn_lateral2.weight",
        "backbone.lateral.3.bias": "backbone.fpn_lateral5.bias",
        "backbone.output.1.weight": "backbone.fpn_output3.weight",
        "backbone.body.layer1.0.conv1.weight": "backbone.bottom_up.res2.0.conv1.weight",
        "backbone.body.layer4.1.bn2.running_var": (
            "backbone.bottom_up.res5.1.conv2.norm.running_var"
        ),
        "backbone.body.layer3.0.downsample.0.weight": "backbone.bottom_up.res4.0.shortcut.weight",
        "backbone.body.layer3.0.downsample.1.bias": "backbone.bottom_up.res4.0.shortcut.norm.bias",
        "backbone.body.bn1.running_mean": "backbone.bottom_up.stem.conv1.norm.running_mean",
        "box_head.convs.2.weight": "roi_heads.box_head.conv3.weight",
        "box_head.layers.1.bias": "roi_heads.box_head.fc2.bias",
        "box_head.class_logits.weight": "roi_heads.box_predictor.cls_score.weight",
        "box_head.deltas.weight": "roi_heads.box_predictor.bbox_pred.weight",
        "mask_head.convs.3.bias": "roi_heads.mask_head.mask_fcn4.bias",
        "mask_head.mask_logits.weight": "roi_heads.mask_head.predictor.weight",
        "rpn.deltas.weight": "proposal_generator.rpn_head.anchor_deltas.weight",
    },
    "maskrcnn_benchmark": {
        "backbone.lateral.0.weight": "backbone.fpn.fpn_inner1.weight",
        "backbone.output.3.bias": "backbone.fpn.fpn_layer4.bias",
        "box_head.layers.1.weight": "roi_heads.box.feature_extractor.fc7.weight",
        "mask_head.convs.0.weight": "roi_heads.mask.feature_extractor.mask_fcn1.weight",
    },
    "mmdetection": {
        "backbone.lateral.2.weight": "neck.lateral_convs.2.conv.weight",
        "backbone.output.3.bias": "neck.fpn_convs.3.conv.bias",
        "mask_head.convs.1.weight": "roi_head.mask_head.convs.1.conv.weight",
    },
}


@pytest.mark.parametrize("framework", NAMES)
def test_tensors_keep_their_values_under_other_names(framework):
    options = {"box_convs": 4} if framework == "detectron2" else {}
    state, found = converted(framework, **options)
    for name, source in NAMES[framework].items():
        assert torch.equal(found.state[name], state[source]), name


def test_shapes_agree_with_torchvision():
    """The names and shapes of `foreign_states` are those of the real modules."""
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


# Values beside the tensors


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
def test_settings_in_the_metadata_of_mmdetection(meta, expected):
    expected = COMMON | HABITS["mmdetection"] | {"num_classes": 80} | expected
    found = imported(foreign_states.mmdetection(), {"meta": meta})
    assert found.extra["source"]["bgr"] == expected.pop("bgr")
    assert fields_of(found.config, expected) == expected


def test_class_names_in_the_metadata():
    two, eighty = foreign_states.mmdetection(classes=2), foreign_states.mmdetection()
    plants, coco = tuple(f"plant {i}" for i in range(80)), tuple(COCO_NAMES.values())
    for shapes, meta, names, ids in (
        (two, {"CLASSES": ("cat", "dog")}, ("cat", "dog"), (1, 2)),
        (two, {"dataset_meta": {"CLASSES": ["cat", "dog"]}}, ("cat", "dog"), (1, 2)),
        (two, {"dataset_meta": {"classes": ("cat", "dog")}}, ("cat", "dog"), (1, 2)),
        (two, {"CLASSES": ("cat",)}, ("class 1", "class 2"), (1, 2)),
        (eighty, {"CLASSES": plants}, plants, tuple(range(1, 81))),
        (eighty, {"CLASSES": coco}, coco, tuple(COCO_NAMES)),
    ):
        config = imported(shapes, {"meta": meta}).config
        assert (config.class_names, config.category_ids) == (names, ids)


def test_classes_of_coco():
    ninety = imported(foreign_states.torchvision()).config
    assert ninety.category_ids == tuple(range(1, 91))
    assert [ninety.class_names[i] for i in (0, 11, 89)] == ["person", "unused 12", "toothbrush"]
    eighty = imported(foreign_states.detectron2()).config
    assert eighty.category_ids == tuple(COCO_NAMES)
    assert eighty.class_names[79] == "toothbrush"
    few = imported(foreign_states.detectron2(classes=2)).config
    assert (few.class_names, few.category_ids) == (("class 1", "class 2"), (1, 2))


def test_pixel_values_of_older_files_of_detectron2():
    state = without_values(foreign_states.detectron2(leftovers=True))
    state["pixel_mean"] = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    state["pixel_std"] = torch.tensor([4.0, 5.0, 6.0]).view(3, 1, 1)
    found = import_state_dict(FILE, state, {}, {})
    assert found.config.pixel_mean == (3.0, 2.0, 1.0)
    assert found.config.pixel_std == (6.0, 5.0, 4.0)
    assert {"pixel_mean", "proposal_generator.anchor_generator.cell_anchors.4"} <= set(found.rest)


def test_assumptions_replace_what_is_inferred():
    state = without_values(foreign_states.detectron2(classes=2))
    names = ("cat", "dog")
    assumed = {"stride_in_1x1": False, "norm_eps": 1e-3, "class_names": names, "min_size": 400}
    found = import_state_dict(FILE, state, {}, assumed, bgr=False)
    assert fields_of(found.config, assumed) == assumed
    assert found.extra["source"]["bgr"] is False
    assert not re.search("stride_in_1x1|norm_eps|pixels", found.extra["notes"][1])
