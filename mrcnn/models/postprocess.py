"""From the padded detections of a batch to those of each image, in its own pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mrcnn.ops.paste_masks import paste_masks_rle
from mrcnn.structures import DetectionBatch, Detections


def to_detections(
    batch: DetectionBatch, sizes: Tensor, original_sizes: Sequence[tuple[int, int]]
) -> list[Detections]:
    """Cut padding, scale boxes to the images as they were read, paste masks as run lengths.

    Args:
        batch: detections in the pixel frame of the model's input.
        sizes: (N, 2) (height, width) of that input before padding.
        original_sizes: (height, width) of each image as it was read.
    Returns:
        One `Detections` an image, on CPU.
    """
    images = []
    counts = batch.counts.tolist()  # one read from the device for the whole batch
    for n, (height, width) in enumerate(original_sizes):
        count = counts[n]
        scale = torch.tensor([width, height], device=sizes.device) / sizes[n].flip(0)
        boxes = batch.boxes[n, :count] * scale.repeat(2)
        masks: list[dict[str, object]] = []
        if batch.masks.numel():
            masks = paste_masks_rle(batch.masks[n, :count], boxes, height, width)
        images.append(
            Detections(
                boxes.cpu(), batch.scores[n, :count].cpu(), batch.labels[n, :count].cpu(), masks
            )
        )
    return images
