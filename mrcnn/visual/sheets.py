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
_MASK_SIZE = 28  # side of a mask target


def draw_targets(
    images: ImageBatch, targets: Targets, config: ModelConfig
) -> list[NDArray[np.uint8]]:
    """Draw the images of a training batch with their ground truth, as the losses see it.

    Pixels are those of the network's input. Masks are targets of the mask loss, pasted back.

    Args:
        images: The batch, normalized.
        targets: Its ground truth.
        config: Configuration of the model, for the normalization and the class names.

    Returns:
        An (h, w, 3) RGB overlay per image.
    """
    images, targets = images.to("cpu"), targets.to("cpu")
    mean, std = torch.tensor(config.pixel_mean), torch.tensor(config.pixel_std)
    overlays = []
    for n, (height, width) in enumerate(images.sizes.tolist()):
        pixels = images.pixels[n, :, :height, :width].permute(1, 2, 0) * std + mean
        real = targets.labels[n] >= 0  # (G,)
        boxes, labels = targets.boxes[n, real], targets.labels[n, real].numpy()
        grids = mask_targets(targets.masks, boxes, targets.mask_index[n, real], _MASK_SIZE)
        masks = paste_masks_rle(grids, boxes, height, width)
        image = pixels.round().clamp(0, 255).byte().numpy()
        overlays.append(draw_instances(image, boxes.numpy(), labels, masks, config.class_names))
    return overlays


def mosaic(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Arrange images, (h, w, 3) RGB each and at least one, on a sheet that is about square.

    Each row and each column is as large as its largest image.
    """
    columns = math.ceil(math.sqrt(len(images)))
    rows = [images[first : first + columns] for first in range(0, len(images), columns)]
    heights = [_GAP + max(image.shape[0] for image in row) for row in rows]
    widths = [_GAP + max(image.shape[1] for image in images[i::columns]) for i in range(columns)]
    sheet = np.full((sum(heights) + _GAP, sum(widths) + _GAP, 3), _BACKGROUND, np.uint8)
    for j, row in enumerate(rows):
        for i, image in enumerate(row):
            y, x = _GAP + sum(heights[:j]), _GAP + sum(widths[:i])
            sheet[y : y + image.shape[0], x : x + image.shape[1]] = image
    return sheet
