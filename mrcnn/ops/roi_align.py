"""RoIAlign: average the features of each box over a grid of bins (Mask R-CNN, section 3).

N images, C channels, K boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mrcnn.ops import library
from mrcnn.ops.check import (
    FLOATING,
    check_at_least,
    check_dtype,
    check_same_device,
    check_shape,
    is_transformed,
)

# FPN, equation 1: a box with the size of ImageNet's crops is pooled from P4, with stride 16.
CANONICAL_SIZE, CANONICAL_LEVEL = 224.0, 4
MAX_SAMPLING_RATIO = 1024  # also the limit of adaptive sampling
MAX_LEVEL = 64  # limit of abs(canonical_level)


def roi_align(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Tensor:
    """Pool each box from one map; drop-in replacement for `torchvision.ops.roi_align`.

    `multiscale_roi_align` with one level gives the same values in channels_last, without a copy.

    A box with NaN or infinity pools to zero and gets no gradient. So does an empty box if sampling
    is adaptive and `aligned` is set; otherwise boxes are at least one cell wide and high. Gradients
    flow to `input` only and are bit-identical for any number of threads. Under autocast, the op
    keeps its input's dtype; sums are taken in float32 (float64 for float64).

    Args:
        input: (N, C, H, W), any floating dtype; channels_last is used without a copy.
        boxes: (K, 5) as (image index, x1, y1, x2, y2), or a list of up to N tensors (K_i, 4)
            xyxy, one per image, in the frame that `spatial_scale` maps to cells of `input`.
        output_size: bins, one number or (rows, columns).
        spatial_scale: cells of `input` per unit of the boxes, 1 / stride.
        sampling_ratio: samples per bin and axis, at most 1024; 0 or less takes one per cell,
            rounded up, within the same limit.
        aligned: shift boxes by half a cell, so that cell centres are at + 0.5.

    Returns:
        (K, C, rows, columns) in the dtype of `input`, contiguous.

    Raises:
        ValueError: if a shape, the device or an image index does not fit.
        TypeError: if a dtype does not fit.

    Example:
        >>> features = torch.randn(1, 256, 50, 76)  # stride 16
        >>> boxes = [torch.tensor([[10.0, 20, 300, 400]])]  # in image pixels
        >>> roi_align(features, boxes, 7, spatial_scale=1 / 16, aligned=True).shape
        torch.Size([1, 256, 7, 7])
    """
    corners, image_index = rois_of("roi_align", input, boxes)
    return multiscale_roi_align(
        [input],
        corners,
        image_index,
        scales=[spatial_scale],
        size=bins_of("roi_align", output_size),
        sampling_ratio=sampling_ratio,
        aligned=aligned,
    ).contiguous()


def bins_of(op: str, output_size: int | Sequence[int]) -> tuple[int, int]:
    """Return (rows, columns) of an output size as torchvision takes it."""
    pair = output_size if isinstance(output_size, Sequence) else (output_size, output_size)
    if len(pair) != 2:
        raise ValueError(
            f"{op}: output_size must be one number or (rows, columns), got {output_size}"
        )
    return pair[0], pair[1]


def rois_of(op: str, input: Tensor, boxes: Tensor | Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Convert boxes as torchvision takes them to boxes (K, 4) and image indices (K,)."""
    check_shape(op, "input", input, ("N", "C", "H", "W"))
    if isinstance(boxes, Tensor):
        check_shape(op, "boxes", boxes, ("K", 5))
        image_index, corners = boxes[:, 0].long(), boxes[:, 1:]
    else:
        if len(boxes) > input.shape[0]:
            raise ValueError(
                f"{op}: boxes must be a list of at most {input.shape[0]} tensors, one per image, "
                f"got {len(boxes)}"
            )
        for image_boxes in boxes:
            check_shape(op, "boxes of an image", image_boxes, ("K", 4))
        corners = torch.cat(list(boxes)) if boxes else input.new_empty((0, 4))
        # Created on the device of the boxes: a list of counts would have to be copied there.
        index = [torch.full_like(b[:, 0], i, dtype=torch.int64) for i, b in enumerate(boxes)]
        image_index = torch.cat(index) if boxes else corners.new_empty(0, dtype=torch.int64)
    # Fake tensors, instances of a subclass, have no values to read; tensors in vmap have many.
    readable = (
        type(image_index) is Tensor
        and image_index.device.type == "cpu"
        and not is_transformed(image_index)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    )
    if readable and len(image_index):
        low, high = int(image_index.min()), int(image_index.max())
        if low < 0 or high >= input.shape[0]:
            raise ValueError(
                f"{op}: image index must lie in [0, {input.shape[0]}), "
                f"got {low if low < 0 else high}"
            )
    return corners, image_index


def multiscale_roi_align(
    features: Sequence[Tensor],
    boxes: Tensor,
    image_index: Tensor,
    *,
    scales: Sequence[float],
    size: tuple[int, int],
    sampling_ratio: int = 0,
    aligned: bool = True,
    canonical_size: float = CANONICAL_SIZE,
    canonical_level: int = CANONICAL_LEVEL - 2,  # features start at P2
) -> Tensor:
    """Pool each box from the pyramid level that fits its size (FPN, section 4.2).

    The level is `canonical_level + log2(sqrt(area) / canonical_size)`, rounded down and limited to
    the given levels. NaN, empty boxes and gradients are handled as in `roi_align`.

    Args:
        features: per level (N, C, H_l, W_l), fine to coarse, any floating dtype.
        boxes: (K, 4) xyxy in image pixels; float32 is kept whatever the dtype of the features.
        image_index: (K,) int64 in [0, N); -1 marks a padded slot, which pools to zero.
        scales: per level, cells per image pixel.
        size: bins, (rows, columns).
        sampling_ratio: samples per bin and axis; 0 or less takes one per cell, rounded up.
        aligned: shift boxes by half a cell.
        canonical_size: side in image pixels of a box that is pooled from `canonical_level`.
        canonical_level: an index into `features`.

    Returns:
        (K, C, rows, columns) in the dtype of the features, channels_last.

    Raises:
        ValueError: if a shape or device does not fit.
        TypeError: if a dtype does not fit.
        RuntimeError: if an image index is out of range (on CPU).

    Example:
        >>> features = [torch.randn(1, 256, 800 // s, 1216 // s) for s in (4, 8, 16, 32)]
        >>> boxes, image_index = torch.tensor([[10.0, 20, 300, 400]]), torch.tensor([0])
        >>> scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
        >>> multiscale_roi_align(features, boxes, image_index, scales=scales, size=(7, 7)).shape
        torch.Size([1, 256, 7, 7])
    """
    op = "multiscale_roi_align"
    if not features or len(features) != len(scales):
        raise ValueError(
            f"{op}: scales must hold one number for each of {len(features)} levels (at least one), "
            f"got {len(scales)}"
        )
    check_shape(op, "features[0]", features[0], ("N", "C", "H", "W"))
    for level, feature in enumerate(features):
        check_dtype(op, f"features[{level}]", feature, FLOATING)
        check_dtype(op, f"features[{level}]", feature, (features[0].dtype,))
        images, channels = features[0].shape[:2]
        check_shape(op, f"features[{level}]", feature, (images, channels, "H", "W"))
    check_shape(op, "boxes", boxes, ("K", 4))
    check_shape(op, "image_index", image_index, (boxes.shape[0],))
    check_dtype(op, "boxes", boxes, FLOATING)
    check_dtype(op, "image_index", image_index, (torch.int64,))
    levels = {f"features[{level}]": feature for level, feature in enumerate(features)}
    check_same_device(op, **levels, boxes=boxes, image_index=image_index)
    check_at_least(op, 1, rows=size[0], columns=size[1])
    if sampling_ratio > MAX_SAMPLING_RATIO:
        raise ValueError(
            f"{op}: sampling_ratio must be at most {MAX_SAMPLING_RATIO}, got {sampling_ratio}"
        )
    if abs(canonical_level) > MAX_LEVEL:
        raise ValueError(
            f"{op}: canonical_level must lie in [-{MAX_LEVEL}, {MAX_LEVEL}], got {canonical_level}"
        )
    pooled: Tensor = torch.ops.mrcnn.roi_align(
        list(features),
        boxes,
        image_index,
        list(scales),
        *size,
        sampling_ratio,
        aligned,
        canonical_size,
        canonical_level,
    )
    return pooled


@torch.library.register_fake("mrcnn::roi_align")
def _(features, boxes, image_index, scales, bins_h, bins_w, *_):  # type: ignore[no-untyped-def]
    return torch.empty(
        (boxes.shape[0], features[0].shape[1], bins_h, bins_w),
        dtype=features[0].dtype,
        device=features[0].device,
        memory_format=torch.channels_last,
    )


@torch.library.register_fake("mrcnn::roi_align_backward")
def _(grad, features, *_):  # type: ignore[no-untyped-def]
    return [
        torch.empty(
            feature.shape,
            dtype=grad.dtype,
            device=grad.device,
            memory_format=torch.channels_last,
        )
        for feature in features
    ]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, boxes, image_index, scales, _, _, *options = inputs
    ctx.save_for_backward(boxes, image_index)
    ctx.shapes, ctx.scales, ctx.options = [x.shape for x in features], scales, options


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    boxes, image_index = ctx.saved_tensors
    # The op reads only the shapes: features need not live on, and can be changed in place.
    features = [grad.new_empty(1).expand(shape) for shape in ctx.shapes]
    grads = torch.ops.mrcnn.roi_align_backward(
        grad, features, boxes, image_index, ctx.scales, *ctx.options
    )
    return grads, *[None] * 9


torch.library.register_autograd("mrcnn::roi_align", _backward, setup_context=_setup_context)


def _backward_setup_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    grad, features, boxes, image_index, scales, *options = inputs
    ctx.save_for_backward(boxes, image_index)
    ctx.bins, ctx.scales, ctx.options = grad.shape[2:], scales, options
    ctx.levels = len(features)


def _double_backward(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    # RoIAlign is linear in the features, so the derivative of its backward is its forward.
    pooled = torch.ops.mrcnn.roi_align(
        grads, *ctx.saved_tensors, ctx.scales, *ctx.bins, *ctx.options
    )
    return pooled, [None] * ctx.levels, *[None] * 7


torch.library.register_autograd(
    "mrcnn::roi_align_backward", _double_backward, setup_context=_backward_setup_context
)
library.register_vmap_loop("roi_align")
library.register_vmap_loop("roi_align_backward")
