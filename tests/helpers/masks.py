"""Masks of instances from lists of polygons and RLE counts."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike

from mrcnn.ops.instance_masks import InstanceMasks

IDENTITY = (1.0, 1.0, 0.0, 0.0)


def masks_of(
    rings: Sequence[Sequence[ArrayLike]] = (),
    runs: Sequence[Sequence[int]] = (),
    frame: tuple[int, int] = (100, 100),
    transform: Sequence[float] = IDENTITY,
) -> InstanceMasks:
    """Make instances of lists of polygons (x, y, …), then instances of RLE counts."""
    corners = [np.asarray(ring, dtype=np.float64).reshape(-1, 2) for part in rings for ring in part]
    count = len(rings) + len(runs)
    values = [run for part in runs for run in part]

    def offsets(lengths: list[int]) -> torch.Tensor:
        return torch.tensor([0, *np.cumsum(lengths, dtype=np.int64).tolist()])

    def dense(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.clone(memory_format=torch.contiguous_format)

    return InstanceMasks(
        points=torch.tensor(np.concatenate([np.zeros((0, 2)), *corners])),
        ring_start=offsets([len(ring) for ring in corners]),
        instance_ring=offsets([len(part) for part in rings] + [0] * len(runs)),
        # Not torch.tensor: its empty int32 tensors cannot be moved as fake ones.
        counts=torch.empty(len(values), dtype=torch.int32).copy_(torch.tensor(values)),
        instance_count=offsets([0] * len(rings) + [len(part) for part in runs]),
        frame=dense(torch.tensor(frame, dtype=torch.int64).expand(count, 2)),
        transform=dense(torch.tensor(transform, dtype=torch.float64).expand(count, 4)),
    )
