"""Inputs and outputs of the stages of a model: dataclasses of tensors that belong together.

N images, H x W padded pixels; per image G ground-truth slots, P proposals, R RoIs, D detections; C
classes, M x M cells of a mask.

Boxes are xyxy float32 in image pixels, right and bottom exclusive. Sizes are (height, width). Slots
beyond the number of an image's boxes are padding: label -1, score -inf, box 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from mrcnn.ops.instance_masks import InstanceMasks

T = TypeVar("T", bound="_Moves")


class _Moves:
    """Methods `to` and `pin_memory` of a dataclass of tensors."""

    def to(self: T, device: torch.device | str, non_blocking: bool = False) -> T:
        """Return the same values on `device`."""
        return _each(self, lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self: T) -> T:
        """Return the same values in page-locked memory, from which a GPU copies asynchronously."""
        return _each(self, lambda value: value.pin_memory())


def _each(values: T, move: Callable[[Any], Any]) -> T:
    """Apply `move` to all tensors of a dataclass, including those of dataclasses in it."""
    moved = {
        field.name: move(value)
        for field in fields(values)  # type: ignore[arg-type]
        if hasattr(value := getattr(values, field.name), "to")
    }
    return replace(values, **moved)  # type: ignore[type-var]


@dataclass(frozen=True)
class ImageBatch(_Moves):
    """Images of one batch, normalised, and zero-padded right and below to one size.

    Example:
        >>> pixels = (rgb - mean) / std  # (3, 480, 640) float32, padded to (3, 480, 640)
        >>> ImageBatch(pixels[None], torch.tensor([[480, 640]]))
    """

    pixels: Tensor  # (N, 3, H, W) float32 RGB
    sizes: Tensor  # (N, 2) int64 (height, width) before padding


@dataclass(frozen=True)
class Targets(_Moves):
    """Ground truth of one batch in the frame of its `ImageBatch`, without crowd regions.

    Example:
        >>> boxes = torch.tensor([[[10.0, 20.0, 110.0, 220.0]]])  # one object in one image
        >>> label, mask = torch.tensor([[0]]), torch.tensor([[0]])
        >>> Targets(boxes, label, mask, instance_masks)  # an `InstanceMasks` of one instance
    """

    boxes: Tensor  # (N, G, 4)
    labels: Tensor  # (N, G) int64 in [0, C), -1 in padded slots
    mask_index: Tensor  # (N, G) int64 into `masks`, -1 in padded slots
    masks: InstanceMasks  # all instances of the batch
    # (N,) int64. The random samples for an image depend on its seed alone, however a batch is split
    # into micro-batches. None uses PyTorch's generator.
    seeds: Tensor | None = None


@dataclass(frozen=True)
class Proposals(_Moves):
    """Boxes in which the RPN expects objects, in descending order of score."""

    boxes: Tensor  # (N, P, 4)
    scores: Tensor  # (N, P) objectness logits, -inf in padded slots


@dataclass(frozen=True)
class SampledRois(_Moves):
    """RoIs chosen for the losses of the heads; in each image positives come first."""

    boxes: Tensor  # (N, R, 4)
    labels: Tensor  # (N, R) int64: the class of a positive, C for background, -1 in padded slots
    matched: Tensor  # (N, R) int64: the ground-truth slot with the highest IoU


@dataclass(frozen=True)
class DetectionBatch(_Moves):
    """Detections of one batch in the frame of its `ImageBatch`, in descending order of score.

    The first `counts[n]` slots of image n are used.
    """

    boxes: Tensor  # (N, D, 4)
    scores: Tensor  # (N, D) in [0, 1], 0 in padded slots
    labels: Tensor  # (N, D) int64 in [0, C), -1 in padded slots
    counts: Tensor  # (N,) int64, used slots
    masks: Tensor  # (N, D, M, M) probabilities inside each box; (N, D, 0, 0) without a mask head


@dataclass(frozen=True)
class Detections:
    """Detections of one image in pixels of the original image, in descending order of score.

    Example:
        >>> for box, label in zip(detections.boxes, detections.labels):
        ...     print(config.class_names[label], box.tolist())
        >>> mask = mrcnn.ops.rle.decode(detections.masks[0])  # (height, width) bool
    """

    boxes: Tensor  # (D, 4)
    scores: Tensor  # (D,) in [0, 1]
    labels: Tensor  # (D,) int64 in [0, C)
    masks: list[dict[str, object]]  # COCO RLE, {"size": [height, width], "counts": str}

    def __len__(self) -> int:
        return len(self.scores)
