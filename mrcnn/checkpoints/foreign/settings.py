"""Settings that tensors do not determine, from the configuration that a model was trained with.

Detectron2 writes `config.yaml` beside its weights, MMDetection stores the text of its configuration
in the file, and the entries of published.json describe files that were published without one. No
configuration is executed: YAML is read by a safe loader, and of Python only literals and `dict()`.

Sources: Detectron2 `config/defaults.py` and `modeling`; MMDetection 2 and 3 `configs/_base_`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrcnn.checkpoints.download import CLASS_LISTS, find_published
from mrcnn.checkpoints.foreign.naming import Fields
from mrcnn.checkpoints.foreign.plain import (
    Settings,
    differing,
    get,
    literals,
    read_yaml,
    typed_fields,
)
from mrcnn.models.backbones.resnet import RESNETS

# Keys of Detectron2 by field, read and written.
DETECTRON2 = {
    "min_size": "INPUT.MIN_SIZE_TEST",
    "max_size": "INPUT.MAX_SIZE_TEST",
    "frozen_stages": "MODEL.BACKBONE.FREEZE_AT",
    "stride_in_1x1": "MODEL.RESNETS.STRIDE_IN_1X1",
    "rpn_samples": "MODEL.RPN.BATCH_SIZE_PER_IMAGE",
    "rpn_box_loss": "MODEL.RPN.BBOX_REG_LOSS_TYPE",
    "rpn_smooth_l1_beta": "MODEL.RPN.SMOOTH_L1_BETA",
    "pre_nms_top_k": "MODEL.RPN.PRE_NMS_TOPK_TEST",
    "post_nms_top_k": "MODEL.RPN.POST_NMS_TOPK_TEST",
    "training_post_nms_top_k": "MODEL.RPN.POST_NMS_TOPK_TRAIN",
    "roi_samples": "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE",
    "roi_positive_fraction": "MODEL.ROI_HEADS.POSITIVE_FRACTION",
    "score_threshold": "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
    "nms_threshold": "MODEL.ROI_HEADS.NMS_THRESH_TEST",
    "box_bins": "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION",
    "box_loss": "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE",
    "box_smooth_l1_beta": "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA",
    "mask_bins": "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION",
    "max_detections": "TEST.DETECTIONS_PER_IMAGE",
}
_DETECTRON2_NORMS = {"FrozenBN": "frozen_batch", "BN": "batch", "SyncBN": "batch", "GN": "group"}
# Settings of which mrcnn has this value only.
_DETECTRON2_FIXED = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.PROPOSAL_GENERATOR.NAME": "RPN",
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": 0,
    "MODEL.ANCHOR_GENERATOR.NAME": "DefaultAnchorGenerator",
    "MODEL.ANCHOR_GENERATOR.OFFSET": 0,
    "MODEL.FPN.FUSE_TYPE": "sum",
    "MODEL.RPN.NMS_THRESH": 0.7,
    "MODEL.RPN.BBOX_REG_WEIGHTS": [1, 1, 1, 1],
    "MODEL.RPN.BOUNDARY_THRESH": -1,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": [10, 10, 5, 5],
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlignV2",
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 0,
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": False,
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": "ROIAlignV2",
    "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": 0,
}
_MMDETECTION = {
    "rpn_samples": "model.train_cfg.rpn.sampler.num",
    "pre_nms_top_k": "model.test_cfg.rpn.nms_pre",
    "post_nms_top_k": "model.test_cfg.rpn.max_per_img",
    "training_post_nms_top_k": "model.train_cfg.rpn_proposal.max_per_img",
    "roi_samples": "model.train_cfg.rcnn.sampler.num",
    "roi_positive_fraction": "model.train_cfg.rcnn.sampler.pos_fraction",
    "score_threshold": "model.test_cfg.rcnn.score_thr",
    "nms_threshold": "model.test_cfg.rcnn.nms.iou_threshold",
    "max_detections": "model.test_cfg.rcnn.max_per_img",
    "anchor_ratios": "model.rpn_head.anchor_generator.ratios",
    "box_bins": "model.roi_head.bbox_roi_extractor.roi_layer.output_size",
    "mask_bins": "model.roi_head.mask_roi_extractor.roi_layer.output_size",
}
_MMDETECTION_FIXED = {
    "model.neck.type": "FPN",
    "model.rpn_head.bbox_coder.target_stds": [1, 1, 1, 1],
    "model.roi_head.bbox_roi_extractor.roi_layer.type": "RoIAlign",
    "model.roi_head.bbox_roi_extractor.roi_layer.sampling_ratio": 0,
    "model.roi_head.mask_roi_extractor.roi_layer.type": "RoIAlign",
    "model.roi_head.mask_roi_extractor.roi_layer.sampling_ratio": 0,
    "model.roi_head.bbox_head.bbox_coder.target_stds": [0.1, 0.1, 0.2, 0.2],
    "model.roi_head.bbox_head.loss_cls.use_sigmoid": False,
    "model.test_cfg.rpn.nms.iou_threshold": 0.7,
    "model.test_cfg.rpn.min_bbox_size": 0,
    "model.test_cfg.rcnn.nms.type": "nms",
    "model.test_cfg.rcnn.mask_thr_binary": 0.5,
}


def read_settings(
    file: Path, framework: str, inferred: Fields, facts: Mapping[str, Any]
) -> Settings:
    """Read the settings of a file of weights, from the first place that has any.

    Args:
        file: the weights.
        framework: a key of `LAYOUTS`.
        inferred: fields that the tensors determine.
        facts: values that the file has beside the tensors.

    Raises:
        UserError: if a configuration cannot be read, or a value has the wrong type.
    """
    if (found := find_published(file)) is not None and found[1].settings:
        name, published = found
        return Settings(f"the entry {name}", typed_fields(name, published.settings))
    if framework == "detectron2" and (beside := file.with_name("config.yaml")).is_file():
        return _detectron2(beside, read_yaml(beside), inferred)
    if framework == "mmdetection":
        return _mmdetection(file, facts.get("meta"), inferred)
    return Settings()


def _detectron2(file: Path, tree: Any, inferred: Fields) -> Settings:
    source = file.name
    if not isinstance(get(tree, "MODEL"), Mapping):
        lazy = " (a lazy configuration)" if get(tree, "model._target_") else ""
        return Settings(source, problems=(f"its layout{lazy} is not read",))
    shape = RESNETS[inferred["backbone"]]
    depth = 2 + sum(shape.depths) * (3 if shape.bottleneck else 2)
    for key, value in (
        ("MODEL.ROI_HEADS.NUM_CLASSES", len(inferred["class_names"])),
        ("MODEL.RESNETS.DEPTH", depth),
        ("MODEL.MASK_ON", inferred["masks"]),
    ):
        if get(tree, key) not in (None, value):
            problem = f"it belongs to another model, with {key} {get(tree, key)}, and is not used"
            return Settings(source, problems=(problem,))
    fixed: Fields = dict(_DETECTRON2_FIXED)
    fixed["MODEL.RESNETS.RES5_DILATION"] = 2 if inferred["neck"] == "dc5" else 1
    names = dict(DETECTRON2)
    if inferred["neck"] == "fpn":
        levels = [f"p{i + 2}" for i in range(inferred["fpn_levels"] + 1)]
        fixed["MODEL.RPN.IN_FEATURES"] = levels
        fixed["MODEL.ROI_HEADS.IN_FEATURES"] = levels[:-1]
    elif inferred["neck"] == "c4":  # conv5 halves what the box head pools, also for masks
        del names["box_bins"]
        names["mask_bins"] = DETECTRON2["box_bins"]
    if not inferred["masks"]:
        fixed = {key: value for key, value in fixed.items() if "MASK" not in key}
        names.pop("mask_bins")
    fields = {field: value for field, key in names.items() if (value := get(tree, key)) is not None}
    if fields.get("min_size") == 0:  # images keep their size
        fields["scale"] = 1.0
        del fields["min_size"]
    for kind, beta in (("rpn_box_loss", "rpn_smooth_l1_beta"), ("box_loss", "box_smooth_l1_beta")):
        if fields.get(kind) not in (None, "smooth_l1", "giou"):  # only the training differs
            fixed[DETECTRON2[kind]] = "smooth_l1 or giou"
            del fields[kind]
        if (
            fields.get(kind, "smooth_l1") != "smooth_l1" or fields.get(beta) == 0
        ):  # 0 is that of the numerics
            fields.pop(beta, None)
    sizes = get(tree, "MODEL.ANCHOR_GENERATOR.SIZES")
    ratios = get(tree, "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS")
    if isinstance(sizes, list) and sizes:
        levels_of_anchors = inferred["fpn_levels"] + 1 if inferred["neck"] == "fpn" else 1
        sizes = sizes * levels_of_anchors if len(sizes) == 1 else sizes
        fields["anchor_sizes"] = [s[0] if isinstance(s, list) and len(s) == 1 else s for s in sizes]
    if isinstance(ratios, list) and ratios:
        fields["anchor_ratios"] = ratios[0]
        fixed["MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"] = [ratios[0]] * len(ratios)
    if (norm := get(tree, "MODEL.RESNETS.NORM")) in _DETECTRON2_NORMS:
        fields["norm"] = _DETECTRON2_NORMS[norm]
    bgr = {"BGR": True, "RGB": False}.get(str(get(tree, "INPUT.FORMAT")))
    if bgr is None and get(tree, "INPUT.FORMAT") is not None:
        fixed["INPUT.FORMAT"] = "BGR or RGB"
    for field, key in (("pixel_mean", "MODEL.PIXEL_MEAN"), ("pixel_std", "MODEL.PIXEL_STD")):
        if isinstance(value := get(tree, key), list):
            fields[field] = value if bgr is False else value[::-1]
    datasets = get(tree, "DATASETS.TRAIN") or [""]
    for name, classes in CLASS_LISTS.items():
        if str(datasets[0]).startswith(name) and len(classes[0]) == len(inferred["class_names"]):
            fields["class_names"], fields["category_ids"] = classes
    problems = differing(tree, fixed)
    if inferred["neck"] == "fpn" and inferred["fpn_levels"] < 4:
        stride = 2 << inferred["fpn_levels"]
        problems = (*problems, f"images are padded to multiples of {stride} (here 32)")
    if get(tree, "_BASE_") is not None:
        problems = (f"_BASE_ {get(tree, '_BASE_')} is not read", *problems)
    return Settings(source, typed_fields(file, fields), bgr, problems)


def _mmdetection(file: Path, meta: Any, inferred: Fields) -> Settings:
    meta = meta if isinstance(meta, Mapping) else {}
    # The text of its configuration is under the name that MMEngine or MMCV uses.
    text = meta.get("cfg", meta.get("config"))
    tree: Any = text
    problems: tuple[str, ...] = ()
    if isinstance(text, str):
        tree = literals(text)
    if not isinstance(tree, Mapping):
        tree, problems = {}, ("its cfg is not a plain configuration",) if text else ()
    fields = {
        field: value for field, key in _MMDETECTION.items() if (value := get(tree, key)) is not None
    }
    if not inferred["masks"]:
        fields.pop("mask_bins", None)
    if isinstance(frozen := get(tree, "model.backbone.frozen_stages"), int):
        fields["frozen_stages"] = frozen + 1  # there 0 is the stem alone
    anchors = get(tree, "model.rpn_head.anchor_generator")
    scales, strides = get(anchors, "scales"), get(anchors, "strides")
    if isinstance(scales, list) and isinstance(strides, list):
        sizes = [[scale * stride for scale in scales] for stride in strides]
        fields["anchor_sizes"] = [s[0] if len(s) == 1 else s for s in sizes]
    steps = _steps(tree)
    for step in steps:
        size = step.get("scale", step.get("img_scale"))
        is_resize = step.get("type") in ("Resize", "MultiScaleFlipAug")
        if is_resize and isinstance(size, list) and [type(side) for side in size] == [int, int]:
            fields["min_size"], fields["max_size"] = sorted(size)
        if step.get("type") == "Resize" and step.get("keep_ratio") is False:
            problems = (*problems, "images are resized without keeping their ratio")
    pixels = get(tree, "model.data_preprocessor") or get(tree, "data_preprocessor")
    pixels = pixels or get(tree, "img_norm_cfg")
    pixels = pixels or next((step for step in steps if step.get("type") == "Normalize"), {})
    rgb = pixels.get("bgr_to_rgb", pixels.get("to_rgb"))
    style = get(tree, "model.backbone.style") or get(tree, "backbone.style")
    bgr = not rgb if isinstance(rgb, bool) else True if style == "caffe" else None
    if style is not None:
        fields["stride_in_1x1"] = style == "caffe"
    if style == "caffe":
        fields["pixel_std"] = (1.0, 1.0, 1.0)
    for field, key in (("pixel_mean", "mean"), ("pixel_std", "std")):
        if isinstance(value := pixels.get(key), list) and len(value) == 3:
            fields[field] = value[::-1] if bgr else value
    described = meta.get("dataset_meta")
    described = described if isinstance(described, Mapping) else meta
    names = described.get("CLASSES", described.get("classes"))
    if isinstance(names, tuple | list) and len(names) == len(inferred["class_names"]):
        fields["class_names"] = tuple(str(name) for name in names)
        if fields["class_names"] != CLASS_LISTS["coco"][0]:
            fields["category_ids"] = tuple(range(1, len(names) + 1))
    problems = (*problems, *differing(tree, _MMDETECTION_FIXED))
    if not (fields or problems or bgr is not None):
        return Settings()
    return Settings("meta", typed_fields(f"{file}: meta", fields), bgr, problems)


def _steps(tree: Any) -> list[Mapping[str, Any]]:
    """Return the steps of the pipeline that prepares test images, nested ones included."""
    places = ("test_dataloader.dataset.pipeline", "data.test.pipeline", "test_pipeline")
    steps: Any = next((found for place in places if (found := get(tree, place))), [])
    plain = [step for step in steps if isinstance(step, Mapping)] if isinstance(steps, list) else []
    nested = [inner for step in plain for inner in step.get("transforms") or () if inner]
    return [*plain, *(step for step in nested if isinstance(step, Mapping))]
