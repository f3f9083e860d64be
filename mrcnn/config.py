"""What a model is, in plain values: stored in checkpoints, made into modules by `models.build`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from mrcnn.numerics import NUMERICS


@dataclass(frozen=True)
class ModelConfig:
    """One Mask R-CNN. The defaults are ResNet-50-FPN as in Detectron2's base configuration."""

    class_names: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()  # of the annotation file, aligned with class_names
    numerics: str = "detectron2"

    backbone: str = "resnet50"
    norm: str = "frozen_batch"  # or "batch", "group", "group_of_8"
    norm_eps: float = 1e-5  # added to variances
    frozen_stages: int = 2  # stem and res2 keep their pretrained weights; 0 trains everything
    fpn_channels: int = 256
    fpn_levels: int = 4  # backbone stages used, from stride 4 on; one coarser level is added on top

    anchor_sizes: tuple[float, ...] = (32, 64, 128, 256, 512)  # sqrt(area), one a level, pixels
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height / width
    rpn_samples: int = 256  # anchors an image in the RPN loss
    pre_nms_top_k: int = 1000  # proposals a level before NMS; twice as many in training
    post_nms_top_k: int = 1000  # proposals an image

    roi_samples: int = 512  # RoIs an image in the losses of the heads
    roi_positive_fraction: float = 0.25
    box_head_width: int = 1024
    mask_head_width: int = 256

    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    max_detections: int = 100  # an image, for the model and for its evaluation

    min_size: int = 800  # shorter side after resizing, pixels
    max_size: int = 1333  # longer side, at most
    scale: float | None = None  # instead: resize every image by this factor
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)  # RGB, 0-255: ImageNet
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)

    def __post_init__(self) -> None:
        if self.numerics not in NUMERICS:
            known = ", ".join(NUMERICS)
            raise ValueError(f"ModelConfig: numerics must be one of {known}, got {self.numerics!r}")
        if len(self.anchor_sizes) != self.fpn_levels + 1:
            raise ValueError(
                f"ModelConfig: anchor_sizes must hold {self.fpn_levels + 1} sizes, one for each "
                f"of {self.fpn_levels} FPN levels and one for the level on top, "
                f"got {self.anchor_sizes}"
            )

        for name in ("anchor_sizes", "anchor_ratios"):
            if not all(value > 0 for value in getattr(self, name)):
                raise ValueError(
                    f"ModelConfig: {name} must be more than 0 each, got {getattr(self, name)}"
                )

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

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
        plain: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in values.items()
        }
        return cls(**plain)


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
    roi_samples=64,
    box_head_width=256,
    mask_head_width=64,
    min_size=256,
    max_size=448,
)

MODELS: dict[str, ModelConfig] = {
    "small": _SMALL,
    # The same for a backbone that brings ImageNet's weights and batch statistics.
    "small-imagenet": dataclasses.replace(_SMALL, norm="frozen_batch", frozen_stages=2),
    "resnet18-fpn": ModelConfig(backbone="resnet18"),
    "resnet34-fpn": ModelConfig(backbone="resnet34"),
    "resnet50-fpn": ModelConfig(backbone="resnet50"),
    "resnet101-fpn": ModelConfig(backbone="resnet101"),
    "resnet152-fpn": ModelConfig(backbone="resnet152"),
}
