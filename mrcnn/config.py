"""What a model is, in plain values: stored in checkpoints, made into modules by `models.build`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from mrcnn.numerics import NUMERICS, Numerics

# Of each field that names a choice, apart from backbones, which `models.build` knows.
CHOICES = {
    "numerics": tuple(NUMERICS),
    "norm": ("frozen_batch", "batch", "sync_batch", "group", "group_of_8", "none"),
    "neck": ("fpn", "single", "c4", "dc5"),
    "fpn_top": ("max_pool", "conv"),
    "rpn_box_loss": ("smooth_l1", "giou"),
    "head_norm": ("none", "frozen_batch", "batch", "sync_batch", "group", "group_of_8"),
    "roi_op": ("align", "pool"),
    "box_loss": ("smooth_l1", "giou"),
}
_COUNTS = (
    "fpn_channels", "fpn_levels", "rpn_samples", "pre_nms_top_k", "post_nms_top_k",
    "training_post_nms_top_k", "roi_samples", "box_bins", "mask_bins", "box_head_conv_width",
    "box_head_width", "mask_head_width",
)  # fmt: skip
_GROUPS = {"group": 32, "group_of_8": 8}  # divide the channels


@dataclass(frozen=True)
class ModelConfig:
    """One Mask R-CNN. The defaults are ResNet-50-FPN as in Detectron2's base configuration."""

    class_names: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()  # of the annotation file, aligned with class_names
    numerics: str = "detectron2"

    backbone: str = "resnet50"
    norm: str = "frozen_batch"  # or "batch", "sync_batch", "group", "group_of_8"; "none" for VGG
    norm_eps: float = 1e-5  # added to variances
    stride_in_1x1: bool = False  # of bottlenecks, instead of in the 3 x 3
    frozen_stages: int = 2  # stem and res2 keep their pretrained weights; 0 trains everything
    # Or "single": the last of `fpn_levels` stages alone; or, of ResNets, "c4": conv4 alone, conv5
    # runs on RoIs; or "dc5": conv5 alone, dilated.
    neck: str = "fpn"
    fpn_channels: int = 256
    fpn_levels: int = 4  # backbone stages used, from stride 4 on; one coarser level is added on top
    fpn_top: str = "max_pool"  # makes the coarser level; or "conv", of stride 2

    # sqrt(area) in pixels: one a level, or a tuple of them a level.
    anchor_sizes: tuple[float | tuple[float, ...], ...] = (32, 64, 128, 256, 512)
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height / width
    rpn_convs: int = 1
    rpn_samples: int = 256  # anchors an image in the RPN loss
    rpn_box_loss: str = "smooth_l1"  # or "giou"
    rpn_smooth_l1_beta: float | None = None  # 0 is the plain L1 loss; None: that of the numerics
    pre_nms_top_k: int = 1000  # proposals a level before NMS; twice as many in training
    post_nms_top_k: int = 1000  # proposals an image
    training_post_nms_top_k: int = 1000  # the same in training

    roi_samples: int = 512  # RoIs an image in the losses of the heads
    roi_positive_fraction: float = 0.25
    roi_op: str = "align"  # or "pool": RoIPool, as in Fast R-CNN
    box_bins: int = 7  # a side, of the features that the box head pools
    mask_bins: int = 14  # the same of the mask head, whose masks are twice as wide
    head_norm: str = "none"  # of the convolutions of FPN and heads, or one of those of `norm`
    box_head_convs: int = 0
    box_head_conv_width: int = 256
    box_head_layers: int = 2  # fully connected
    box_head_width: int = 1024
    class_agnostic_boxes: bool = False
    box_loss: str = "smooth_l1"  # or "giou"
    box_smooth_l1_beta: float | None = None  # as rpn_smooth_l1_beta
    masks: bool = True  # False detects boxes only (Faster R-CNN)
    mask_head_convs: int = 4
    mask_head_width: int = 256
    class_agnostic_masks: bool = False

    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    max_detections: int = 100  # an image, for the model and for its evaluation

    min_size: int = 800  # shorter side after resizing, pixels
    max_size: int = 1333  # longer side, at most
    scale: float | None = None  # instead: resize every image by this factor
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)  # RGB, 0-255: ImageNet
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if (value := getattr(self, name)) not in known:
                raise ValueError(
                    f"ModelConfig: {name} must be one of {', '.join(known)}, got {value!r}"
                )
        for name in _COUNTS:
            if not (value := getattr(self, name)) >= 1:
                raise ValueError(f"ModelConfig: {name} must be at least 1, got {value}")
        if self.fpn_levels > 4:
            raise ValueError(
                "ModelConfig: fpn_levels must be at most 4, the stages of a backbone, "
                f"got {self.fpn_levels}"
            )
        for loss in ("rpn", "box"):
            beta = getattr(self, f"{loss}_smooth_l1_beta")
            kind = "rpn_box_loss" if loss == "rpn" else "box_loss"
            if beta is not None and not beta >= 0:
                raise ValueError(
                    f"ModelConfig: {loss}_smooth_l1_beta must be at least 0, got {beta}"
                )
            if beta is not None and getattr(self, kind) != "smooth_l1":
                raise ValueError(
                    f"ModelConfig: {loss}_smooth_l1_beta {beta} is for {kind} 'smooth_l1', "
                    f"got {getattr(self, kind)!r}"
                )
        levels = self.fpn_levels + 1 if self.neck == "fpn" else 1
        if len(self.anchor_sizes) != levels:
            wanted = (
                f"{levels} sizes, one for each of {self.fpn_levels} FPN levels and one for the "
                "level on top"
                if self.neck == "fpn"
                else f"one tuple of sizes for the one level of neck {self.neck!r}"
            )
            raise ValueError(
                f"ModelConfig: anchor_sizes must hold {wanted}, got {self.anchor_sizes}"
            )
        if len({len(sizes) for sizes in self.level_anchor_sizes}) > 1:
            raise ValueError(
                "ModelConfig: anchor_sizes must hold as many sizes for every level, "
                f"got {self.anchor_sizes}"
            )
        for name, values in (
            ("anchor_sizes", [v for sizes in self.level_anchor_sizes for v in sizes]),
            ("anchor_ratios", self.anchor_ratios),
        ):
            if not values or not all(value > 0 for value in values):
                raise ValueError(
                    f"ModelConfig: {name} must be more than 0 each, got {getattr(self, name)}"
                )
        if self.fpn_top != "max_pool" and self.neck != "fpn":
            raise ValueError(
                f"ModelConfig: fpn_top {self.fpn_top!r} is for neck 'fpn', got neck {self.neck!r}"
            )
        if self.neck == "c4" and self.mask_bins != 2 * self.box_bins:
            raise ValueError(
                "ModelConfig: with neck 'c4', whose conv5 halves what is pooled for both heads, "
                f"mask_bins must be twice box_bins, got {self.mask_bins} and {self.box_bins}"
            )
        widths = {
            "fpn_channels": self.neck == "fpn",
            "box_head_conv_width": self.box_head_convs > 0,
            "mask_head_width": self.mask_head_convs > 0,
        }
        for name, used in widths.items():
            width, groups = getattr(self, name), _GROUPS.get(self.head_norm, 1)
            if used and width % groups:
                raise ValueError(
                    f"ModelConfig: with head_norm {self.head_norm!r}, {name} must be a multiple "
                    f"of {groups}, got {width}"
                )
        heads = (self.box_head_convs, self.box_head_layers, self.mask_head_convs)
        if self.neck == "c4" and any(heads):
            raise ValueError(
                "ModelConfig: neck 'c4' has conv5 in place of box_head_convs, box_head_layers and "
                f"mask_head_convs, which must be 0, got {heads}"
            )

    @property
    def conventions(self) -> Numerics:
        """Numerical conventions that `numerics` names."""
        return NUMERICS[self.numerics]

    @property
    def level_anchor_sizes(self) -> list[tuple[float, ...]]:
        """`anchor_sizes` as a tuple for every level."""
        return [s if isinstance(s, tuple) else (s,) for s in self.anchor_sizes]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def size_multiple(self) -> int:
        """Of a padded batch: a pyramid's sums need maps of exactly half the size, and poolings of
        some backbones would drop what is left over."""
        return 32 if self.neck in ("fpn", "single") else 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """The inverse of `to_dict`.

        Raises:
            ValueError: if a field is unknown.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"ModelConfig: unknown fields {unknown}; made by a newer mrcnn?")
        return cls(**{name: _as_tuples(value) for name, value in values.items()})


def _as_tuples(value: Any) -> Any:
    """JSON's lists as tuples, also within each other."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


# Learns from scratch on a CPU in minutes. Three stages see objects up to about 150 pixels, and are
# what many small ImageNet backbones provide.
_SMALL = ModelConfig(
    backbone="resnet18",
    norm="group_of_8",
    frozen_stages=0,
    fpn_channels=64,
    fpn_levels=3,
    anchor_sizes=(16, 32, 64, 128),
    pre_nms_top_k=500,
    post_nms_top_k=500,
    training_post_nms_top_k=500,
    roi_samples=64,
    box_head_width=256,
    mask_head_width=64,
    min_size=256,
    max_size=448,
)
# The same for a backbone that brings ImageNet's weights and batch statistics.
_SMALL_IMAGENET = dataclasses.replace(_SMALL, norm="frozen_batch", frozen_stages=2)
_HALF = (127.5, 127.5, 127.5)  # mean and standard deviation of pixels scaled to [-1, 1]

_RESNET50 = ModelConfig()  # R50-FPN
_ONE_LEVEL = dataclasses.replace(
    _RESNET50, neck="dc5", anchor_sizes=((32, 64, 128, 256, 512),), pre_nms_top_k=6000,
    training_post_nms_top_k=2000,
)  # fmt: skip
_CONV5_HEADS = dataclasses.replace(
    _ONE_LEVEL, neck="c4", box_head_convs=0, box_head_layers=0, mask_head_convs=0
)

MODELS: dict[str, ModelConfig] = {
    "small": _SMALL,
    "small-c4": dataclasses.replace(
        _SMALL, neck="c4", anchor_sizes=((16, 32, 64, 128),), box_head_layers=0, mask_head_convs=0
    ),
    "small-imagenet": _SMALL_IMAGENET,
    "small-mobilenet": dataclasses.replace(
        _SMALL_IMAGENET, backbone="mobilenet_v2", pixel_mean=_HALF, pixel_std=_HALF
    ),
    "small-vgg": dataclasses.replace(_SMALL, backbone="vgg11_bn"),
    "small-roipool": dataclasses.replace(_SMALL, roi_op="pool"),
    "resnet18-fpn": ModelConfig(backbone="resnet18"),
    "resnet34-fpn": ModelConfig(backbone="resnet34"),
    "resnet50-fpn": ModelConfig(backbone="resnet50"),
    "resnet101-fpn": ModelConfig(backbone="resnet101"),
    "resnet152-fpn": ModelConfig(backbone="resnet152"),
    "resnext50-fpn": ModelConfig(backbone="resnext50_32x4d"),
    "resnext101-fpn": ModelConfig(backbone="resnext101_32x8d"),
    "wide-resnet50-fpn": ModelConfig(backbone="wide_resnet50_2"),
    "resnet18-c4": dataclasses.replace(_CONV5_HEADS, backbone="resnet18"),
    "resnet50-c4": _CONV5_HEADS,
    "resnet101-c4": dataclasses.replace(_CONV5_HEADS, backbone="resnet101"),
    "resnet50-dc5": _ONE_LEVEL,
    "resnet101-dc5": dataclasses.replace(_ONE_LEVEL, backbone="resnet101"),
    # Group norm throughout, and four convolutions before one layer (Wu and He, 2018).
    "resnet50-gn-fpn": ModelConfig(
        norm="group", head_norm="group", box_head_convs=4, box_head_layers=1
    ),
    # Torchvision's second version of its R50-FPN.
    "resnet50-fpn-v2": dataclasses.replace(
        _RESNET50, norm="batch", rpn_convs=2, head_norm="batch", box_head_convs=4, box_head_layers=1
    ),
    "vgg11-fpn": ModelConfig(backbone="vgg11", norm="none", frozen_stages=1),
    "vgg16-fpn": ModelConfig(backbone="vgg16", norm="none", frozen_stages=1),
    # Faster R-CNN's: conv5_3, RoIPool, layers as wide as VGG's own; and a mask head beside them.
    "vgg16": ModelConfig(
        backbone="vgg16",
        norm="none",
        frozen_stages=1,
        neck="single",
        fpn_levels=3,
        anchor_sizes=((128, 256, 512),),
        pre_nms_top_k=6000,
        post_nms_top_k=300,
        training_post_nms_top_k=2000,
        roi_samples=128,
        roi_op="pool",
        box_head_width=4096,
        min_size=600,
        max_size=1000,
    ),
    # Its ImageNet weights were trained with this epsilon and these pixels.
    "inception-fpn": ModelConfig(
        backbone="inception_v3", norm_eps=1e-3, pixel_mean=_HALF, pixel_std=_HALF
    ),
    "small-inception": dataclasses.replace(_SMALL, backbone="inception_v3_narrow"),
    "mobilenet-fpn": ModelConfig(backbone="mobilenet_v2"),
}
