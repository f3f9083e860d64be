"""Configurations of models in plain values: stored in checkpoints, built by `models.build`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from mrcnn.errors import class_label
from mrcnn.numerics import NUMERICS, Numerics

# The values of each field that names a choice. `models.build` has those of `backbone`.
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
# The least and the greatest value of each number. The greatest are far above those of any use, and
# keep a damaged file or a typing error from filling the memory.
_RANGES = {
    "norm_eps": (0, 1), "frozen_stages": (0, 5), "fpn_channels": (1, 8192), "fpn_levels": (1, 4),
    "rpn_convs": (0, 32), "rpn_samples": (1, 10**5), "rpn_smooth_l1_beta": (0, 10**3),
    "pre_nms_top_k": (1, 10**6), "post_nms_top_k": (1, 10**6),
    "training_post_nms_top_k": (1, 10**6), "roi_samples": (1, 10**5),
    "roi_positive_fraction": (0, 1), "box_bins": (1, 64), "mask_bins": (1, 64),
    "box_head_convs": (0, 32), "box_head_conv_width": (1, 8192), "box_head_layers": (0, 32),
    "box_head_width": (1, 32768), "box_smooth_l1_beta": (0, 10**3), "mask_head_convs": (0, 32),
    "mask_head_width": (1, 8192), "score_threshold": (0, 1), "nms_threshold": (0, 1),
    "max_detections": (0, 10**5), "min_size": (1, 2**15), "max_size": (1, 2**15),
    "scale": (1e-3, 100), "pixel_mean": (-1e6, 1e6), "pixel_std": (1e-6, 1e6),
    "anchor_sizes": (1e-3, 10**5), "anchor_ratios": (1e-3, 10**3),
    "category_ids": (-(2**63), 2**63 - 1),
}  # fmt: skip
_GROUPS = {"group": 32, "group_of_8": 8}  # channels must be multiples of these


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(f"ModelConfig: {message}")


@dataclass(frozen=True)
class ModelConfig:
    """The configuration of one model. The defaults are Detectron2's base ResNet-50-FPN.

    Example:
        >>> config = dataclasses.replace(MODELS["small"], class_names=("cat", "dog"))
        >>> config = ModelConfig(class_names=("cat", "dog"), backbone="mobilenet_v2")
    """

    class_names: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()  # in the annotation file, aligned with class_names
    numerics: str = "detectron2"  # a key of `NUMERICS`

    backbone: str = "resnet50"  # a key of `mrcnn.models.build.BACKBONES`
    norm: str = "frozen_batch"  # or "batch", "sync_batch", "group", "group_of_8"; "none" for VGG
    norm_eps: float = 1e-5  # added to variances
    stride_in_1x1: bool = False  # bottlenecks have their stride in the first 1 x 1, not the 3 x 3
    # Stem and res2 keep their pretrained weights, and except in torchvision numerics the statistics
    # of their batch norm, too. 0 trains everything.
    frozen_stages: int = 2
    # "fpn"; "single": only the last of `fpn_levels` stages; for ResNets also "c4": only conv4, with
    # conv5 applied to each RoI; or "dc5": only conv5, dilated.
    neck: str = "fpn"
    fpn_channels: int = 256
    fpn_levels: int = 4  # backbone stages used, from stride 4 on; the FPN adds a coarser level
    fpn_top: str = "max_pool"  # how the FPN makes that level; or "conv", of stride 2

    # Square roots of the areas, in pixels: one number or a tuple of numbers per level.
    anchor_sizes: tuple[float | tuple[float, ...], ...] = (32, 64, 128, 256, 512)
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height / width
    rpn_convs: int = 1
    rpn_samples: int = 256  # anchors per image in the RPN losses
    rpn_box_loss: str = "smooth_l1"  # or "giou", which counts twice, as in Detectron2
    rpn_smooth_l1_beta: float | None = None  # 0: plain L1 loss; None: the value of the numerics
    pre_nms_top_k: int = 1000  # proposals per level before NMS; twice as many in training
    post_nms_top_k: int = 1000  # proposals per image
    training_post_nms_top_k: int = 1000  # the same in training

    roi_samples: int = 512  # RoIs per image in the losses of the heads
    roi_positive_fraction: float = 0.25
    roi_op: str = "align"  # or "pool": RoIPool, as in Fast R-CNN
    box_bins: int = 7  # side of the features that the box head pools
    mask_bins: int = 14  # the same for the mask head, whose masks are twice as wide
    head_norm: str = "none"  # norm of the convolutions of FPN and heads; see `norm`
    box_head_convs: int = 0
    box_head_conv_width: int = 256
    box_head_layers: int = 2  # fully connected
    box_head_width: int = 1024
    class_agnostic_boxes: bool = False
    box_loss: str = "smooth_l1"  # or "giou", which counts ten times, as in Detectron2
    box_smooth_l1_beta: float | None = None  # as rpn_smooth_l1_beta
    masks: bool = True  # False detects boxes only (Faster R-CNN)
    mask_head_convs: int = 4
    mask_head_width: int = 256
    class_agnostic_masks: bool = False

    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    max_detections: int = 100  # per image, for the model and for its evaluation

    min_size: int = 800  # shorter side after resizing, in pixels
    max_size: int = 1333  # upper bound on the longer side
    scale: float | None = None  # resizes every image by this factor instead
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)  # RGB, 0-255: ImageNet
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            kind, value = str(field.type), getattr(self, field.name)
            is_valid = {"bool": type(value) is bool, "str": isinstance(value, str)}.get(
                kind, not kind.startswith("tuple") or isinstance(value, tuple | list)
            )
            _require(is_valid, f"{field.name} must be of type {kind}, got {value!r:.80}")
        is_text = all(isinstance(name, str) for name in self.class_names)
        is_text &= not isinstance(self.class_names, str)  # which would be a class per letter
        _require(is_text, f"class_names must be texts, got {self.class_names!r:.80}")
        # Control characters become escapes here, since names are printed and drawn in many places.
        object.__setattr__(self, "class_names", tuple(map(class_label, self.class_names)))
        for name, known in CHOICES.items():
            value = getattr(self, name)
            _require(value in known, f"{name} must be one of {', '.join(known)}, got {value!r}")
        for name, (least, greatest) in _RANGES.items():
            value = getattr(self, name)
            kind = str(self.__dataclass_fields__[name].type)
            whole = "int" in kind
            for number in _numbers(value) if "tuple" in kind else [value]:
                if number is None and kind.endswith("None"):
                    continue
                kinds = (int,) if whole else (int, float)
                _require(
                    type(number) in kinds and least <= number <= greatest,  # NaN fails, too
                    f"{name} must be {'a whole number ' * whole}in [{least:g}, {greatest:g}], "
                    f"got {value!r:.80}",
                )
        for name in ("pixel_mean", "pixel_std"):
            value = getattr(self, name)
            _require(len(value) == 3, f"{name} must hold red, green and blue, got {value!r:.80}")
        names, ids = self.class_names, self.category_ids
        _require(
            len(ids) in (0, len(names)) and len(set(ids)) == len(ids),
            f"{len(names)} class_names need as many different category_ids, got {ids!r:.80}",
        )
        self._check_anchors()
        for kind, name in (
            ("rpn_box_loss", "rpn_smooth_l1_beta"),
            ("box_loss", "box_smooth_l1_beta"),
        ):
            beta, loss = getattr(self, name), getattr(self, kind)
            _require(
                beta is None or loss == "smooth_l1",
                f"{name} {beta} is for {kind} 'smooth_l1', got {loss!r}",
            )
        _require(
            self.fpn_top == "max_pool" or self.neck == "fpn",
            f"fpn_top {self.fpn_top!r} is for neck 'fpn', got neck {self.neck!r}",
        )
        widths = {
            "fpn_channels": self.neck == "fpn",
            "box_head_conv_width": self.box_head_convs > 0,
            "mask_head_width": self.mask_head_convs > 0,
        }
        groups = _GROUPS.get(self.head_norm, 1)
        for name in (name for name, is_used in widths.items() if is_used):
            width = getattr(self, name)
            _require(
                width % groups == 0,
                f"with head_norm {self.head_norm!r}, {name} must be a multiple of {groups}, "
                f"got {width}",
            )
        if self.neck == "c4":
            _require(
                self.mask_bins == 2 * self.box_bins,
                "with neck 'c4', conv5 halves the features that both heads pool, so mask_bins must "
                f"be twice box_bins, got {self.mask_bins} and {self.box_bins}",
            )
            heads = (self.box_head_convs, self.box_head_layers, self.mask_head_convs)
            _require(
                not any(heads),
                "with neck 'c4', conv5 replaces the layers of the heads, so box_head_convs, "
                f"box_head_layers and mask_head_convs must be 0, got {heads}",
            )

    def _check_anchors(self) -> None:
        levels = self.fpn_levels + 1 if self.neck == "fpn" else 1
        expected = (
            f"{levels} sizes, one for each of {self.fpn_levels} FPN levels and one for the level "
            "on top"
            if self.neck == "fpn"
            else f"one tuple of sizes for the one level of neck {self.neck!r}"
        )
        got = f"got {self.anchor_sizes}"
        _require(len(self.anchor_sizes) == levels, f"anchor_sizes must hold {expected}, {got}")
        sizes = self.level_anchor_sizes
        _require(
            len({len(values) for values in sizes}) == 1,
            f"anchor_sizes must hold the same number of sizes for every level, {got}",
        )
        _require(
            bool(sizes[0] and self.anchor_ratios),
            f"anchor_sizes and anchor_ratios must not be empty, {got} and {self.anchor_ratios}",
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
        """The number of classes, without background."""
        return len(self.class_names)

    @property
    def size_multiple(self) -> int:
        """Height and width of a padded batch are multiples of this.

        The sums of a pyramid need maps of exactly half the size, and poolings of some backbones
        would drop the remainder.
        """
        return 32 if self.neck in ("fpn", "single") else 1

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """Return the configuration with the values of `to_dict`.

        Args:
            values: by field, with JSON's lists instead of tuples. Missing fields take defaults.

        Raises:
            ValueError: if a field is unknown.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(
                f"ModelConfig: unknown fields {unknown}; was it made by a newer mrcnn?"
            )
        return cls(**{name: _as_tuples(value) for name, value in values.items()})


def _numbers(value: Any) -> list[Any]:
    """Return a value, or those of a nested tuple."""
    if isinstance(value, tuple):
        return [number for item in value for number in _numbers(item)]
    return [value]


def _as_tuples(value: Any) -> Any:
    """Turn JSON's lists into tuples, nested ones included."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


# Trains from scratch on a CPU in minutes. Three stages cover objects up to about 150 pixels, and
# many small ImageNet backbones have as many.
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
# The same for a backbone with weights and batch statistics from ImageNet.
_SMALL_IMAGENET = dataclasses.replace(_SMALL, norm="frozen_batch", frozen_stages=2)
_HALF = (127.5, 127.5, 127.5)  # mean and deviation that scale pixels to [-1, 1]

_RESNET50 = ModelConfig()  # R50-FPN
_ONE_LEVEL = dataclasses.replace(
    _RESNET50, neck="dc5", anchor_sizes=((32, 64, 128, 256, 512),), pre_nms_top_k=6000,
    training_post_nms_top_k=2000,
)  # fmt: skip
_CONV5_HEADS = dataclasses.replace(
    _ONE_LEVEL, neck="c4", box_head_convs=0, box_head_layers=0, mask_head_convs=0
)

# The models by name, for `--model NAME` and `build(MODELS[NAME])`; docs/models.md compares them.
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
    # Group norm everywhere, and four convolutions before one layer (Wu and He, 2018).
    "resnet50-gn-fpn": ModelConfig(
        norm="group", head_norm="group", box_head_convs=4, box_head_layers=1
    ),
    # Torchvision's second version of its R50-FPN.
    "resnet50-fpn-v2": dataclasses.replace(
        _RESNET50, norm="batch", rpn_convs=2, head_norm="batch", box_head_convs=4, box_head_layers=1
    ),
    "vgg11-fpn": ModelConfig(backbone="vgg11", norm="none", frozen_stages=1),
    "vgg16-fpn": ModelConfig(backbone="vgg16", norm="none", frozen_stages=1),
    # The network of Faster R-CNN (conv5_3, RoIPool, layers as wide as VGG's) plus a mask head.
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
    # The published ImageNet weights were trained with this epsilon and pixel scaling.
    "inception-fpn": ModelConfig(
        backbone="inception_v3", norm_eps=1e-3, pixel_mean=_HALF, pixel_std=_HALF
    ),
    "small-inception": dataclasses.replace(_SMALL, backbone="inception_v3_narrow"),
    "mobilenet-fpn": ModelConfig(backbone="mobilenet_v2"),
}
