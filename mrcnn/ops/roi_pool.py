"""RoIPool: take the largest feature of each box in a grid of bins (Fast R-CNN, section 2.1).

N images, C channels, K boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mrcnn.ops import library  # noqa: F401  registers the ops
from mrcnn.ops.check import (
    FLOATING,
    check_at_least,
    check_dtype,
    check_same_device,
    is_transformed,
)
from mrcnn.ops.roi_align import bins_of, rois_of


def roi_pool(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
) -> Tensor:
    """Pool each box from one map; drop-in replacement for `torchvision.ops.roi_pool`.

    Arguments, shapes and errors are those of `roi_align`, without `sampling_ratio` and `aligned`.

    Boxes are rounded to whole cells, and the last cell belongs to the box. A bin without cells
    pools to zero, and so does a box with NaN or infinity. NaN features are ignored. A bin that has
    only NaN and -inf pools to -inf, without gradient. Gradients flow to `input` only, to the first
    of equal cells, and are bit-identical for any number of threads.

    Returns:
        (K, C, rows, columns) in the dtype of `input`, contiguous.

    Example:
        >>> features = torch.randn(1, 512, 50, 76)  # stride 16
        >>> boxes = [torch.tensor([[10.0, 20, 300, 400]])]  # in image pixels
        >>> roi_pool(features, boxes, 7, spatial_scale=1 / 16).shape
        torch.Size([1, 512, 7, 7])
    """
    corners, image_index = rois_of("roi_pool", input, boxes)
    size = bins_of("roi_pool", output_size)
    return indexed_roi_pool(input, corners, image_index, size, spatial_scale).contiguous()


def indexed_roi_pool(
    input: Tensor,
    boxes: Tensor,
    image_index: Tensor,
    size: tuple[int, int],
    spatial_scale: float,
) -> Tensor:
    """Run `roi_pool` on boxes (K, 4) of the images that `image_index` (K,) names.

    Index -1 marks a padded slot, which pools to zero. The result is channels_last.
    """
    check_dtype("roi_pool", "input", input, FLOATING)
    check_dtype("roi_pool", "boxes", boxes, FLOATING)
    check_same_device("roi_pool", input=input, boxes=boxes, image_index=image_index)
    rows, columns = size
    check_at_least("roi_pool", 1, rows=rows, columns=columns)
    # A tensor in vmap does not tell whether the tensor around it requires gradients.
    needs_argmax = torch.is_grad_enabled() and (input.requires_grad or is_transformed(input))
    pooled: Tensor = torch.ops.mrcnn.roi_pool(
        input, boxes, image_index, spatial_scale, rows, columns, needs_argmax
    )[0]
    return pooled


@torch.library.register_fake("mrcnn::roi_pool")
def _(features, boxes, image_index, scale, bins_h, bins_w, with_argmax):  # type: ignore[no-untyped-def]
    shape = (boxes.shape[0], features.shape[1], bins_h, bins_w)
    options = {"device": features.device, "memory_format": torch.channels_last}
    pooled = torch.empty(shape, dtype=features.dtype, **options)
    if not with_argmax:
        return pooled, features.new_empty(0, dtype=torch.int32)
    return pooled, torch.empty(shape, dtype=torch.int32, **options)


@torch.library.register_fake("mrcnn::roi_pool_backward")
def _(grad, argmax, image_index, images, height, width):  # type: ignore[no-untyped-def]
    return torch.empty(
        (images, grad.shape[1], height, width),
        dtype=grad.dtype,
        device=grad.device,
        memory_format=torch.channels_last,
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, _, image_index, *_ = inputs
    _, argmax = output
    ctx.mark_non_differentiable(argmax)
    ctx.save_for_backward(argmax, image_index)
    ctx.map = features.shape[0], *features.shape[2:]


def _backward(ctx: Any, grad: Tensor, _: None) -> tuple[Any, ...]:
    return torch.ops.mrcnn.roi_pool_backward(grad, *ctx.saved_tensors, *ctx.map), *[None] * 6


torch.library.register_autograd("mrcnn::roi_pool", _backward, setup_context=_setup_context)


def _backward_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, argmax, image_index, *_ = inputs
    ctx.save_for_backward(argmax, image_index)


def _double_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    # The backward is linear: its derivative reads the map at the positions of the largest values.
    argmax, image_index = ctx.saved_tensors
    if grad.shape[2:].numel() == 0:
        return torch.zeros_like(argmax, dtype=grad.dtype), *[None] * 5
    channels = torch.arange(grad.shape[1], device=grad.device)[None, :, None, None]
    flat = grad.flatten(2)[image_index.clamp(min=0)[:, None, None, None], channels, argmax.long()]
    used = (argmax >= 0) & (image_index >= 0)[:, None, None, None]
    return torch.where(used, flat, 0.0), *[None] * 5


torch.library.register_autograd(
    "mrcnn::roi_pool_backward", _double_backward, setup_context=_backward_setup_context
)
