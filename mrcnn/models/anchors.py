"""Anchors: the reference boxes of the RPN, one set a cell of every level.

L levels, A anchors a cell.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def make_cell_anchors(
    sizes: Sequence[float], ratios: Sequence[float], round_corners: bool
) -> Tensor:
    """Anchors around the corner of a cell, one size a level.

    Args:
        sizes: per level the square root of the area, pixels.
        ratios: height / width.
        round_corners: to whole pixels, as torchvision does.
    Returns:
        (L, A, 4) float32 xyxy.
    """
    size = torch.tensor(sizes, dtype=torch.float64)[:, None]
    root = torch.tensor(ratios, dtype=torch.float64).sqrt()[None]
    half_width, half_height = size / root / 2, size * root / 2
    corners = torch.stack([-half_width, -half_height, half_width, half_height], dim=-1)
    return (corners.round() if round_corners else corners).float()


def grid_anchors(
    cell_anchors: Tensor, strides: Sequence[tuple[int, int]], shapes: Sequence[tuple[int, int]]
) -> Tensor:
    """All anchors of all levels, in the order of flattened (level, y, x, anchor).

    Args:
        cell_anchors: (L, A, 4).
        strides: per level, pixels per cell, (y, x).
        shapes: per level (height, width) in cells.
    Returns:
        (1, anchors, 4) float32 xyxy in image pixels, the same for every image.
    """
    levels = []
    for cell, (step_y, step_x), (height, width) in zip(cell_anchors, strides, shapes, strict=True):
        y = torch.arange(height, device=cell.device) * step_y
        x = torch.arange(width, device=cell.device) * step_x
        corner = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).flip(-1)  # (H, W, 2) xy
        levels.append((corner.repeat(1, 1, 2)[:, :, None] + cell).reshape(-1, 4))
    return torch.cat(levels)[None]
