"""Proposals and detections against their references, and against answers known beforehand."""

import functools
import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from mrcnn.ops import reference, select_detections, select_proposals

NAN, INF = math.nan, math.inf
STRIDES = [(4, 4), (8, 8), (16, 15)]
SHAPES = [(9, 12), (5, 6), (3, 3)]  # cells of each level
ANCHORS = torch.tensor(
    [[[-s, -s / 2, s, s / 2], [-s / 2, -s, s / 2, s]] for s in (6.0, 12.0, 24.0)]
)  # (3, 2, 4)
SIZES = torch.tensor([[36, 48], [20, 41]])
PROPOSALS = {"pre_nms_top_k": 30, "post_nms_top_k": 25, "nms_threshold": 0.7, "min_side": 0.0}
DETECTIONS = {
    "delta_weights": (10.0, 10.0, 5.0, 5.0),
    "score_threshold": 0.05,
    "nms_threshold": 0.5,
    "min_side": -1.0,
    "max_detections": 20,
}


def distinct(*shape: int, generator: torch.Generator) -> Tensor:
    """Numbers in (-1, 1) of which no two are equal, exact in float32, in random order."""
    count = math.prod(shape)
    return (torch.randperm(count, generator=generator) * 2 + 1 - count).reshape(shape) / count


def rpn_outputs(seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Logits and deltas of three levels, two images, two anchors a cell."""
    generator = torch.Generator().manual_seed(seed)
    logits = distinct(sum(4 * h * w for h, w in SHAPES), generator=generator) * 3
    parts = logits.split([4 * h * w for h, w in SHAPES])
    logits = [x.reshape(2, 2, *shape) for x, shape in zip(parts, SHAPES, strict=True)]
    deltas = [torch.randn(2, 8, *shape, generator=generator) * 0.4 for shape in SHAPES]
    return logits, deltas


def head_outputs(seed: int, images: int = 2, rois: int = 30, classes: int = 4) -> list[Tensor]:
    """scores, deltas, boxes, valid of `select_detections`."""
    generator = torch.Generator().manual_seed(seed)
    scores = distinct(images, rois, classes, generator=generator) / 2 + 0.5
    deltas = torch.randn(images, rois, 4 * classes, generator=generator)
    low = torch.rand(images, rois, 2, generator=generator) * 30
    side = torch.rand(images, rois, 2, generator=generator) * 20
    valid = torch.rand(images, rois, generator=generator) < 0.8
    return [scores, deltas, torch.cat([low, low + side], dim=-1), valid]


def unambiguous(function, *arguments, **options):
    """The answer of a reference, asserted not to hang on the rounding of an IoU."""
    threshold = options.pop("nms_threshold")
    answers = [
        function(*arguments, nms_threshold=threshold + shift, **options)
        for shift in (-1e-5, 0.0, 1e-5)
    ]
    assert_close(answers[0], answers[2], rtol=0, atol=0)
    return answers[1]


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


def test_selection_carries_no_gradient():
    logits, deltas = ([x.requires_grad_() for x in levels] for levels in rpn_outputs(0))
    proposals = select_proposals(logits, deltas, ANCHORS, STRIDES, SIZES, **PROPOSALS)
    scores, head_deltas, *rest = head_outputs(0)
    detections = select_detections(
        scores.requires_grad_(), head_deltas.requires_grad_(), *rest, SIZES, **DETECTIONS
    )
    assert not any(x.requires_grad for x in (*proposals, *detections))


def assert_same_detections(actual, expected):
    """Scores, labels, RoIs and counts exactly; boxes as float32 rounds coordinates below 200."""
    boxes, scores, *integers = actual
    assert_close(boxes.double(), expected[0], rtol=0, atol=16 * 200 * 2.0**-24)
    assert_close(scores.double(), expected[1], rtol=0, atol=0)
    assert_close(tuple(integers), expected[2:], rtol=0, atol=0)


def compare_detections(*arguments, sizes=SIZES, **changes):
    options = DETECTIONS | changes
    actual = select_detections(*arguments, sizes, **options)
    expected = unambiguous(reference.select_detections, *arguments, sizes, **options)
    assert_same_detections(actual, expected)
    return actual


@pytest.mark.parametrize("seed", range(6))
def test_detections_match_reference(seed):
    scores, deltas, boxes, valid = head_outputs(seed)
    found = compare_detections(scores, deltas, boxes, valid)
    assert found[4].min() > 0
    assert valid.gather(1, found[3].clamp(min=0))[found[3] >= 0].all()
    compare_detections(scores, deltas[..., :4], boxes, valid)


DETECTION_CHANGES = {
    "one": {"max_detections": 1},
    "none wanted": {"max_detections": 0},
    "more slots than pairs": {"max_detections": 500},
    "nothing scores enough": {"score_threshold": 1.0},
    "everything scores enough": {"score_threshold": -1.0, "max_detections": 200},
    "small boxes dropped": {"min_side": 8.0},
    "strict NMS": {"nms_threshold": 0.1},
    "no NMS": {"nms_threshold": 1.0},
    "unit weights": {"delta_weights": (1.0, 1.0, 1.0, 1.0)},
}


@pytest.mark.parametrize("case", DETECTION_CHANGES)
def test_detections_with_other_options(case):
    boxes, scores, labels, roi, counts = compare_detections(
        *head_outputs(0), **DETECTION_CHANGES[case]
    )
    padded = labels < 0
    assert not boxes[padded].any()
    assert not scores[padded].any()
    assert (roi[padded] == -1).all()
    assert ((~padded).sum(1) == counts).all()


@pytest.mark.parametrize(("rois", "classes"), [(0, 3), (1, 1), (5, 1), (3, 0)])
def test_detections_of_few_pairs(rois, classes):
    compare_detections(*head_outputs(1, rois=rois, classes=classes))


def test_detections_of_no_valid_roi():
    scores, deltas, boxes, valid = head_outputs(2)
    counts = compare_detections(scores, deltas, boxes, torch.zeros_like(valid))[4]
    assert counts.tolist() == [0, 0]


@pytest.mark.parametrize("max_detections", [40, 300])
def test_detections_of_many_equal_boxes(max_detections):
    rois, classes, places = 1000, 5, 50
    generator = torch.Generator().manual_seed(0)
    scores = distinct(1, rois, classes, generator=generator) / 4 + 0.5
    place = torch.arange(rois) % places
    corner = torch.stack([place * 10.0, torch.zeros(rois)], dim=1)
    boxes = torch.cat([corner, corner + 8], dim=1)[None]
    answer = select_detections(
        scores, torch.zeros(1, rois, 4), boxes, torch.ones(1, rois, dtype=torch.bool),
        torch.tensor([[10, 500]]), **DETECTIONS | {"max_detections": max_detections},
    )  # fmt: skip
    # The best of each place and class stays.
    best, copy = scores.reshape(rois // places, places * classes).max(dim=0)
    order = best.argsort(descending=True)[:max_detections]
    roi = copy[order] * places + order // classes
    count = len(order)
    assert answer[4].tolist() == [count]
    assert_close(answer[1][0, :count].double(), best[order].double(), rtol=0, atol=1e-7)
    assert answer[2][0, :count].tolist() == (order % classes).tolist()
    assert answer[3][0, :count].tolist() == roi.tolist()
    assert_close(answer[0][0, :count], boxes[0, roi], rtol=0, atol=0)


@pytest.mark.parametrize("min_side", [-1.0, 0.0])
def test_detections_never_come_from_nan(min_side):
    scores, deltas, boxes, valid = head_outputs(3)
    scores.view(-1)[::3] = NAN
    deltas.view(-1)[::31] = NAN
    boxes.view(-1)[::29] = NAN
    found = compare_detections(scores, deltas, boxes, valid, min_side=min_side)
    assert found[0].isfinite().all()
    assert found[4].min() > 0


def test_detections_known_answers():
    """Two classes over one object; ties to the lower pair; a score at the threshold is dropped."""
    box = [10.0, 10.0, 30.0, 30.0]
    boxes = torch.tensor([[box, [12.0, 10, 32, 30], [60.0, 60, 90, 200]]])
    scores = torch.tensor([[[0.9, 0.7], [0.9, 0.8], [0.05, 0.06]]])
    found = select_detections(
        scores, torch.zeros(1, 3, 8), boxes, torch.ones(1, 3, dtype=torch.bool),
        torch.tensor([[100, 80]]), **DETECTIONS | {"max_detections": 4},
    )  # fmt: skip
    boxes_out, scores_out, labels, roi, counts = found
    assert counts.tolist() == [3]
    assert labels.tolist() == [[0, 1, 1, -1]]
    assert roi.tolist() == [[0, 1, 2, -1]]
    assert_close(scores_out, torch.tensor([[0.9, 0.8, 0.06, 0.0]]), rtol=0, atol=0)
    assert boxes_out[0].tolist() == [box, [12, 10, 32, 30], [60, 60, 80, 100], [0] * 4]


def test_same_result_for_any_number_of_threads():
    proposals = functools.partial(
        select_proposals, *rpn_outputs(5), ANCHORS, STRIDES, SIZES, **PROPOSALS
    )
    detections = functools.partial(select_detections, *head_outputs(5), SIZES, **DETECTIONS)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append((proposals(), detections()))
    finally:
        torch.set_num_threads(threads)
    assert_close(results[1:], results[:1] * 2, rtol=0, atol=0)
