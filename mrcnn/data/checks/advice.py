"""Training flags that fit the objects of a data set: image size, anchors, detections.

B boxes. Sizes of boxes are the roots of their areas.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.config import ModelConfig
from mrcnn.data.checks.findings import ImageSummary
from mrcnn.data.images import network_size

LEGIBLE = 16  # pixels of a small object in the network's input: four cells of the finest level
AMPLE = 32  # pixels of a small object beyond which images may shrink
SMALL_PERCENTILE = 10  # of the sizes of objects
FEWEST_DETECTIONS = 100  # COCO's

_ENLARGED = (0.25, 2.0)  # at least and at most
_SIDES = (256, 1024)  # of the shorter side, pixels
_MULTIPLE = 32
_BASES = tuple(8 * 2 ** (i / 4) for i in range(17))  # candidates: size of the finest anchor
_FACTORS = (2.0, 2**0.75, 2**0.5)  # from level to level
_GAIN = 0.01  # of the mean IoU that justifies numbers other than the usual ones
_SAMPLE = 20_000  # boxes

Boxes = NDArray[np.float64]


@dataclass(frozen=True)
class Advice:
    """Training flags, and how well their anchors fit."""

    model: str
    flags: tuple[str, ...]
    default_iou: float  # mean IoU of objects with the best anchor at their centre, by default
    fitted_iou: float  # and with the flags

    def command(self, data: str) -> str:
        """Return the training command."""
        return shlex.join(("python", "-m", "mrcnn.train", "--data", data, *self.flags))

    def summary(self) -> str:
        """Describe how well the anchors fit."""
        return (
            f"{self.model}: mean IoU of an object with the best anchor at its centre is "
            f"{self.fitted_iou:.2f}, by default {self.default_iou:.2f}"
        )


def advise(images: Sequence[ImageSummary], name: str, config: ModelConfig) -> Advice | None:
    """Suggest flags to train the model `name` of `MODELS` with `config`; None without objects.

    The model has a pyramid and one anchor size per level.
    """
    images = [image for image in images if len(image.labels)]
    if not images:
        return None
    size_flags, fields = _image_size(images)
    chosen = dataclasses.replace(config, **fields)
    boxes = _network_boxes(images, chosen)
    base, factor, ratios = _anchors(boxes, config)
    sizes = tuple(round(base * factor**i) for i in range(len(config.anchor_sizes)))
    flags = ["--model", name, *size_flags, "--anchor-sizes", *map(str, sizes)]
    fitted = dataclasses.replace(chosen, anchor_sizes=sizes, anchor_ratios=ratios)
    settings = []
    if ratios != config.anchor_ratios:
        settings.append("anchor_ratios=[" + ",".join(f"{ratio:g}" for ratio in ratios) + "]")
    most = max(len(image.labels) for image in images)
    detections = max(FEWEST_DETECTIONS, -(-most // 50) * 50)
    if detections != config.max_detections:
        flags += ["--max-detections", str(detections)]
    for field in ("pre_nms_top_k", "post_nms_top_k", "training_post_nms_top_k"):
        if getattr(config, field) < 2 * detections:  # some proposals are duplicates or background
            settings.append(f"{field}={2 * detections}")
    if settings:
        flags += ["--set", *settings]
    return Advice(
        model=name,
        flags=tuple(flags),
        default_iou=_mean_best_iou(_network_boxes(images, config), config),
        fitted_iou=_mean_best_iou(boxes, fitted),
    )


def _mean_best_iou(boxes: Boxes, config: ModelConfig) -> float:
    """Return the mean IoU of (B, 2) widths and heights with the best anchor at their centre."""
    sizes = [size for sizes in config.level_anchor_sizes for size in sizes]
    return float(_best_iou(boxes, sizes, config.anchor_ratios).mean())


def _best_iou(boxes: Boxes, sizes: Sequence[float], ratios: Sequence[float]) -> Boxes:
    """Return the (B,) IoU of (B, 2) widths and heights with the best anchor at their centre."""
    best = np.zeros(len(boxes))
    areas = boxes.prod(1)
    for size in sizes:
        for ratio in ratios:
            width, height = size / ratio**0.5, size * ratio**0.5
            common = np.minimum(boxes[:, 0], width) * np.minimum(boxes[:, 1], height)
            best = np.maximum(best, common / (areas + size**2 - common))
    return best


def _image_size(images: Sequence[ImageSummary]) -> tuple[list[str], dict[str, Any]]:
    """Return flags, and the fields they set, so that objects are not tiny or needlessly large.

    If sizes of objects vary less in pixels than as fractions of their images, as in microscopy,
    all images are enlarged by one factor. Otherwise they get the same shorter side.
    """
    sides = [np.sqrt(_extents(image).prod(1)) for image in images]
    pixels = np.concatenate(sides)
    fractions = np.concatenate(
        [side / min(image.size) for side, image in zip(sides, images, strict=True)]
    )
    small = float(np.percentile(pixels, SMALL_PERCENTILE))
    factor = max(1.0, LEGIBLE / small) if small < AMPLE else AMPLE / small
    if np.log(pixels).std() < 0.95 * np.log(fractions).std():
        scale = float(np.clip(round(4 * factor) / 4, *_ENLARGED))
        return ["--scale", f"{scale:g}"], {"scale": scale}
    shorter = float(np.median([min(image.size) for image in images]))
    enlarged = float(np.clip(factor, *_ENLARGED))
    rounded = _MULTIPLE * round(shorter * enlarged / _MULTIPLE)
    side = int(np.clip(rounded, *_SIDES))
    # The longer side is bounded as training with --image-size does it.
    return ["--image-size", str(side)], {"min_size": side, "max_size": max(1333, 2 * side)}


def _extents(image: ImageSummary) -> Boxes:
    """Return (G, 2) widths and heights, at least a pixel."""
    return (image.boxes[:, 2:] - image.boxes[:, :2]).clip(1)


def _network_boxes(images: Sequence[ImageSummary], config: ModelConfig) -> Boxes:
    """Return (B, 2) widths and heights in the network's input, evenly sampled from many."""
    extents = []
    for image in images:
        height, width = network_size(*image.size, config)
        extents.append(_extents(image) * (width / image.size[1], height / image.size[0]))
    boxes = np.concatenate(extents)
    return boxes[:: -(-len(boxes) // _SAMPLE)]


def _anchors(boxes: Boxes, config: ModelConfig) -> tuple[float, float, tuple[float, ...]]:
    """Return the finest size, the factor from level to level, and the ratios that fit best.

    Sizes double and ratios stay the model's, unless others fit noticeably better. On every level an
    anchor spans at least two cells; otherwise objects would fit between them.
    """
    levels = len(config.anchor_sizes)
    ratio = boxes[:, 1] / boxes[:, 0]
    of_data = tuple(float(f"{value:.2g}") for value in np.percentile(ratio, (10, 50, 90)))
    candidates: list[tuple[float, float, float, tuple[float, ...]]] = []
    for ratios in dict.fromkeys((config.anchor_ratios, of_data)):
        for factor in _FACTORS:
            for base in _BASES:
                if all(base * factor**i >= 2 * 4 * 2**i - 1e-9 for i in range(levels)):
                    sizes = [base * factor**i for i in range(levels)]
                    iou = float(_best_iou(boxes, sizes, ratios).mean())
                    is_unusual = (factor != _FACTORS[0]) + (ratios != config.anchor_ratios)
                    candidates.append((iou - _GAIN * is_unusual, base, factor, ratios))
    _, base, factor, ratios = max(candidates)
    return base, factor, ratios
