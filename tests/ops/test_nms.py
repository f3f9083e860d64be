"""NMS against its reference, index by index."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import vmap
from torch.testing import assert_close

from mrcnn.ops import batched_nms, nms, reference, segmented_nms

NAN, INF = math.nan, math.inf
ONE_GROUP = torch.empty(1, 0, dtype=torch.int64)

CASES = {  # boxes, scores, threshold, kept
    "none": ([], [], 0.5, []),
    "one": ([[0, 0, 1, 1]], [0.1], 0.5, [0]),
    "best first": ([[0, 0, 9, 9], [20, 0, 29, 9], [0, 20, 9, 29]], [0.2, 0.9, 0.5], 0.5, [1, 2, 0]),
    "duplicates": ([[0, 0, 9, 9]] * 3, [0.2, 0.9, 0.5], 0.5, [1]),
    "tied scores go to the lower index": ([[0, 0, 9, 9]] * 3, [0.5, 0.5, 0.5], 0.5, [0]),
    "tied scores keep their order": (
        [[9, 0, 10, 1], [0, 0, 1, 1], [5, 0, 6, 1]], [0.5, 0.5, 0.5], 0.5, [0, 1, 2],
    ),
    "IoU exactly at 1/2": ([[0, 0, 10, 10], [0, 0, 10, 5]], [0.9, 0.8], 0.5, [0, 1]),
    "IoU exactly at 3/10": ([[0, 0, 10, 10], [0, 0, 10, 3]], [0.9, 0.8], 0.3, [0, 1]),
    "IoU exactly at 7/10": ([[0, 0, 10, 10], [0, 0, 10, 7]], [0.9, 0.8], 0.7, [0, 1]),
    "IoU just above 1/2": ([[0, 0, 10, 10], [0, 0, 10, 5.0001]], [0.9, 0.8], 0.5, [0]),
    "a dropped box drops no other": (
        [[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]], [0.9, 0.8, 0.7], 0.3, [0, 2],
    ),
    "threshold 0 keeps boxes that touch": (
        [[0, 0, 10, 10], [10, 0, 20, 10], [9, 0, 19, 10]], [0.9, 0.8, 0.7], 0.0, [0, 1],
    ),
    "threshold 1 keeps all": ([[0, 0, 9, 9]] * 2, [0.2, 0.9], 1.0, [1, 0]),
    "NaN is the best score": ([[0, 0, 9, 9]] * 3, [INF, NAN, 0.1], 0.5, [1]),
    "all scores NaN": ([[0, 0, 9, 9], [0, 0, 9, 9], [20, 0, 29, 9]], [NAN, -NAN, NAN], 0.5, [0, 2]),
    "NaN coordinates overlap nothing": (
        [[0, 0, NAN, 9], [0, 0, 9, 9], [NAN, 0, 9, 9], [0, 0, 9, NAN]], [0.9, 0.1, 0.5, 0.4],
        0.5, [0, 2, 3, 1],
    ),
    "-inf is the worst score": (
        [[20, 0, 29, 9], [0, 0, 9, 9], [0, 0, 9, 9]], [-INF, -INF, -1e30], 0.5, [2, 0],
    ),
    "all scores -inf": ([[0, 0, 9, 9], [0, 0, 9, 9], [20, 0, 29, 9]], [-INF] * 3, 0.5, [0, 2]),
    "infinite score": ([[0, 0, 9, 9], [0, 0, 9, 9]], [0.9, INF], 0.5, [1]),
    "infinite boxes overlap nothing": (
        [[0, 0, INF, INF], [0, 0, 9, 9], [0, 0, INF, INF]], [0.9, 0.8, 0.7], 0.5, [0, 1, 2],
    ),
    "zero area": ([[3, 3, 3, 3], [3, 3, 3, 3], [0, 0, 9, 9]], [0.9, 0.8, 0.7], 0.5, [0, 1, 2]),
    "reversed boxes are empty": (
        [[9, 9, 0, 0], [9, 9, 0, 0], [0, 0, 9, 9], [9, 0, 0, 9]], [0.9, 0.8, 0.7, 0.6],
        0.5, [0, 1, 2, 3],
    ),
    "scores of both signs": (
        [[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]], [-0.5, 0.0, -0.1], 0.5, [1, 2, 0],
    ),
    "-0 ties with 0": ([[0, 0, 9, 9], [0, 0, 9, 9]], [-0.0, 0.0], 0.5, [0]),
    "denormal areas": ([[0, 0, 1e-22, 1e-22]] * 2, [1.0, 0.5], 0.95, [0]),
    "areas beyond half precision": (
        [[0, 0, 1000, 1000], [0, 0, 1000, 400]], [0.9, 0.8], 0.5, [0, 1],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_known_answers(case, dtype):
    boxes, scores, threshold, kept = CASES[case]
    corners = torch.tensor(boxes, dtype=dtype).reshape(-1, 4)
    values = torch.tensor(scores, dtype=dtype)
    assert nms(corners, values, threshold).tolist() == kept
    assert batched_nms(corners, values, torch.ones(len(corners)), threshold).tolist() == kept
    expected, counts = reference.nms(
        corners[None], values[None], ONE_GROUP, threshold, len(corners), padded=False
    )
    assert expected[0, : counts[0]].tolist() == kept


@pytest.mark.parametrize("count", [4, 600, 5000], ids=["few", "hundreds", "thousands"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_scores_that_are_not_finite_rank_as_in_sort(count, dtype):
    """CUDA has a sort of its own for each count."""
    boxes = torch.arange(count, dtype=dtype)[:, None] * 4 + torch.tensor([0, 0, 2, 2])
    scores = torch.tensor([-INF, 1.0, NAN, INF], dtype=dtype).repeat(count // 4)
    expected = scores.sort(descending=True, stable=True).indices
    assert nms(boxes, scores, 0.5).tolist() == expected.tolist()
    indices, counts = segmented_nms(boxes[None], scores[None], ONE_GROUP, 0.5, count)
    usable = scores[expected].isfinite() | (scores[expected] == INF)
    assert indices[0, : counts[0]].tolist() == expected[usable].tolist()


def test_no_boxes_without_a_second_dimension():
    kept = batched_nms(torch.tensor([]), torch.tensor([]), torch.tensor([]), 0.5)
    assert kept.shape == (0,)
    assert kept.dtype == torch.int64


def test_vmap():
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 0, 29, 9]])
    scores = torch.tensor([[0.9, 0.8, 0.7], [0.1, 0.8, 0.9]])
    assert vmap(lambda s: nms(boxes, s, 0.5))(scores).tolist() == [[0, 2], [2, 1]]


@pytest.mark.parametrize("run", [torch.compile, torch.export.export])
def test_one_graph(run):
    class Kept(torch.nn.Module):
        def forward(self, boxes, scores):
            return boxes[nms(boxes, scores, 0.5)]

    given = clustered(0, 20)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        if run is torch.compile:
            graph = torch.compile(Kept(), fullgraph=True, backend="aot_eager")
        else:
            graph = torch.export.export(Kept(), given).module()
        assert_close(graph(*given), Kept()(*given), rtol=0, atol=0)


def clustered(seed: int, count: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Boxes jittered around a few objects on a grid of quarters, and scores with ties."""
    generator = torch.Generator().manual_seed(seed)
    objects = torch.rand(max(count // 8, 1), 4, generator=generator) * 60
    boxes = objects[torch.randint(len(objects), (count,), generator=generator)]
    boxes = boxes + torch.randn(count, 4, generator=generator) * 4
    boxes[:, 2:] = boxes[:, :2] + boxes[:, 2:] * 0.7
    scores = torch.randint(0, count, (count,), generator=generator) / count
    return ((boxes * 4).round() / 4).to(dtype), scores.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_matches_reference_on_clusters(dtype, threshold):
    for seed in range(20):
        boxes, scores = clustered(seed, 5 + 6 * seed, dtype)
        expected, counts = reference.nms(
            boxes[None], scores[None], ONE_GROUP, threshold, len(boxes)
        )
        assert nms(boxes, scores, threshold).tolist() == expected[0, : counts[0]].tolist()


@pytest.mark.parametrize("max_keep", [0, 1, 5, 40, 60])
def test_segments(max_keep):
    boxes, scores = (
        torch.stack(x) for x in zip(*(clustered(s, 40) for s in range(5)), strict=True)
    )
    scores[1, 30:] = -INF
    scores[2] = -INF
    boxes[3, ::3, 2] = NAN
    scores[4, ::4] = NAN
    groups = torch.randint(-1, 3, (5, 40), generator=torch.Generator().manual_seed(0))
    for group in (groups, groups[:, :0]):
        actual = segmented_nms(boxes, scores, group, 0.5, max_keep)
        assert_close(actual, reference.nms(boxes, scores, group, 0.5, max_keep), rtol=0, atol=0)
    assert actual[0].shape == (5, max_keep)
    assert actual[1][2] == 0
    assert actual[1].max() <= max_keep


def test_empty_segments():
    indices, counts = segmented_nms(
        torch.empty(3, 0, 4), torch.empty(3, 0), torch.empty(3, 0, dtype=torch.int64), 0.5, 4
    )
    assert indices.tolist() == [[-1] * 4] * 3
    assert counts.tolist() == [0, 0, 0]
    indices, counts = segmented_nms(
        torch.empty(0, 7, 4), torch.empty(0, 7), torch.empty(0, 7, dtype=torch.int64), 0.5, 4
    )
    assert indices.shape == (0, 4)
    assert counts.shape == (0,)


def test_groups_never_compete():
    """NMS of all groups at once is NMS of each, merged by score, wherever the boxes lie."""
    boxes, scores = clustered(0, 120, torch.float64)
    scores = scores + torch.arange(120) * 1e-6  # no ties, so that merging is unambiguous
    boxes = boxes + 1e6  # where offsets per group would cost precision
    groups = torch.arange(120) % 7
    separate = torch.cat(
        [rows[nms(boxes[rows], scores[rows], 0.5)]
         for group in range(7) for rows in [torch.nonzero(groups == group)[:, 0]]]
    )  # fmt: skip
    separate = separate[scores[separate].argsort(descending=True)]
    assert batched_nms(boxes, scores, groups, 0.5).tolist() == separate.tolist()
    assert batched_nms(boxes, scores, groups.int(), 0.5).tolist() == separate.tolist()


def test_strided_inputs():
    boxes, scores = clustered(1, 50)
    wide = torch.stack([boxes, boxes + 100], dim=1)[:, 0]
    columns = boxes.T.contiguous().T
    expected = nms(boxes, scores, 0.5)
    for other in (wide, columns):
        assert nms(other, scores.repeat_interleave(2)[::2], 0.5).tolist() == expected.tolist()


def test_same_result_for_any_number_of_threads():
    boxes, scores = (
        torch.stack(x) for x in zip(*(clustered(s, 80) for s in range(9)), strict=True)
    )
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(segmented_nms(boxes, scores, ONE_GROUP.expand(9, 0), 0.5, 80))
    assert_close(results[1:], results[:1] * 2, rtol=0, atol=0)


def test_many_boxes():
    """A mask of all pairs would take 5 GB; disjoint boxes all survive."""
    side = 200
    corner = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()
    boxes = torch.cat([corner, corner + 1], dim=1)
    kept, counts = segmented_nms(boxes[None], torch.rand(1, side**2), ONE_GROUP, 0.5, 300)
    assert counts.tolist() == [300]
    assert len(set(kept[0].tolist())) == 300


def greedy(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> list[int]:
    """The definition, by the overlaps of each kept box with all others."""
    order = scores.nan_to_num(-INF, INF, -INF).argsort(descending=True, stable=True)
    alive, kept = (scores > -INF) & ~boxes.isnan().any(1), []
    for i in order.tolist():
        if alive[i]:
            kept.append(i)
            overlap = reference.pairwise_iou(boxes[i : i + 1], boxes)[0]
            alive &= ~((overlap > threshold) & (groups[i] == groups))
    return kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [32, 33, 64, 65, 512, 513, 640, 2049, 4096, 4097, 8257])
def test_counts_where_kernels_change(count, dtype):
    """Warps and words of the GPU hold 32 and 64 boxes, one of its blocks 512 of a segment, a tile
    of pairs 4096."""
    generator = torch.Generator().manual_seed(count)

    def uniform(*shape):
        return torch.rand(*shape, generator=generator, dtype=dtype)

    # Sparse, crowded, padded.
    low = uniform(3, count, 2) * (count**0.5 * torch.tensor([16.0, 4.0, 8.0]))[:, None, None]
    boxes = torch.cat([low, low + 10 + 30 * uniform(3, count, 2)], dim=2)
    scores = (uniform(3, count) * 500).round()  # many ties
    scores[2, uniform(count) < 0.3] = -INF
    scores[2, ::31] = NAN
    boxes[2, ::29, 3] = NAN
    groups = torch.randint(3, (3, count), generator=generator) * 2**40
    for group in (groups, torch.zeros_like(groups))[count > 2000 :]:
        expected = [greedy(*x, 0.3) for x in zip(boxes, scores, group, strict=True)]
        for max_keep in (count + 1, len(expected[1]), len(expected[0]) // 2):
            given = group if group.any() else group[:, :0]
            indices, counts = segmented_nms(boxes, scores, given, 0.3, max_keep)
            kept = [wanted[:max_keep] for wanted in expected]
            assert counts.tolist() == [len(wanted) for wanted in kept]
            for row, wanted in zip(indices.tolist(), kept, strict=True):
                assert row == wanted + [-1] * (max_keep - len(wanted))


@pytest.mark.parametrize("count", [40, 500, 700, 5000])
def test_staircase(count):
    """Each box hangs on the one before it: the longest chain of decisions."""
    left = torch.arange(count) * 4.0
    boxes = torch.stack([left, left * 0, left + 10, left * 0 + 10], dim=1)
    scores = torch.arange(count, 0, -1).float()
    assert nms(boxes, scores, 0.3).tolist() == list(range(0, count, 2))
    assert nms(boxes, scores, NAN).tolist() == list(range(count))
    assert nms(boxes, scores, -0.1).tolist() == [0]


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("scale", [1.0, 1e-22], ids=str)
def test_more_boxes_than_a_chain_holds(threshold, scale):
    """Sides from 1 to 3000, pairs of near twins, so that suppressors lie in other strips, too."""
    generator = torch.Generator().manual_seed(0)
    count = 2400
    side = torch.exp(torch.rand(count, 2, generator=generator) * 8)
    low = torch.rand(count, 2, generator=generator) * 20_000 - 10_000
    boxes = torch.cat([low, low + side], dim=1)
    twins = boxes + torch.randn(count, 4, generator=generator) * side.repeat(1, 2) * 0.05
    boxes = torch.cat([boxes, twins]) * scale
    boxes[::100, 2] = boxes[::100, 0]  # without area
    scores = torch.rand(2 * count, generator=generator)
    groups = (torch.arange(2 * count) % 17 == 0).long()
    expected = greedy(boxes, scores, groups, threshold)
    assert (groups[expected] == 0).sum() > 1100
    assert batched_nms(boxes, scores, groups, threshold).tolist() == expected


@pytest.mark.slow
def test_two_hundred_thousand_boxes():
    low = torch.rand(200_000, 2) * 30
    boxes = torch.cat([low, low + 40], dim=1)
    scores = torch.rand(200_000)
    kept = nms(boxes, scores, 0.5)
    # The kept ones are far apart, and each dropped one is near a kept one that beats it.
    overlap = reference.pairwise_iou(boxes[kept], boxes[kept]).fill_diagonal_(0)
    assert overlap.max() <= 0.5
    dropped = torch.ones(len(boxes), dtype=torch.bool).index_fill_(0, kept, False)
    overlap = reference.pairwise_iou(boxes[dropped], boxes[kept])
    beaten = (overlap > 0.5) & (scores[kept][None] >= scores[dropped][:, None])
    assert beaten.any(1).all()


def test_equals_torchvision():
    ops = pytest.importorskip("torchvision").ops
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        low = torch.rand(200, 2, generator=generator) * 50
        boxes = torch.cat([low, low + torch.rand(200, 2, generator=generator) * 30], dim=1)
        scores = torch.rand(200, generator=generator)
        groups = torch.randint(5, (200,), generator=generator)
        for threshold in (0.3, 0.5, 0.7):
            assert_close(nms(boxes, scores, threshold), ops.nms(boxes, scores, threshold))
            assert_close(
                batched_nms(boxes, scores, groups, threshold),
                ops.batched_nms(boxes, scores, groups, threshold),
            )


coordinate = st.one_of(
    st.integers(-4, 12).map(float), st.sampled_from([NAN, INF, -INF, 1e30, -1e30, 1e-40])
)
score = st.one_of(
    st.sampled_from([0.0, 0.25, 0.5, 1.0, NAN, INF, -INF]), st.floats(-2, 2, width=32)
)
candidate = st.tuples(coordinate, coordinate, coordinate, coordinate, score, st.integers(0, 2))


@settings(max_examples=200, derandomize=True, deadline=None, database=None)
@given(
    candidates=st.lists(candidate, max_size=12),
    threshold=st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 0.6, 0.7, 1.0]),
    max_keep=st.integers(0, 14),
)
def test_any_boxes_match_reference(candidates, threshold, max_keep):
    table = torch.tensor(candidates, dtype=torch.float32).reshape(1, -1, 6)
    arguments = table[..., :4], table[..., 4], table[..., 5].long(), threshold, max_keep
    assert_close(segmented_nms(*arguments), reference.nms(*arguments), rtol=0, atol=0)
