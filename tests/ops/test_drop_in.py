"""What users of torchvision's operators do with RoIAlign, RoIPool and NMS."""

import numpy as np
import pytest
import torch
from torch.func import vmap
from torch.testing import assert_close

from mrcnn.ops import nms, roi_align, roi_pool

ROIS = torch.tensor([[0.0, 1, 1, 9, 9], [1, 2, 2, 8, 8], [0, 0, 5, 4, 9]])
POOLS = pytest.mark.parametrize("pool", [roi_align, roi_pool], ids=lambda pool: pool.__name__)


def features(*leading: int) -> torch.Tensor:
    """Maps of two images."""
    return torch.rand(*leading, 2, 3, 12, 10, generator=torch.Generator().manual_seed(0))


@POOLS
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_pooled_features_are_contiguous(pool, layout):
    pooled = pool(features().contiguous(memory_format=layout), ROIS, 7)
    assert pooled.view(3, -1).shape == (3, 147)


@POOLS
@pytest.mark.parametrize("size", [[3, 2], torch.Size([3, 2])], ids=str)
def test_sizes(pool, size):
    assert pool(features(), ROIS, size).shape == (3, 3, 3, 2)
    assert pool(features(), ROIS, np.int64(4)).shape == (3, 3, 4, 4)


@POOLS
def test_a_size_of_one_number_in_a_tuple(pool):
    with pytest.raises(ValueError, match=r"output_size must be one number or \(rows, columns\)"):
        pool(features(), ROIS, (3,))


@POOLS
def test_images_at_the_end_without_a_list_of_boxes(pool):
    boxes = ROIS[:, 1:]
    expected = pool(features(), [boxes, boxes[:0]], 3)
    assert torch.equal(pool(features(), [boxes], 3), expected)


@POOLS
def test_features_may_change_after_the_forward_pass(pool):
    """Neither backward pass reads the features, so they are not kept."""
    leaf = features().requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        x = leaf * 1
        pooled = pool(x, ROIS, 3)
    assert all(x.shape != leaf.shape for x in kept)
    (expected,) = torch.autograd.grad(pooled.sum(), leaf, retain_graph=True)
    x.zero_()
    assert torch.equal(*torch.autograd.grad(pooled.sum(), leaf), expected)


@POOLS
@pytest.mark.parametrize("dims", [(0, None), (None, 0), (1, 1)], ids=str)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap(pool, dims):
    x, rois = features(3), torch.stack([ROIS, ROIS.flip(0), ROIS])
    if dims == (1, 1):
        x, rois = x.transpose(0, 1), rois.transpose(0, 1)
    given = [
        value if dim is not None else value[0] for value, dim in zip((x, rois), dims, strict=True)
    ]
    slices = [
        [
            value if dim is None else value.select(dim, i)
            for value, dim in zip(given, dims, strict=True)
        ]
        for i in range(3)
    ]
    expected = torch.stack([pool(*one, 3) for one in slices])
    assert torch.equal(vmap(lambda a, b: pool(a, b, 3), dims)(*given), expected)


@POOLS
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_gradient_through_vmap(pool):
    x = features(2).requires_grad_()
    pooled = vmap(lambda one: pool(one, ROIS, 2))(x)
    (actual,) = torch.autograd.grad(pooled.square().sum(), x)
    for one, gradient in zip(x.detach(), actual, strict=True):
        one.requires_grad_()
        (expected,) = torch.autograd.grad(pool(one, ROIS, 2).square().sum(), one)
        assert_close(gradient, expected)


@POOLS
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traces(pool):
    boxes = ROIS[:, 1:]
    traced = torch.jit.trace(lambda x, b: pool(x, [b, b], 3), (features(), boxes))
    fewer = boxes[:2] / 2
    assert torch.equal(traced(features(), fewer), pool(features(), [fewer, fewer], 3))


@POOLS
@pytest.mark.parametrize(
    ("rows", "message"),
    [(2**45, "allocate"), (2**62, "overflow")],
    ids=["more than any memory", "more than int64"],
)
def test_a_result_that_does_not_fit_gives_the_reason_of_pytorch(pool, rows, message):
    with pytest.raises(RuntimeError, match=message):
        pool(features(), ROIS, (rows, 4))


def test_odd_scores_and_boxes_as_in_torchvision():
    ops = pytest.importorskip("torchvision").ops
    generator = torch.Generator().manual_seed(0)
    odd = torch.tensor([torch.nan, torch.inf, -torch.inf, torch.finfo(torch.float32).min])
    for _ in range(50):
        low = torch.rand(60, 2, generator=generator) * 40
        boxes = torch.cat([low, low + torch.rand(60, 2, generator=generator) * 30], dim=1)
        scores = torch.rand(60, generator=generator)
        scores[::3] = odd[torch.randint(4, (20,), generator=generator)]
        boxes[::7, torch.randint(4, (1,), generator=generator)] = torch.nan
        kept, expected = nms(boxes, scores, 0.4), ops.nms(boxes, scores, 0.4)
        assert_close(scores[kept], scores[expected], rtol=0, atol=0, equal_nan=True)
