"""Inputs of the selection ops, and answers of their references that do not depend on rounding."""

import math

import torch
from torch import Tensor
from torch.testing import assert_close

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


def assert_same_for_threads(call):
    """Check that the result of `call` does not depend on the number of threads."""
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(call())
    assert_close(results[1:], results[:1] * 2, rtol=0, atol=0)
