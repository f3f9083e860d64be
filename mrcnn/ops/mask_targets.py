"""Ground-truth masks as training targets: polygons or run lengths to M x M grids inside boxes."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from mrcnn.ops import library  # noqa: F401  registers the ops
from mrcnn.ops.check import check_dtype, check_same_device, check_shape

MAX_SIZE = 128  # the widest target the kernels draw
DTYPES = {"points": torch.float64, "counts": torch.int32, "transform": torch.float64}  # else int64


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

    def tensors(self) -> dict[str, Tensor]:
        """The fields by name, in order."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to(self, device: torch.device | str, non_blocking: bool = False) -> InstanceMasks:
        """The same masks on `device`."""
        moved = (t.to(device, non_blocking=non_blocking) for t in self.tensors().values())
        return InstanceMasks(*moved)

    def pin_memory(self) -> InstanceMasks:
        """The same masks in memory from which a GPU copies on its own."""
        return InstanceMasks(*(tensor.pin_memory() for tensor in self.tensors().values()))


def mask_targets(masks: InstanceMasks, boxes: Tensor, instance: Tensor, size: int) -> Tensor:
    """Draw the part of a mask that lies in a box on a grid of `size` x `size` pixels.

    Polygons are scaled to the grid as in Detectron2 (a box thinner than 0.1 counts as 0.1) and
    drawn as by COCO's `frPyObjects`, bit for bit, computed in float64. Run lengths are averaged
    over bins in the pixels of their file as by RoIAlign with adaptive sampling, and are foreground
    from one half on. A box with NaN, infinity or no area gives zeros. Not differentiable.

    Args:
        masks: of I instances; its transforms lead to the frame of `boxes`.
        boxes: (R, 4) xyxy in image pixels, float32.
        instance: (R,) int64 in [-1, I), whose mask to draw; -1 gives zeros.
        size: side M of a target in pixels, 1 to 128.
    Returns:
        (R, M, M) float32, 1 inside the mask and 0 outside.
    Raises:
        ValueError: if a shape, the device or `size` does not fit.
        TypeError: if a dtype does not fit.
        RuntimeError: if an offset in `masks` or an `instance` is out of range, or if run lengths
            do not fill their frame (on CPU).
    """
    op = "mask_targets"
    instances = len(masks)
    shapes: dict[str, tuple[int | str, ...]] = {
        "points": ("V", 2),
        "ring_start": ("Q + 1",),
        "instance_ring": (instances + 1,),
        "counts": ("T",),
        "instance_count": (instances + 1,),
        "frame": ("I", 2),
        "transform": (instances, 4),
    }
    for name, tensor in masks.tensors().items():
        check_shape(op, f"masks.{name}", tensor, shapes[name])
        check_dtype(op, f"masks.{name}", tensor, (DTYPES.get(name, torch.int64),))
    check_shape(op, "boxes", boxes, ("R", 4))
    check_dtype(op, "boxes", boxes, (torch.float32,))
    check_shape(op, "instance", instance, (boxes.shape[0],))
    check_dtype(op, "instance", instance, (torch.int64,))
    check_same_device(op, boxes=boxes, instance=instance, **masks.tensors())
    if not 1 <= size <= MAX_SIZE:
        raise ValueError(f"{op}: size must lie in [1, {MAX_SIZE}], got {size}")
    targets: Tensor = torch.ops.mrcnn.mask_targets(
        *masks.tensors().values(), boxes.detach(), instance, size
    )
    return targets


@torch.library.register_fake("mrcnn::mask_targets")
def _(*arguments):  # type: ignore[no-untyped-def]
    *_, boxes, _, size = arguments
    return boxes.new_empty((boxes.shape[0], size, size))
