"""Mask targets for training: ground-truth masks drawn on M x M grids inside boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from mrcnn.ops import library  # noqa: F401  registers the ops
from mrcnn.ops.check import check_dtype, check_same_device, check_shape
from mrcnn.ops.instance_masks import InstanceMasks

MAX_SIZE = 128  # the largest target that the kernels draw
DTYPES = {"points": torch.float64, "counts": torch.int32, "transform": torch.float64}  # else int64


def mask_targets(masks: InstanceMasks, boxes: Tensor, instance: Tensor, size: int) -> Tensor:
    """Draw the part of each mask that is inside a box, on a grid of `size` x `size` pixels.

    Polygons are scaled to the grid as in Detectron2 (a box thinner than 0.1 counts as 0.1) and
    drawn in float64, bit-identical to COCO's `frPyObjects`. RLE is averaged over bins in file
    pixels, as RoIAlign with adaptive sampling does; an average of at least one half is foreground.
    A box with NaN, infinity or no area gives zeros. Not differentiable.

    Args:
        masks: of I instances; their transforms lead to the frame of `boxes`.
        boxes: (R, 4) xyxy in image pixels, float32.
        instance: (R,) int64 in [-1, I), the mask to draw for each box; -1 gives zeros.
        size: side M of a target in pixels, 1 to 128.

    Returns:
        (R, M, M) float32, 1 inside the mask and 0 outside.

    Raises:
        ValueError: if a shape, the device or `size` does not fit.
        TypeError: if a dtype does not fit.
        RuntimeError: if an offset in `masks` or an `instance` is out of range, or if RLE counts do
            not fill their frame (on CPU).

    Example:
        >>> masks = InstanceMasks(  # a triangle in a file of 100 x 100 pixels
        ...     points=torch.tensor([[0.0, 0], [60, 0], [0, 60]], dtype=torch.float64),
        ...     ring_start=torch.tensor([0, 3]),
        ...     instance_ring=torch.tensor([0, 1]),
        ...     counts=torch.empty(0, dtype=torch.int32),
        ...     instance_count=torch.tensor([0, 0]),
        ...     frame=torch.tensor([[100, 100]]),
        ...     transform=torch.tensor([[1.0, 1, 0, 0]], dtype=torch.float64),
        ... )
        >>> targets = mask_targets(masks, torch.tensor([[0.0, 0, 60, 60]]), torch.tensor([0]), 28)
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
