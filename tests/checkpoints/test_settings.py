"""Settings from configurations of Detectron2 and MMDetection, and from published entries."""

import re

import pytest
import torch
import yaml

from mrcnn.checkpoints import PUBLISHED
from mrcnn.checkpoints.foreign.convert import import_state_dict
from mrcnn.errors import UserError
from mrcnn.models import build
from tests.helpers import foreign_states
from tests.helpers.foreign_states import with_values, without_values
from tests.helpers.layout_cases import FILE, fields_of, imported

# The parts of a `config.yaml` that Detectron2 writes that matter here, with its values for
# configs/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml.
CONFIG = {
    "DATASETS": {"TRAIN": ["bottles_train"]},
    "INPUT": {"FORMAT": "BGR", "MIN_SIZE_TEST": 800, "MAX_SIZE_TEST": 1333},
    "MODEL": {
        "ANCHOR_GENERATOR": {
            "ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
            "OFFSET": 0.0,
            "SIZES": [[32], [64], [128], [256], [512]],
        },
        "BACKBONE": {"FREEZE_AT": 2},
        "FPN": {"FUSE_TYPE": "sum"},
        "MASK_ON": True,
        "META_ARCHITECTURE": "GeneralizedRCNN",
        "PIXEL_MEAN": [103.53, 116.28, 123.675],
        "PIXEL_STD": [1.0, 1.0, 1.0],
        "RESNETS": {"DEPTH": 50, "NORM": "FrozenBN", "STRIDE_IN_1X1": True, "RES5_DILATION": 1},
        "ROI_BOX_HEAD": {
            "BBOX_REG_LOSS_TYPE": "smooth_l1",
            "POOLER_RESOLUTION": 7,
            "POOLER_SAMPLING_RATIO": 0,
            "POOLER_TYPE": "ROIAlignV2",
            "SMOOTH_L1_BETA": 0.0,
        },
        "ROI_HEADS": {"NUM_CLASSES": 1, "SCORE_THRESH_TEST": 0.05},
        "ROI_MASK_HEAD": {"POOLER_RESOLUTION": 14},
        "RPN": {"BOUNDARY_THRESH": -1, "NMS_THRESH": 0.7, "PRE_NMS_TOPK_TEST": 1000},
    },
    "TEST": {"DETECTIONS_PER_IMAGE": 100},
}


def changed(values: dict) -> dict:
    """The configuration with other values, by dotted key."""
    tree = yaml.safe_load(yaml.safe_dump(CONFIG))
    for key, value in values.items():
        *parts, last = key.split(".")
        node = tree
        for part in parts:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def beside(folder, text: str, shapes=None, **assumed):
    """Import a model of one class that has this text beside it."""
    (folder / "config.yaml").write_text(text)
    shapes = shapes or foreign_states.detectron2(classes=1)
    return import_state_dict(folder / "model_final.pth", without_values(shapes), {}, assumed)


@pytest.mark.parametrize(
    ("values", "fields"),
    [
        ({"INPUT.MIN_SIZE_TEST": 1024, "INPUT.MAX_SIZE_TEST": 2048},
         {"min_size": 1024, "max_size": 2048}),
        ({"INPUT.MIN_SIZE_TEST": 0}, {"scale": 1.0, "min_size": 800}),
        ({"INPUT.FORMAT": "RGB", "MODEL.PIXEL_MEAN": [1, 2, 3], "MODEL.PIXEL_STD": [4, 5, 6]},
         {"pixel_mean": (1.0, 2.0, 3.0), "pixel_std": (4.0, 5.0, 6.0)}),
        ({"MODEL.PIXEL_MEAN": [1, 2, 3]}, {"pixel_mean": (3.0, 2.0, 1.0)}),
        ({"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.7, "TEST.DETECTIONS_PER_IMAGE": 300,
          "MODEL.RPN.PRE_NMS_TOPK_TEST": 2000, "MODEL.RPN.POST_NMS_TOPK_TEST": 500},
         {"score_threshold": 0.7, "max_detections": 300, "pre_nms_top_k": 2000,
          "post_nms_top_k": 500}),
        ({"MODEL.RESNETS.STRIDE_IN_1X1": False, "MODEL.BACKBONE.FREEZE_AT": 0},
         {"stride_in_1x1": False, "frozen_stages": 0}),
        ({"MODEL.ANCHOR_GENERATOR.SIZES": [[8], [16], [32], [64], [128]]},
         {"anchor_sizes": (8.0, 16.0, 32.0, 64.0, 128.0)}),
        ({"MODEL.ANCHOR_GENERATOR.SIZES": [[48]]}, {"anchor_sizes": (48.0,) * 5}),
        ({"MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[1.0, 2.0, 4.0]] * 5},
         {"anchor_ratios": (1.0, 2.0, 4.0)}),
        ({"MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 28}, {"mask_bins": 28}),
        ({"MODEL.RPN.BBOX_REG_LOSS_TYPE": "giou", "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 0.5},
         {"rpn_box_loss": "giou", "rpn_smooth_l1_beta": None, "box_smooth_l1_beta": 0.5}),
        ({"INPUT.MIN_SIZE_TEST": 640, "MODEL.PIXEL_MEAN": "(1., 2., 3.)"},  # written by a user
         {"min_size": 640, "pixel_mean": (3.0, 2.0, 1.0)}),
        ({"DATASETS.TRAIN": ["cityscapes_fine_instance_seg_train"]},  # of another number of classes
         {"class_names": ("class 1",)}),
    ],
    ids=str,
)  # fmt: skip
def test_every_field_of_detectron2s_configuration_is_used(tmp_path, values, fields):
    found = beside(tmp_path, yaml.safe_dump(changed(values)))
    assert fields_of(found.config, fields) == fields
    assert found.extra["source"]["bgr"] is ("INPUT.FORMAT" not in values)
    read, assumed = found.extra["notes"][1:]
    for name in set(fields) - {"class_names"}:
        if getattr(found.config, name) not in (None, 800):
            assert f"{name} {getattr(found.config, name)}" in read
    assert read.startswith("read from config.yaml: ")
    assert assumed == "not in the file, so assumed: norm_eps 1e-05, class_names class 1"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"MODEL.FPN.FUSE_TYPE": "avg"}, "MODEL.FPN.FUSE_TYPE avg (here sum)"),
        ({"MODEL.ANCHOR_GENERATOR.OFFSET": 0.5}, "MODEL.ANCHOR_GENERATOR.OFFSET 0.5 (here 0)"),
        ({"MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlign"}, "POOLER_TYPE ROIAlign (here ROIAlignV2)"),
        ({"MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 2}, "POOLER_SAMPLING_RATIO 2 (here 0)"),
        ({"MODEL.RPN.NMS_THRESH": 0.8, "MODEL.RPN.BOUNDARY_THRESH": 0},
         "MODEL.RPN.NMS_THRESH 0.8 (here 0.7); MODEL.RPN.BOUNDARY_THRESH 0 (here -1)"),
        ({"INPUT.FORMAT": "L"}, "INPUT.FORMAT L (here BGR or RGB)"),
        ({"MODEL.RPN.BBOX_REG_LOSS_TYPE": "diou"}, "LOSS_TYPE diou (here smooth_l1 or giou)"),
        ({"MODEL.RESNETS.RES5_DILATION": 2}, "RES5_DILATION 2 (here 1)"),
        ({"MODEL.RPN.IN_FEATURES": ["p3", "p4", "p5", "p6"]}, "MODEL.RPN.IN_FEATURES ['p3'"),
        ({"_BASE_": "../Base-RCNN-FPN.yaml"}, "_BASE_ ../Base-RCNN-FPN.yaml is not read"),
        ({"MODEL.ROI_HEADS.NUM_CLASSES": 7}, "it belongs to another model, with MODEL.ROI"),
        ({"MODEL.RESNETS.DEPTH": 101}, "it belongs to another model, with MODEL.RESNETS.DEPTH 101"),
        ({"MODEL": {"_target_": "detectron2.modeling.GeneralizedRCNN"}, "model": {"_target_": "x"}},
         None),
    ],
    ids=str,
)  # fmt: skip
def test_what_mrcnn_does_not_have_is_named(tmp_path, values, words):
    notes = beside(tmp_path, yaml.safe_dump(changed(values))).extra["notes"]
    named = [note for note in notes if note.startswith("in config.yaml, but not in mrcnn")]
    assert (words in named[0]) if words else not named


def test_a_lazy_configuration_is_named(tmp_path):
    text = "model:\n  _target_: detectron2.modeling.meta_arch.rcnn.GeneralizedRCNN\n"
    found = beside(tmp_path, text)
    assert "in config.yaml, but not in mrcnn, so results may differ: its layout (a lazy" in "".join(
        found.extra["notes"]
    )


def test_yaml_is_never_executed(tmp_path):
    """Tuples of PyYAML are read; its objects are not built."""
    text = yaml.safe_dump(changed({})).replace(
        "SIZES:\n",
        f"ANGLES: !!python/object/apply:os.system ['touch {tmp_path}/run']\n    SIZES:\n",
    )
    text = text.replace("- 103.53", "- !!python/object/apply:eval ['103.53']", 1)
    text += "SIZE: !!python/tuple [1, 2]\nOTHER: !mine {a: 1}\nTEXT: !!python/name:os.system ''\n"
    with pytest.raises(UserError, match=r"config\.yaml: pixel_mean must be of type tuple"):
        beside(tmp_path, text)
    assert not (tmp_path / "run").exists()
    text = "INPUT: {MIN_SIZE_TEST: 64}\nMODEL:\n  PIXEL_MEAN: !!python/tuple [1.0, 2.0, 3.0]\n"
    found = beside(tmp_path, text)
    assert (found.config.pixel_mean, found.config.min_size) == ((3.0, 2.0, 1.0), 64)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1, 2", "is not YAML"),
        ("[" * 5000, "is not YAML"),
        ("INPUT: {MIN_SIZE_TEST: many}\nMODEL: {}", "min_size must be of type int, got 'many'"),
        ("INPUT: {MIN_SIZE_TEST: -5}\nMODEL: {}", "min_size must be a whole number in"),
        ("MODEL: {ANCHOR_GENERATOR: {SIZES: [[8], [16]]}}", "anchor_sizes must hold 5 sizes"),
        ("MODEL: {ANCHOR_GENERATOR: {ASPECT_RATIOS: [[1.0]]}}", "make 1; give those it was"),
    ],
    ids=range(6),
)
def test_damaged_configurations(tmp_path, text, words):
    with pytest.raises(UserError, match=words):
        beside(tmp_path, text)


def test_a_three_level_pyramid_needs_its_anchors(tmp_path):
    last = re.compile(r".*(fpn_(lateral|output)5|res5)\..*")
    shapes = foreign_states.detectron2(classes=1)
    shapes = {name: shape for name, shape in shapes.items() if not last.fullmatch(name)}
    sizes = (16.0, 32.0, 64.0, 128.0)
    found = beside(
        tmp_path,
        yaml.safe_dump(changed({"MODEL.ANCHOR_GENERATOR.SIZES": [[size] for size in sizes]})),
        shapes,
    )
    assert (found.config.fpn_levels, found.config.anchor_sizes) == (3, sizes)
    assert (
        imported(shapes, anchor_sizes=sizes).config
        == imported(shapes, anchor_sizes=sizes, class_names=("class 1",)).config
    )
    with pytest.raises(UserError, match="--set 'anchor_sizes="):
        imported(shapes)


def test_other_numbers_of_anchors_name_the_field():
    shapes = foreign_states.detectron2(classes=1)
    head = "proposal_generator.rpn_head."
    for name, rows in (("objectness_logits", 5), ("anchor_deltas", 20)):
        shapes |= {f"{head}{name}.weight": (rows, 256, 1, 1), f"{head}{name}.bias": (rows,)}
    with pytest.raises(UserError, match=r"scores 5 anchors per cell, .* make 3; give .*--set"):
        imported(shapes)
    ratios = (0.2, 0.5, 1.0, 2.0, 5.0)
    assert imported(shapes, anchor_ratios=ratios).config.anchor_ratios == ratios


def test_features_pooled_to_another_size():
    shapes = foreign_states.detectron2(classes=1)
    shapes["roi_heads.box_head.fc1.weight"] = (1024, 256 * 14 * 14)
    found = imported(shapes)
    assert found.config.box_bins == 14
    with torch.device("meta"):
        build(found.config).load_state_dict(found.state, assign=True)


# Anchors in buffers


def test_anchors_of_older_files_are_used():
    """Those of Detectron2 tell sizes and ratios; those of maskrcnn-benchmark are compared."""
    state = without_values(foreign_states.detectron2(leftovers=True))
    name = "proposal_generator.anchor_generator.cell_anchors."
    usual = {f"{name}{i}": foreign_states.cell_anchors(i, 3, False) for i in range(5)}
    pixels = {"pixel_mean": torch.ones(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}
    assert import_state_dict(FILE, state | usual | pixels, {}, {}).config.anchor_sizes == (
        32, 64, 128, 256, 512
    )  # fmt: skip
    half = {key: value / 2 for key, value in usual.items()}
    found = import_state_dict(FILE, state | half | pixels, {}, {})
    assert found.config.anchor_sizes == (16, 32, 64, 128, 256)
    assert found.config.anchor_ratios == (0.5, 1.0, 2.0)
    assert not any("anchors" in note for note in found.extra["notes"])
    moved = {key: value + 8 for key, value in usual.items()}
    with pytest.raises(UserError, match=r"cell_anchors\.0 does not hold the anchors"):
        import_state_dict(FILE, state | moved | pixels, {}, {})

    state = without_values(foreign_states.maskrcnn_benchmark())
    name = "rpn.anchor_generator.cell_anchors."
    usual = {f"{name}{i}": foreign_states.cell_anchors(i, 3, True) for i in range(5)}
    import_state_dict(FILE, state | usual, {}, {})
    half = {key: value / 2 for key, value in usual.items()}
    with pytest.raises(UserError, match=r"cell_anchors\.0 does not hold the anchors"):
        import_state_dict(FILE, state | half, {}, {})


def test_notes_say_what_was_read_from_buffers():
    shapes = foreign_states.detectron2(18, classes=2, leftovers=True)
    state = with_values(shapes) | {"pixel_std": torch.ones(3, 1, 1)}
    notes = import_state_dict(FILE, state, {}, {}).extra["notes"]
    assert "pixel_std" not in notes[1]
    assert "anchors" not in notes[1]
    assert "pixel_std" in imported(foreign_states.detectron2(18, classes=2)).extra["notes"][1]


# Published entries


@pytest.mark.parametrize(
    ("name", "classes", "fields", "first"),
    [
        ("cityscapes_mask_rcnn_R_50_FPN", 8, {"min_size": 1024, "max_size": 2048}, "person"),
        ("lvis_mask_rcnn_R_50_FPN_1x", 1230, {"score_threshold": 1e-4, "max_detections": 300},
         "acorn"),
        ("scratch_mask_rcnn_R_50_FPN_9x_gn", 80, {"pixel_std": (58.395, 57.12, 57.375)}, "person"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("by_hand", [False, True])
def test_published_files_have_their_settings(tmp_path, monkeypatch, name, classes, fields, first,
                                             by_hand):  # fmt: skip
    monkeypatch.setenv("MRCNN_HOME", str(tmp_path))
    place = tmp_path / "detectron2" / f"{name}.pkl"
    if by_hand:
        place = tmp_path / PUBLISHED[f"detectron2/{name}"].url.rpartition("/")[2]
    state = without_values(foreign_states.detectron2(classes=classes))
    found = import_state_dict(place, state, {}, {})
    assert fields_of(found.config, fields) == fields
    assert found.config.class_names[0] == first
    assert len(found.config.class_names) == classes
    assert found.extra["notes"][1].startswith(f"read from the entry detectron2/{name}: ")
    other = import_state_dict(place, state, {}, {"min_size": 99})
    assert other.config.min_size == 99


# MMDetection

MMDETECTION_3 = """
_scope = 'mmdet'
default_hooks = dict(logger=dict(type='LoggerHook', interval=50))
custom = [abs(-1) for _ in range(3)]
model = dict(
    backbone=dict(depth=50, frozen_stages=1, style='pytorch', type='ResNet'),
    data_preprocessor=dict(bgr_to_rgb=True, mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0]),
    neck=dict(type='FPN', num_outs=5),
    rpn_head=dict(
        anchor_generator=dict(ratios=[0.5, 1.0, 2.0], scales=[4], strides=[4, 8, 16, 32, 64]),
        bbox_coder=dict(target_stds=[1.0, 1.0, 1.0, 1.0])),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(output_size=7, sampling_ratio=2, type='RoIAlign')),
        mask_roi_extractor=dict(roi_layer=dict(output_size=14, sampling_ratio=0, type='RoIAlign'))),
    test_cfg=dict(
        rcnn=dict(mask_thr_binary=0.4, max_per_img=50, nms=dict(iou_threshold=0.6, type='nms'),
                  score_thr=0.01),
        rpn=dict(max_per_img=700, nms=dict(iou_threshold=0.7, type='nms'), nms_pre=900)))
test_pipeline = [
    dict(type='LoadImageFromFile'), dict(keep_ratio=True, scale=(512, 384), type='Resize')]
"""
MMDETECTION_2 = """
img_norm_cfg = dict(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], to_rgb=False)
data = dict(test=dict(pipeline=[
    dict(type='LoadImageFromFile'),
    dict(type='MultiScaleFlipAug', img_scale=(1000, 600), flip=False, transforms=[
        dict(type='Resize', keep_ratio=False), dict(type='RandomFlip')])]))
model = dict(backbone=dict(type='ResNet', frozen_stages=-1))
"""


def test_the_configuration_in_a_file_of_mmdetection():
    shapes = foreign_states.mmdetection(classes=2)
    names = {"dataset_meta": {"CLASSES": ("cat", "dog")}}
    found = imported(shapes, {"meta": {"cfg": MMDETECTION_3, **names}})
    expected = {
        "anchor_sizes": (16.0, 32.0, 64.0, 128.0, 256.0), "max_detections": 50,
        "nms_threshold": 0.6, "score_threshold": 0.01, "post_nms_top_k": 700, "min_size": 384,
        "max_size": 512, "pixel_mean": (1.0, 2.0, 3.0), "pixel_std": (4.0, 5.0, 6.0),
        "frozen_stages": 2, "class_names": ("cat", "dog"), "pre_nms_top_k": 900,
    }  # fmt: skip
    assert fields_of(found.config, expected) == expected
    assert found.extra["source"]["bgr"] is False
    notes = found.extra["notes"]
    assert "read from meta: pre_nms_top_k 900, post_nms_top_k 700" in notes[1]
    assert notes[2].endswith(
        "model.roi_head.bbox_roi_extractor.roi_layer.sampling_ratio 2 (here 0); "
        "model.test_cfg.rcnn.mask_thr_binary 0.4 (here 0.5)"
    )
    assert notes[3] == "not in the file, so assumed: norm_eps 1e-05"

    found = imported(shapes, {"meta": {"config": MMDETECTION_2}})
    expected = {
        "pixel_mean": (3.0, 2.0, 1.0),
        "min_size": 600,
        "max_size": 1000,
        "frozen_stages": 0,
    }
    assert fields_of(found.config, expected) == expected
    assert found.extra["source"]["bgr"] is True
    assert "images are resized without keeping their ratio" in found.extra["notes"][2]


@pytest.mark.parametrize("text", ["model = dict(", "(" * 10_000, "x = '\0'", "9" * 2**21])
def test_a_configuration_that_is_no_python(text):
    found = imported(foreign_states.mmdetection(classes=2), {"meta": {"cfg": text}})
    assert "its cfg is not a plain configuration" in "".join(found.extra["notes"])
