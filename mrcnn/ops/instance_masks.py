"""Ground-truth masks of instances in flat arrays: select, join, transform, and find their boxes.

I instances, Q rings, V points, T runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from mrcnn.ops import library

_host = library.load("mrcnn_host")


@dataclass(frozen=True)
class InstanceMasks:
    """The masks of I instances as their files store them, in flat arrays.

    An instance has either rings or RLE counts, never both; with neither, its mask is empty. Rings
    are polygons, and a pixel inside any ring belongs to the instance. Coordinates stay those of
    the file: resizing, cropping and flipping an image changes only `transform`.
    """

    points: Tensor  # (V, 2) float64 xy of all rings, file pixels
    ring_start: Tensor  # (Q + 1,) int64: ring q has points[ring_start[q] : ring_start[q + 1]]
    instance_ring: Tensor  # (I + 1,) int64: instance i has rings instance_ring[i] up to [i + 1]
    counts: Tensor  # (T,) int32 RLE counts down the columns, background first
    instance_count: Tensor  # (I + 1,) int64: instance i has counts[instance_count[i] : [i + 1]]
    frame: Tensor  # (I, 2) int64 (height, width) of the image file
    transform: Tensor  # (I, 4) float64 (scale_x, scale_y, shift_x, shift_y), file -> image pixels

    def __len__(self) -> int:
        return len(self.frame)

    def tensors(self) -> dict[str, Tensor]:
        """Return the fields by name, in order."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to(self, device: torch.device | str, non_blocking: bool = False) -> InstanceMasks:
        """Copy the masks to `device`."""
        moved = (t.to(device, non_blocking=non_blocking) for t in self.tensors().values())
        return InstanceMasks(*moved)

    def pin_memory(self) -> InstanceMasks:
        """Copy the masks to pinned memory, from which a GPU copies asynchronously."""
        return InstanceMasks(*(tensor.pin_memory() for tensor in self.tensors().values()))


def empty() -> InstanceMasks:
    """Return masks of no instances."""
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
    """Select the instances at `index` (K,) int64, in that order.

    The cost depends on the selected instances only.
    """
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
    """Join the instances of all `parts`, in order."""
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
    """Return the masks in a frame in which x becomes scale[0] * x + shift[0], and y likewise.

    A negative scale mirrors. Points and counts are shared, not copied.
    """
    factor = torch.tensor(scale, dtype=torch.float64)
    # Rounded to float32, like the shift of the boxes that belong to the masks.
    offset = masks.transform[:, 2:] * factor + torch.tensor(shift).double()
    return replace(masks, transform=torch.cat([masks.transform[:, :2] * factor, offset], dim=1))


def mask_boxes(masks: InstanceMasks, windows: Tensor | None = None) -> Tensor:
    """Compute the tight box of the part of each mask that is visible in a window.

    RLE counts as the pixels that it covers, rings as the exact area that they enclose.

    Args:
        masks: of I instances; `transform` is not applied.
        windows: (I, 4) xyxy in file pixels, or (4,) for all instances; None is the whole file.

    Returns:
        (I, 4) float64 xyxy in file pixels; zeros for an instance that is not visible.
    """
    if windows is None:
        windows = torch.cat([torch.zeros_like(masks.frame), masks.frame.flip(1)], dim=1)
    arrays = [tensor for name, tensor in masks.tensors().items() if name != "transform"]
    arrays.append(windows.double().expand(len(masks), 4))
    return torch.from_numpy(_host.mask_boxes(*(array.numpy() for array in arrays)))


def take(offsets: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Select groups of a flat array.

    Args:
        offsets: (G + 1,) int64: group g has the items offsets[g] up to offsets[g + 1].
        index: (K,) int64, the groups to select.

    Returns:
        The positions of their items in the array, and the offsets (K + 1,) of the new groups.
    """
    first = offsets[index]
    lengths = offsets[index + 1] - first
    taken = torch.zeros(len(index) + 1, dtype=torch.int64)
    torch.cumsum(lengths, 0, out=taken[1:])
    positions = torch.arange(int(taken[-1])) + torch.repeat_interleave(first - taken[:-1], lengths)
    return positions, taken


def _join(offsets: list[Tensor]) -> Tensor:
    """Return the offsets of concatenated groups."""
    lengths = torch.cat([part.diff() for part in offsets])
    joined = torch.zeros(len(lengths) + 1, dtype=torch.int64)
    torch.cumsum(lengths, 0, out=joined[1:])
    return joined
