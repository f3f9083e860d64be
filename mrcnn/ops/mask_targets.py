"""Ground-truth masks as training targets: polygons or run lengths to M x M grids inside boxes."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class InstanceMasks:
    """The masks of I instances as their files state them, in flat arrays.

    An instance has either rings (polygons; a pixel inside any ring belongs to it) or counts (run
    lengths), never both; with neither, its mask is empty. Coordinates stay those of the file:
    resizing, cropping and flipping an image changes `transform` alone.
    """

    points: Tensor  # (V, 2) float64 xy of all rings, file pixels
    ring_start: Tensor  # (Q + 1,) int64: ring q has points[ring_start[q] : ring_start[q + 1]]
    instance_ring: Tensor  # (I + 1,) int64: instance i has rings instance_ring[i] up to [i + 1]
    counts: Tensor  # (T,) int32 run lengths down the columns, first run is background
    instance_count: Tensor  # (I + 1,) int64: instance i has counts[instance_count[i] : [i + 1]]
    frame: Tensor  # (I, 2) int64 (height, width) of the image file
    transform: Tensor  # (I, 4) float64 (scale_x, scale_y, shift_x, shift_y), file -> image pixels

    def __len__(self) -> int:
        return len(self.frame)
