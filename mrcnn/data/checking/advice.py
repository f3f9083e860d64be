"""Numbers of a model that fit the objects of a data set: image size, anchors, detections.

B boxes; sizes of boxes are roots of their areas.
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
from mrcnn.data.checking.run import Figures
from mrcnn.data.images import network_size

LEGIBLE = 16  # pixels that the network should see of a small object: four cells of the finest map
AMPLE = 32  # pixels of a small object beyond which images may shrink
SMALL_ONE = 10  # percentile of the sizes of objects that is called small here
FEWEST_DETECTIONS = 100  # COCO's

_MAGNIFIED = (0.25, 2.0)  # at least and at most
_SIDES = (256, 1024)  # of the shorter side, pixels
_MULTIPLE = 32
_BASES = tuple(8 * 2 ** (i / 4) for i in range(17))  # candidates: size of the finest anchor
_FACTORS = (2.0, 2**0.75, 2**0.5)  # from level to level
_GAIN = 0.01  # of the mean IoU, for which numbers other than the usual ones are worth it
_SAMPLE = 20_000  # boxes

Boxes = NDArray[np.float64]


@dataclass(frozen=True)
class Advice:
    """Flags of training, and how well their anchors fit."""

    model: str
    flags: tuple[str, ...]
    usual: float  # mean IoU of objects with the best anchor at their centre, as the model has them
    fitted: float  # and with the flags

    def command(self, data: str) -> str:
        """Ready to be typed."""
        words = ("python", "-m", "mrcnn.train", "--data", data, *self.flags)
        return shlex.join(words)


def advise(images: Sequence[Figures], name: str, config: ModelConfig) -> Advice | None:
    """What to train with; None without objects.

    Args:
        name: of the model in `MODELS`, with a pyramid and one anchor size a level.
        config: its configuration.
    """
    filled = [one for one in images if len(one.labels)]
    if not filled:
        return None
    size_flags, fields = _image_size(filled)
    chosen = dataclasses.replace(config, **fields)
    boxes = _seen(filled, chosen)
    base, factor, ratios = _anchors(boxes, config)
    sizes = tuple(round(base * factor**i) for i in range(len(config.anchor_sizes)))
    flags = ["--model", name, *size_flags, "--anchor-sizes", *map(str, sizes)]
    fitted = dataclasses.replace(chosen, anchor_sizes=sizes, anchor_ratios=ratios)
    settings = []
    if ratios != config.anchor_ratios:
        settings.append("anchor_ratios=[" + ",".join(f"{ratio:g}" for ratio in ratios) + "]")
    most = max(len(one.labels) for one in filled)
    detections = max(FEWEST_DETECTIONS, -(-most // 50) * 50)
    if detections != config.max_detections:
        flags += ["--max-detections", str(detections)]
    for field in ("pre_nms_top_k", "post_nms_top_k", "training_post_nms_top_k"):
        if getattr(config, field) < 2 * detections:  # some proposals are duplicates or background
            settings.append(f"{field}={2 * detections}")
    if settings:
        flags += ["--set", *settings]
    return Advice(
        name,
        tuple(flags),
        float(best_iou(_seen(filled, config), config).mean()),
        float(best_iou(boxes, fitted).mean()),
    )


def best_iou(boxes: Boxes, config: ModelConfig) -> Boxes:
    """IoU of each box with the best anchor at its centre.

    Args:
        boxes: (B, 2) widths and heights as the network sees them.
    Returns:
        (B,).
    """
    sizes = [size for sizes in config.level_anchor_sizes for size in sizes]
    return _best_iou(boxes, sizes, config.anchor_ratios)


def _best_iou(boxes: Boxes, sizes: Sequence[float], ratios: Sequence[float]) -> Boxes:
    best = np.zeros(len(boxes))
    areas = boxes.prod(1)
    for size in sizes:
        for ratio in ratios:
            width, height = size / ratio**0.5, size * ratio**0.5
            common = np.minimum(boxes[:, 0], width) * np.minimum(boxes[:, 1], height)
            best = np.maximum(best, common / (areas + size**2 - common))
    return best


def _image_size(images: Sequence[Figures]) -> tuple[list[str], dict[str, Any]]:
    """Flags, and the fields they set, for objects that are neither tiny nor needlessly large.

    Where objects differ less in pixels than as parts of their images, as in microscopy, all images
    are magnified alike; else they get the same shorter side.
    """
    sides = [np.sqrt(_extents(one).prod(1)) for one in images]
    pixels = np.concatenate(sides)
    parts = np.concatenate([side / min(one.size) for side, one in zip(sides, images, strict=True)])
    small = float(np.percentile(pixels, SMALL_ONE))
    wanted = max(1.0, LEGIBLE / small) if small < AMPLE else AMPLE / small
    if np.log(pixels).std() < 0.95 * np.log(parts).std():
        scale = float(np.clip(round(4 * wanted) / 4, *_MAGNIFIED))
        return ["--scale", f"{scale:g}"], {"scale": scale}
    shorter = float(np.median([min(one.size) for one in images]))
    magnified = float(np.clip(wanted, *_MAGNIFIED))
    rounded = _MULTIPLE * round(shorter * magnified / _MULTIPLE)
    side = int(np.clip(rounded, *_SIDES))
    # The longer side is bounded as training with --image-size does it.
    return ["--image-size", str(side)], {"min_size": side, "max_size": max(1333, 2 * side)}


def _extents(one: Figures) -> Boxes:
    """(G, 2) widths and heights, none below a pixel."""
    return (one.boxes[:, 2:] - one.boxes[:, :2]).clip(1)


def _seen(images: Sequence[Figures], config: ModelConfig) -> Boxes:
    """(B, 2) widths and heights as the network sees them; of many, evenly chosen ones."""
    parts = []
    for one in images:
        height, width = network_size(*one.size, config)
        parts.append(_extents(one) * (width / one.size[1], height / one.size[0]))
    boxes = np.concatenate(parts)
    return boxes[:: -(-len(boxes) // _SAMPLE)]


def _anchors(boxes: Boxes, config: ModelConfig) -> tuple[float, float, tuple[float, ...]]:
    """The finest size, the factor from level to level, and the ratios that fit best.

    Sizes double and ratios stay the model's, unless others fit noticeably better. On every level an
    anchor spans at least two cells, or there would be objects between them.
    """
    levels = len(config.anchor_sizes)
    tall = boxes[:, 1] / boxes[:, 0]
    of_data = tuple(float(f"{value:.2g}") for value in np.percentile(tall, (10, 50, 90)))
    found: list[tuple[float, float, float, tuple[float, ...]]] = []
    for ratios in dict.fromkeys((config.anchor_ratios, of_data)):
        for factor in _FACTORS:
            for base in _BASES:
                if all(base * factor**i >= 2 * 4 * 2**i - 1e-9 for i in range(levels)):
                    sizes = [base * factor**i for i in range(levels)]
                    iou = float(_best_iou(boxes, sizes, ratios).mean())
                    is_unusual = (factor != _FACTORS[0]) + (ratios != config.anchor_ratios)
                    found.append((iou - _GAIN * is_unusual, base, factor, ratios))
    _, base, factor, ratios = max(found)
    return base, factor, ratios
