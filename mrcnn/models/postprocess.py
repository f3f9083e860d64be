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
    scale = torch.tensor(original_sizes).to(sizes.device) / sizes  # (N, 2)
    boxes = batch.boxes * scale.flip(1).repeat(1, 2)[:, None]
    # Read from the device once for the whole batch, but for the masks.
    read = [t.cpu() for t in (batch.counts, boxes, batch.scores, batch.labels)]
    for n, (height, width) in enumerate(original_sizes):
        count = int(read[0][n])
        masks: list[dict[str, object]] = []
        if batch.masks.numel():
            at = boxes[n, :count]
            frames = whole_pixel_frames(at, batch.masks.shape[-1]) if whole_pixels else at
            masks = paste_masks_rle(batch.masks[n, :count], frames, height, width)
        found, scores, labels = (values[n, :count] for values in read[1:])
        images.append(Detections(found, scores, labels, masks))
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
