"""Networks that are not supported are named rightly, by the tensor names of each implementation."""

import pytest

from mrcnn.checkpoints.foreign.networks import NETWORKS, check_supported
from mrcnn.errors import UserError
from tests.helpers.layout_cases import CASES, FILE, shapes_of

# Network -> a few names of each implementation, one line each. Their common names come first, so
# that the right network must be found behind those of the network that it extends.
NAMES = {
    "a Mask Scoring R-CNN": [
        "rpn_head.rpn_cls.weight roi_head.mask_iou_head.convs.0.conv.weight",
        "rpn.head.conv.weight roi_heads.maskiou.feature_extractor.maskiou_fcn1.weight",
    ],
    "PointRend": [
        "roi_heads.mask_head.coarse_head.fc.weight roi_heads.mask_head.point_head.fc1.weight",
        "roi_head.bbox_head.fc_cls.weight roi_head.point_head.fcs.0.conv.weight",
    ],
    "an HTC (Hybrid Task Cascade)": [
        "roi_head.bbox_head.0.fc_cls.weight roi_head.semantic_head.conv_logits.weight",
        "roi_head.bbox_head.0.fc_cls.weight roi_head.mask_head.1.conv_res.conv.weight",
    ],
    "a Cascade R-CNN": [
        "roi_heads.box_head.0.fc1.weight roi_heads.box_predictor.2.cls_score.weight",
        "roi_head.bbox_head.0.fc_cls.weight",
    ],
    "a Keypoint R-CNN": [
        "roi_heads.keypoint_head.conv_fcn1.weight",
        "roi_heads.keypoint_predictor.kps_score_lowres.weight",
        "roi_heads.keypoint.feature_extractor.conv_fcn1.weight",
    ],
    "a Mask2Former or MaskFormer": [
        "sem_seg_head.pixel_decoder.adapter_1.weight sem_seg_head.predictor.query_feat.weight",
        "sem_seg_head.predictor.transformer.decoder.layers.0.linear1.weight",
        "panoptic_head.pixel_decoder.input_convs.0.conv.weight panoptic_head.query_feat.weight",
        "model.pixel_level_module.encoder.embeddings.patch_embeddings.projection.weight",
    ],
    "a Panoptic FPN": [
        "roi_heads.box_predictor.cls_score.weight sem_seg_head.p2.0.weight "
        "sem_seg_head.predictor.weight",
        "roi_head.bbox_head.fc_cls.weight semantic_head.conv_logits.weight",
    ],
    "a CenterNet": [
        "backbone.conv1.weight bbox_head.heatmap_head.0.weight bbox_head.wh_head.0.weight",
        "base.base_layer.0.weight hm.0.weight wh.0.weight reg.0.weight",
        "proposal_generator.centernet_head.bbox_pred.weight roi_heads.box_head.0.fc1.weight",
    ],
    "a CondInst": ["proposal_generator.iou_loss mask_branch.refine.0.weight controller.weight"],
    "a SOLO or SOLOv2": [
        "neck.lateral_convs.0.conv.weight mask_head.conv_mask_list.0.weight",
        "mask_head.kernel_convs.0.conv.weight mask_head.mask_feature_head.convs_all_levels.0.x",
        "ins_head.cate_tower.0.weight",
    ],
    "an FCOS": [
        "head.classification_head.cls_logits.weight head.regression_head.bbox_ctrness.weight",
        "head.cls_subnet.0.weight head.ctrness.weight",
        "bbox_head.cls_convs.0.conv.weight bbox_head.conv_centerness.weight",
        "proposal_generator.fcos_head.ctrness.weight",
        "rpn.head.cls_tower.0.weight rpn.head.centerness.weight",
    ],
    "an ATSS": ["bbox_head.cls_convs.0.conv.weight bbox_head.atss_cls.weight"],
    "a GFL": ["bbox_head.cls_convs.0.conv.weight bbox_head.gfl_cls.weight"],
    "an RTMDet": ["bbox_head.cls_convs.0.0.conv.weight bbox_head.rtm_cls.0.weight"],
    "a YOLOX": [
        "backbone.stem.conv.conv.weight bbox_head.multi_level_conv_cls.0.weight",
        "backbone.backbone.stem.conv.conv.weight head.cls_preds.0.weight head.obj_preds.0.weight",
    ],
    "a YOLOv3": ["backbone.conv1.conv.weight bbox_head.convs_pred.0.weight",
                 "module_list.0.Conv2d.weight"],
    "a YOLACT": ["backbone.layers.0.0.conv1.weight proto_net.0.weight prediction_layers.0.x.weight",
                 "bbox_head.conv_coeff.weight mask_head.protonet.0.conv.weight"],
    "a YOLO (Ultralytics)": ["model.0.conv.weight model.22.cv2.0.0.conv.weight",
                             "model.model.0.conv.weight"],
    "an SSD": [
        "backbone.features.0.weight head.classification_head.module_list.0.weight",
        "backbone.features.0.weight bbox_head.cls_convs.0.0.weight bbox_head.reg_convs.0.0.weight",
        "vgg.0.weight loc.0.weight conf.0.weight",
    ],
    "an EfficientDet": ["backbone.conv_stem.weight fpn.cell.0.fnode.0.x class_net.predict.x.w",
                        "backbone.blocks.0.0.se.conv_reduce.weight box_net.predict.conv_pw.weight"],
    "a RetinaNet": [
        "backbone.body.conv1.weight head.classification_head.cls_logits.weight",
        "backbone.bottom_up.stem.conv1.weight head.cls_subnet.0.weight",
        "bbox_head.cls_convs.0.conv.weight bbox_head.retina_cls.weight",
        "rpn.head.cls_tower.0.weight rpn.head.bbox_tower.0.weight",
    ],
    "a SAM (Segment Anything)": [
        "image_encoder.pos_embed image_encoder.blocks.0.attn.qkv.weight mask_decoder.x",
        "vision_encoder.layers.0.attn.rel_pos_h prompt_encoder.no_mask_embed.weight",
    ],
    "a DETR": [
        "transformer.encoder.layers.0.linear1.weight class_embed.weight query_embed.weight",
        "detr.transformer.encoder.layers.0.linear1.weight",
        "backbone.conv1.weight decoder.layers.0.norms.0.bias",
        "transformer.level_embed class_embed.0.weight",
    ],
    "a network with a Swin Transformer": [
        "layers.0.blocks.0.attn.relative_position_bias_table layers.0.blocks.0.attn.qkv.weight",
        "backbone.stages.0.blocks.0.attn.w_msa.relative_position_bias_table rpn_head.x.w",
        "features.1.0.attn.relative_position_bias_table",
    ],
    "a ViTDet": ["backbone.net.pos_embed backbone.net.blocks.0.attn.qkv.weight"],
    "a vision transformer": ["cls_token blocks.0.attn.qkv.weight head.weight",
                             "encoder.layers.encoder_layer_0.ln_1.weight heads.head.weight"],
    "a network with a ConvNeXt": [
        "stages.0.0.gamma stages.0.0.dwconv.weight",
        "stages.0.blocks.0.conv_dw.weight head.fc.weight",
        "backbone.stages.0.0.depthwise_conv.weight rpn_head.rpn_cls.weight",
        "features.1.0.layer_scale features.1.0.block.0.weight classifier.2.weight",
    ],
    "a network with an EfficientNet": ["conv_stem.weight blocks.0.0.se.conv_reduce.weight",
                                       "features.1.0.block.1.fc1.weight classifier.1.weight"],
    "a network with an HRNet": ["backbone.stage2.0.branches.0.0.conv1.weight rpn_head.x.w"],
    "a network with a RegNet": ["s1.b1.conv1.conv.weight head.fc.weight",
                                "backbone.bottom_up.s1.b1.a.weight"],
    "a DenseNet": ["features.denseblock1.denselayer1.norm1.weight classifier.weight"],
    "a network with deformable convolutions": [
        "backbone.bottom_up.res3.0.conv2_offset.weight roi_heads.box_head.fc1.weight",
        "backbone.layer2.0.conv2.offset.weight",
    ],
    "a C4 model of maskrcnn-benchmark": [
        "roi_heads.box.feature_extractor.head.layer4.0.conv1.weight"],
    "a network for semantic segmentation": ["backbone.conv1.weight aux_classifier.0.weight",
                                            "backbone.conv1.weight classifier.0.convs.0.0.weight"],
}  # fmt: skip


@pytest.mark.parametrize("network", NETWORKS)
def test_each_network_is_named(network):
    for line in NAMES[network]:
        with pytest.raises(UserError) as caught:
            check_supported(FILE, line.split())
        assert f" is a tensor of {network}; " in str(caught.value), line


@pytest.mark.parametrize("case", CASES)
def test_no_supported_detector_is_taken_for_another_network(case):
    check_supported(FILE, shapes_of(case))


@pytest.mark.parametrize("name", ["fc.weight", "head.fc.weight", "classifier.6.weight"])
def test_classification_networks_start_backbones_only(name):
    check_supported(FILE, ["conv1.weight", name], backbone=True)
    with pytest.raises(UserError, match=f"{name} is a tensor of a classification network"):
        check_supported(FILE, ["conv1.weight", name])
