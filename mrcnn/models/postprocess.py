"""Conversion of a padded batch of detections to detections of each original image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mrcnn.numerics import Numerics
from mrcnn.ops.boxes import clip_boxes
from mrcnn.ops.paste_masks import paste_masks_rle
from mrcnn.structures import DetectionBatch, Detections


def to_detections(
    batch: DetectionBatch,
    sizes: Tensor,
    original_sizes: Sequence[tuple[int, int]],
    numerics: Numerics,
) -> list[Detections]:
    """Remove padding, scale boxes to the original images, and paste masks into RLE.

    Args:
        batch: detections in the frame of the model's input.
        sizes: (N, 2) (height, width) of that input before padding.
        original_sizes: (height, width) of each image before resizing.
        numerics: gives scaling, clipping and pasting.

    Returns:
        One `Detections` per image, on CPU, in pixels of the original image.
    """
    originals = torch.tensor(original_sizes).to(sizes.device)  # (N, 2)
    boxes, kept = to_originals(batch, sizes, originals, numerics)
    # Copy from the device once for the whole batch; masks are pasted on the device.
    cpu_kept, *cpu_values = [t.cpu() for t in (kept, boxes, batch.scores, batch.labels)]
    images = []
    for n, (height, width) in enumerate(original_sizes):
        slots = cpu_kept[n].nonzero()[:, 0]
        masks: list[dict[str, object]] = []
        if batch.masks.numel():
            on_device = slots.to(sizes.device)
            in_boxes, frames = batch.masks[n, on_device], boxes[n, on_device]
            if numerics.whole_pixel_paste:
                beyond = _beyond(numerics, sizes.device)
                frames = whole_pixel_frames(frames - beyond, in_boxes.shape[-1])
            masks = paste_masks_rle(in_boxes, frames, height, width)
        image_boxes, scores, labels = (values[n, slots] for values in cpu_values)
        images.append(Detections(image_boxes, scores, labels, masks))
    return images


def to_originals(
    batch: DetectionBatch, sizes: Tensor, originals: Tensor, numerics: Numerics
) -> tuple[Tensor, Tensor]:
    """Scale boxes to the original images, and find which of them to keep.

    Args:
        batch: D detections per image in the frame of the model's input.
        sizes: (N, 2) (height, width) of that input before padding.
        originals: (N, 2) (height, width) of the images before resizing.
        numerics: gives scaling and clipping.

    Returns:
        Boxes (N, D, 4), and (N, D) bool: whether a slot is used and its box is kept.
    """
    scale = (originals / sizes).flip(1).repeat(1, 2)[:, None]  # (N, 1, 4)
    beyond = _beyond(numerics, sizes.device)
    boxes = (batch.boxes - beyond) * scale + beyond
    kept = torch.arange(boxes.shape[1], device=sizes.device) < batch.counts[:, None]
    if numerics.clip_results:
        boxes = clip_boxes(boxes, originals)
        kept = kept & (boxes[..., 2:] > boxes[..., :2]).all(-1)
    return boxes, kept


def _beyond(numerics: Numerics, device: torch.device) -> Tensor:
    """Return (4,): the distance in pixels from the last pixel of a box to its x2 and y2."""
    return torch.tensor([0, 0, 1, 1], device=device) * numerics.last_pixel


def whole_pixel_frames(boxes: Tensor, cells: int) -> Tensor:
    """Compute the boxes in which `paste_masks` pastes masks as torchvision does.

    Torchvision and maskrcnn-benchmark pad a mask with one cell of zeros on each side and enlarge
    its box by the same factor. They truncate the corners to whole pixels, include the last pixel,
    and stretch the padded mask over these pixels.

    Args:
        boxes: (D, 4) xyxy in image pixels.
        cells: M, for masks of M x M.

    Returns:
        (D, 4) xyxy, the part of those pixels that the mask without its padding covers.
    """
    low, high = boxes[:, :2], boxes[:, 2:]
    center, half = (high + low) * 0.5, (high - low) * 0.5 * ((cells + 2) / cells)
    first, last = (center - half).trunc(), (center + half).trunc()
    extent = (last - first + 1).clamp(min=1)
    frame = extent / (cells + 2)
    return torch.cat([first + frame, first + extent - frame], dim=1)
