"""Pasting of predicted masks into the image: as pixels, as packed bits, or directly as RLE."""

from __future__ import annotations

import torch
from torch import Tensor

from mrcnn.ops.check import FLOATING, check_dtype, check_same_device, check_shape
from mrcnn.ops.rle import compress


def paste_masks(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5
) -> Tensor:
    """Paste masks into the image by bilinear interpolation at pixel centres, as Detectron2 does.

    Outside the box, the outermost cells fade to 0 over half a cell. Computed in float32. A box with
    NaN, infinity or no area gives an empty mask. Not differentiable.

    Args:
        masks: (D, M, M) probabilities inside each box, any floating dtype.
        boxes: (D, 4) xyxy in image pixels, float32.
        height: of the image, in pixels.
        width: of the image, in pixels; height * width < 2^31.
        threshold: pixels with at least this probability are inside; above 0.

    Returns:
        (D, height, width) bool.

    Raises:
        ValueError: if a shape, the device or a number does not fit.
        TypeError: if a dtype does not fit.

    Example:
        >>> masks, boxes = torch.rand(1, 28, 28), torch.tensor([[10.0, 20, 50, 80]])
        >>> paste_masks(masks, boxes, height=100, width=120).shape
        torch.Size([1, 100, 120])
    """
    _check(masks, boxes, height, width, threshold)
    pasted: Tensor = torch.ops.mrcnn.paste_masks(masks, boxes, height, width, threshold)
    return pasted


def paste_masks_packed(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5
) -> Tensor:
    """Paste masks as `paste_masks` does, with eight pixels per byte: an eighth of the memory.

    Arguments and errors are those of `paste_masks`.

    Returns:
        (D, height, ceil(width / 8)) uint8 in the order of `numpy.packbits`: the highest bit of a
        byte is its leftmost pixel, and bits beyond the image are 0.

    Example:
        >>> packed = paste_masks_packed(masks, boxes, height=100, width=120)
        >>> pixels = numpy.unpackbits(packed.numpy(), axis=2, count=120)
    """
    _check(masks, boxes, height, width, threshold)
    packed: Tensor = torch.ops.mrcnn.paste_masks_packed(masks, boxes, height, width, threshold)
    return packed


def paste_masks_rle(
    masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float = 0.5
) -> list[dict[str, object]]:
    """Paste masks as `paste_masks` does, directly as COCO RLE and without visiting the pixels.

    Arguments and errors are those of `paste_masks`.

    Returns:
        D dicts {"size": [height, width], "counts": text}, equal to pycocotools' encoding of the
        result of `paste_masks`.

    Example:
        >>> segmentations = paste_masks_rle(masks, boxes, height=100, width=120)
    """
    _check(masks, boxes, height, width, threshold)
    counts, starts = torch.ops.mrcnn.paste_masks_rle(masks, boxes, height, width, threshold)
    ends = starts.cpu().numpy()
    texts = compress(counts[: ends[-1]].cpu().numpy(), ends)
    return [{"size": [height, width], "counts": text} for text in texts]


def _check(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float) -> None:
    op = "paste_masks"
    check_shape(op, "masks", masks, ("D", "M", masks.shape[-1] if masks.dim() else "M"))
    check_shape(op, "masks", masks, ("D", masks.shape[-1], "M"))
    check_dtype(op, "masks", masks, FLOATING)
    check_shape(op, "boxes", boxes, (masks.shape[0], 4))
    check_dtype(op, "boxes", boxes, (torch.float32,))
    check_same_device(op, masks=masks, boxes=boxes)
    if height < 1 or width < 1 or height * width >= 2**31:
        raise ValueError(
            f"{op}: height and width must be at least 1 and their product below 2^31, "
            f"got {height} x {width}"
        )
    if not threshold >= torch.finfo(torch.float32).tiny:
        raise ValueError(f"{op}: threshold must be above 0 in float32, got {threshold}")


@torch.library.register_fake("mrcnn::paste_masks")
def _(masks, boxes, height, width, threshold):  # type: ignore[no-untyped-def]
    return masks.new_empty((masks.shape[0], height, width), dtype=torch.bool)


@torch.library.register_fake("mrcnn::paste_masks_packed")
def _(masks, boxes, height, width, threshold):  # type: ignore[no-untyped-def]
    return masks.new_empty((masks.shape[0], height, (width + 7) // 8), dtype=torch.uint8)


@torch.library.register_fake("mrcnn::paste_masks_rle")
def _(masks, boxes, height, width, threshold):  # type: ignore[no-untyped-def]
    # Mask d has the runs counts[starts[d] : starts[d + 1]]. On CPU, `counts` ends at starts[D]. On
    # CUDA, the host would have to read that size back. So `counts` has the largest possible size,
    # by the bound that the kernel derives, and is undefined from starts[D] on.
    count, cells = masks.shape[0], masks.shape[1]
    if masks.device.type == "cuda":
        swaps = 2 * torch.sym_min(cells + 1, (height + 1) // 2)  # type: ignore[no-untyped-call]
        runs = count * (width * swaps + 1)
    else:
        runs = torch.library.get_ctx().new_dynamic_size()
    return (
        masks.new_empty((runs,), dtype=torch.int32),
        masks.new_empty((masks.shape[0] + 1,), dtype=torch.int64),
    )
