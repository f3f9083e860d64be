"""From the padded detections of a batch to those of each image, in its own pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mrcnn.boxes import clip_boxes
from mrcnn.numerics import Numerics
from mrcnn.ops.paste_masks import paste_masks_rle
from mrcnn.structures import DetectionBatch, Detections


def to_detections(
    batch: DetectionBatch,
    sizes: Tensor,
    original_sizes: Sequence[tuple[int, int]],
    numerics: Numerics,
) -> list[Detections]:
    """Cut padding, scale boxes to the images as they were read, paste masks as run lengths.

    Args:
        batch: detections in the pixel frame of the model's input.
        sizes: (N, 2) (height, width) of that input before padding.
        original_sizes: (height, width) of each image as it was read.
        numerics: whose scaling, clipping and pasting to follow.
    Returns:
        One `Detections` an image, on CPU.
    """
    originals = torch.tensor(original_sizes).to(sizes.device)  # (N, 2)
    boxes, kept = to_originals(batch, sizes, originals, numerics)
    # Read from the device once for the whole batch, but for the masks.
    read_kept, *read = [t.cpu() for t in (kept, boxes, batch.scores, batch.labels)]
    images = []
    for n, (height, width) in enumerate(original_sizes):
        slots = read_kept[n].nonzero()[:, 0]
        masks: list[dict[str, object]] = []
        if batch.masks.numel():
            on_device = slots.to(sizes.device)
            in_boxes, frames = batch.masks[n, on_device], boxes[n, on_device]
            if numerics.whole_pixel_paste:
                beyond = _beyond(numerics, sizes.device)
                frames = whole_pixel_frames(frames - beyond, in_boxes.shape[-1])
            masks = paste_masks_rle(in_boxes, frames, height, width)
        found, scores, labels = (values[n, slots] for values in read)
        images.append(Detections(found, scores, labels, masks))
    return images


def to_originals(
    batch: DetectionBatch, sizes: Tensor, originals: Tensor, numerics: Numerics
) -> tuple[Tensor, Tensor]:
    """Boxes in the pixels of the images as they were read, and which of them to keep.

    Args:
        batch: D detections an image in the pixel frame of the model's input.
        sizes: (N, 2) (height, width) of that input before padding.
        originals: (N, 2) (height, width) of the images as they were read.
    Returns:
        (N, D, 4), and (N, D) bool.
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
    """(4,): how far a box goes beyond its last pixel."""
    return torch.tensor([0, 0, 1, 1], device=device) * numerics.last_pixel


def whole_pixel_frames(boxes: Tensor, cells: int) -> Tensor:
    """Where `paste_masks` must paste masks of `cells` x `cells` to do as torchvision.

    It and maskrcnn-benchmark frame a mask with one cell of zeros, grow the box alike, cut its
    corners to whole pixels, count the last pixel in, and stretch the framed mask over these pixels.

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
