"""Copy-paste: pasted instances hide those below in pixels, masks and boxes."""

import numpy as np
import pytest
import torch
from pycocotools import mask as rle_codec

from mrcnn.config import ModelConfig
from mrcnn.data.augment.copy_paste import MIN_LEFT, NetworkImage, bitmap, paste, select
from mrcnn.data.augment.transforms import Augmentation, View, view_instances
from mrcnn.data.coco.read import read_coco
from mrcnn.data.loading.batch_order import Key
from mrcnn.data.loading.train_set import TrainSet
from mrcnn.ops import instance_masks
from tests.data.test_transforms import HEIGHT, WIDTH, bounds, random_masks, sampled
from tests.helpers.masks import masks_of

RINGS = [[1.5, 2, 30.25, 4, 22, 31.5], [20, 20, 39.5, 22, 25, 33]]
POLYGONS = masks_of([RINGS], frame=(HEIGHT, WIDTH))


def random_image(view: View, value: float, count: int, seed: int) -> NetworkImage:
    """Random masks of an image of 40 x 60 in a view; all pixels have one value."""
    bitmaps, masks = random_masks(count, seed)
    boxes = torch.tensor(np.array([bounds(each) for each in bitmaps])).float()
    masks, boxes, kept = view_instances(masks, boxes, view)
    return NetworkImage(torch.full((3, *view.size), value), boxes, torch.arange(count)[kept], masks)


def frames(image: NetworkImage, size: tuple[int, int]) -> np.ndarray:
    """Bitmaps of all instances in a frame of that size, (G, h, w)."""
    whole = (0, 0, size[1], size[0])
    return np.array([bitmap(image.masks, i, whole) for i in range(len(image.masks))])


SIZES = {
    "same size": (View((0, 0, 60, 40), (40, 60)), View((0, 0, 60, 40), (40, 60), mirror_x=True)),
    "smaller above": (View((5, 5, 55, 35), (90, 150)), View((0, 0, 60, 40), (40, 60))),
    "larger above": (View((0, 0, 60, 40), (20, 30)), View((7, 5, 37, 35), (60, 90))),
    "crossed": (View((0, 0, 60, 40), (80, 30)), View((0, 0, 60, 40), (20, 90), mirror_y=True)),
}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("count", [0, 1, 12])
def test_pasted_instances_hide_those_below(name, count):
    below, above = (
        random_image(SIZES[name][0], 1, 30, seed=0),
        random_image(SIZES[name][1], 2, 12, seed=1),
    )
    above = select(above, torch.arange(len(above.labels))[:count])
    size = tuple(np.maximum(below.pixels.shape, above.pixels.shape)[1:])
    result = paste(below, above)
    covered = frames(above, size).any(0) if count else np.zeros(size, bool)
    expected = np.zeros(size)
    expected[: below.pixels.shape[1], : below.pixels.shape[2]] = 1
    expected[covered] = 2
    assert (result.pixels.numpy() == expected).all()

    before = frames(below, size)
    left = before & ~covered
    kept = left.sum((1, 2)) >= np.maximum(1, MIN_LEFT * before.sum((1, 2)))
    assert result.labels.tolist() == [*below.labels[kept].tolist(), *above.labels.tolist()]
    shown = frames(result, size)
    assert np.array_equal(shown[: kept.sum()], left[kept])
    hidden = (before & covered).any((1, 2))[kept]
    for i, mask in enumerate(left[kept]):
        expected_box = bounds(mask) if hidden[i] else below.boxes[kept][i].tolist()
        assert result.boxes[i].tolist() == expected_box
    assert hidden.any() or count < 12  # else nothing was tried

    pasted = instance_masks.select(result.masks, torch.arange(kept.sum(), len(result.labels)))
    for field, tensor in above.masks.tensors().items():
        assert torch.equal(getattr(pasted, field), tensor)
    assert torch.equal(result.boxes[kept.sum() :], above.boxes)


def block(x1: int, x2: int) -> NetworkImage:
    """A rectangle, as a polygon, in an image of 80 x 120."""
    ring = [x1, 10, x2, 10, x2, 20, x1, 20]
    box = torch.tensor([[x1, 10.0, x2, 20]])
    return NetworkImage(
        torch.zeros(3, 80, 120), box, torch.tensor([0]), masks_of([[ring]], frame=(HEIGHT, WIDTH))
    )


def test_uncovered_instances_keep_their_masks():
    masks = instance_masks.transformed(
        masks_of([RINGS], frame=(HEIGHT, WIDTH)), (2.0, 1.5), (0.25, 3.0)
    )
    box = torch.tensor([[3.0, 6, 80, 53]])
    below = NetworkImage(torch.zeros(3, 80, 120), box, torch.tensor([4]), masks)
    for above, touched in ((block(100, 110), False), (block(30, 40), True)):
        first = instance_masks.select(paste(below, above).masks, torch.tensor([0]))
        assert (len(first.counts) > 0) == touched
        if not touched:
            assert torch.equal(first.points, masks.points)
            assert torch.equal(first.transform, masks.transform)


@pytest.mark.parametrize(
    ("scale", "shift", "box"),
    [((1, 1), (0, 0), (1, 2, 40, 33)), ((-1.5, 0.75), (70.5, -4), (11, 0, 69, 21))],
)
def test_polygons_are_drawn_as_coco_draws_them(scale, shift, box):
    masks = instance_masks.transformed(POLYGONS, scale, shift)
    moved = [(np.reshape(ring, (-1, 2)) * scale + shift).ravel().tolist() for ring in RINGS]
    whole = rle_codec.decode(rle_codec.merge(rle_codec.frPyObjects(moved, 50, 90)))
    assert np.array_equal(bitmap(masks, 0, (0, 0, 90, 50)), whole)
    x1, y1, x2, y2 = box
    assert np.array_equal(bitmap(masks, 0, box), whole[y1:y2, x1:x2])


def test_rle_is_sampled_at_pixel_centres():
    bitmaps, masks = random_masks(3)
    view = View((5, 3, 55, 33), (75, 80), mirror_x=True, mirror_y=True)
    masks = instance_masks.transformed(masks, view.scale, view.shift)
    for i in range(3):
        expected = sampled(bitmaps[i], masks.transform[i], view.size)
        assert np.array_equal(bitmap(masks, i, (0, 0, 80, 75)), expected)


def test_an_instance_with_too_few_visible_pixels_is_dropped():
    for left, boxes in ((0, 1), (1, 2)):  # of ten columns
        result = paste(block(10, 20), block(10, 20 - left))
        assert len(result.labels) == boxes
    assert result.boxes.tolist()[0] == [19, 10, 20, 20]


def test_samples_get_instances_of_other_images(shared_data):
    nuclei = shared_data / "nuclei"
    dataset = read_coco(nuclei / "val.json", nuclei / "images")
    config = ModelConfig(min_size=128, max_size=256)
    for options in ({}, {"jitter_size": 128}):
        plain = TrainSet(dataset, config, Augmentation(**options), seed=1)
        pasted = TrainSet(dataset, config, Augmentation(copy_paste=1.0, **options), seed=1)
        half = TrainSet(dataset, config, Augmentation(copy_paste=0.5, **options), seed=1)
        changed, more = [], 0
        for index in range(24):
            a, b, c = (samples[Key(0, index)] for samples in (plain, pasted, half))
            assert a.seed == b.seed == c.seed
            assert b.index == index
            again = pasted[Key(0, index)]
            assert torch.equal(again.pixels, b.pixels)
            assert torch.equal(again.boxes, b.boxes)
            limit = options.get("jitter_size", max(a.pixels.shape[1:]))
            assert max(b.pixels.shape[1:]) <= limit
            assert (b.boxes[:, 2:] > b.boxes[:, :2]).all()
            more += len(b.labels) > len(a.labels)
            changed.append(not (a.pixels.shape == c.pixels.shape and a.pixels.equal(c.pixels)))
        assert more > 12
        assert 3 < sum(changed) < 21  # 3.7 standard deviations of a fair coin
