"""Boxes of two programs, paired one to one; differences must come from rounding."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mrcnn.ops.boxes import box_iou

PIXELS, SCORE = 1e-2, 1e-4  # two boxes are the same up to here
ROUNDING = 1e-5  # of an overlap or a score, float32 after some hundred sums


class Boxes(NamedTuple):
    """Boxes that NMS kept in one image."""

    boxes: Tensor  # (K, 4)
    scores: Tensor  # (K,) in [0, 1]
    labels: Tensor  # (K,)

    @classmethod
    def of_one_class(cls, boxes: Tensor, scores: Tensor) -> "Boxes":
        return cls(boxes, scores, torch.zeros(len(boxes), dtype=torch.int64))


def level_cuts(logits: Sequence[Tensor], top_k: int) -> Tensor:
    """Scores (N, cuts) of the last anchors that enter NMS, where a level has more of them.

    Args:
        logits: per level (N, A, H, W).
    """
    flat = (level.flatten(1) for level in logits)
    cuts = [level.topk(top_k).values[:, -1] for level in flat if level.shape[1] > top_k]
    return torch.stack(cuts, dim=1).sigmoid() if cuts else logits[0].new_empty(len(logits[0]), 0)


def one_to_one(
    first: Boxes, second: Boxes, nms_threshold: float, limit: int, cuts: Tensor | None = None
) -> Tensor:
    """Pairs (K, 2) of indices of the same boxes; asserts that the others differ by rounding.

    Args:
        limit: number of boxes kept at most.
        cuts: scores below which boxes did not enter NMS.
    """
    cuts = first.scores.new_empty(0) if cuts is None else cuts
    apart = (first.boxes[:, None] - second.boxes[None]).abs().amax(-1)
    score_apart = (first.scores[:, None] - second.scores[None]).abs()
    same = (apart <= PIXELS) & (score_apart <= SCORE)
    same &= first.labels[:, None] == second.labels[None]
    # Several boxes may be clipped to the same box; their scores differ.
    cost = torch.where(same, apart + score_apart, torch.inf)
    pairs = []
    for i in range(len(cost)):
        j = int(cost[i].argmin()) if cost.shape[1] else 0
        if cost.shape[1] and cost[i, j] < torch.inf:
            pairs.append((i, j))
            cost[:, j] = torch.inf
    matched = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
    _assert_explained(first, second, matched[:, 0], matched[:, 1], nms_threshold, limit, cuts)
    _assert_explained(second, first, matched[:, 1], matched[:, 0], nms_threshold, limit, cuts)
    return matched


def _assert_explained(
    these: Boxes,
    others: Boxes,
    matched: Tensor,
    others_matched: Tensor,
    nms_threshold: float,
    limit: int,
    cuts: Tensor,
) -> None:
    """Every box of `these` without a partner was dropped from `others` by a rounded decision.

    That is: a better box of the others overlaps it by the threshold, within rounding. Where
    both programs kept that better box, the overlap was as close to the threshold as rounding goes;
    else that box is such a difference itself, with the same demand on it, and strictly better, so
    that two boxes cannot excuse each other. Or its score is at one of the cuts. Or, of boxes that
    differ so, one more came before the limit, and this one would be the next.
    """
    paired = torch.zeros(len(others.boxes), dtype=torch.bool)
    paired[others_matched] = True
    alone = sorted(set(range(len(these.boxes))) - set(matched.tolist()))
    for i in alone:
        box, score = these.boxes[i].double(), these.scores[i]
        iou = box_iou(box[None], others.boxes.double())[0]
        better = (others.scores >= score - ROUNDING) & (others.labels == these.labels[i])
        over = better & (iou >= nms_threshold - ROUNDING)
        near = paired & (iou <= nms_threshold + ROUNDING)
        by_rounding = over & (near | (~paired & (others.scores > score)))
        beyond = len(others.boxes) == limit and bool(score <= others.scores.min() + ROUNDING)
        at_cut = ((cuts - score).abs() <= ROUNDING).any()
        assert by_rounding.any() or at_cut or beyond, (
            f"box {box.tolist()} of score {score} has no partner; the overlaps with better boxes "
            f"reach {iou[better].max() if better.any() else 0}"
        )
