"""RoIPool against its reference and torchvision."""

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from mrcnn.ops import reference, roi_pool

NAN, INF = math.nan, math.inf
BOXES = {
    "inside": [[2.2, 1.4, 8.6, 7.5], [0.0, 0.0, 3.0, 3.0]],
    "whole map": [[0.0, 0.0, 11.0, 10.0]],
    "crosses the border": [[-4.0, -3.0, 4.0, 5.0], [8.0, 7.0, 30.0, 40.0]],
    "outside": [[20.0, 20.0, 30.0, 30.0], [-9.0, -9.0, -5.0, -5.0]],
    "just below a half": [[0.49999997, 0.49999997, 3.4999998, 3.4999998]],
    "halves round away from zero": [[0.5, 1.5, 2.5, 3.5], [-0.5, -1.5, 4.5, 5.5]],
    "point": [[3.0, 3.0, 3.0, 3.0]],
    "reversed": [[8.0, 7.0, 2.0, 1.0]],
    "huge": [[-1e30, -1e30, 1e30, 1e30]],
    "a rounding touches one cell more": [[-40.0, -40.0, 16.0, 16.0]],  # 57 cells in 7 bins
    "none": [],
}


def sample(case: str, channels: int = 5, dtype: torch.dtype = torch.float32) -> tuple:
    """A map (2, C, 9, 12) without equal values, boxes (K, 4) and image indices (K,)."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randperm(2 * channels * 108, generator=generator).to(dtype)
    boxes = torch.tensor(BOXES[case], dtype=torch.float32).reshape(-1, 4)
    return values.reshape(2, channels, 9, 12), boxes, torch.arange(len(boxes)) % 2


def with_index(boxes: Tensor, image_index: Tensor) -> Tensor:
    return torch.cat([image_index[:, None].to(boxes.dtype), boxes], dim=1)


@pytest.mark.parametrize("case", BOXES)
@pytest.mark.parametrize("size", [(1, 1), (7, 7), (3, 5)], ids=str)
@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("channels", [3, 64, 150])
def test_matches_reference(case, size, scale, channels):
    features, boxes, index = sample(case, channels)
    features.requires_grad_()
    found = roi_pool(features, with_index(boxes, index), size, scale)
    expected = reference.roi_pool(features, boxes, index, scale=scale, size=size)
    assert torch.equal(found.double(), expected)  # a maximum is not rounded
    upstream = torch.randint(1, 9, found.shape).float()  # sums of whole numbers neither
    if len(boxes):
        (gradient,) = torch.autograd.grad(found, features, upstream)
        reachable = expected + 0 * features.sum()  # boxes outside reach no cell
        (wanted,) = torch.autograd.grad(reachable, features, upstream.double())
        assert torch.equal(gradient, wanted)


def test_many_boxes_match_reference():
    generator = torch.Generator().manual_seed(0)
    features = torch.randperm(2 * 40 * 30 * 25, generator=generator).float().view(2, 40, 30, 25)
    features.requires_grad_()
    corner = torch.rand(100, 2, generator=generator) * 25
    boxes = torch.cat([corner, corner + 12 * torch.rand(100, 2, generator=generator)], dim=1)
    index = torch.arange(100) // 3 % 2
    found = roi_pool(features, with_index(boxes, index), (7, 6))
    expected = reference.roi_pool(features, boxes, index, scale=1.0, size=(7, 6))
    assert torch.equal(found.double(), expected)
    upstream = torch.randint(1, 9, found.shape, generator=generator).float()
    (gradient,) = torch.autograd.grad(found, features, upstream)
    (wanted,) = torch.autograd.grad(expected, features, upstream.double())
    assert torch.equal(gradient, wanted.float())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_dtypes(dtype):
    features, boxes, index = sample("inside", 20)
    features = (features / 2048).to(dtype)
    found = roi_pool(features, with_index(boxes, index), 3)
    assert found.dtype == dtype
    assert torch.equal(
        found.double(), reference.roi_pool(features, boxes, index, scale=1.0, size=(3, 3))
    )


def test_layouts_agree():
    features, boxes, index = sample("inside", 20)
    rois = with_index(boxes, index)
    expected = roi_pool(features, rois, 3)
    for layout in (
        features.contiguous(memory_format=torch.channels_last),
        features.transpose(2, 3).contiguous().transpose(2, 3),
        torch.cat([features, features], dim=1)[:, :20],
    ):
        assert torch.equal(roi_pool(layout, rois, 3), expected)


def test_list_of_boxes():
    features, boxes, _ = sample("inside")
    as_list = roi_pool(features, [boxes[:1], boxes[1:]], 3)
    assert torch.equal(as_list, roi_pool(features, with_index(boxes, torch.tensor([0, 1])), 3))


@pytest.mark.parametrize("broken", [NAN, INF, -INF])
def test_broken_boxes_pool_to_zero_without_gradient(broken):
    features, _, _ = sample("inside")
    features.requires_grad_()
    found = roi_pool(features, torch.tensor([[0.0, broken, 0, 5, 5], [1, 0, 0, broken, 5]]), 2)
    assert torch.equal(found, torch.zeros_like(found))
    (gradient,) = torch.autograd.grad(found.sum(), features)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_broken_features():
    features = torch.zeros(1, 20, 4, 4)
    features[0, :, 1, 1] = NAN
    features[0, 0] = -INF
    features[0, 1] = NAN
    features.requires_grad_()
    found = roi_pool(features, torch.tensor([[0.0, 0, 0, 3, 3]]), 1)
    assert found[0, :3, 0, 0].tolist() == [-INF, -INF, 0]
    assert torch.equal(found[0, 2:, 0, 0], torch.zeros(18))
    (gradient,) = torch.autograd.grad(found[:, 1:].sum(), features)
    assert gradient[0, :2].abs().sum() == 0
    assert torch.equal(gradient[0, 2:, 0, 0], torch.ones(18))  # the first of equal cells


@pytest.mark.parametrize("index", [-1, 2, 1e6])
def test_image_index_out_of_range(index):
    features, _, _ = sample("inside")
    with pytest.raises(ValueError, match=r"roi_pool: image index must lie in \[0, 2\)"):
        roi_pool(features, torch.tensor([[float(index), 0, 0, 5, 5]]), 2)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4), (2, 3, 4, 0)], ids=str)
def test_empty_maps(shape):
    boxes = torch.tensor([[0.0, 0, 0, 3, 3]])[: shape[0]]
    features = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    found = roi_pool(features, boxes, 2)
    assert torch.equal(found, torch.zeros(len(boxes), shape[1], 2, 2, dtype=torch.float64))
    assert gradgradcheck(lambda x: roi_pool(x, boxes, 2).sum(), features)


def test_no_images():
    assert roi_pool(torch.rand(0, 3, 4, 4), [], 2).shape == (0, 3, 2, 2)


def test_gradients():
    features, boxes, index = sample("crosses the border", 2, torch.float64)
    rois = with_index(boxes, index)
    # Whole numbers lie further apart than the steps of the check.
    features.requires_grad_()
    assert gradcheck(lambda x: roi_pool(x, rois, (2, 3)), features)
    assert gradgradcheck(lambda x: roi_pool(x, rois, (2, 3)), features)


def test_same_bits_for_any_number_of_threads():
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(2, 130, 20, 20, generator=generator, requires_grad=True)
    corner = torch.rand(40, 2, generator=generator) * 10
    rois = torch.cat(
        [(torch.arange(40) % 2)[:, None], corner, corner + 8 * torch.rand(40, 2)], dim=1
    )
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found = roi_pool(features, rois, 7)
        (gradient,) = torch.autograd.grad(found, features, found.detach())
        results.append((found.detach(), gradient))
    for found, gradient in results[1:]:
        assert torch.equal(found, results[0][0])
        assert torch.equal(gradient, results[0][1])


def test_equals_torchvision():
    ops = pytest.importorskip("torchvision.ops")
    for case in BOXES:
        if case == "huge":  # its integers overflow
            continue
        features, boxes, index = sample(case, 20)
        rois = with_index(boxes, index)
        assert_close(roi_pool(features, rois, 7, 0.5), ops.roi_pool(features, rois, 7, 0.5))
