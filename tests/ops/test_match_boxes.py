"""Matching against its reference, and against answers known beforehand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from mrcnn.ops import match_boxes, reference

NAN, INF = math.nan, math.inf
RPN = {"low_threshold": 0.3, "high_threshold": 0.7, "low_quality": True}
HEAD = {"low_threshold": 0.5, "high_threshold": 0.5, "low_quality": False}
SQUARE = [0, 0, 10, 10]

CASES = {  # boxes, targets, options, target of each box, role of each box
    "equal": ([SQUARE], [SQUARE], HEAD, [0], [1]),
    "apart": ([SQUARE], [[20, 0, 30, 10]], HEAD, [0], [0]),
    "the best target": ([SQUARE], [[5, 0, 15, 10], [1, 0, 11, 10]], HEAD, [1], [1]),
    "tied targets go to the lower": ([SQUARE], [[0, 0, 10, 8], [0, 2, 10, 10]], HEAD, [0], [1]),
    "IoU exactly 1/2 is positive": ([[0, 0, 10, 5]], [SQUARE], HEAD, [0], [1]),
    "IoU exactly 7/10 is positive": (
        [[0, 0, 10, 7]], [SQUARE], RPN | {"low_quality": False}, [0], [1],
    ),
    "IoU exactly 3/10 is not negative": (
        [[0, 0, 10, 3], [0, 0, 10, 2.9]], [SQUARE], RPN | {"low_quality": False},
        [0, 0], [-1, 0],
    ),
    "between the thresholds": ([[0, 0, 10, 5]], [SQUARE], RPN | {"low_quality": False}, [0], [-1]),
    "low quality": ([[0, 0, 10, 1], [0, 0, 10, 2]], [SQUARE], RPN, [0, 0], [0, 1]),
    "low quality, tied": ([[0, 0, 10, 2], [0, 8, 10, 10]], [SQUARE], RPN, [0, 0], [1, 1]),
    "low quality answers for its own best": (
        # The box overlaps the second target most, yet none overlaps the first one more than it.
        [[0, 0, 10, 6]], [[0, 0, 10, 1], SQUARE], RPN, [1], [1],
    ),
    "a target without overlap makes nothing positive": (
        [SQUARE, [20, 0, 30, 10]], [[50, 50, 60, 60]], RPN, [0, 0], [0, 0],
    ),
    "empty target": ([SQUARE, [3, 3, 3, 3]], [[3, 3, 3, 3]], RPN, [0, 0], [0, 0]),
    "reversed target": ([SQUARE], [[10, 10, 0, 0]], RPN, [0], [0]),
    "NaN box": (
        [[NAN, 0, 10, 10], [0, 0, NAN, 10], [0, NAN, 10, 10], [0, 0, 10, NAN]], [SQUARE], RPN,
        [0] * 4, [0] * 4,
    ),
    "NaN target": ([SQUARE], [[0, 0, 10, NAN], [0, 0, 10, 9]], RPN, [1], [1]),
    "infinite box": ([[-INF, -INF, INF, INF]], [SQUARE], RPN, [0], [0]),
    "no boxes": ([], [SQUARE], RPN, [], []),
    "no targets": ([SQUARE], [], RPN, [0], [0]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_known_answers(case):
    boxes, targets, options, matched, role = CASES[case]
    arguments = (
        torch.tensor(boxes, dtype=torch.float32).reshape(1, -1, 4),
        torch.tensor(targets, dtype=torch.float32).reshape(1, -1, 4),
        torch.ones(1, len(targets), dtype=torch.bool),
    )
    for match in (match_boxes, reference.match_boxes):
        actual = match(*arguments, **options)
        assert actual[0].tolist() == [matched]
        assert actual[1].tolist() == [role]


def grid_boxes(seed: int, *shape: int) -> torch.Tensor:
    """Boxes on a coarse grid, so that overlaps tie and hit the thresholds."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.randint(0, 30, (*shape, 2), generator=generator)
    side = torch.randint(0, 16, (*shape, 2), generator=generator)
    return torch.cat([low, low + side], dim=-1).float()


@pytest.mark.parametrize("options", [RPN, HEAD], ids=["anchors", "proposals"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared boxes", "boxes of each image"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_matches_reference(options, shared, dtype):
    for seed in range(6):
        boxes = grid_boxes(seed, 1 if shared else 3, 600).to(dtype)  # more than one block
        targets = grid_boxes(100 + seed, 3, 16).to(dtype)
        valid = torch.rand(3, 16, generator=torch.Generator().manual_seed(seed)) < 0.6
        valid[1] = False  # an image without objects
        actual = match_boxes(boxes, targets, valid, **options)
        expected = reference.match_boxes(boxes, targets, valid, **options)
        assert_close(actual, expected, rtol=0, atol=0)
        assert actual[0].dtype == torch.int64
        assert actual[1].dtype == torch.int8
        assert not actual[1][1].any()
        assert {-1, 0, 1} - {-1 if options is HEAD else 0} <= set(actual[1].flatten().tolist())


@pytest.mark.parametrize("options", [RPN, HEAD], ids=["anchors", "proposals"])
def test_boxes_in_order_of_place_match_reference(options):
    """Blocks of neighbours skip the targets that lie elsewhere; some hold NaN and infinity."""
    generator = torch.Generator().manual_seed(0)
    boxes = grid_boxes(0, 1, 1500)
    boxes += torch.arange(1500).view(1, -1, 1) // 100 * 40 * torch.tensor([1, 0, 1, 0])
    for value in (NAN, INF, -INF):
        boxes[torch.rand(boxes.shape, generator=generator) < 0.003] = value
    targets = grid_boxes(1, 2, 30)
    targets += torch.randint(0, 600, (2, 30, 1), generator=generator) * torch.tensor([1, 0, 1, 0])
    valid = torch.ones(2, 30, dtype=torch.bool)
    actual = match_boxes(boxes, targets, valid, **options)
    expected = reference.match_boxes(boxes, targets, valid, **options)
    assert_close(actual, expected, rtol=0, atol=0)
    assert (actual[1] == 1).any()


@pytest.mark.parametrize("options", [RPN, HEAD], ids=["anchors", "proposals"])
def test_many_targets_match_reference(options):
    boxes, targets = grid_boxes(0, 1, 300), grid_boxes(1, 2, 700)
    boxes += torch.arange(300).view(1, -1, 1) // 100 * 40
    targets += torch.arange(700).view(1, -1, 1) % 4 * 40
    valid = torch.rand(2, 700, generator=torch.Generator().manual_seed(0)) < 0.9
    actual = match_boxes(boxes, targets, valid, **options)
    assert_close(actual, reference.match_boxes(boxes, targets, valid, **options), rtol=0, atol=0)
    assert (actual[0] > 512).any()


def test_padded_targets_change_nothing():
    boxes, targets = grid_boxes(0, 2, 300), grid_boxes(1, 2, 5)
    valid = torch.ones(2, 5, dtype=torch.bool)
    padding = torch.tensor([[0.0, 0.0, 40.0, 40.0], [NAN] * 4, [0.0] * 4]).expand(2, -1, -1)
    padded = torch.cat([targets, padding], dim=1)
    padded_valid = torch.cat([valid, torch.zeros(2, 3, dtype=torch.bool)], dim=1)
    assert_close(
        match_boxes(boxes, padded, padded_valid, **RPN),
        match_boxes(boxes, targets, valid, **RPN),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize(("boxes", "targets"), [((1, 7, 4), (0, 3, 4)), ((2, 0, 4), (2, 0, 4))])
def test_empty_batches(boxes, targets):
    valid = torch.ones(targets[:2], dtype=torch.bool)
    matched, role = match_boxes(torch.rand(boxes), torch.rand(targets), valid, **RPN)
    assert matched.shape == role.shape == (targets[0], boxes[1])


def test_same_result_for_any_number_of_threads():
    boxes, targets = grid_boxes(0, 1, 20_000), grid_boxes(1, 4, 16)
    valid = torch.ones(4, 16, dtype=torch.bool)
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(match_boxes(boxes, targets, valid, **RPN))
    assert_close(results[1:], results[:1] * 2, rtol=0, atol=0)


coordinate = st.one_of(
    st.integers(-2, 8).map(float), st.sampled_from([NAN, INF, -INF, 1e30, -1e30, 1e-40])
)
box = st.tuples(coordinate, coordinate, coordinate, coordinate)


@settings(max_examples=200, derandomize=True, deadline=None, database=None)
@given(
    boxes=st.lists(box, max_size=8),
    targets=st.lists(st.tuples(box, st.booleans()), max_size=5),
    low=st.sampled_from([0.1, 0.25, 0.3]),
    high=st.sampled_from([0.3, 0.5, 0.7]),
    low_quality=st.booleans(),
)
def test_any_boxes_match_reference(boxes, targets, low, high, low_quality):
    arguments = (
        torch.tensor(boxes).reshape(1, -1, 4),
        torch.tensor([t for t, _ in targets]).reshape(1, -1, 4),
        torch.tensor([v for _, v in targets], dtype=torch.bool)[None],
    )
    options = {"low_threshold": low, "high_threshold": high, "low_quality": low_quality}
    assert_close(
        match_boxes(*arguments, **options),
        reference.match_boxes(*arguments, **options),
        rtol=0,
        atol=0,
    )
