"""What flows between the stages: dataclasses that keep several tensors aligned.

N images, H x W padded pixels, G instance slots an image, P proposals, D detections, M mask side.
Boxes are xyxy float32 in image pixels, right and bottom exclusive; sizes are (height, width).
Slots past an image's own count are padding: label -1, score -inf, box 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from mrcnn.ops.mask_targets import InstanceMasks

T = TypeVar("T", bound="_Moves")


class _Moves:
    """Adds `to` and `pin_memory` to a dataclass of tensors."""

    def to(self: T, device: torch.device | str, non_blocking: bool = False) -> T:
        """The same values on `device`."""
        return _each(self, lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self: T) -> T:
        """The same values in memory from which a GPU copies on its own."""
        return _each(self, lambda value: value.pin_memory())


def _each(values: T, move: Callable[[Any], Any]) -> T:
    """The dataclass with all its tensors moved, also those of the dataclasses in it."""
    moved = {
        field.name: move(value)
        for field in fields(values)  # type: ignore[arg-type]
        if hasattr(value := getattr(values, field.name), "to")
    }
    return replace(values, **moved)  # type: ignore[type-var]


@dataclass(frozen=True)
class ImageBatch(_Moves):
    """Images of one batch, normalised, zero-padded right and below to one size."""

    pixels: Tensor  # (N, 3, H, W) float32 RGB
    sizes: Tensor  # (N, 2) int64, before padding


@dataclass(frozen=True)
class Targets(_Moves):
    """Ground truth of one batch, in the pixel frame of its `ImageBatch`; crowd regions left out."""

    boxes: Tensor  # (N, G, 4)
    labels: Tensor  # (N, G) int64 in [0, C), -1 in padded slots
    mask_index: Tensor  # (N, G) int64 into `masks`, -1 in padded slots
    masks: InstanceMasks  # all instances of the batch
    # (N,) int64: what is drawn at random for an image follows from its seed alone, however
    # a batch is cut into parts. None draws anew every time.
    seeds: Tensor | None = None


@dataclass(frozen=True)
class Proposals(_Moves):
    """Where the RPN expects objects, best first."""

    boxes: Tensor  # (N, P, 4)
    scores: Tensor  # (N, P) objectness logits, -inf in padded slots


@dataclass(frozen=True)
class SampledRois(_Moves):
    """RoIs drawn for the losses of the heads; in every image positives come first."""

    boxes: Tensor  # (N, R, 4)
    labels: Tensor  # (N, R) int64: class of a positive, C for background, -1 in padded slots
    matched: Tensor  # (N, R) int64: the ground-truth slot that overlaps most


@dataclass(frozen=True)
class DetectionBatch(_Moves):
    """Detections of one batch, best first, in the pixel frame of its `ImageBatch`."""

    boxes: Tensor  # (N, D, 4)
    scores: Tensor  # (N, D) in [0, 1], 0 in padded slots
    labels: Tensor  # (N, D) int64 in [0, C), -1 in padded slots
    counts: Tensor  # (N,) int64
    masks: Tensor  # (N, D, M, M) probabilities inside each box; (N, D, 0, 0) without a mask head


@dataclass(frozen=True)
class Detections:
    """Detections of one image, best first, in the pixels of the image as it was read."""

    boxes: Tensor  # (D, 4)
    scores: Tensor  # (D,)
    labels: Tensor  # (D,) int64
    masks: list[dict[str, object]]  # COCO RLE, {"size": [height, width], "counts": str}

    def __len__(self) -> int:
        return len(self.scores)
