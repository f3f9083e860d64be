"""Anchors: the reference boxes of the RPN, one set per cell of every level.

L levels, A anchors per cell.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mrcnn.numerics import Numerics


def make_cell_anchors(
    sizes: Sequence[Sequence[float]],
    ratios: Sequence[float],
    strides: Sequence[int],
    numerics: Numerics,
) -> Tensor:
    """Compute the anchors of the top left cell of every level.

    Args:
        sizes: per level, square roots of the areas in pixels; the same number for each level.
        ratios: height / width.
        strides: per level, pixels per cell.
        numerics: gives rounding and order.

    Returns:
        (L, A, 4) float32 xyxy, A = sizes x ratios.
    """
    size = torch.tensor(sizes, dtype=torch.float64)[:, :, None]  # (L, sizes, 1)
    ratio = torch.tensor(ratios, dtype=torch.float64)
    if numerics.anchor_rounding == "sides":
        stride = torch.tensor(strides, dtype=torch.float64)[:, None, None]
        width = (stride**2 / ratio).sqrt().round()  # (L, 1, ratios)
        sides = torch.stack([width, (width * ratio).round()], dim=-1) * (size / stride)[..., None]
        center = stride[..., None] / 2
    else:
        width = (size**2 / ratio).sqrt()  # (L, sizes, ratios)
        sides = torch.stack([width, width * ratio], dim=-1)
        center = torch.zeros(1)
    corners = torch.cat([center - sides / 2, center + sides / 2], dim=-1)
    if numerics.anchor_rounding == "corners":
        corners = corners.round()
    if numerics.anchors_by_ratio:
        corners = corners.transpose(1, 2)
    return corners.flatten(1, 2).float()


def grid_anchors(
    cell_anchors: Tensor, strides: Sequence[tuple[int, int]], shapes: Sequence[tuple[int, int]]
) -> Tensor:
    """Shift the anchors of the first cell to every cell, flattened as (level, y, x, anchor).

    Args:
        cell_anchors: (L, A, 4), from `make_cell_anchors`.
        strides: per level, (y, x) pixels per cell.
        shapes: per level, (height, width) in cells.

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
