"""Sheets of several overlays, and overlays of a training batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mrcnn.config import ModelConfig
from mrcnn.ops.mask_targets import mask_targets
from mrcnn.ops.paste_masks import paste_masks_rle
from mrcnn.structures import ImageBatch, Targets
from mrcnn.visual.draw import draw_instances

_GAP = 6  # pixels between images
_BACKGROUND = 40  # grey


def draw_targets(
    images: ImageBatch, targets: Targets, config: ModelConfig, mask_size: int = 28
) -> list[NDArray[np.uint8]]:
    """Draw the images of a training batch with their ground truth, as the losses see it.

    Pixels are those of the network's input. Masks are the targets of the mask loss, pasted back.

    Args:
        images: the batch, normalized.
        targets: its ground truth.
        config: of the model, for the normalization and the class names.
        mask_size: side of a mask target.

    Returns:
        An (h, w, 3) RGB overlay per image.
    """
    images, targets = images.to("cpu"), targets.to("cpu")
    mean, std = torch.tensor(config.pixel_mean), torch.tensor(config.pixel_std)
    overlays = []
    for n, (height, width) in enumerate(images.sizes.tolist()):
        pixels = images.pixels[n, :, :height, :width].permute(1, 2, 0) * std + mean
        real = targets.labels[n] >= 0  # (G,)
        boxes = targets.boxes[n, real]
        grids = mask_targets(targets.masks, boxes, targets.mask_index[n, real], mask_size)
        overlays.append(
            draw_instances(
                pixels.round().clamp(0, 255).byte().numpy(),
                boxes.numpy(),
                targets.labels[n, real].numpy(),
                paste_masks_rle(grids, boxes, height, width),
                config.class_names,
            )
        )
    return overlays


def mosaic(images: Sequence[NDArray[np.uint8]], columns: int | None = None) -> NDArray[np.uint8]:
    """Arrange images in rows and columns, each as large as its largest image.

    Args:
        images: (h, w, 3) RGB each, at least one.
        columns: number of columns; None makes the sheet about square.
    """
    columns = min(columns or math.ceil(math.sqrt(len(images))), len(images))
    heights = [_GAP + max(image.shape[0] for image in row) for row in _rows(images, columns)]
    widths = [_GAP + max(image.shape[1] for image in images[i::columns]) for i in range(columns)]
    sheet = np.full((sum(heights) + _GAP, sum(widths) + _GAP, 3), _BACKGROUND, np.uint8)
    for j, row in enumerate(_rows(images, columns)):
        for i, image in enumerate(row):
            y, x = _GAP + sum(heights[:j]), _GAP + sum(widths[:i])
            sheet[y : y + image.shape[0], x : x + image.shape[1]] = image
    return sheet


def _rows(images: Sequence[NDArray[np.uint8]], columns: int) -> list[Sequence[NDArray[np.uint8]]]:
    return [images[first : first + columns] for first in range(0, len(images), columns)]
