"""The comparison of detectors accepts what rounding can do, and nothing else."""

import pytest
import torch

from tests.helpers.matching import Boxes, one_to_one

# Of the first two, the second overlaps the first by 0.5 to rounding; the third lies apart.
BOXES = torch.tensor([[0.0, 0, 100, 60], [0, 0, 100, 30.0002], [200, 200, 230, 240]])
SCORES = torch.tensor([0.9, 0.8, 0.7])


def some(*index: int) -> Boxes:
    return Boxes.of_one_class(BOXES[list(index)], SCORES[list(index)])


def test_the_same_boxes_are_paired_in_any_order():
    assert one_to_one(some(0, 1, 2), some(2, 0, 1), 0.5, 100).tolist() == [[0, 1], [1, 2], [2, 0]]


def test_an_overlap_at_the_threshold_may_be_decided_either_way():
    assert one_to_one(some(0, 1, 2), some(0, 2), 0.5, 100).tolist() == [[0, 0], [2, 1]]


def test_the_box_beyond_the_limit_may_move_up():
    assert len(one_to_one(some(0, 1), some(0, 2), 0.5, 2)) == 1


def test_a_box_at_a_cut_may_be_missing():
    assert len(one_to_one(some(0, 2), some(0), 0.5, 100, torch.tensor([0.700005]))) == 1
    with pytest.raises(AssertionError, match="has no partner"):
        one_to_one(some(0, 2), some(0), 0.5, 100, torch.tensor([0.69]))


@pytest.mark.parametrize("missing", [0, 2])
def test_a_missing_box_fails(missing):
    kept = [i for i in range(3) if i != missing]
    for pair in ((some(0, 1, 2), some(*kept)), (some(*kept), some(0, 1, 2))):
        with pytest.raises(AssertionError, match="has no partner"):
            one_to_one(*pair, 0.5, 100)


def test_an_overlap_off_the_threshold_fails():
    with pytest.raises(AssertionError, match="has no partner"):
        one_to_one(some(0, 1), some(0), 0.51, 100)


@pytest.mark.parametrize("change", [{"boxes": BOXES + 0.02}, {"scores": SCORES + 2e-4},
                                    {"labels": torch.ones(3, dtype=torch.int64)}])  # fmt: skip
def test_a_changed_box_fails(change):
    with pytest.raises(AssertionError, match="has no partner"):
        one_to_one(some(0, 1, 2), some(0, 1, 2)._replace(**change), 0.5, 100)
