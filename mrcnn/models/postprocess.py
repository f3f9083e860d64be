"""From the padded detections of a batch to those of each image, in its own pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mrcnn.ops.paste_masks import paste_masks_rle
from mrcnn.structures import DetectionBatch, Detections


def to_detections(
    batch: DetectionBatch,
    sizes: Tensor,
    original_sizes: Sequence[tuple[int, int]],
    *,
    whole_pixels: bool = False,
) -> list[Detections]:
    """Cut padding, scale boxes to the images as they were read, paste masks as run lengths.

    Args:
        batch: detections in the pixel frame of the model's input.
        sizes: (N, 2) (height, width) of that input before padding.
        original_sizes: (height, width) of each image as it was read.
        whole_pixels: paste masks into boxes cut to whole pixels, as torchvision does.
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
            frames = whole_pixel_frames(boxes, batch.masks.shape[-1]) if whole_pixels else boxes
            masks = paste_masks_rle(batch.masks[n, :count], frames, height, width)
        images.append(
            Detections(
                boxes.cpu(), batch.scores[n, :count].cpu(), batch.labels[n, :count].cpu(), masks
            )
        )
    return images


def whole_pixel_frames(boxes: Tensor, cells: int) -> Tensor:
    """Where `paste_masks` must paste masks of `cells` x `cells` to do as torchvision.

    Torchvision frames a mask with one cell of zeros, grows the box alike, cuts its corners to whole
    pixels, counts the last pixel in, and stretches the framed mask over these pixels.

    Args:
        boxes: (D, 4) xyxy in image pixels.
    Returns:
        (D, 4), the part of those pixels that belongs to the mask without its frame.
    """
    low, high = boxes[:, :2], boxes[:, 2:]
    center, half = (high + low) * 0.5, (high - low) * 0.5 * ((cells + 2) / cells)
    first, last = (center - half).trunc(), (center + half).trunc()
    extent = (last - first + 1).clamp(min=1)
    frame = extent / (cells + 2)
    return torch.cat([first + frame, first + extent - frame], dim=1)
