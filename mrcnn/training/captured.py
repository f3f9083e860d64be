"""Losses and gradients of a step in CUDA graphs: `--capture`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrcnn.ops.instance_masks import InstanceMasks
from mrcnn.runtime.cuda_graphs import Graphs
from mrcnn.structures import ImageBatch, Targets

Losses = dict[str, Tensor]


class CapturedLosses:
    """Forward and backward pass in CUDA graphs.

    A graph needs fixed shapes, so batches are padded to the largest seen so far: images to the
    largest of their orientation; slots and outlines of instances to the next power of two. A
    larger batch makes new graphs, which soon becomes rare. `add_gradients` adds the gradients of a
    batch to those of `model`, and returns the losses.
    """

    def __init__(
        self, model: nn.Module, add_gradients: Callable[[ImageBatch, Targets], Losses]
    ) -> None:
        trained = [p for p in model.parameters() if p.requires_grad]
        for parameter in trained:  # all graphs add to the same tensors
            parameter.grad = torch.zeros_like(parameter)
        changed = [p.grad for p in trained if p.grad is not None]
        self.graphs: Graphs[tuple[ImageBatch, Targets], Losses] = Graphs(
            lambda batch: add_gradients(*batch), [*changed, *model.buffers()]
        )
        self.room: dict[str, int] = {}

    def __call__(self, images: ImageBatch, targets: Targets) -> Losses:
        """Add the gradients of a batch to those of the model; return the losses."""
        before = dict(self.room)
        batch = self._padded_images(images), self._padded_targets(targets)
        if before != self.room:
            self.graphs.clear()
        return {name: loss.clone() for name, loss in self.graphs(batch).items()}

    def _grow(self, name: str, size: int) -> int:
        """Return the largest `size` of this name so far."""
        self.room[name] = max(size, self.room.get(name, 0))
        return self.room[name]

    def _grow_twofold(self, name: str, size: int) -> int:
        return self._grow(name, 1 << max(size - 1, 15).bit_length())

    def _padded_images(self, images: ImageBatch) -> ImageBatch:
        height, width = images.pixels.shape[2:]
        shape = "wide" if width >= height else "high"
        below = self._grow(f"{shape} height", height) - height
        right = self._grow(f"{shape} width", width) - width
        return replace(images, pixels=F.pad(images.pixels, (0, right, 0, below)))

    def _padded_targets(self, targets: Targets) -> Targets:
        masks, slots = targets.masks, targets.labels.shape[1]
        more = self._grow_twofold("slots", slots) - slots
        instances = self._grow_twofold("instances", len(masks))
        return replace(
            targets,
            boxes=F.pad(targets.boxes, (0, 0, 0, more)),
            labels=F.pad(targets.labels, (0, more), value=-1),
            mask_index=F.pad(targets.mask_index, (0, more), value=-1),
            # Padded instances have no rings and no counts, padded rings no points.
            masks=InstanceMasks(
                points=_rows(masks.points, self._grow_twofold("points", len(masks.points))),
                ring_start=_last(
                    masks.ring_start, self._grow_twofold("rings", len(masks.ring_start) - 1) + 1
                ),
                instance_ring=_last(masks.instance_ring, instances + 1),
                counts=_rows(masks.counts, self._grow_twofold("counts", len(masks.counts))),
                instance_count=_last(masks.instance_count, instances + 1),
                frame=_rows(masks.frame, instances),
                transform=_rows(masks.transform, instances),
            ),
        )


def _rows(values: Tensor, count: int) -> Tensor:
    """Append rows of zeros, so that there are `count`."""
    return torch.cat([values, values.new_zeros(count - len(values), *values.shape[1:])])


def _last(offsets: Tensor, count: int) -> Tensor:
    """Repeat the last of (K,) values, so that there are `count`."""
    return torch.cat([offsets, offsets[-1:].expand(count - len(offsets))])
