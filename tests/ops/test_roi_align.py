"""RoIAlign against its float64 reference and against answers known beforehand."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from mrcnn.ops import multiscale_roi_align, reference, roi_align

HEIGHT, WIDTH, CHANNELS, SCALE = 13, 17, 5, 0.25  # a map of stride 4 for images of 52 x 68

BOXES = {
    "inside": [[4.0, 4.0, 20.0, 12.0], [6.5, 2.0, 30.0, 25.5], [40.0, 30.0, 41.0, 31.5]],
    "whole image": [[0.0, 0.0, 68.0, 52.0]],
    "crosses the border": [[-9.0, 10.0, 90.0, 40.0], [60.0, -20.0, 75.0, 60.0]],
    "wholly outside": [[900.0, 900.0, 950.0, 950.0], [-50.0, 3.0, -20.0, 30.0]],
    "zero area": [[8.0, 8.0, 8.0, 8.0], [8.0, 9.0, 20.0, 9.0]],
    "reversed": [[20.0, 30.0, 10.0, 10.0], [20.0, 10.0, 10.0, 30.0]],
    "many on one object": [[10.0 + i / 2, 10.0, 40.0, 30.0 + i] for i in range(6)],
    "none": [],
}
LAYOUTS = {
    "contiguous": lambda x: x,
    "permuted": lambda x: x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
}


def sample(
    boxes: list[list[float]], dtype: torch.dtype = torch.float64, channels: int = CHANNELS
) -> tuple[Tensor, Tensor, Tensor]:
    """A random map of two images, boxes and the image of each."""
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(2, channels, HEIGHT, WIDTH, generator=generator, dtype=torch.float64).to(
        dtype
    )
    corners = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    return feature, corners, torch.arange(len(corners)) % 2


def grads(out: Tensor, inputs: list[Tensor], upstream: Tensor) -> tuple[Tensor, ...]:
    """Gradients of `inputs`; zeros where nothing depends on them."""
    loss = (out * upstream).sum() + sum(0 * x.sum() for x in inputs)
    return torch.autograd.grad(loss, inputs)


def bits(x: Tensor) -> bytes:
    return x.detach().contiguous().numpy().tobytes()


@pytest.mark.parametrize("case", BOXES)
@pytest.mark.parametrize("size", [(1, 1), (7, 7), (3, 5)], ids=str)
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2])
@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "legacy"])
def test_matches_reference(case, size, sampling_ratio, aligned):
    feature, boxes, image_index = sample(BOXES[case])
    options = {
        "scales": [SCALE],
        "size": size,
        "sampling_ratio": sampling_ratio,
        "aligned": aligned,
    }
    upstream = torch.randn(len(boxes), CHANNELS, *size, dtype=torch.float64)
    feature.requires_grad_()
    expected = reference.roi_align([feature], boxes, image_index, **options)
    (expected_grad,) = grads(expected, [feature], upstream)
    for layout in LAYOUTS.values():
        x = layout(feature.detach()).requires_grad_()
        actual = multiscale_roi_align([x], boxes, image_index, **options)
        assert_close(actual, expected)
        assert_close(*grads(actual, [x], upstream), expected_grad)
        assert actual.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("count", "size", "sampling_ratio"),
    [(600, (7, 7), 2), (4, (40, 3), 64), (3, (2, 200), 0)],
    ids=["boxes", "samples", "bins"],
)
def test_many(count, size, sampling_ratio):
    generator = torch.Generator().manual_seed(3)
    low = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 40
    boxes = torch.cat([low, low + torch.rand_like(low) * 30], dim=1)
    image_index = torch.arange(count) % 2
    feature = torch.randn(2, 3, HEIGHT, WIDTH, generator=generator).double().requires_grad_()
    options = {"scales": [SCALE], "size": size, "sampling_ratio": sampling_ratio, "aligned": True}
    expected = reference.roi_align([feature], boxes, image_index, **options)
    actual = multiscale_roi_align([feature], boxes, image_index, **options)
    upstream = torch.randn_like(expected)
    assert_close(actual, expected)
    assert_close(*grads(actual, [feature], upstream), *grads(expected, [feature], upstream))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", ["inside", "whole image", "crosses the border", "none"])
@pytest.mark.parametrize("size", [(7, 7), (2, 4)], ids=str)
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_rounds_like_float32(dtype, case, size, sampling_ratio):
    """Geometry and sums in float32, then one rounding to the type of the features.

    A position is reached by at most 5 roundings of numbers no larger than `reach`; a weight moves
    with it by as much along each axis, a value by twice the largest feature. A sum of n terms
    rounds n times.
    """
    channels = 70  # a block of 64 and a rest
    feature, boxes, image_index = sample(BOXES[case], dtype, channels)
    options = {"scales": [SCALE], "size": size, "sampling_ratio": sampling_ratio}
    upstream = torch.randn(len(boxes), channels, *size).to(dtype)
    exact, x = feature.double().requires_grad_(), feature.requires_grad_()
    expected = reference.roi_align([exact], boxes, image_index, **options)
    actual = multiscale_roi_align([x], boxes.float(), image_index, **options)
    assert actual.dtype == dtype

    eps = torch.finfo(torch.float32).eps
    reach = 2 + boxes.abs().max().item() * SCALE if len(boxes) else 0
    largest, terms = feature.abs().max().item(), HEIGHT * WIDTH
    bound = eps * largest * (2 * 2 * 5 * reach + terms)
    once = torch.finfo(dtype).eps
    assert_close(actual.double(), expected, rtol=once, atol=bound)

    (expected_grad,) = grads(expected, [exact], upstream.double())
    (actual_grad,) = torch.autograd.grad(actual, x, upstream)
    total = upstream.double().abs().sum((0, 2, 3)).max().item()
    bound = eps * total * (2 * 5 * reach + terms)
    assert_close(actual_grad.double(), expected_grad, rtol=once, atol=bound)


BROKEN = {
    "NaN": [[math.nan, 2.0, 10.0, 10.0], [2.0, 2.0, 10.0, math.nan], [math.nan] * 4],
    "infinite": [[-math.inf, 2.0, 10.0, 10.0], [2.0, 2.0, math.inf, 10.0], [math.inf] * 4],
    "huge": [[-1e30, -1e30, 1e30, 1e30], [1e30, 1e30, 1e30, 1e30], [-3e38, 0.0, 3e38, 3e38]],
    "huge and reversed": [[1e30, 1e30, -1e30, -1e30]],
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "legacy"])
def test_broken_boxes_pool_to_zero_without_gradient(case, dtype, sampling_ratio, aligned):
    feature, boxes, _ = sample([*BROKEN[case], [4.0, 4.0, 20.0, 12.0]], dtype)
    image_index = torch.zeros(len(boxes), dtype=torch.int64)
    options = {
        "scales": [SCALE],
        "size": (2, 2),
        "sampling_ratio": sampling_ratio,
        "aligned": aligned,
    }
    feature.requires_grad_()
    pooled = multiscale_roi_align([feature], boxes, image_index, **options)
    good = multiscale_roi_align([feature], boxes[-1:], image_index[-1:], **options)
    assert_close(pooled[:-1], torch.zeros_like(pooled[:-1]), rtol=0, atol=0)
    assert_close(pooled[-1:], good, rtol=0, atol=0)
    upstream = torch.randn_like(pooled)
    assert_close(
        *torch.autograd.grad(pooled, feature, upstream),
        *torch.autograd.grad(good, feature, upstream[-1:]),
        rtol=0,
        atol=0,
    )


def test_denormal_box_is_a_point():
    feature, boxes, _ = sample([[1e-310, 1e-310, 2e-310, 2e-310], [0.0, 0.0, 0.0, 0.0]])
    pooled = roi_align(feature[:1], [boxes], 2, 1.0, 2, aligned=False)
    assert_close(pooled[0], pooled[1])


def test_broken_features_stay_where_they_are():
    feature, boxes, image_index = sample(BOXES["inside"][:1] + BROKEN["NaN"][:1])
    feature[:, :, -1, -1] = math.nan  # far from the box
    pooled = multiscale_roi_align([feature], boxes, image_index, scales=[SCALE], size=(2, 2))
    assert pooled.isfinite().all()


def test_padded_slots_pool_to_zero_without_gradient():
    feature, boxes, _ = sample(BOXES["inside"])
    image_index = torch.tensor([1, -1, -1])
    feature.requires_grad_()
    pooled = multiscale_roi_align([feature], boxes, image_index, scales=[SCALE], size=(3, 3))
    assert pooled[0].abs().sum() > 0
    assert not pooled[1:].any()
    (grad,) = torch.autograd.grad(pooled[1:].sum(), feature)
    assert not grad.any()


@pytest.mark.by_value
@pytest.mark.parametrize("index", [-2, 2, 1_000_000, -(2**62)])
def test_image_index_out_of_range(index):
    feature, boxes, _ = sample(BOXES["whole image"])
    with pytest.raises(RuntimeError, match=rf"image_index must lie in \[0, 2\).*got {index} "):
        multiscale_roi_align([feature], boxes, torch.tensor([index]), scales=[1.0], size=(2, 2))
    rois = torch.cat([torch.tensor([[float(index)]]), boxes], dim=1)
    with pytest.raises(ValueError, match=rf"image index must lie in \[0, 2\), got {index}"):
        roi_align(feature, rois, 2)


@pytest.mark.parametrize(
    "shape", [(2, 0, 4, 4), (2, 3, 0, 4), (2, 3, 4, 0), (2, 3, 1, 1), (2, 3, 1, 6)], ids=str
)
def test_small_maps(shape):
    feature = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [-3.0, 0.0, 9.0, 1.0]], dtype=torch.float64)
    image_index = torch.tensor([0, 1])
    for aligned in (True, False):
        options = {"scales": [1.0], "size": (2, 3), "sampling_ratio": 2, "aligned": aligned}
        actual = multiscale_roi_align([feature], boxes, image_index, **options)
        expected = reference.roi_align([feature], boxes, image_index, **options)
        assert_close(actual, expected)
        upstream = torch.randn_like(expected)
        assert_close(grads(actual, [feature], upstream), grads(expected, [feature], upstream))


def test_no_images():
    pooled = multiscale_roi_align(
        [torch.randn(0, 3, 4, 4)],
        torch.zeros(2, 4),
        torch.tensor([-1, -1]),
        scales=[1],
        size=(2, 2),
    )
    assert pooled.shape == (2, 3, 2, 2)
    assert not pooled.any()


def test_single_level_forms():
    """(K, 5) and a list of boxes mean what their names say, as in torchvision."""
    feature, boxes, _ = sample(BOXES["inside"])
    image_index = torch.tensor([0, 0, 1])
    options = {"sampling_ratio": 2, "aligned": True}
    expected = multiscale_roi_align(
        [feature], boxes, image_index, scales=[SCALE], size=(3, 3), **options
    )
    rois = torch.cat([image_index[:, None].double(), boxes], dim=1)
    assert_close(roi_align(feature, rois, 3, SCALE, **options), expected, rtol=0, atol=0)
    listed = roi_align(feature, [boxes[:2], boxes[2:]], (3, 3), SCALE, **options)
    assert_close(listed, expected, rtol=0, atol=0)
    assert roi_align(feature, [boxes[:0], boxes[:0]], (2, 3)).shape == (0, CHANNELS, 2, 3)


def test_defaults_are_those_of_torchvision():
    feature, boxes, image_index = sample(BOXES["inside"])
    rois = torch.cat([image_index[:, None].double(), boxes], dim=1)
    expected = reference.roi_align(
        [feature], boxes, image_index, scales=[1.0], size=(2, 2), sampling_ratio=-1, aligned=False
    )
    assert_close(roi_align(feature, rois, 2), expected)


def test_equals_torchvision():
    torchvision = pytest.importorskip("torchvision")
    feature, boxes, image_index = sample(
        [box for boxes in BOXES.values() for box in boxes], torch.float32
    )
    rois = torch.cat([image_index[:, None].float(), boxes.float()], dim=1)
    for ratio in (0, 2):
        for aligned in (True, False):
            options = (7, SCALE, ratio, aligned)
            expected = torchvision.ops.roi_align(feature, rois, *options)
            assert_close(roi_align(feature, rois, *options), expected, rtol=0, atol=1e-4)


def test_constant_map_stays_constant():
    feature = torch.full((1, 3, HEIGHT, WIDTH), 2.5, dtype=torch.float64)
    boxes = torch.tensor([[3.0, 4.0, 50.0, 40.0], [10.0, 10.0, 10.5, 11.0]])
    for ratio in (0, 1, 3):
        pooled = roi_align(feature, [boxes], 5, SCALE, ratio, aligned=True)
        assert_close(pooled, torch.full_like(pooled, 2.5))


def test_linear_map_gives_bin_centres():
    """Cell (i, j) holds the image position of its centre, so a bin gives that of its own."""
    y = (torch.arange(HEIGHT, dtype=torch.float64) + 0.5) / SCALE
    x = (torch.arange(WIDTH, dtype=torch.float64) + 0.5) / SCALE
    feature = torch.stack(torch.meshgrid(y, x, indexing="ij"))[None]  # (1, 2, H, W)
    box = torch.tensor([[5.0, 7.0, 45.0, 31.0]], dtype=torch.float64)
    for ratio in (0, 1, 2, 5):
        pooled = roi_align(feature, [box], (3, 4), SCALE, ratio, aligned=True)[0]
        assert_close(pooled[0, :, 0], 7 + 8 * torch.tensor([0.5, 1.5, 2.5], dtype=torch.float64))
        assert_close(pooled[1, 0], 5 + 10 * torch.arange(0.5, 4, dtype=torch.float64))


def test_one_sample_a_bin_is_grid_sample():
    feature, boxes, _ = sample([[6.5, 2.0, 30.0, 25.5]])
    pooled = roi_align(feature[:1], [boxes], (4, 6), SCALE, 1, aligned=True)
    x1, y1, x2, y2 = boxes[0]
    x = x1 + (x2 - x1) * torch.arange(0.5, 6, dtype=torch.float64) / 6
    y = y1 + (y2 - y1) * torch.arange(0.5, 4, dtype=torch.float64) / 4
    y, x = torch.meshgrid(y * SCALE / HEIGHT * 2 - 1, x * SCALE / WIDTH * 2 - 1, indexing="ij")
    grid = torch.stack([x, y], dim=-1)[None]
    expected = F.grid_sample(feature[:1], grid, padding_mode="border", align_corners=False)
    assert_close(pooled, expected)


def test_whole_cells_are_returned_as_they_are():
    feature, _, _ = sample([])
    box = torch.tensor([[8.0, 12.0, 24.0, 24.0]])  # cells 2 to 6 by 3 to 6
    pooled = roi_align(feature[:1], [box], (3, 4), SCALE, 1, aligned=True)
    assert_close(pooled, feature[:1, :, 3:6, 2:6], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_same_bits_for_any_number_of_threads(dtype):
    generator = torch.Generator().manual_seed(1)
    feature = torch.randn(2, 200, 24, 32, generator=generator).to(dtype).requires_grad_()
    low = torch.rand(300, 2, generator=generator) * 20
    boxes = torch.cat([low, low + torch.rand(300, 2, generator=generator) * 10], dim=1)
    image_index = torch.randint(2, (300,), generator=generator)
    upstream = torch.randn(300, 200, 7, 7, generator=generator).to(dtype)
    results = set()
    for count in (1, 2, 2, 3):
        torch.set_num_threads(count)
        pooled = multiscale_roi_align([feature], boxes, image_index, scales=[1], size=(7, 7))
        (grad,) = torch.autograd.grad(pooled, feature, upstream)
        results.add(bits(pooled.float()) + bits(grad.float()))
    assert len(results) == 1


def pyramid(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Levels of strides 4 to 32, each filled with its own number, for images of 256 x 320."""
    return [
        torch.full((2, 1, 256 // s, 320 // s), float(level), dtype=dtype)
        for level, s in enumerate((4, 8, 16, 32))
    ]


PYRAMID_SCALES = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
ONE_SAMPLE = {"scales": PYRAMID_SCALES, "size": (1, 1), "sampling_ratio": 1}  # at the box's centre


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_level_of_a_box(dtype):
    """The levels hold their own number, so that pooling tells which one was read."""
    sides = {  # side: level; P2 is 0, 224 px go to P4
        1.0: 0, 100.0: 0, 111.9: 0, 112.0: 1, 112.1: 1, 223.9: 1, 224.0: 2, 224.1: 2,
        447.9: 2, 448.0: 3, 448.1: 3, 5000.0: 3,
    }  # fmt: skip
    shapes = [*((side, side) for side in sides), (448, 112)]  # the last has the area of 224²
    side = torch.tensor(shapes, dtype=dtype)
    boxes = torch.cat([128 - side / 2, 128 + side / 2], dim=1)
    image_index = torch.zeros(len(boxes), dtype=torch.int64)
    pooled = multiscale_roi_align(pyramid(dtype), boxes, image_index, **ONE_SAMPLE)
    assert pooled.flatten().tolist() == [*sides.values(), 2]


def test_level_is_the_floor_of_the_logarithm():
    generator = torch.Generator().manual_seed(2)
    side = 2 ** (torch.rand(300, 2, generator=generator, dtype=torch.float64) * 8 + 3)
    boxes = torch.cat([128 - side / 2, 128 + side / 2], dim=1)
    ideal = 2 + (side.prod(1).sqrt() / 224).log2()
    boxes = boxes[(ideal - ideal.round()).abs() > 1e-5]  # away from where rounding decides
    image_index = torch.zeros(len(boxes), dtype=torch.int64)
    actual = multiscale_roi_align(pyramid(torch.float32), boxes.float(), image_index, **ONE_SAMPLE)
    expected = [reference.roi_level(box, 4, 224.0, 2) for box in boxes.tolist()]
    assert actual.flatten().tolist() == expected
    assert set(expected) == {0, 1, 2, 3}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pyramid_matches_reference(layout):
    generator = torch.Generator().manual_seed(3)
    features = [
        LAYOUTS[layout](torch.randn(2, 4, 64 // s, 80 // s, generator=generator).double())
        for s in (2, 4, 8, 16)
    ]
    features = [x.requires_grad_() for x in features]
    low = torch.rand(20, 2, generator=generator, dtype=torch.float64) * 100
    side = 2 ** (torch.rand(20, 2, generator=generator, dtype=torch.float64) * 7 + 2)
    boxes = torch.cat([low, low + side], dim=1)
    image_index = torch.randint(-1, 2, (20,), generator=generator)
    for aligned, ratio in ((True, 0), (False, 2)):
        options = {
            "scales": PYRAMID_SCALES,
            "size": (3, 3),
            "aligned": aligned,
            "sampling_ratio": ratio,
        }
        actual = multiscale_roi_align(features, boxes, image_index, **options)
        expected = reference.roi_align(features, boxes, image_index, **options)
        assert_close(actual, expected)
        upstream = torch.randn_like(actual)
        assert_close(grads(actual, features, upstream), grads(expected, features, upstream))


@pytest.mark.parametrize("channels", [24, 32])
@pytest.mark.parametrize("threads", [1, 3])
def test_large_contiguous_maps(channels, threads):
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(2, channels, 37, 61, generator=generator)  # not a multiple of 8 cells
    boxes = torch.rand(20, 4, generator=generator) * 100
    boxes[:, 2:] += boxes[:, :2]
    options = {"scales": [SCALE], "size": (3, 2)}
    index = torch.arange(20) % 2
    torch.set_num_threads(threads)
    answers = [
        multiscale_roi_align([layout(feature)], boxes, index, **options)
        for layout in LAYOUTS.values()
    ]
    assert len({bits(answer) for answer in answers}) == 1


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2])
@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "legacy"])
def test_gradients(layout, sampling_ratio, aligned):
    generator = torch.Generator().manual_seed(4)
    maps = tuple(
        LAYOUTS[layout](torch.randn(2, 1, s, s + 1, generator=generator).double()).requires_grad_()
        for s in (3, 2)
    )
    low = torch.rand(3, 2, generator=generator, dtype=torch.float64) * 8
    boxes = torch.cat([low, low + 1 + 8 * torch.rand_like(low)], dim=1)

    def pool(*maps):
        return multiscale_roi_align(
            maps, boxes, torch.tensor([0, 1, -1]), scales=[1 / 4, 1 / 8], size=(2, 2),
            sampling_ratio=sampling_ratio, aligned=aligned, canonical_size=5.0, canonical_level=1,
        )  # fmt: skip

    assert torch.autograd.gradcheck(pool, maps)
    assert torch.autograd.gradgradcheck(pool, maps)


def test_gradient_reaches_one_level_only():
    """A level without boxes gets zeros, not None and not garbage."""
    features = [x.requires_grad_() for x in pyramid()]
    boxes = torch.tensor([[0.0, 0.0, 30.0, 30.0]], dtype=torch.float64)
    pooled = multiscale_roi_align(
        features, boxes, torch.tensor([0]), scales=PYRAMID_SCALES, size=(2, 2)
    )
    fine, *coarse = torch.autograd.grad(pooled.sum(), features)
    assert_close(fine.sum(), torch.tensor(4.0, dtype=torch.float64))
    assert all(not grad.any() for grad in coarse)


def test_autocast_keeps_the_dtype():
    feature, boxes, image_index = sample(BOXES["inside"], torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        full = multiscale_roi_align([feature], boxes, image_index, scales=[SCALE], size=(2, 2))
        half = multiscale_roi_align(
            [feature.bfloat16()], boxes, image_index, scales=[SCALE], size=(2, 2)
        )
    assert full.dtype == torch.float32
    assert half.dtype == torch.bfloat16


eighth = st.integers(-40, 200).map(lambda i: i / 8)
box = st.tuples(eighth, eighth, eighth, eighth)


@settings(max_examples=200, derandomize=True, deadline=None, database=None)
@given(
    boxes=st.lists(box, max_size=4),
    bins=st.tuples(st.sampled_from([1, 2, 4, 7]), st.sampled_from([1, 2, 3, 8])),
    cells=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    channels=st.sampled_from([1, 3, 64, 65]),
    sampling_ratio=st.integers(-1, 4),
    aligned=st.booleans(),
    scale=st.sampled_from([1.0, 0.5, 0.125]),
)
def test_any_boxes_match_reference(boxes, bins, cells, channels, sampling_ratio, aligned, scale):
    """Eighths over powers of two are exact, so that samples hit the border of the map exactly.

    Other numbers of bins round positions; their boxes are moved so that no sample comes near it.
    """
    shift = 0.0 if {*bins} <= {1, 2, 4, 8} else 0.0123
    corners = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4) + shift
    image_index = torch.arange(len(corners)) % 3 - 1
    feature = torch.randn(
        2, channels, *cells, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).requires_grad_()
    options = {
        "scales": [scale],
        "size": bins,
        "sampling_ratio": sampling_ratio,
        "aligned": aligned,
    }
    actual = multiscale_roi_align([feature], corners, image_index, **options)
    expected = reference.roi_align([feature], corners, image_index, **options)
    assert_close(actual, expected)
    upstream = torch.ones_like(actual)
    assert_close(grads(actual, [feature], upstream), grads(expected, [feature], upstream))


def test_offsets_beyond_32_bits():
    """The last cells of a map of more than 2**31 elements; its pages are touched nowhere else."""
    channels, height, width = 64, 5800, 5800
    feature = torch.empty(
        1, channels, height, width, dtype=torch.bfloat16, memory_format=torch.channels_last
    )
    assert feature.numel() > 2**31
    feature[:, :, -8:, -8:] = 3.0
    boxes = torch.tensor([[width - 6.0, height - 6.0, width, height]])
    pooled = roi_align(feature, [boxes], 2, 1.0, 2, aligned=True)
    assert_close(pooled, torch.full_like(pooled, 3.0))


@pytest.mark.slow
def test_gradient_offsets_beyond_32_bits():
    channels, height, width = 64, 5800, 5800  # 8.6 GB of float32
    shape = torch.empty(1, channels, height, width, memory_format=torch.channels_last)
    boxes = torch.tensor([[width - 6.0, height - 6.0, width, height]])
    (grad,) = torch.ops.mrcnn.roi_align_backward(
        torch.ones(1, channels, 2, 2), [shape], boxes, torch.tensor([0]), [1.0], 2, True, 224.0, 0
    )
    assert_close(grad[..., -8:, -8:].sum(), torch.tensor(4.0 * channels))
