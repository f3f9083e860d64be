"""Pasted masks against the float64 reference; bits against numpy, run lengths against pycocotools.

D detections, M the side of a mask.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from torch._subclasses import FakeTensorMode
from torch.testing import assert_close

from mrcnn.ops import reference_masks as reference
from mrcnn.ops.paste_masks import paste_masks, paste_masks_packed, paste_masks_rle

INF, NAN = float("inf"), float("nan")


def random_masks(kind, count, cells, generator):
    """(D, M, M) float32 in [0, 1]."""
    noise = torch.rand(count, 1, cells, cells, generator=generator)
    if kind == "noise":
        masks = noise
    elif kind == "blobs":
        coarse = torch.rand(count, 1, 4, 4, generator=generator)
        masks = F.interpolate(coarse, size=(cells, cells), mode="bicubic").clamp(0, 1)
    elif kind == "ties":  # many values at the threshold itself
        masks = (noise * 4).round() / 4
    else:
        masks = noise[:, :, :1, :1].expand(count, 1, cells, cells)
    return masks[:, 0].contiguous()


def random_boxes(kind, count, height, width, generator):
    """(D, 4) float32; most cross the border of the image somewhere."""
    extent = {"pixels": 3.0, "cells": 20.0, "image": float(max(height, width)), "huge": 1e5}[kind]
    image = torch.tensor([width, height])
    centre = (torch.rand(count, 2, generator=generator) * 1.4 - 0.2) * image
    half = torch.rand(count, 2, generator=generator) * extent / 2 + 0.01
    boxes = torch.cat([centre - half, centre + half], dim=1)
    whole = torch.rand(count, 1, generator=generator) < 0.3  # integers meet pixel centres exactly
    rounded = torch.cat([boxes[:, :2].floor(), boxes[:, 2:].floor() + 1], dim=1)
    return torch.where(whole, rounded, boxes)


def encode_by_coco(dense):
    """COCO text of (D, height, width) bool."""
    fortran = np.asfortranarray(dense.permute(1, 2, 0).numpy().astype(np.uint8))
    return [rle["counts"].decode() for rle in coco_mask.encode(fortran)]


@pytest.mark.parametrize("kind", ["noise", "blobs", "ties", "constant"])
@pytest.mark.parametrize("extent", ["pixels", "cells", "image", "huge"])
def test_bits_and_run_lengths_equal_encoded_pixels(kind, extent):
    generator = torch.Generator().manual_seed(0)
    cases = [  # (height, width), detections, M, threshold
        ((1, 1), 12, 28, 0.5),
        ((33, 70), 20, 28, 0.5),
        ((80, 61), 10, 14, 0.25),
        ((80, 61), 10, 1, 0.75),
        ((90, 47), 10, 31, 0.5),  # as many segments as a word of sides has bits, or more
        ((150, 200), 6, 70, 0.5),
        ((240, 320), 12, 28, 0.5),
        ((2, 70_000), 3, 28, 0.5),  # rows of several tiles, on the GPU
        ((6, 5), 300, 3, 0.5),  # more masks than threads of a block
    ]
    for (height, width), count, cells, threshold in cases:
        masks = random_masks(kind, count, cells, generator)
        boxes = random_boxes(extent, count, height, width, generator)
        dense = paste_masks(masks, boxes, height, width, threshold)
        packed = paste_masks_packed(masks, boxes, height, width, threshold)
        assert np.array_equal(packed.numpy(), np.packbits(dense.numpy(), axis=2))
        rles = paste_masks_rle(masks, boxes, height, width, threshold)
        assert [rle["counts"] for rle in rles] == encode_by_coco(dense)
        assert all(rle["size"] == [height, width] for rle in rles)


def coordinate_tolerance(cells):
    """How far float32 may be from float64, for probabilities in [0, 1].

    A coordinate of at most M cells is rounded five times (pixel - low, extent, quotient, product,
    - 0.5), so it is off by at most 5 M units of 2^-24; probabilities change by at most 1 a cell
    along each of two axes. Interpolation itself rounds three times an axis.
    """
    return 2 * (5 * cells + 3) * 2.0**-24


@pytest.mark.parametrize("kind", ["noise", "blobs", "constant"])
@pytest.mark.parametrize("extent", ["pixels", "cells", "image", "huge"])
def test_pixels_equal_reference(kind, extent):
    generator = torch.Generator().manual_seed(1)
    for height, width, cells in [(40, 60, 28), (31, 17, 5)]:
        masks = random_masks(kind, 25, cells, generator)
        boxes = random_boxes(extent, 25, height, width, generator)
        values = reference.paste_values(masks, boxes, height, width)
        for threshold in (0.5, 0.2):
            actual = paste_masks(masks, boxes, height, width, threshold)
            certain = (values - threshold).abs() > coordinate_tolerance(cells)
            assert torch.equal(actual[certain], (values >= threshold)[certain])
            assert certain.double().mean() > 0.99


def test_reference_equals_grid_sample():
    """Detectron2's own formula: normalised coordinates, zeros outside."""
    generator = torch.Generator().manual_seed(2)
    height, width = 40, 50
    masks = random_masks("noise", 20, 28, generator).double()
    boxes = random_boxes("image", 20, height, width, generator).double()
    x1, y1, x2, y2 = boxes[:, :, None].unbind(1)
    grid_x = (torch.arange(width) + 0.5 - x1) / (x2 - x1) * 2 - 1  # (D, width)
    grid_y = (torch.arange(height) + 0.5 - y1) / (y2 - y1) * 2 - 1
    grid = torch.stack(
        [grid_x[:, None].expand(-1, height, -1), grid_y[:, :, None].expand(-1, -1, width)], dim=3
    )
    expected = F.grid_sample(masks[:, None], grid, align_corners=False)[:, 0]
    assert_close(reference.paste_values(masks, boxes, height, width), expected)
    assert torch.equal(reference.paste_masks(masks, boxes, height, width), expected >= 0.5)


def test_box_of_one_pixel_a_cell_copies_the_mask():
    generator = torch.Generator().manual_seed(3)
    masks = random_masks("noise", 1, 16, generator)  # 16 cells divide exactly
    expected = torch.zeros(1, 40, 50, dtype=torch.bool)
    expected[:, 3:19, 20:36] = masks >= 0.5
    pasted = paste_masks(masks, torch.tensor([[20.0, 3.0, 36.0, 19.0]]), 40, 50)
    assert torch.equal(pasted, expected)


def test_full_mask_fills_the_box():
    """At the edges of the box the outermost cells have faded to one half, which is inside."""
    expected = torch.zeros(1, 40, 50, dtype=torch.bool)
    expected[:, 2:18, 4:21] = True  # columns 4 and 20 have their centres on the edges
    pasted = paste_masks(torch.ones(1, 16, 16), torch.tensor([[4.5, 2.0, 20.5, 18.0]]), 40, 50)
    assert torch.equal(pasted, expected)


@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_constant_mask_at_the_threshold_is_inside(threshold):
    """Interpolation between equal values gives exactly that value."""
    masks = torch.full((1, 28, 28), threshold)
    box = torch.tensor([[-60.0, -80.0, 160.0, 190.0]])  # half a cell beyond the image all around
    assert paste_masks(masks, box, 100, 100, threshold).all()
    counts = paste_masks_rle(masks, box, 100, 100, threshold)[0]["counts"]
    assert counts == encode_by_coco(torch.ones(1, 100, 100).bool())[0]


EMPTY_BOXES = {
    "zero width": [10, 10, 10, 50],
    "zero height": [10, 10, 50, 10],
    "reversed": [50, 50, 10, 10],
    "NaN": [10, NAN, 50, 50],
    "infinite": [10, 10, INF, 50],
    "all infinite": [-INF, -INF, INF, INF],
    "infinite extent": [-3e38, 0, 3e38, 50],
    "left of the image": [-50, 5, -10, 30],
    "far outside": [3e38, 0, 3.1e38, 50],
}


@pytest.mark.parametrize("case", EMPTY_BOXES)
def test_empty_masks(case):
    masks, box = torch.ones(1, 28, 28), torch.tensor([EMPTY_BOXES[case]]).float()
    assert not paste_masks(masks, box, 40, 60).any()
    assert not paste_masks_packed(masks, box, 40, 60).any()
    assert paste_masks_rle(masks, box, 40, 60) == [
        {"size": [40, 60], "counts": encode_by_coco(torch.zeros(1, 40, 60).bool())[0]}
    ]


def test_mask_that_fills_the_image():
    masks, box = torch.ones(2, 28, 28), torch.tensor([[-1e4, -1e4, 1e4, 1e4], [-3.0, -3, 60, 50]])
    assert paste_masks(masks, box, 40, 50).all()
    packed = paste_masks_packed(masks, box, 40, 50)
    assert (packed[..., :6] == 255).all()
    assert (packed[..., 6] == 0b11000000).all()  # bits beyond the image are 0
    counts, starts = torch.ops.mrcnn.paste_masks_rle(masks, box, 40, 50, 0.5)
    assert counts[: starts[-1]].tolist() == [0, 2000, 0, 2000]
    assert starts.tolist() == [0, 2, 4]


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_masks_that_are_not_finite_agree_in_all_outputs(value):
    generator = torch.Generator().manual_seed(4)
    masks = random_masks("noise", 20, 14, generator)
    masks[torch.rand(masks.shape, generator=generator) < 0.05] = value
    boxes = random_boxes("image", 20, 40, 50, generator)
    dense = paste_masks(masks, boxes, 40, 50)
    rles = paste_masks_rle(masks, boxes, 40, 50)
    assert [rle["counts"] for rle in rles] == encode_by_coco(dense)
    packed = paste_masks_packed(masks, boxes, 40, 50)
    assert np.array_equal(packed.numpy(), np.packbits(dense.numpy(), axis=2))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes_are_computed_in_float32(dtype):
    generator = torch.Generator().manual_seed(5)
    masks = random_masks("noise", 5, 28, generator).to(dtype)
    boxes = random_boxes("image", 5, 40, 50, generator)
    for op in (paste_masks, paste_masks_packed):
        assert torch.equal(op(masks, boxes, 40, 50), op(masks.float(), boxes, 40, 50))
    assert paste_masks_rle(masks, boxes, 40, 50) == paste_masks_rle(masks.float(), boxes, 40, 50)


def test_strided_masks_and_boxes():
    generator = torch.Generator().manual_seed(6)
    masks = random_masks("noise", 6, 28, generator)
    boxes = random_boxes("image", 6, 40, 50, generator)
    strided = masks.permute(2, 1, 0).contiguous().permute(2, 1, 0)[::2]
    column_boxes = boxes.T.contiguous().T[::2]
    assert not strided.is_contiguous()
    expected = paste_masks(masks[::2].contiguous(), boxes[::2].contiguous(), 40, 50)
    assert torch.equal(paste_masks(strided, column_boxes, 40, 50), expected)


@pytest.mark.parametrize("threads", [2, 3])
def test_any_number_of_threads_gives_the_same(threads):
    generator = torch.Generator().manual_seed(7)
    masks = random_masks("noise", 30, 28, generator)
    boxes = random_boxes("image", 30, 60, 80, generator)
    # Enough pixels that every output is shared among the threads.
    pixels, bits = paste_masks(masks, boxes, 600, 800), paste_masks_packed(masks, boxes, 600, 800)
    runs = paste_masks_rle(masks, boxes, 600, 800)
    torch.set_num_threads(threads)
    assert torch.equal(paste_masks(masks, boxes, 600, 800), pixels)
    assert torch.equal(paste_masks_packed(masks, boxes, 600, 800), bits)
    assert paste_masks_rle(masks, boxes, 600, 800) == runs


@pytest.mark.parametrize("op", ["paste_masks", "paste_masks_packed", "paste_masks_rle"])
@pytest.mark.parametrize("count", [0, 1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_registration(op, count, dtype):
    generator = torch.Generator().manual_seed(8)
    masks = random_masks("noise", count, 28, generator).to(dtype)
    boxes = random_boxes("image", count, 20, 30, generator)
    call, arguments = getattr(torch.ops.mrcnn, op).default, (masks, boxes, 20, 30, 0.5)
    utilities = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if op != "paste_masks_rle" or counts_are_exact(*call(*arguments)):
        utilities.append("test_aot_dispatch_dynamic")  # else two answers differ in their padding
    torch.library.opcheck(call, arguments, test_utils=utilities)


def counts_are_exact(counts, starts):
    """As on CPU; on CUDA `counts` is padded."""
    return len(counts) == starts[-1]


def test_fake_run_lengths_on_cuda_are_as_long_as_they_can_get():
    with FakeTensorMode():
        masks, boxes = torch.empty(3, 28, 28, device="cuda"), torch.empty(3, 4, device="cuda")
        for height, swaps in [(20, 20), (21, 22), (200, 58)]:
            counts, starts = torch.ops.mrcnn.paste_masks_rle(masks, boxes, height, 30, 0.5)
            assert counts.shape == (3 * (30 * swaps + 1),)
            assert starts.shape == (4,)


ALTERNATING = {
    "between cells": [1.0, 0.0] * 5,
    "at cells, too": [1.0, 0.0, 1.0, INF, 1.0] * 2,
}


@pytest.mark.parametrize("case", ALTERNATING)
@pytest.mark.parametrize("height", [9, 10, 30, 1001])
def test_columns_with_the_most_runs(case, height):
    masks = torch.tensor(ALTERNATING[case])[:, None].expand(3, 10, 10)
    for top, bottom in [(0.0, height), (-0.3, height - 0.3), (-height / 10, 2.0 * height)]:
        box = torch.tensor([[-20.0, top, 30.0, bottom]]).expand(3, 4)
        rles = paste_masks_rle(masks, box, height, 7)
        dense = paste_masks(masks, box, height, 7)
        assert [rle["counts"] for rle in rles] == encode_by_coco(dense)
        swaps = F.pad(dense[0].int(), (0, 0, 1, 1)).diff(dim=0).abs().sum(dim=0)
        assert (swaps <= 2 * min(11, (height + 1) // 2)).all()


def test_no_detections():
    masks, boxes = torch.zeros(0, 28, 28), torch.zeros(0, 4)
    assert paste_masks(masks, boxes, 20, 30).shape == (0, 20, 30)
    assert paste_masks_packed(masks, boxes, 20, 30).shape == (0, 20, 4)
    assert paste_masks_rle(masks, boxes, 20, 30) == []


@pytest.mark.parametrize("width", [30, 32])
def test_fake_tensors_have_the_right_shape(width):
    masks, boxes = torch.zeros(3, 28, 28, device="meta"), torch.zeros(3, 4, device="meta")
    assert paste_masks(masks, boxes, 20, width).shape == (3, 20, width)
    packed = paste_masks_packed(masks, boxes, 20, width)
    assert packed.shape == (3, 20, 4)
    assert packed.dtype == torch.uint8


WRONG = {
    "not square": ({"masks": torch.zeros(1, 28, 14)}, ValueError, "masks must have shape"),
    "dimensions": ({"masks": torch.zeros(1, 1, 28, 28)}, ValueError, "masks must have shape"),
    "no dimension": ({"masks": torch.tensor(0.0)}, ValueError, "masks must have shape"),
    "integer masks": ({"masks": torch.zeros(1, 28, 28).int()}, TypeError, "masks must be float32"),
    "boxes shape": ({"boxes": torch.zeros(2, 4)}, ValueError, r"boxes must have shape \(1, 4\)"),
    "boxes dtype": ({"boxes": torch.zeros(1, 4).half()}, TypeError, "boxes must be float32"),
    "height": ({"height": 0}, ValueError, "height and width must be at least 1 .* got 0 x 30"),
    "product": (
        {"height": 2**16, "width": 2**15},
        ValueError,
        r".* below 2\^31, got 65536 x 32768",
    ),
    "threshold": ({"threshold": 0.0}, ValueError, "threshold must be above 0 in float32, got 0.0"),
    "NaN threshold": (
        {"threshold": NAN},
        ValueError,
        "threshold must be above 0 in float32, got nan",
    ),
}


@pytest.mark.parametrize("op", [paste_masks, paste_masks_packed, paste_masks_rle])
@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_named(op, case):
    change, error, message = WRONG[case]
    arguments = {
        "masks": torch.zeros(1, 28, 28),
        "boxes": torch.zeros(1, 4),
        "height": 20,
        "width": 30,
    }
    with pytest.raises(error, match=f"paste_masks: {message}"):
        op(**arguments | change)
