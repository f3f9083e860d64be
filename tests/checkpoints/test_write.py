"""Export to other frameworks: classes, settings, and models that they do not have."""

import ast
import dataclasses
import re

import pytest
import torch
import yaml

from mrcnn.checkpoints import Checkpoint
from mrcnn.checkpoints.foreign.convert import import_state_dict
from mrcnn.checkpoints.foreign.write import export_checkpoint, remap_classes
from mrcnn.config import MODELS
from mrcnn.data.coco.names import COCO_NAMES
from mrcnn.errors import UserError
from mrcnn.models import build
from tests.helpers import foreign_states
from tests.helpers.foreign_states import with_values
from tests.helpers.layout_cases import FILE, imported, shapes_of


def test_torchvisions_ids_to_detectron2_and_back():
    """By category id: 80 of 90 keep their weights, and ten are never found."""
    torchvision = with_values(foreign_states.torchvision(18))
    there, settings = export_checkpoint("detectron2", import_state_dict(FILE, torchvision, {}, {}))
    assert "MODEL.ROI_HEADS.NUM_CLASSES 80" in settings
    assert {name: tuple(value.shape) for name, value in there.items()} == (
        foreign_states.detectron2(18)
    )
    back, settings = export_checkpoint("torchvision", import_state_dict(FILE, there, {}, {}))
    assert "num_classes=91" in settings[0]
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
    found = imported(foreign_states.detectron2(agnostic_boxes=True, agnostic_masks=True))
    changed, config = remap_classes(found.state, found.config, range(1, 91))
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
    written, _ = export_checkpoint(framework, from_scratch())
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
    _, settings = export_checkpoint(
        "torchvision", from_scratch(**SMALL, max_detections=7, rpn_convs=2)
    )
    assert settings == [
        "MaskRCNN(resnet_fpn_backbone(backbone_name='resnet18', weights=None, "
        "returned_layers=[1, 2, 3]), num_classes=3)",
        "rpn_head=RPNHead(256, 3, conv_depth=2)",
        "rpn_anchor_generator=AnchorGenerator(((16,), (32,), (64,), (128,)), "
        "((0.5, 1.0, 2.0),) * 4)",
        "min_size=256",
        "max_size=448",
        "box_detections_per_img=7",
        "rpn_post_nms_top_n_train=1000",
        "its results will differ slightly: it was trained with detectron2 numerics",
    ]
    found = imported(foreign_states.detectron2(101), norm_eps=0.01)
    _, settings = export_checkpoint("torchvision", found)
    assert (
        "resnet_fpn_backbone(backbone_name='resnet101', weights=None), num_classes=91"
        in settings[0]
    )
    assert "image_mean=[0.485, 0.456, 0.406], image_std=[0.003922, 0.003922, 0.003922]" in settings
    assert any("overwrite_eps(model, 0.01)" in line for line in settings)
    assert any("conv1.stride = (2, 2); conv2.stride = (1, 1)" in line for line in settings)


def test_settings_for_detectron2():
    _, settings = export_checkpoint("detectron2", from_scratch(**SMALL, fpn_channels=64, scale=2.0))
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
        "then, after building it: model.backbone.top_block.in_feature = 'p4'; "
        "model.backbone._size_divisibility = 32",
        "MODEL.ROI_HEADS.NUM_CLASSES 2",
        "images resized by the factor 2, not to a size",
    ):
        assert line in settings
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
        found = imported(shapes_of(case))
        _, settings = export_checkpoint("detectron2", found)
        assert set(lines) <= set(settings)
        assert not any(line.startswith(("INPUT.MIN_SIZE", "MODEL.RPN.PRE")) for line in settings)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"scale": 1.0}, "INPUT.MIN_SIZE_TEST 0"),
        ({"box_bins": 5}, "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION 5"),
        ({"frozen_stages": 0}, "MODEL.BACKBONE.FREEZE_AT 0"),
        ({"roi_samples": 64}, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE 64"),
        ({"rpn_box_loss": "giou"}, "MODEL.RPN.BBOX_REG_LOSS_TYPE 'giou'"),
        ({"box_smooth_l1_beta": 0.5}, "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA 0.5"),
        ({"numerics": "maskrcnn_benchmark"}, "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA 1.0"),
    ],
    ids=str,
)
def test_every_field_that_detectron2_has_is_printed(fields, line):
    _, usual = export_checkpoint("detectron2", from_scratch())
    _, settings = export_checkpoint("detectron2", from_scratch(**fields))
    assert line in settings
    assert line not in usual
    assert not any("resized" in text for text in settings)


def test_settings_that_are_written_are_read_again(tmp_path):
    """The lines are those of a configuration, which `config.yaml` holds after training there."""
    fields = {
        **SMALL, "frozen_stages": 1, "max_detections": 7, "score_threshold": 0.2, "roi_samples": 99,
        "anchor_ratios": (1.0, 3.0), "mask_bins": 7, "box_bins": 5, "stride_in_1x1": True,
        "pixel_mean": (1.0, 2.0, 3.0), "box_smooth_l1_beta": 0.25, "pre_nms_top_k": 123,
    }  # fmt: skip
    checkpoint = from_scratch(**fields)
    written, lines = export_checkpoint("detectron2", checkpoint)
    tree: dict = {"MODEL": {}}
    for line in lines[1:]:
        key, _, value = line.partition(" ")
        if key.isupper() or "1X1" in key:
            *parts, last = key.split(".")
            node = tree
            for part in parts:
                node = node.setdefault(part, {})
            node[last] = ast.literal_eval(value)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    again = import_state_dict(tmp_path / "model_final.pth", written, {}, {})
    names = {"class_names": ("class 1", "class 2"), "category_ids": (1, 2)}
    assert again.config == dataclasses.replace(checkpoint.config, **names)
    assert "padded to multiples of 16 (here 32)" in again.extra["notes"][2]


@pytest.mark.parametrize(
    ("framework", "norm"), [("detectron2", "frozen_batch"), ("torchvision", "batch")]
)
def test_variances_make_up_for_another_epsilon(framework, norm):
    """Neither framework can set the epsilon of these norms."""
    config = dataclasses.replace(
        MODELS["resnet18-fpn"], class_names=("cat",), norm=norm, norm_eps=0.01
    )
    state = build(config).state_dict()
    written, settings = export_checkpoint(framework, Checkpoint(state, config, {}, {}))
    variances = [value for name, value in written.items() if name.endswith("running_var")]
    assert len(variances) == 20
    assert all(torch.allclose(value + 1e-5, torch.tensor(1.01)) for value in variances)
    assert not any("eps" in line for line in settings)


@pytest.mark.parametrize(
    ("framework", "case", "words"),
    [
        ("torchvision", "detectron2 C4", "a neck other than FPN"),
        ("torchvision", "detectron2 class-agnostic boxes", "class-agnostic boxes or masks"),
        ("torchvision", "detectron2 GN", "group norm in the backbone"),
        ("torchvision", "mmdetection GN in the heads", "group norm in FPN and heads"),
        ("torchvision", "detectron2 SyncBN", "batch norm in FPN and heads, except as in"),
        ("torchvision", {"box_head_convs": 2}, "a box head of 2 convolutions and 2 layers"),
        ("torchvision", {"mask_head_convs": 3}, "a mask head of 3 convolutions"),
        ("torchvision", {"fpn_channels": 64}, "64 channels in FPN, 1024 in the box and 256 in the"),
        ("torchvision", {"norm": "group_of_8"}, "group_of_8 norm in the backbone"),
        ("torchvision", {"roi_op": "pool"}, "roi_op 'pool'"),
        ("torchvision", {"fpn_top": "conv"}, "torchvision does not have a layer for backbone.top"),
        ("torchvision", {"box_bins": 5}, "box_bins 5"),
        ("detectron2", {"neck": "single", "anchor_sizes": ((32,),)}, "neck 'single'"),
        ("detectron2", {"norm": "group_of_8"}, "group_of_8 norm"),
        ("maskrcnn_benchmark", "detectron2 GN", "does not have a layer for .*norm"),
        (
            "maskrcnn_benchmark",
            "detectron2 four convolutions",
            "not have a layer for box_head.convs.0",
        ),
        ("mmdetection", "detectron2 C4", "not have a layer for box_head.pooler.conv5"),
    ],
)
def test_models_that_a_framework_cannot_have(framework, case, words):
    checkpoint = from_scratch(**case) if isinstance(case, dict) else imported(shapes_of(case))
    with pytest.raises(UserError, match=f"convert --to {framework}: .*{words}"):
        export_checkpoint(framework, checkpoint)
