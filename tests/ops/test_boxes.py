"""Box arithmetic on tensors: known answers, inverses, gradients."""

import math

import pytest
import torch
from torch.testing import assert_close

from mrcnn.ops import reference
from mrcnn.ops.boxes import box_area, box_iou, clip_boxes, decode_boxes, encode_boxes

WEIGHTS = [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)]


def random_boxes(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(*shape, 2, generator=generator, dtype=dtype) * 50
    return torch.cat([low, low + 1 + 40 * torch.rand(low.shape, generator=generator)], dim=-1)


def test_area():
    boxes = [[0, 0, 3, 4], [1, 1, 1, 5], [3, 4, 0, 0], [0, 4, 3, 0], [0, 0, math.nan, 1]]
    expected = [12.0, 0.0, 0.0, 0.0, math.nan]
    assert_close(box_area(torch.tensor(boxes)), torch.tensor(expected), equal_nan=True)


def test_iou_known_answers():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 5.0, 5.0], [10.0, 10.0, 0.0, 0.0]])
    others = torch.tensor(
        [[0.0, 0.0, 10.0, 5.0], [5.0, 0.0, 15.0, 10.0], [10.0, 0.0, 20.0, 10.0], [5.0] * 4]
    )
    expected = torch.tensor([[1 / 2, 1 / 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert_close(box_iou(boxes, others), expected)


def test_iou_equals_torchvision():
    ops = pytest.importorskip("torchvision").ops
    a, b = random_boxes(30, dtype=torch.float32), random_boxes(20, seed=1, dtype=torch.float32)
    assert_close(box_iou(a, b), ops.box_iou(a, b))


def test_iou_matches_reference_in_all_dimensions():
    a, b = random_boxes(2, 3, 7), random_boxes(2, 3, 5, seed=1)
    actual = box_iou(a, b)
    assert actual.shape == (2, 3, 7, 5)
    assert_close(actual[1, 2], reference.pairwise_iou(a[1, 2], b[1, 2]))
    assert_close(box_iou(a, b[0, 0])[1, 1], reference.pairwise_iou(a[1, 1], b[0, 0]))
    assert box_iou(a[0, 0, :0], b[0, 0]).shape == (0, 5)


def test_iou_of_half_boxes_is_float32():
    boxes = torch.tensor([[0.0, 0.0, 1000.0, 1000.0]], dtype=torch.float16)  # area overflows half
    assert_close(box_iou(boxes, boxes / 2), torch.tensor([[0.25]]))
    assert_close(box_iou(boxes.int(), boxes.double() / 2), torch.tensor([[0.25]]).double())


def test_iou_gradients():
    a, b = (random_boxes(4, seed=s).requires_grad_() for s in (0, 1))
    assert torch.autograd.gradcheck(box_iou, (a, b))
    empty = torch.zeros(1, 4, requires_grad=True)
    assert torch.autograd.grad(box_iou(empty, empty).sum(), empty)[0].isfinite().all()


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_decode_inverts_encode(weights):
    references, targets = random_boxes(2, 3, 9), random_boxes(2, 3, 9, seed=1)
    deltas = encode_boxes(targets, references, weights)
    assert_close(decode_boxes(deltas, references, weights), targets)
    assert_close(
        decode_boxes(deltas, references, weights), reference.decode(deltas, references, weights)
    )


def test_deltas_known_answers():
    references = torch.tensor([[10.0, 10.0, 30.0, 50.0]])
    targets = torch.tensor([[15.0, 20.0, 55.0, 40.0]])  # centre moves by (15, 0)
    expected = torch.tensor([[15 / 20, 0, math.log(2), math.log(1 / 2)]])
    assert_close(encode_boxes(targets, references), expected)
    assert_close(encode_boxes(targets, references, WEIGHTS[1]), expected * torch.tensor(WEIGHTS[1]))
    assert_close(encode_boxes(references, references), torch.zeros(1, 4))
    assert_close(decode_boxes(torch.zeros(1, 4), references), references)


def test_growth_is_limited():
    references = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    box = decode_boxes(torch.tensor([[0.0, 0.0, 100.0, -100.0]]), references)
    assert_close(box, torch.tensor([[1 - 62.5, 1, 1 + 62.5, 1]]))
    assert_close(box, decode_boxes(torch.tensor([[0.0, 0.0, math.inf, -math.inf]]), references))
    assert decode_boxes(torch.full((1, 4), math.nan), references).isnan().all()


def test_deltas_gradients():
    references, targets = random_boxes(3).requires_grad_(), random_boxes(3, seed=1).requires_grad_()
    deltas = encode_boxes(targets, references).detach().requires_grad_()
    assert torch.autograd.gradcheck(encode_boxes, (targets, references))
    assert torch.autograd.gradcheck(decode_boxes, (deltas, references))


def test_clip():
    boxes = torch.tensor([[-5.0, 3.0, 70.0, 90.0], [60.0, 1.0, 80.0, 2.0], [math.nan, 0, 1, 1]])
    expected = torch.tensor([[0.0, 3.0, 40.0, 30.0], [40.0, 1.0, 40.0, 2.0], [math.nan, 0, 1, 1]])
    assert_close(clip_boxes(boxes, torch.tensor([30, 40])), expected, equal_nan=True)
    sizes = torch.tensor([[30, 40], [1000, 1000]])
    batch = clip_boxes(boxes.expand(2, -1, -1), sizes)
    assert_close(batch[0], expected, equal_nan=True)
    assert_close(batch[1], boxes.clamp(min=0), equal_nan=True)
    inside = random_boxes(2, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda b: clip_boxes(b, torch.tensor([45, 60])), inside)
