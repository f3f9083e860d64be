"""Proposals against their reference, and against known answers."""

import math

import pytest
import torch
from torch.testing import assert_close

from mrcnn.ops import reference, select_proposals
from tests.helpers.selection_inputs import (
    ANCHORS,
    PROPOSALS,
    SIZES,
    STRIDES,
    assert_same_for_threads,
    distinct,
    rpn_outputs,
    unambiguous,
)

NAN, INF = math.nan, math.inf


def assert_same_proposals(actual, expected):
    """Scores exactly; boxes as float32 rounds coordinates below 100 in a few operations."""
    assert actual[0].dtype == actual[1].dtype == torch.float32
    assert_close(actual[1].double(), expected[1], rtol=0, atol=0)
    assert_close(actual[0].double(), expected[0], rtol=0, atol=16 * 100 * 2.0**-24)


def compare_proposals(logits, deltas, sizes=SIZES, cell_anchors=ANCHORS, **changes):
    options = PROPOSALS | changes
    arguments = logits, deltas, cell_anchors, STRIDES[: len(logits)], sizes
    actual = select_proposals(*arguments, **options)
    assert_same_proposals(actual, unambiguous(reference.select_proposals, *arguments, **options))
    return actual


@pytest.mark.parametrize("seed", range(8))
def test_proposals_match_reference(seed):
    boxes, scores = compare_proposals(*rpn_outputs(seed))
    assert (scores.diff(dim=1) <= 0).all()
    height, width = SIZES.T[..., None]
    assert (boxes >= 0).all()
    assert (boxes[..., 2] <= width).all()
    assert (boxes[..., 3] <= height).all()


PROPOSAL_CHANGES = {
    "one box a level": {"pre_nms_top_k": 1},
    "one box an image": {"post_nms_top_k": 1},
    "none wanted": {"post_nms_top_k": 0},
    "none may enter": {"pre_nms_top_k": 0},
    "fewer anchors than may enter": {"pre_nms_top_k": 10_000, "post_nms_top_k": 300},
    "strict NMS": {"nms_threshold": 0.1},
    "no NMS": {"nms_threshold": 1.0},
    "small boxes dropped": {"min_side": 9.0},
    "all boxes dropped": {"min_side": 1000.0},
}


@pytest.mark.parametrize("case", PROPOSAL_CHANGES)
def test_proposals_with_other_options(case):
    boxes, scores = compare_proposals(*rpn_outputs(0), **PROPOSAL_CHANGES[case])
    padded = scores == -INF
    assert not boxes[padded].any()
    if case in ("none may enter", "all boxes dropped", "fewer anchors than may enter"):
        assert padded[:, -1].all()


def test_proposals_never_come_from_nan_or_padding():
    logits, deltas = rpn_outputs(1)
    for level in range(3):
        logits[level].view(-1)[::5] = NAN
        logits[level].view(-1)[1::5] = -INF
        deltas[level].view(-1)[::17] = NAN
    _, scores = compare_proposals(logits, deltas, post_nms_top_k=200)
    assert (scores > -INF).any()
    logits = [torch.full_like(x, NAN) for x in logits]
    boxes, scores = compare_proposals(logits, deltas)
    assert (scores == -INF).all()
    assert not boxes.any()


def test_proposals_with_infinite_deltas_stay_inside():
    logits, deltas = rpn_outputs(2)
    for delta in deltas:
        delta.view(-1)[::13] = INF
        delta.view(-1)[5::13] = -INF
    boxes, _ = compare_proposals(logits, deltas)
    assert boxes.isfinite().all()


def test_tied_logits_go_to_the_lower_index():
    """Four equal logits that do not compete: the order is that of (level, y, x, anchor)."""
    cell_anchors = torch.tensor([[[0.0, 0, 2, 2], [2, 2, 4, 4]], [[20.0, 20, 24, 24]] * 2])
    logits = [torch.full((1, 2, 1, 2), 0.5), torch.tensor([0.5, -1]).reshape(1, 2, 1, 1)]
    deltas = [torch.zeros(1, 8, 1, 2), torch.zeros(1, 8, 1, 1)]
    boxes, scores = compare_proposals(
        logits, deltas, sizes=torch.tensor([[40, 40]]), cell_anchors=cell_anchors, post_nms_top_k=6
    )
    expected = [[0, 0, 2, 2], [2, 2, 4, 4], [4, 0, 6, 2], [6, 2, 8, 4], [20, 20, 24, 24], [0] * 4]
    assert boxes[0].tolist() == expected
    assert scores[0].tolist() == [0.5] * 5 + [-INF]
    chosen, _ = compare_proposals(
        logits, deltas, torch.tensor([[40, 40]]), cell_anchors, pre_nms_top_k=3, post_nms_top_k=6
    )
    assert chosen[0].tolist() == [*expected[:3], expected[4], [0] * 4, [0] * 4]


def test_many_ties_match_reference():
    logits, deltas = rpn_outputs(6)
    _, scores = compare_proposals([x.round() for x in logits], deltas, post_nms_top_k=80)
    assert len(scores.unique()) < 10


@pytest.mark.parametrize("top_k", [100, 3000, 9000])
def test_the_best_of_a_large_level(top_k):
    generator = torch.Generator().manual_seed(0)
    height, width = 90, 110
    logits = distinct(2, 1, height, width, generator=generator).float()
    logits[1] = (logits[1] * 16).round()  # many ties
    sizes = torch.tensor([[4 * height, 4 * width]] * 2)
    boxes, scores = select_proposals(
        [logits], [torch.zeros(2, 4, height, width)], torch.tensor([[[0.0, 0.0, 4.0, 4.0]]]),
        [(4, 4)], sizes, pre_nms_top_k=top_k, post_nms_top_k=top_k, nms_threshold=1.0, min_side=0.0,
    )  # fmt: skip
    expected, index = logits.flatten(1).sort(descending=True, stable=True)
    corner = torch.stack([index % width, index // width], dim=-1)[:, :top_k] * 4.0
    assert_close(scores, expected[:, :top_k], rtol=0, atol=0)
    assert_close(boxes, torch.cat([corner, corner + 4], dim=-1), rtol=0, atol=0)


def test_zero_deltas_give_the_anchors():
    cell_anchors = torch.tensor([[[-3.0, -3, 3, 3]]])
    logits = torch.arange(6.0).reshape(1, 1, 2, 3)
    boxes, scores = select_proposals(
        [logits], [torch.zeros(1, 4, 2, 3)], cell_anchors, [(10, 10)], torch.tensor([[100, 100]]),
        **PROPOSALS | {"post_nms_top_k": 6},
    )  # fmt: skip
    centres = [[20, 10], [10, 10], [0, 10], [20, 0], [10, 0], [0, 0]]
    expected = torch.tensor([[x - 3.0, y - 3, x + 3, y + 3] for x, y in centres]).clamp(min=0)
    assert_close(boxes[0], expected, rtol=0, atol=0)
    assert scores[0].tolist() == [5, 4, 3, 2, 1, 0]


def test_growth_is_limited():
    """An anchor of a tenth of a pixel grows to 6.25 pixels, whatever its delta."""
    cell_anchors = torch.tensor([[[50 - 0.05, 50 - 0.05, 50 + 0.05, 50 + 0.05]]])
    deltas = torch.tensor([0.0, 0.0, 20.0, INF]).reshape(1, 4, 1, 1)
    boxes, _ = compare_proposals(
        [torch.zeros(1, 1, 1, 1)], [deltas], torch.tensor([[100, 100]]), cell_anchors
    )
    assert_close(boxes[0, 0], torch.tensor([46.875, 46.875, 53.125, 53.125]), rtol=0, atol=1e-3)


def test_negative_zero_ties_with_zero():
    cell_anchors = torch.tensor([[[0.0, 0, 8, 8], [20, 20, 28, 28]]])
    logits = torch.tensor([-0.0, 0.0]).reshape(1, 2, 1, 1)
    boxes, _ = compare_proposals(
        [logits], [torch.zeros(1, 8, 1, 1)], torch.tensor([[40, 40]]), cell_anchors
    )
    assert boxes[0, :2].tolist() == [[0, 0, 8, 8], [20, 20, 28, 28]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_proposals_of_other_types_are_those_of_float32(dtype, layout):
    logits, deltas = (
        [level.to(dtype).contiguous(memory_format=layout) for level in levels]
        for levels in rpn_outputs(3)
    )
    arguments = ANCHORS, STRIDES, SIZES
    actual = select_proposals(logits, deltas, *arguments, **PROPOSALS)
    expected = select_proposals(
        [x.float() for x in logits], [x.float() for x in deltas], *arguments, **PROPOSALS
    )
    assert_close(actual, expected, rtol=0, atol=0)


def test_an_image_is_the_same_alone_and_in_a_batch():
    logits, deltas = rpn_outputs(4)
    both = select_proposals(logits, deltas, ANCHORS, STRIDES, SIZES, **PROPOSALS)
    for n in (0, 1):
        alone = select_proposals(
            [x[n : n + 1] for x in logits], [x[n : n + 1] for x in deltas],
            ANCHORS, STRIDES, SIZES[n : n + 1], **PROPOSALS,
        )  # fmt: skip
        assert_close(alone, tuple(x[n : n + 1] for x in both), rtol=0, atol=0)


def test_carries_no_gradient():
    logits, deltas = ([x.requires_grad_() for x in levels] for levels in rpn_outputs(0))
    proposals = select_proposals(logits, deltas, ANCHORS, STRIDES, SIZES, **PROPOSALS)
    assert not any(x.requires_grad for x in proposals)


def test_same_result_for_any_number_of_threads():
    assert_same_for_threads(
        lambda: select_proposals(*rpn_outputs(5), ANCHORS, STRIDES, SIZES, **PROPOSALS)
    )
