"""Many calls keep no memory; tensors of more than 2**31 elements are read and written right."""

import gc
import math
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves

from mrcnn.ops import (
    multiscale_roi_align,
    paste_masks,
    select_detections,
    select_proposals,
)
from tests.helpers.op_checker import OPS, draw_call

STATM = Path("/proc/self/statm")
WARM_UP = 100
# What grows once and not again: an arena of Python's allocator, a heap of the C library.
ONCE = 2 << 20
PER_CALL = 1000  # bytes


def resident() -> int:
    gc.collect()
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def growth(op: str, calls: int) -> int:
    """Bytes by which `calls` further calls enlarge the process."""
    call = next(
        call
        for call in (draw_call(op, seed, sound=True) for seed in range(100))
        if all(x.numel() for x in tree_leaves(call.arguments) if isinstance(x, Tensor))
    )
    for _ in range(WARM_UP):
        call.answer_and_gradients()
    before = resident()
    for _ in range(calls):
        call.answer_and_gradients()
    return resident() - before


@pytest.mark.skipif(not STATM.exists(), reason="tells resident memory on Linux only")
@pytest.mark.parametrize("calls", [500, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("op", OPS)
def test_calls_keep_no_memory(op, calls):
    assert growth(op, calls) < ONCE + PER_CALL * calls


def needs_memory(gigabytes: float) -> None:
    """Skip where less is available."""
    lines = Path("/proc/meminfo").read_text().splitlines() if STATM.exists() else []
    found = next((int(line.split()[1]) for line in lines if line.startswith("MemAvail")), 0)
    if found < gigabytes * 2**20:
        pytest.skip(f"needs {gigabytes} GB of memory")


# Memory that is not written takes no room, so only what a test fills counts.


def test_last_image_of_a_large_batch():
    """An image begins beyond 2**31 elements; a second level and its gradient lie before it."""
    images, channels, height, width = 70, 64, 704, 704
    last = torch.empty(
        images, channels, height, width, dtype=torch.float16, memory_format=torch.channels_last
    )
    assert last[:-1].numel() > 2**31
    last[-1, :, :8, :8] = 2.0
    coarse = torch.empty(images, channels, 4, 4, dtype=torch.float16).fill_(5.0)
    boxes = torch.tensor([[0.5, 0.5, 6.0, 6.0], [0.0, 0.0, 700.0, 700.0]])
    pooled = multiscale_roi_align(
        [last, coarse], boxes, torch.tensor([images - 1] * 2), scales=[1.0, 1 / 256],
        size=(2, 2), canonical_level=0, canonical_size=100.0,
    )  # fmt: skip
    assert_close(pooled[0], torch.full_like(pooled[0], 2.0))
    assert_close(pooled[1], torch.full_like(pooled[1], 5.0))


@pytest.mark.slow
def test_output_of_roi_align_beyond_32_bits():
    needs_memory(6)
    channels, bins = 1024, 32
    rois = 2**31 // (channels * bins * bins) + 2
    feature = torch.arange(64.0).reshape(1, 1, 8, 8).expand(1, channels, 8, 8).bfloat16()
    boxes = torch.tensor([[2.0, 3.0, 3.0, 4.0]]).expand(rois, 4).clone()
    boxes[-1] = torch.tensor([5.0, 6.0, 6.0, 7.0])
    pooled = multiscale_roi_align(
        [feature], boxes, torch.zeros(rois, dtype=torch.int64), scales=[1.0], size=(bins, bins),
        sampling_ratio=1, canonical_level=0,
    )  # fmt: skip
    assert pooled.numel() > 2**31
    few = multiscale_roi_align(
        [feature], boxes[-2:], torch.zeros(2, dtype=torch.int64), scales=[1.0], size=(bins, bins),
        sampling_ratio=1, canonical_level=0,
    )  # fmt: skip
    assert torch.equal(pooled[-2:], few)
    assert torch.equal(pooled[rois // 2], few[0])


@pytest.mark.slow
def test_pixels_of_masks_beyond_32_bits():
    needs_memory(4)
    side = 2**14
    boxes = torch.tensor([[3.0, 5.0, 19.0, 21.0]]).expand(9, 4).clone()
    boxes[-1] += torch.tensor(side - 40.0)
    pasted = paste_masks(torch.ones(9, 16, 16), boxes, side, side)
    assert pasted.numel() > 2**31
    assert pasted[-1, side - 40 :, side - 40 :].sum() == 16 * 16
    assert pasted[-1, side - 40 + 5 : side - 40 + 21, side - 40 + 3 : side - 40 + 19].all()
    assert pasted[0, 5:21, 3:19].all()


def test_run_lengths_of_the_largest_image():
    side = math.isqrt(2**31 - 1)
    boxes = torch.tensor(
        [
            [-10.0 * side, -10.0 * side, 10.0 * side, 10.0 * side],
            [side - 4.0, side - 8.0, side, side],
        ]
    )
    counts, starts = torch.ops.mrcnn.paste_masks_rle(torch.ones(2, 4, 4), boxes, side, side, 0.5)
    assert counts[: starts[1]].tolist() == [0, side * side]
    runs = counts[starts[1] : starts[2]].tolist()
    assert runs[0] == (side - 4) * side + side - 8
    assert runs[1:] == [8, side - 8] * 3 + [8]


@pytest.mark.slow
def test_proposals_of_maps_beyond_32_bits():
    needs_memory(5)
    side = 23200  # deltas of 2**31 elements
    logits = torch.full((1, 1, side, side), -math.inf)
    deltas = torch.empty(1, 4, side, side, memory_format=torch.channels_last)
    assert deltas.numel() > 2**31
    places = [(0, 0), (side - 1, side - 1), (side - 5, 3)]
    for i, (y, x) in enumerate(places):
        logits[0, 0, y, x] = float(i)
        deltas[0, :, y, x] = torch.tensor([0.5, 0.0, 0.0, 0.0])
    boxes, scores = select_proposals(
        [logits], [deltas], torch.tensor([[[-2.0, -2.0, 2.0, 2.0]]]), [1],
        torch.tensor([[side + 9, side + 9]]),
        pre_nms_top_k=10, post_nms_top_k=4, nms_threshold=0.5, min_side=0.0,
    )  # fmt: skip
    assert scores[0].tolist() == [2.0, 1.0, 0.0, -math.inf]
    for box, (y, x) in zip(boxes[0], reversed(places), strict=False):
        assert box.tolist() == [max(x, 0.0), max(y - 2, 0), x + 4.0, y + 2.0]


@pytest.mark.slow
def test_detections_of_heads_beyond_32_bits():
    needs_memory(5)
    rois, classes = 2**15, 2**14 + 1
    scores = torch.zeros(1, rois, classes)
    deltas = torch.empty(1, rois, 4 * classes)
    assert deltas.numel() > 2**31
    places = [(0, 0), (rois - 1, classes - 1), (rois - 2, 5)]
    for i, (roi, label) in enumerate(places):
        scores[0, roi, label] = 0.5 + i / 10
        deltas[0, roi, 4 * label : 4 * label + 4] = torch.tensor([0.5, 0.0, 0.0, 0.0])
    found = select_detections(
        scores, deltas, torch.tensor([10.0, 10.0, 14.0, 14.0]).expand(1, rois, 4),
        torch.ones(1, rois, dtype=torch.bool), torch.tensor([[50, 50]]),
        delta_weights=(1.0, 1.0, 1.0, 1.0), score_threshold=0.1, nms_threshold=0.5,
        min_side=0.0, max_detections=4,
    )  # fmt: skip
    boxes, _, labels, roi, counts = found
    assert counts.tolist() == [3]
    assert list(zip(roi[0].tolist(), labels[0].tolist(), strict=True)) == [*places[::-1], (-1, -1)]
    assert (boxes[0, :3] == torch.tensor([12.0, 10.0, 16.0, 14.0])).all()
