"""Geometric augmentation as one change of coordinates: crop in the file, resize, mirror.

A `View` states the window of the image file, the size it is resized to, and whether it is mirrored.
Pixels, boxes and masks follow from it. Mask data do not change, only their transform.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrcnn.config import ModelConfig
from mrcnn.data.augment.colour import random_colours
from mrcnn.data.augment.user_transform import Transform, apply_transform
from mrcnn.data.images import network_size, write_view
from mrcnn.ops import instance_masks
from mrcnn.ops.instance_masks import InstanceMasks

CROP_TRIES = 10  # positions drawn until a crop contains the centre of an object
COLOURS = ("brightness", "contrast", "saturation", "hue")
MIN_VISIBLE = 1.0  # file pixels; an instance is dropped if its cropped box is thinner


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images."""

    crop: int | None = None  # side of a random square, file pixels, cropped before the resize
    min_sizes: tuple[int, ...] = ()  # shorter sides to draw from; unused with `ModelConfig.scale`
    scale_range: tuple[float, float] = (1.0, 1.0)  # factor on the size, drawn log-uniformly
    # Large-scale jitter: the image is resized to fit a square of this side, times a factor drawn
    # uniformly from `jitter_range`. A random part is cropped if it is larger than the square.
    # Replaces `crop`, `min_sizes` and `scale_range`; batches are padded to the square.
    jitter_size: int | None = None
    jitter_range: tuple[float, float] = (0.1, 2.0)  # Ghiasi et al., 2021
    horizontal_flip: bool = True  # for half of the views
    vertical_flip: bool = False
    brightness: float = 0.0  # for these four see `random_colours`
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    copy_paste: float = 0.0  # fraction of images that get instances of another one
    transform: Transform | None = None  # applied to the window of a view

    def __post_init__(self) -> None:
        if self.crop is not None and self.crop < 1:
            raise ValueError(f"Augmentation: crop must be at least 1 pixel, got {self.crop}")
        if min(self.min_sizes, default=1) < 1:
            raise ValueError(f"Augmentation: min_sizes must be at least 1, got {self.min_sizes}")
        for name in ("scale_range", "jitter_range"):
            low, high = getattr(self, name)
            if not 0 < low <= high < np.inf:
                raise ValueError(
                    f"Augmentation: {name} must be positive and ascending, got {(low, high)}"
                )
        if self.jitter_size is not None:
            if self.jitter_size < 1:
                raise ValueError(
                    f"Augmentation: jitter_size must be at least 1 pixel, got {self.jitter_size}"
                )
            if self.crop is not None or self.min_sizes or self.scale_range != (1.0, 1.0):
                raise ValueError(
                    "Augmentation: jitter_size must not be combined with crop, min_sizes or "
                    f"scale_range, got {self.crop}, {self.min_sizes} and {self.scale_range}"
                )
        for name, most in (*((name, 1.0) for name in COLOURS[:3]), ("hue", 0.5), ("copy_paste", 1)):
            if not 0 <= (value := getattr(self, name)) <= most:
                raise ValueError(f"Augmentation: {name} must be in [0, {most:g}], got {value}")


@dataclass(frozen=True)
class View:
    """The part of an image file that the network sees."""

    window: tuple[int, int, int, int]  # (x1, y1, x2, y2), file pixels
    size: tuple[int, int]  # (height, width) that the window is resized to
    mirror_x: bool = False
    mirror_y: bool = False

    @property
    def scale(self) -> tuple[float, float]:
        """Network pixels per file pixel, (x, y); negative where mirrored."""
        x1, y1, x2, y2 = self.window
        x, y = self.size[1] / (x2 - x1), self.size[0] / (y2 - y1)
        return -x if self.mirror_x else x, -y if self.mirror_y else y

    @property
    def shift(self) -> tuple[float, float]:
        """Offset (x, y) such that network = scale * file + shift."""
        (x, y), (x1, y1, x2, y2) = self.scale, self.window
        return -x * (x2 if self.mirror_x else x1), -y * (y2 if self.mirror_y else y1)


def random_view(
    height: int,
    width: int,
    boxes: Tensor,
    config: ModelConfig,
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> View:
    """Draw a random view of an image file; equal states of `rng` give equal views.

    A crop should contain the centre of one of the boxes (G, 4), in file pixels.
    """
    x1, y1 = 0, 0
    if augmentation.jitter_size is not None:
        return _jittered_view(height, width, augmentation.jitter_size, augmentation, rng)
    if augmentation.crop is not None:
        crop_h, crop_w = min(augmentation.crop, height), min(augmentation.crop, width)
        centres = ((boxes[:, :2] + boxes[:, 2:]) / 2).numpy()  # (G, 2)
        for _ in range(CROP_TRIES):
            x1, y1 = int(rng.integers(width - crop_w + 1)), int(rng.integers(height - crop_h + 1))
            inside = (centres >= (x1, y1)) & (centres < (x1 + crop_w, y1 + crop_h))
            if not len(centres) or inside.all(1).any():
                break
        height, width = crop_h, crop_w
    min_size = int(rng.choice(augmentation.min_sizes)) if augmentation.min_sizes else None
    low, high = np.log(augmentation.scale_range)
    scale = float(np.exp(rng.uniform(low, high)))
    size_h, size_w = network_size(height, width, config, min_size)
    return View(
        window=(x1, y1, x1 + width, y1 + height),
        size=(max(1, round(size_h * scale)), max(1, round(size_w * scale))),
        **_flips(augmentation, rng),
    )


def _jittered_view(
    height: int, width: int, side: int, augmentation: Augmentation, rng: np.random.Generator
) -> View:
    """Draw a view with large-scale jitter, as Detectron2's `ResizeScale` and `FixedSizeCrop`.

    The crop is made in the file, so that only the visible part is resized. Its position and size
    are rounded to file pixels, which changes the scale slightly.
    """
    scale = rng.uniform(*augmentation.jitter_range) * side / max(height, width)
    spans, sizes = [], []
    for pixels in (width, height):
        size, shown = max(1, round(pixels * scale)), pixels
        if size > side:
            size, shown = side, max(1, round(side / scale))
        first = int(rng.integers(pixels - shown + 1))
        spans.append((first, first + shown))
        sizes.append(size)
    (x1, x2), (y1, y2) = spans
    return View((x1, y1, x2, y2), (sizes[1], sizes[0]), **_flips(augmentation, rng))


def _flips(augmentation: Augmentation, rng: np.random.Generator) -> dict[str, bool]:
    return {
        "mirror_x": augmentation.horizontal_flip and rng.random() < 0.5,
        "mirror_y": augmentation.vertical_flip and rng.random() < 0.5,
    }


def within(view: View, height: int, width: int) -> View:
    """Crop a view to at most this size, at the same scale up to rounding to file pixels."""
    x1, y1, x2, y2 = view.window
    size = min(view.size[0], height), min(view.size[1], width)
    x2 = x1 + max(1, round((x2 - x1) * size[1] / view.size[1]))
    y2 = y1 + max(1, round((y2 - y1) * size[0] / view.size[0]))
    return replace(view, window=(x1, y1, x2, y2), size=size)


def view_pixels(
    image: NDArray[np.uint8],
    view: View,
    config: ModelConfig,
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> Tensor:
    """Crop an image (h, w, 3) to a view, change its colours, resize, mirror and normalise it.

    Returns:
        (3, height, width) float32, channels innermost in memory.

    Raises:
        UserError: if the user's transform fails.
    """
    x1, y1, x2, y2 = view.window
    part = image[y1:y2, x1:x2]
    if augmentation.transform is not None:
        part = apply_transform(augmentation.transform, part, rng)
    if colours := {name: by for name in COLOURS if (by := getattr(augmentation, name))}:
        part = random_colours(part, rng, **colours)
    pixels = torch.empty(*view.size, 3).permute(2, 0, 1)
    window = 0, 0, x2 - x1, y2 - y1
    write_view(part, window, pixels, config, mirror_x=view.mirror_x, mirror_y=view.mirror_y)
    return pixels


def view_instances(
    masks: InstanceMasks, boxes: Tensor, view: View
) -> tuple[InstanceMasks, Tensor, Tensor]:
    """Select the instances that a view shows, of the G of an image with boxes (G, 4).

    Boxes are in file pixels. If the view is a crop, they shrink to the visible part of their masks.
    Instances with less than one visible pixel are dropped.

    Returns:
        The masks of the K visible instances with the transform of the view, their boxes (K, 4) in
        its pixels, and their positions (K,) among the G.
    """
    kept = torch.arange(len(masks))
    if len(masks) and view.window != (0, 0, *masks.frame[0].flip(0).tolist()):
        visible = instance_masks.mask_boxes(masks, torch.tensor(view.window))
        kept = torch.nonzero(((visible[:, 2:] - visible[:, :2]) >= MIN_VISIBLE).all(1)).squeeze(1)
        masks, boxes = instance_masks.select(masks, kept), visible[kept]
    scale, shift = torch.tensor(view.scale).double(), torch.tensor(view.shift).double()
    corners = boxes.double().view(-1, 2, 2) * scale + shift  # (K, 2, 2)
    boxes = torch.cat([corners.amin(1), corners.amax(1)], dim=1).float()
    return instance_masks.transformed(masks, view.scale, view.shift), boxes, kept
