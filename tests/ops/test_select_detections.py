"""Detections against their reference, and against known answers."""

import math

import pytest
import torch
from torch.testing import assert_close

from mrcnn.ops import reference, select_detections
from tests.helpers.selection_inputs import (
    DETECTIONS,
    SIZES,
    assert_same_for_threads,
    distinct,
    head_outputs,
    unambiguous,
)

NAN = math.nan


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


def test_carries_no_gradient():
    scores, deltas, *rest = head_outputs(0)
    detections = select_detections(
        scores.requires_grad_(), deltas.requires_grad_(), *rest, SIZES, **DETECTIONS
    )
    assert not any(x.requires_grad for x in detections)


def test_same_result_for_any_number_of_threads():
    assert_same_for_threads(lambda: select_detections(*head_outputs(5), SIZES, **DETECTIONS))
