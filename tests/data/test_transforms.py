"""Views of an image: pixels, masks and boxes move together."""

import numpy as np
import pytest
import torch

from mrcnn.config import ModelConfig
from mrcnn.data.augment.transforms import (
    Augmentation,
    View,
    random_view,
    view_instances,
    view_pixels,
    within,
)
from mrcnn.ops.instance_masks import InstanceMasks, select
from tests.helpers.masks import masks_of

CONFIG = ModelConfig(pixel_mean=(0, 0, 0), pixel_std=(1, 1, 1), scale=1.0)
HEIGHT, WIDTH = 40, 60


def random_masks(count: int, seed: int = 0) -> tuple[np.ndarray, InstanceMasks]:
    """Rectangles with holes as bitmaps (count, HEIGHT, WIDTH), and the same as RLE."""
    rng = np.random.default_rng(seed)
    bitmaps = np.zeros((count, HEIGHT, WIDTH), bool)
    for bitmap in bitmaps:
        y, x = rng.integers(0, HEIGHT - 3), rng.integers(0, WIDTH - 3)
        bitmap[y : y + rng.integers(2, 30), x : x + rng.integers(2, 30)] = True
        bitmap &= rng.random(bitmap.shape) < 0.8
        bitmap[y, x] = True
    counts = []
    for bitmap in bitmaps:
        edges = np.flatnonzero(np.diff(bitmap.ravel(order="F"), prepend=False))
        counts.append(np.diff([0, *edges, bitmap.size]))
    return bitmaps, masks_of(runs=counts, frame=(HEIGHT, WIDTH))


def sampled(bitmap: np.ndarray, transform: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """Bitmap (h, w) in the frame of the network: the file pixel under each pixel centre."""
    scale_x, scale_y, shift_x, shift_y = transform.tolist()
    x = np.floor((np.arange(size[1]) + 0.5 - shift_x) / scale_x).astype(int)
    y = np.floor((np.arange(size[0]) + 0.5 - shift_y) / scale_y).astype(int)
    return bitmap[np.ix_(y, x)]


def bounds(bitmap: np.ndarray) -> list[float]:
    ys, xs = np.nonzero(bitmap)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def plain_pixels(image: np.ndarray, view: View) -> torch.Tensor:
    return view_pixels(image, view, CONFIG, Augmentation(), np.random.default_rng(0))


VIEWS = {
    "whole": View((0, 0, WIDTH, HEIGHT), (HEIGHT, WIDTH)),
    "mirrored": View((0, 0, WIDTH, HEIGHT), (HEIGHT, WIDTH), mirror_x=True),
    "upside down": View((0, 0, WIDTH, HEIGHT), (HEIGHT, WIDTH), mirror_y=True),
    "cropped": View((7, 5, 37, 35), (30, 30)),
    "cropped, turned by 180 degrees": View((7, 5, 37, 35), (30, 30), True, True),
    "twice and three times as large": View((7, 5, 37, 35), (60, 90)),
    "large and mirrored": View((0, 0, WIDTH, HEIGHT), (2 * HEIGHT, 2 * WIDTH), mirror_x=True),
}


@pytest.mark.parametrize("name", VIEWS)
def test_masks_and_boxes_equal_moved_bitmaps(name):
    view = VIEWS[name]
    bitmaps, masks = random_masks(40)
    file_boxes = torch.tensor(np.array([bounds(bitmap) for bitmap in bitmaps])).float()
    actual, boxes, kept = view_instances(masks, file_boxes, view)

    x1, y1, x2, y2 = view.window
    moved = bitmaps[:, y1:y2, x1:x2]
    moved = moved.repeat(view.size[0] // (y2 - y1), 1).repeat(view.size[1] // (x2 - x1), 2)
    moved = moved[:, :: -1 if view.mirror_y else 1, :: -1 if view.mirror_x else 1]
    assert kept.tolist() == np.flatnonzero(moved.any((1, 2))).tolist()
    assert len(actual) == len(kept)
    for k, i in enumerate(kept):
        assert np.array_equal(sampled(bitmaps[i], actual.transform[k], view.size), moved[i])
        assert boxes[k].tolist() == bounds(moved[i])


@pytest.mark.parametrize("name", ["whole", "mirrored", "upside down", "cropped",
                                  "cropped, turned by 180 degrees"])  # fmt: skip
def test_pixels_move_as_masks_do(name):
    view = VIEWS[name]
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels = plain_pixels(image, view).permute(1, 2, 0).numpy()
    transform = torch.tensor([*view.scale, *view.shift])
    assert np.array_equal(pixels, sampled(image, transform, view.size))


def test_pixels_of_a_large_view_keep_their_centre_of_mass():
    """A bright spot, blurred by the resize, stays where the transform says."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[20, 30] = 255
    view = View((7, 5, 47, 35), (75, 100), mirror_x=True)
    spot = plain_pixels(image, view)[0].double()
    y, x = torch.meshgrid(torch.arange(75) + 0.5, torch.arange(100) + 0.5, indexing="ij")
    actual = torch.stack([(spot * x).sum(), (spot * y).sum()]) / spot.sum()
    expected = torch.tensor(view.scale) * torch.tensor([30.5, 20.5]) + torch.tensor(view.shift)
    # Rounding to 8 bits moves at most half a level at each of 25 pixels, up to 2.5 pixels off.
    assert (actual - expected).abs().max() < 25 * 0.5 * 2.5 / float(spot.sum())


def test_a_polygon_is_cut_to_the_window_and_slivers_are_dropped():
    masks = masks_of([[[0, 0, 20, 0, 20, 20, 0, 20]]], frame=(HEIGHT, WIDTH))
    file_boxes = torch.tensor([[0.0, 0, 20, 20]])
    _, boxes, kept = view_instances(masks, file_boxes, View((10, 5, 30, 25), (40, 40)))
    assert (boxes.tolist(), kept.tolist()) == ([[0, 0, 20, 30]], [0])
    assert len(view_instances(masks, file_boxes, View((19, 5, 39, 25), (20, 20)))[2]) == 1
    masks.points[:, 0] -= 0.5  # half a pixel stays visible
    assert len(view_instances(masks, file_boxes, View((19, 5, 39, 25), (20, 20)))[2]) == 0


def test_no_instances():
    _, masks = random_masks(1)
    none = select(masks, torch.zeros(0, dtype=torch.int64))
    for view in VIEWS.values():
        taken, boxes, kept = view_instances(none, torch.zeros(0, 4), view)
        assert (len(taken), boxes.shape, kept.shape) == (0, (0, 4), (0,))


def draw(augmentation: Augmentation, seed: int, config: ModelConfig = CONFIG) -> View:
    boxes = torch.tensor([[50.0, 30, 58, 38]])
    return random_view(HEIGHT, WIDTH, boxes, config, augmentation, np.random.default_rng(seed))


def test_random_views_follow_the_augmentation():
    plain = {draw(Augmentation(horizontal_flip=False), seed) for seed in range(50)}
    assert plain == {VIEWS["whole"]}
    flips = [draw(Augmentation(vertical_flip=True), seed) for seed in range(400)]
    for sides in ([v.mirror_x for v in flips], [v.mirror_y for v in flips]):
        assert 140 < sum(sides) < 260  # 6 standard deviations of a fair coin
    config = ModelConfig(min_size=40, max_size=1000)
    many = {draw(Augmentation(min_sizes=(20, 80)), seed, config).size for seed in range(50)}
    assert many == {(20, 30), (80, 120)}
    scales = [draw(Augmentation(scale_range=(0.5, 2)), seed).size[1] / WIDTH for seed in range(400)]
    assert 0.49 < min(scales) < 0.55
    assert 1.8 < max(scales) < 2.01
    assert 140 < sum(scale < 1 for scale in scales) < 260


def test_crops_are_inside_and_prefer_objects():
    views = [draw(Augmentation(crop=20), seed) for seed in range(200)]
    seen = 0
    for view in views:
        x1, y1, x2, y2 = view.window
        assert (x2 - x1, y2 - y1) == (20, 20)
        assert x1 >= 0
        assert y1 >= 0
        assert x2 <= WIDTH
        assert y2 <= HEIGHT
        seen += x1 <= 54 < x2 and y1 <= 34 < y2
    # One place holds the centre of the box with probability 6/41 * 7/21, so ten tries do with 0.4.
    assert seen > 200 * 0.2
    assert len({view.window for view in views}) > 100


def test_a_crop_larger_than_the_image_is_the_image():
    assert draw(Augmentation(crop=50), 0).window[1::2] == (0, HEIGHT)
    assert draw(Augmentation(crop=999), 0).window == (0, 0, WIDTH, HEIGHT)


def test_shorter_sides_equal_detectron2():
    """640 to 800 in steps of 32, as its `INPUT.MIN_SIZE_TRAIN`; the longer side at most 1333."""
    augmentation = Augmentation(min_sizes=tuple(range(640, 801, 32)))
    views = [draw(augmentation, seed, ModelConfig()) for seed in range(100)]
    expected = {(size, int(size / HEIGHT * WIDTH + 0.5)) for size in range(640, 801, 32)}
    assert {view.size for view in views} == expected


JITTER = Augmentation(jitter_size=64, horizontal_flip=False)


@pytest.mark.parametrize(("height", "width"), [(40, 60), (60, 40), (50, 50), (480, 640), (9, 100)])
def test_large_scale_jitter_equals_detectron2(height, width):
    """Its `ResizeScale`, factors 0.1 to 2, then its `FixedSizeCrop`, made in the file."""
    boxes, places = torch.zeros(0, 4), []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        view = random_view(height, width, boxes, CONFIG, JITTER, rng)
        scale = np.random.default_rng(seed).uniform(0.1, 2.0) * min(64 / height, 64 / width)
        whole = [max(1, int(np.round(pixels * scale))) for pixels in (height, width)]
        assert view.size == tuple(min(pixels, 64) for pixels in whole)
        x1, y1, x2, y2 = view.window
        for first, last, pixels, resized in ((y1, y2, height, whole[0]), (x1, x2, width, whole[1])):
            assert 0 <= first < last <= pixels
            if resized <= 64:
                assert (first, last) == (0, pixels)
            else:
                assert abs((last - first) - 64 / scale) <= 0.5  # of a file pixel
                places.append(first / max(1, pixels - (last - first)))
    assert 0.4 < np.mean(places) < 0.6  # 4 standard deviations of 100 or more uniform draws
    assert (min(places), max(places)) == (0, 1)


def test_a_view_can_be_cut():
    view = View((10, 0, 50, 40), (80, 80), mirror_x=True)
    assert within(view, 100, 100) == view
    assert within(view, 20, 60) == View((10, 0, 40, 10), (20, 60), mirror_x=True)
    assert within(View((0, 0, 1, 1), (80, 80)), 3, 5) == View((0, 0, 1, 1), (3, 5))


def test_a_part_of_an_image_is_augmented_before_it_is_resized():
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    view = View((10, 5, 40, 25), (50, 50), mirror_y=True)

    def invert(part, rng):
        assert part.shape == (20, 30, 3)
        return 255 - part

    inverted, coloured = (
        view_pixels(image, view, CONFIG, augmentation, np.random.default_rng(0))
        for augmentation in (Augmentation(transform=invert), Augmentation(contrast=0.5))
    )
    assert torch.equal(inverted, plain_pixels(255 - image, view))
    assert not torch.equal(coloured, plain_pixels(image, view))


def test_equal_states_give_equal_views():
    augmentation = Augmentation(crop=20, scale_range=(0.5, 2), vertical_flip=True)
    assert draw(augmentation, 3) == draw(augmentation, 3) != draw(augmentation, 4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"crop": 0},
        {"min_sizes": (0, 5)},
        {"scale_range": (2, 1)},
        {"scale_range": (0, 1)},
        {"jitter_size": 0},
        {"jitter_size": 64, "crop": 20},
        {"jitter_size": 64, "min_sizes": (5,)},
        {"jitter_range": (0.0, 1)},
        {"brightness": 1.5},
        {"hue": 0.6},
        {"copy_paste": -0.1},
    ],
)
def test_wrong_augmentations_are_refused(wrong):
    with pytest.raises(ValueError, match=f"Augmentation: {next(iter(wrong))} must"):
        Augmentation(**wrong)
