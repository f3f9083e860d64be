"""Networks that are recognized by the names of their tensors, but not supported."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from mrcnn.errors import UserError

# Tensor names that only these networks have; the first that matches counts, so networks come before
# those that they extend. Sources: the modules of torchvision, Detectron2, MMDetection, AdelaiDet,
# maskrcnn-benchmark, timm, and the repositories of the papers.
NETWORKS = {
    "a Mask Scoring R-CNN": r"roi_head\.mask_iou_head\..+|roi_heads\.maskiou(_head)?\..+",
    "PointRend": r"(roi_heads\.mask_head|roi_head)\.point_head\..+"
    r"|roi_heads\.mask_(coarse|point)_head\..+",
    "an HTC (Hybrid Task Cascade)": r"roi_head\.(semantic_head|mask_head\.\d+\.conv_res)\..+",
    "a CenterNet": r"proposal_generator\.centernet_head\..+|(bbox_head\.)?(heatmap_head|hm)\..+",
    "a Cascade R-CNN": r"roi_heads\.box_(head|predictor)\.\d+\.[a-z]\w+\.\w+"
    r"|roi_head\.bbox_head\.\d+\..+",
    "a Keypoint R-CNN": r"roi_heads\.keypoint(_head|_predictor)?\..+",
    "a Mask2Former or MaskFormer": r"sem_seg_head\.pixel_decoder\..+"
    r"|sem_seg_head\.predictor\.(transformer|query)\w*\..+|panoptic_head\..+|model\.(pixel_level|transformer)_module\..+",
    "a Panoptic FPN": r"sem_seg_head\..+|semantic_head\..+",
    "a CondInst": r"mask_branch\..+",
    "a SOLO or SOLOv2": r"mask_head\.(conv_mask_list|mask_convs|kernel_convs|mask_feature_head"
    r"|convs_all_levels|conv_cls)\..+|ins_head\..+",
    "an FCOS": r"head\.(regression_head\.bbox_)?ctrness\..+|bbox_head\.conv_centerness\..+"
    r"|proposal_generator\.fcos_head\..+|rpn\.head\.centerness\..+",
    "an ATSS": r"bbox_head\.atss_.+",
    "a GFL": r"bbox_head\.gfl_.+",
    "an RTMDet": r"bbox_head\.rtm_.+",
    "a YOLOX": r"bbox_head\.multi_level_.+|head\.(cls|obj|reg)_preds\..+",
    "a YOLOv3": r"bbox_head\.convs_(bridge|pred)\..+|module_list\.\d+\.(conv|Conv2d)\w*\..+",
    "a YOLACT": r"bbox_head\.conv_coeff\..+|(mask_head\.)?proto(_)?net\..+|prediction_layers\..+",
    "a YOLO (Ultralytics)": r"(model\.)*model\.\d+\.(conv|cv\d|m|dfl|cbl|bn)\..+",
    "an SSD": r"head\.(classification|regression)_head\.module_list\..+"
    r"|(loc|conf)\.\d+\.(weight|bias)|bbox_head\.(cls|reg)_convs\.\d+\.0\.(weight|bias)",
    "an EfficientDet": r"(model\.)?(class_net|box_net|bifpn|fpn\.cell)\..+|neck\.bifpn\..+",
    "a RetinaNet": r"head\.(classification_head|cls_subnet)\..+|bbox_head\.retina_.+"
    r"|rpn\.head\.cls_tower\..+|classificationModel\..+",
    "a SAM (Segment Anything)": r"(image_encoder|prompt_encoder|vision_encoder|sam_\w+)\..+",
    "a DETR": r"(detr\.)?transformer\..+|(decoder|bbox_head\.transformer)\..+"
    r"|(query_embed|class_embed|model\.query_position_embeddings)\b.*",
    "a network with a Swin Transformer": r".+\.relative_position_bias_table",
    "a ViTDet": r"backbone\.(net|bottom_up)\.blocks\.\d+\..+",
    "a vision transformer": r"(.+\.)?blocks\.\d+\.attn\.qkv\..+"
    r"|(.+\.)?encoder\.layers?\.(encoder_layer_)?\d+\..+",
    "a network with a ConvNeXt": r"(.+\.)?stages\.\d+\.(blocks\.)?\d+"
    r"\.(gamma|(dwconv|depthwise_conv|conv_dw)\..+)|features\.\d+\.\d+\.layer_scale",
    "a network with an EfficientNet": r"(.+\.)?blocks\.\d+\.\d+\.se\..+"
    r"|features\.\d+\.\d+\.block\.\d\.fc1\..+",
    "a network with an HRNet": r"(.+\.)?stage[234]\.\d+\.(branches|fuse_layers)\..+",
    "a network with a RegNet": r"(.+\.)?(trunk_output\.block\d|s[1-4]\.b\d+)\..+",
    "a DenseNet": r"features\.denseblock\d\..+",
    "a network with deformable convolutions": r".+\.conv\d_offset\..+|.+\.conv2\.offset\..+",
    "a C4 model of maskrcnn-benchmark": r"roi_heads\.box\.feature_extractor\.head\..+",
    "a network for semantic segmentation": r"aux_classifier\..+|classifier\.0\.convs\..+",
}
_CLASSIFIER = r"(head\.)?fc\.weight|classifier\..+"
_DETECTORS = "the supported detectors are Mask R-CNN and Faster R-CNN with a ResNet"
_BACKBONES = (
    "the supported backbones are ResNet, ResNeXt, wide ResNet, VGG, Inception v3 and MobileNetV2"
)


def check_supported(file: Path, names: Collection[str], backbone: bool = False) -> None:
    """Raise a UserError if a tensor belongs to a network that is recognized but not supported.

    Args:
        file: for the message.
        names: of the tensors.
        backbone: accept classification networks, whose layers start a backbone.
    """
    if "box_head.class_logits.weight" in names:
        raise UserError(
            f"{file}: holds the weights of a model of mrcnn without its configuration; "
            "save both with mrcnn.checkpoints.save"
        )
    for network, pattern in NETWORKS.items():
        compiled = re.compile(pattern)
        if name := next(filter(compiled.fullmatch, names), None):
            supported = _BACKBONES if backbone else _DETECTORS
            raise UserError(f"{file}: {name} is a tensor of {network}; {supported}")
    name = next((name for name in names if re.fullmatch(_CLASSIFIER, name)), None)
    if name and not backbone:
        raise UserError(
            f"{file}: {name} is a tensor of a classification network, which does not detect "
            "objects; to train a detector from it, use mrcnn train --weights"
        )
