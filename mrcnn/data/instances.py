"""Functions of `InstanceMasks`: take some, join several, move to another frame, find their boxes.

I instances, Q rings, V points, T run lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mrcnn.ops import library
from mrcnn.ops.mask_targets import InstanceMasks

host = library.load("mrcnn_host")  # codecs and bounds of masks; csrc/host


def empty() -> InstanceMasks:
    """No instances."""
    return InstanceMasks(
        points=torch.zeros(0, 2, dtype=torch.float64),
        ring_start=torch.zeros(1, dtype=torch.int64),
        instance_ring=torch.zeros(1, dtype=torch.int64),
        counts=torch.zeros(0, dtype=torch.int32),
        instance_count=torch.zeros(1, dtype=torch.int64),
        frame=torch.zeros(0, 2, dtype=torch.int64),
        transform=torch.zeros(0, 4, dtype=torch.float64),
    )


def select(masks: InstanceMasks, index: Tensor) -> InstanceMasks:
    """The instances at `index` (K,) int64, in that order; costs as much as what is taken."""
    rings, instance_ring = take(masks.instance_ring, index)
    points, ring_start = take(masks.ring_start, rings)
    counts, instance_count = take(masks.instance_count, index)
    return InstanceMasks(
        points=masks.points[points],
        ring_start=ring_start,
        instance_ring=instance_ring,
        counts=masks.counts[counts],
        instance_count=instance_count,
        frame=masks.frame[index],
        transform=masks.transform[index],
    )


def concatenate(parts: Sequence[InstanceMasks]) -> InstanceMasks:
    """All instances of `parts`, in order."""
    if not parts:
        return empty()
    return InstanceMasks(
        points=torch.cat([part.points for part in parts]),
        ring_start=_join([part.ring_start for part in parts]),
        instance_ring=_join([part.instance_ring for part in parts]),
        counts=torch.cat([part.counts for part in parts]),
        instance_count=_join([part.instance_count for part in parts]),
        frame=torch.cat([part.frame for part in parts]),
        transform=torch.cat([part.transform for part in parts]),
    )


def transformed(
    masks: InstanceMasks, scale: tuple[float, float], shift: tuple[float, float]
) -> InstanceMasks:
    """The masks seen in a frame where x becomes scale[0] * x + shift[0], and y likewise.

    A negative scale mirrors. Points and run lengths are shared, not copied.
    """
    by = torch.tensor(scale, dtype=torch.float64)
    moved = torch.cat(
        [masks.transform[:, :2] * by, masks.transform[:, 2:] * by + torch.tensor(shift).double()],
        dim=1,
    )
    return replace(masks, transform=moved)


def mask_boxes(masks: InstanceMasks, windows: Tensor | None = None) -> Tensor:
    """Tight bounds of what is visible of each mask in a window of its image file.

    Run lengths count as the pixels they cover, rings as the exact area they enclose.

    Args:
        windows: (I, 4) xyxy, file pixels, or (4,) for one window for all; None is the whole file.
    Returns:
        (I, 4) float64 xyxy in file pixels; zeros where nothing is visible.
    """
    if windows is None:
        windows = torch.cat([torch.zeros_like(masks.frame), masks.frame.flip(1)], dim=1)
    windows = windows.double().expand(len(masks), 4)
    arrays = (
        masks.points,
        masks.ring_start,
        masks.instance_ring,
        masks.counts,
        masks.instance_count,
        masks.frame,
        windows,
    )
    return torch.from_numpy(host.mask_boxes(*(array.numpy() for array in arrays)))


def take(offsets: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions of the items of groups `index`, and the offsets of these groups."""
    first = offsets[index]
    lengths = offsets[index + 1] - first
    taken = torch.zeros(len(index) + 1, dtype=torch.int64)
    torch.cumsum(lengths, 0, out=taken[1:])
    positions = torch.arange(int(taken[-1])) + torch.repeat_interleave(first - taken[:-1], lengths)
    return positions, taken


def _join(offsets: list[Tensor]) -> Tensor:
    """Offsets of joined groups."""
    lengths = torch.cat([part.diff() for part in offsets])
    joined = torch.zeros(len(lengths) + 1, dtype=torch.int64)
    torch.cumsum(lengths, 0, out=joined[1:])
    return joined
