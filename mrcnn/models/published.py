"""Checkpoints that others published: where they are, what they are, and the AP they were said to
reach on the validation images of what they were trained on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A file of weights on the web.

    The digests are the first hexadecimal digits, which the name of the file ends with. AP is that
    of the page `source`, in percent, averaged over IoU 0.50 to 0.95; None where the page has none.
    """

    url: str
    about: str
    licence: str
    source: str
    box_ap: float | None = None
    mask_ap: float | None = None
    sha256: str | None = None
    md5: str | None = None


def _torchvision(
    file: str, about: str, box_ap: float | None = None, mask_ap: float | None = None
) -> Published:
    return Published(
        f"https://download.pytorch.org/models/{file}",
        about,
        "BSD-3-Clause",
        "https://docs.pytorch.org/vision/stable/models.html",
        box_ap,
        mask_ap,
        sha256=_last_part(file),
    )


def _detectron2(
    folder: str, file: str, about: str, box_ap: float | None = None, mask_ap: float | None = None
) -> Published:
    return Published(
        f"https://dl.fbaipublicfiles.com/{folder}/{file}",
        about,
        "CC-BY-SA-3.0",  # of the zoo's weights; its code is Apache-2.0
        "https://github.com/facebookresearch/detectron2/blob/main/MODEL_ZOO.md",
        box_ap,
        mask_ap,
        md5=_last_part(file) if "model_final_" in file else None,
    )


def _coco(config: str, file: str, box_ap: float, mask_ap: float) -> Published:
    about = f"Mask R-CNN trained on COCO, {config}"
    return _detectron2(f"detectron2/{config}", file, about, box_ap, mask_ap)


def _mmdetection(name: str, file: str, box_ap: float, mask_ap: float) -> Published:
    return Published(
        f"https://download.openmmlab.com/mmdetection/v2.0/mask_rcnn/{name}/{name}_{file}",
        f"Mask R-CNN trained on COCO, {name}",
        "Apache-2.0",
        "https://github.com/open-mmlab/mmdetection/tree/main/configs/mask_rcnn",
        box_ap,
        mask_ap,
        sha256=_last_part(file),  # as tools/model_converters/publish_model.py names files
    )


def _last_part(file: str) -> str:
    return file.rpartition(".")[0].replace("_", "-").rpartition("-")[2]


_SEGMENTATION = "COCO-InstanceSegmentation"
_V1, _V2 = "trained on ImageNet-1k, IMAGENET1K_V1", "trained on ImageNet-1k, IMAGENET1K_V2"

# The addresses are those of torchvision 0.29's weights enums, of Detectron2's model_zoo.py and
# MODEL_ZOO.md, and of MMDetection's configs/mask_rcnn/metafile.yml.
PUBLISHED: dict[str, Published] = {
    # Detectors of torchvision
    "torchvision/maskrcnn_resnet50_fpn": _torchvision(
        "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth", "Mask R-CNN trained on COCO", 37.9, 34.6
    ),
    "torchvision/maskrcnn_resnet50_fpn_v2": _torchvision(
        "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth", "Mask R-CNN trained on COCO", 47.4, 41.8
    ),
    "torchvision/fasterrcnn_resnet50_fpn": _torchvision(
        "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth", "Faster R-CNN trained on COCO", 37.0
    ),
    "torchvision/fasterrcnn_resnet50_fpn_v2": _torchvision(
        "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth", "Faster R-CNN trained on COCO", 46.7
    ),
    # Mask R-CNN of Detectron2
    "detectron2/mask_rcnn_R_50_C4_1x": _coco(
        f"{_SEGMENTATION}/mask_rcnn_R_50_C4_1x", "137259246/model_final_9243eb.pkl", 36.8, 32.2
    ),
    "detectron2/mask_rcnn_R_50_DC5_1x": _coco(
        f"{_SEGMENTATION}/mask_rcnn_R_50_DC5_1x", "137260150/model_final_4f86c3.pkl", 38.3, 34.2
    ),
    "detectron2/mask_rcnn_R_50_FPN_1x": _coco(
        f"{_SEGMENTATION}/mask_rcnn_R_50_FPN_1x", "137260431/model_final_a54504.pkl", 38.6, 35.2
    ),
    "detectron2/mask_rcnn_R_50_C4_3x": _coco(
        f"{_SEGMENTATION}/mask_rcnn_R_50_C4_3x", "137849525/model_final_4ce675.pkl", 39.8, 34.4
    ),
    "detectron2/mask_rcnn_R_50_DC5_3x": _coco(
        f"{_SEGMENTATION}/mask_rcnn_R_50_DC5_3x", "137849551/model_final_84107b.pkl", 40.0, 35.9
    ),
    "detectron2/mask_rcnn_R_50_FPN_3x": _coco(
        f"{_SEGMENTATION}/mask_rcnn_R_50_FPN_3x", "137849600/model_final_f10217.pkl", 41.0, 37.2
    ),
    "detectron2/mask_rcnn_R_101_C4_3x": _coco(
        f"{_SEGMENTATION}/mask_rcnn_R_101_C4_3x", "138363239/model_final_a2914c.pkl", 42.6, 36.7
    ),
    "detectron2/mask_rcnn_R_101_DC5_3x": _coco(
        f"{_SEGMENTATION}/mask_rcnn_R_101_DC5_3x", "138363294/model_final_0464b7.pkl", 41.9, 37.3
    ),
    "detectron2/mask_rcnn_R_101_FPN_3x": _coco(
        f"{_SEGMENTATION}/mask_rcnn_R_101_FPN_3x", "138205316/model_final_a3ec72.pkl", 42.9, 38.6
    ),
    "detectron2/mask_rcnn_X_101_32x8d_FPN_3x": _coco(
        f"{_SEGMENTATION}/mask_rcnn_X_101_32x8d_FPN_3x",
        "139653917/model_final_2d9806.pkl",
        44.3,
        39.5,
    ),
    "detectron2/mask_rcnn_R_50_FPN_3x_gn": _coco(
        "Misc/mask_rcnn_R_50_FPN_3x_gn", "138602888/model_final_dc5d9e.pkl", 42.6, 38.6
    ),
    "detectron2/mask_rcnn_R_50_FPN_3x_syncbn": _coco(
        "Misc/mask_rcnn_R_50_FPN_3x_syncbn", "169527823/model_final_3b3c51.pkl", 41.9, 37.8
    ),
    "detectron2/scratch_mask_rcnn_R_50_FPN_3x_gn": _coco(
        "Misc/scratch_mask_rcnn_R_50_FPN_3x_gn", "138602908/model_final_01ca85.pkl", 39.9, 36.6
    ),
    "detectron2/scratch_mask_rcnn_R_50_FPN_9x_gn": _coco(
        "Misc/scratch_mask_rcnn_R_50_FPN_9x_gn", "183808979/model_final_da7b4c.pkl", 43.7, 39.6
    ),
    "detectron2/mask_rcnn_R_50_FPN_100ep_LSJ": _coco(
        "new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ", "42047764/model_final_bb69de.pkl", 44.6, 40.3
    ),
    "detectron2/mask_rcnn_R_50_FPN_200ep_LSJ": _coco(
        "new_baselines/mask_rcnn_R_50_FPN_200ep_LSJ", "42047638/model_final_89a8d3.pkl", 46.3, 41.7
    ),
    "detectron2/mask_rcnn_R_50_FPN_400ep_LSJ": _coco(
        "new_baselines/mask_rcnn_R_50_FPN_400ep_LSJ", "42019571/model_final_14d201.pkl", 47.4, 42.5
    ),
    "detectron2/mask_rcnn_R_101_FPN_100ep_LSJ": _coco(
        "new_baselines/mask_rcnn_R_101_FPN_100ep_LSJ", "42025812/model_final_4f7b58.pkl", 46.4, 41.6
    ),
    "detectron2/mask_rcnn_R_101_FPN_200ep_LSJ": _coco(
        "new_baselines/mask_rcnn_R_101_FPN_200ep_LSJ", "42131867/model_final_0bb7ae.pkl", 48.0, 43.1
    ),
    "detectron2/mask_rcnn_R_101_FPN_400ep_LSJ": _coco(
        "new_baselines/mask_rcnn_R_101_FPN_400ep_LSJ", "42073830/model_final_f96b26.pkl", 48.9, 43.7
    ),
    "detectron2/cityscapes_mask_rcnn_R_50_FPN": _detectron2(
        "detectron2/Cityscapes/mask_rcnn_R_50_FPN",
        "142423278/model_final_af9cf5.pkl",
        "Mask R-CNN trained on COCO, then Cityscapes",
        None,
        36.5,
    ),
    "detectron2/lvis_mask_rcnn_R_50_FPN_1x": _detectron2(
        "detectron2/LVISv0.5-InstanceSegmentation/mask_rcnn_R_50_FPN_1x",
        "144219072/model_final_571f7c.pkl",
        "Mask R-CNN trained on LVIS v0.5",
        23.6,
        24.4,
    ),
    "detectron2/lvis_mask_rcnn_R_101_FPN_1x": _detectron2(
        "detectron2/LVISv0.5-InstanceSegmentation/mask_rcnn_R_101_FPN_1x",
        "144219035/model_final_824ab5.pkl",
        "Mask R-CNN trained on LVIS v0.5",
        25.6,
        25.9,
    ),
    "detectron2/lvis_mask_rcnn_X_101_32x8d_FPN_1x": _detectron2(
        "detectron2/LVISv0.5-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_1x",
        "144219108/model_final_5e3439.pkl",
        "Mask R-CNN trained on LVIS v0.5",
        26.7,
        27.1,
    ),
    # Mask R-CNN of MMDetection
    "mmdetection/mask_rcnn_r50_caffe_fpn_1x": _mmdetection(
        "mask_rcnn_r50_caffe_fpn_1x_coco",
        "bbox_mAP-0.38__segm_mAP-0.344_20200504_231812-0ebd1859.pth",
        38.0,
        34.4,
    ),
    "mmdetection/mask_rcnn_r50_fpn_1x": _mmdetection(
        "mask_rcnn_r50_fpn_1x_coco", "20200205-d4b0c5d6.pth", 38.2, 34.7
    ),
    "mmdetection/mask_rcnn_r50_fpn_2x": _mmdetection(
        "mask_rcnn_r50_fpn_2x_coco",
        "bbox_mAP-0.392__segm_mAP-0.354_20200505_003907-3e542a40.pth",
        39.2,
        35.4,
    ),
    "mmdetection/mask_rcnn_r101_caffe_fpn_1x": _mmdetection(
        "mask_rcnn_r101_caffe_fpn_1x_coco", "20200601_095758-805e06c1.pth", 40.4, 36.4
    ),
    "mmdetection/mask_rcnn_r101_fpn_1x": _mmdetection(
        "mask_rcnn_r101_fpn_1x_coco", "20200204-1efe0ed5.pth", 40.0, 36.1
    ),
    "mmdetection/mask_rcnn_r101_fpn_2x": _mmdetection(
        "mask_rcnn_r101_fpn_2x_coco",
        "bbox_mAP-0.408__segm_mAP-0.366_20200505_071027-14b391c7.pth",
        40.8,
        36.6,
    ),
    "mmdetection/mask_rcnn_x101_32x4d_fpn_1x": _mmdetection(
        "mask_rcnn_x101_32x4d_fpn_1x_coco", "20200205-478d0b67.pth", 41.9, 37.5
    ),
    "mmdetection/mask_rcnn_x101_32x4d_fpn_2x": _mmdetection(
        "mask_rcnn_x101_32x4d_fpn_2x_coco",
        "bbox_mAP-0.422__segm_mAP-0.378_20200506_004702-faef898c.pth",
        42.2,
        37.8,
    ),
    "mmdetection/mask_rcnn_x101_64x4d_fpn_1x": _mmdetection(
        "mask_rcnn_x101_64x4d_fpn_1x_coco", "20200201-9352eb0d.pth", 42.8, 38.4
    ),
    "mmdetection/mask_rcnn_x101_64x4d_fpn_2x": _mmdetection(
        "mask_rcnn_x101_64x4d_fpn_2x_coco", "20200509_224208-39d6f70c.pth", 42.7, 38.1
    ),
    "mmdetection/mask_rcnn_r50_caffe_fpn_mstrain-poly_2x": _mmdetection(
        "mask_rcnn_r50_caffe_fpn_mstrain-poly_2x_coco",
        "bbox_mAP-0.403__segm_mAP-0.365_20200504_231822-a75c98ce.pth",
        40.3,
        36.5,
    ),
    "mmdetection/mask_rcnn_r50_caffe_fpn_mstrain-poly_3x": _mmdetection(
        "mask_rcnn_r50_caffe_fpn_mstrain-poly_3x_coco",
        "bbox_mAP-0.408__segm_mAP-0.37_20200504_163245-42aa3d00.pth",
        40.8,
        37.0,
    ),
    "mmdetection/mask_rcnn_r50_fpn_mstrain-poly_3x": _mmdetection(
        "mask_rcnn_r50_fpn_mstrain-poly_3x_coco", "20210524_201154-21b550bb.pth", 40.9, 37.1
    ),
    "mmdetection/mask_rcnn_r101_caffe_fpn_mstrain-poly_3x": _mmdetection(
        "mask_rcnn_r101_caffe_fpn_mstrain-poly_3x_coco", "20210526_132339-3c33ce02.pth", 42.9, 38.5
    ),
    "mmdetection/mask_rcnn_r101_fpn_mstrain-poly_3x": _mmdetection(
        "mask_rcnn_r101_fpn_mstrain-poly_3x_coco", "20210524_200244-5675c317.pth", 42.7, 38.5
    ),
    "mmdetection/mask_rcnn_x101_32x4d_fpn_mstrain-poly_3x": _mmdetection(
        "mask_rcnn_x101_32x4d_fpn_mstrain-poly_3x_coco", "20210524_201410-abcd7859.pth", 43.6, 39.0
    ),
    "mmdetection/mask_rcnn_x101_64x4d_fpn_mstrain-poly_3x": _mmdetection(
        "mask_rcnn_x101_64x4d_fpn_mstrain-poly_3x_coco", "20210526_120447-c376f129.pth", 44.5, 39.7
    ),
    # Backbones of torchvision; those named _v2 are trained by its newer recipe
    "torchvision/resnet18": _torchvision("resnet18-f37072fd.pth", _V1),
    "torchvision/resnet34": _torchvision("resnet34-b627a593.pth", _V1),
    "torchvision/resnet50": _torchvision("resnet50-0676ba61.pth", _V1),
    "torchvision/resnet50_v2": _torchvision("resnet50-11ad3fa6.pth", _V2),
    "torchvision/resnet101": _torchvision("resnet101-63fe2227.pth", _V1),
    "torchvision/resnet101_v2": _torchvision("resnet101-cd907fc2.pth", _V2),
    "torchvision/resnet152": _torchvision("resnet152-394f9c45.pth", _V1),
    "torchvision/resnet152_v2": _torchvision("resnet152-f82ba261.pth", _V2),
    "torchvision/resnext50_32x4d": _torchvision("resnext50_32x4d-7cdf4587.pth", _V1),
    "torchvision/resnext50_32x4d_v2": _torchvision("resnext50_32x4d-1a0047aa.pth", _V2),
    "torchvision/resnext101_32x8d": _torchvision("resnext101_32x8d-8ba56ff5.pth", _V1),
    "torchvision/resnext101_32x8d_v2": _torchvision("resnext101_32x8d-110c445d.pth", _V2),
    "torchvision/resnext101_64x4d": _torchvision("resnext101_64x4d-173b62eb.pth", _V1),
    "torchvision/vgg16": _torchvision("vgg16-397923af.pth", _V1),
    "torchvision/mobilenet_v2": _torchvision("mobilenet_v2-b0353104.pth", _V1),
    "torchvision/mobilenet_v2_v2": _torchvision("mobilenet_v2-7ebf99e0.pth", _V2),
    # Backbones of Detectron2 and Detectron
    "detectron2/R-50": _detectron2(
        "detectron2/ImageNetPretrained/MSRA", "R-50.pkl", "ResNet-50 trained on ImageNet-1k"
    ),
    "detectron2/R-101": _detectron2(
        "detectron2/ImageNetPretrained/MSRA", "R-101.pkl", "ResNet-101 trained on ImageNet-1k"
    ),
    "detectron2/X-101-32x8d": _detectron2(
        "detectron2/ImageNetPretrained/FAIR",
        "X-101-32x8d.pkl",
        "ResNeXt-101 32x8d trained on ImageNet-1k",
    ),
    "detectron/R-50-GN": _detectron2(
        "detectron/ImageNetPretrained/47261647",
        "R-50-GN.pkl",
        "ResNet-50 with group norm trained on ImageNet-1k",
    ),
    "detectron/R-101-GN": _detectron2(
        "detectron/ImageNetPretrained/47592356",
        "R-101-GN.pkl",
        "ResNet-101 with group norm trained on ImageNet-1k",
    ),
}
