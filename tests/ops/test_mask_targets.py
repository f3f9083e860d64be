"""Mask targets: polygons against pycocotools, run lengths against the float64 reference.

I instances, R RoIs, M the side of a target.
"""

import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch.testing import assert_close

from mrcnn.ops import reference_masks as reference
from mrcnn.ops.instance_masks import InstanceMasks
from mrcnn.ops.mask_targets import mask_targets
from tests.helpers.masks import IDENTITY, masks_of

# Raised inside pycocotools.mask.decode by numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def draw_by_coco(rings, box, size, transform=IDENTITY):
    """(M, M) float32: Detectron2's scaling in float64, pycocotools' drawing."""
    scale, shift = np.reshape(transform, (2, 2))
    box = box.double().numpy()
    ratio = size / np.maximum(box[2:] - box[:2], 0.1)
    scaled = [((scale * ring + shift - box[:2]) * ratio).reshape(-1).tolist() for ring in rings]
    encoded = coco_mask.merge([coco_mask.frPyObjects([s], size, size)[0] for s in scaled])
    return torch.from_numpy(coco_mask.decode(encoded)).float()


def random_rings(rng):
    """One to three rings: stars, self-crossing scribbles, corners on the grid of fifths."""
    rings = []
    for _ in range(rng.integers(1, 4)):
        corners, centre, radius = rng.integers(3, 60), rng.uniform(0, 300, 2), rng.uniform(0.5, 150)
        if rng.random() < 0.5:
            angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
            ring = np.stack([np.cos(angle), np.sin(angle)], 1) * rng.uniform(0.2, 1, (corners, 1))
            ring = centre + radius * ring
        else:
            ring = centre + rng.normal(0, radius, (corners, 2))
        rings.append(ring if rng.random() < 0.7 else np.round(ring * 5) / 5)
    return rings


def box_around(corners, rng, jitter):
    """(4,) float32 bounds of (V, 2), each side moved by `jitter` of the extent."""
    low, high = corners.min(0), corners.max(0)
    extent = high - low
    box = np.concatenate([low, high]) + rng.normal(0, jitter, 4) * np.tile(extent, 2)
    box[2:] = np.maximum(box[2:], box[:2] + 0.01)  # some thinner than a tenth of a pixel
    return torch.tensor(box, dtype=torch.float32)


@pytest.mark.parametrize(
    ("size", "count"),
    [(28, 4000), (1, 100), (14, 300), (56, 300), (64, 100), (65, 100), (112, 200)],
)
def test_random_polygons_equal_pycocotools(size, count):
    rng = np.random.default_rng(size)
    rings = [random_rings(rng) for _ in range(count)]
    boxes = torch.stack([box_around(np.concatenate(part), rng, jitter=0.3) for part in rings])
    actual = mask_targets(masks_of(rings), boxes, torch.arange(count), size)
    expected = torch.stack([draw_by_coco(r, b, size) for r, b in zip(rings, boxes, strict=True)])
    assert 0.1 < expected.mean() < 0.9
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("mirrored", [False, True])
def test_coco_polygons_equal_pycocotools(shared_data, mirrored):
    annotations = json.loads((shared_data / "coco_mini" / "annotations.json").read_text())
    rng = np.random.default_rng(0)
    rings = [
        [np.reshape(ring, (-1, 2)) for ring in annotation["segmentation"]]
        for annotation in annotations["annotations"]
        if isinstance(annotation["segmentation"], list)
    ]
    assert len(rings) > 800
    assert max(map(len, rings)) > 1
    scale = 800 / 427
    transform = (-scale, scale, 1199.0, 0.0) if mirrored else (scale, scale, -20.5, 3.25)
    seen = [np.concatenate(part) * transform[:2] + transform[2:] for part in rings]
    for jitter in (0.0, 0.2):
        boxes = torch.stack([box_around(part, rng, jitter) for part in seen])
        actual = mask_targets(
            masks_of(rings, transform=transform), boxes, torch.arange(len(rings)), 28
        )
        expected = [draw_by_coco(r, b, 28, transform) for r, b in zip(rings, boxes, strict=True)]
        assert torch.equal(actual, torch.stack(expected))


def random_runs(rng, height, width):
    """Run lengths of blobs, noise, a constant, or with empty runs inside."""
    kind = rng.integers(4)
    if kind == 0:
        y, x = np.mgrid[:height, :width]
        centre, radius = rng.uniform(0, (height, width)), rng.uniform(1, width)
        bitmap = np.hypot(y - centre[0], x - centre[1]) < radius
    elif kind == 1:
        bitmap = rng.random((height, width)) < 0.5
    elif kind == 2:
        bitmap = np.full((height, width), rng.random() < 0.8)
    else:
        cuts = np.sort(rng.integers(0, height * width + 1, 20))  # repeated cuts are empty runs
        return np.diff([0, *cuts, height * width])
    flat = np.concatenate([[0], bitmap.T.reshape(-1), [2]])
    return np.diff(np.flatnonzero(np.diff(flat) != 0), prepend=0)


def assert_equal_but_near_ties(masks, boxes, instance, size):
    """Targets of run lengths equal the reference wherever it is not within 1e-6 of one half."""
    actual = mask_targets(masks, boxes, instance, size)
    expected = reference.mask_targets(masks, boxes, instance, size)
    for r in (actual != expected).flatten(1).any(1).nonzero().flatten().tolist():
        cover = reference.rle_coverage(masks, boxes[r].double(), int(instance[r]), size)
        assert ((cover - 0.5).abs()[actual[r] != expected[r]] < 1e-6).all()
    return actual


def random_boxes(rng, count, height, width):
    """Inside, across the border, and wholly outside an image."""
    centre = rng.uniform(-0.3, 1.3, (count, 2)) * (width, height)
    half = rng.uniform(0.02, 0.8, (count, 2)) * (width, height)
    return torch.tensor(np.concatenate([centre - half, centre + half], 1), dtype=torch.float32)


@pytest.mark.parametrize("transform", [IDENTITY, (2.5, 1.75, -7.0, 4.5), (-1.5, 0.6, 90.0, 1.0)])
@pytest.mark.parametrize("size", [28, 7])
def test_random_run_lengths_equal_reference(size, transform):
    rng = np.random.default_rng(size)
    height, width = 47, 61
    runs = [random_runs(rng, height, width) for _ in range(150)]
    masks = masks_of(runs=runs, frame=(height, width), transform=transform)
    in_file = random_boxes(rng, len(runs), height, width).double().view(-1, 2, 2)
    scale, shift = torch.tensor(transform).double().view(2, 2)
    boxes = (in_file * scale + shift).sort(dim=1).values.flatten(1).float()
    targets = assert_equal_but_near_ties(masks, boxes, torch.arange(len(runs)), size)
    assert 0.1 < targets.mean() < 0.9


def test_real_run_lengths_equal_reference(shared_data):
    data = json.loads((shared_data / "nuclei" / "val.json").read_text())
    images = {image["id"]: image for image in data["images"]}
    annotations = data["annotations"][::60]
    rng, runs, boxes, frames = np.random.default_rng(0), [], [], []
    for annotation in annotations:
        image = images[annotation["image_id"]]
        frames.append((image["height"], image["width"]))
        encoded = annotation["segmentation"]
        if isinstance(encoded["counts"], list):
            encoded = coco_mask.frPyObjects(encoded, *frames[-1])
        flat = coco_mask.decode(encoded).T.reshape(-1)
        runs.append(np.diff(np.flatnonzero(np.diff(np.r_[0, flat, 2]) != 0), prepend=0))
        x, y, w, h = annotation["bbox"]
        boxes.append(box_around(np.array([[x, y], [x + w, y + h]]), rng, jitter=0.1))
    masks = masks_of(runs=runs, frame=frames)
    assert_equal_but_near_ties(masks, torch.stack(boxes), torch.arange(len(runs)), 28)


def test_run_lengths_at_their_own_resolution_are_the_bitmap():
    rng = np.random.default_rng(1)
    bitmap = (rng.random((20, 20)) < 0.5).astype(np.uint8)
    runs = np.diff(np.flatnonzero(np.diff(np.r_[0, bitmap.T.reshape(-1), 2]) != 0), prepend=0)
    box, first = torch.tensor([[0.0, 0.0, 20.0, 20.0]]), torch.tensor([0])
    for transform, expected in [
        (IDENTITY, bitmap),
        ((-1, 1, 20, 0), bitmap[:, ::-1]),
        ((1, -1, 0, 20), bitmap[::-1]),
    ]:
        masks = masks_of(runs=[runs], frame=(20, 20), transform=transform)
        target = mask_targets(masks, box, first, 20)[0]
        assert np.array_equal(target.numpy(), expected)


@pytest.mark.parametrize("bin_size", [(1, 2), (2, 3), (3, 6), (7, 10)], ids=str)
@pytest.mark.parametrize("mirrored", [False, True])
def test_bins_of_whole_pixels_are_foreground_from_exactly_half(bin_size, mirrored):
    rng = np.random.default_rng(7)
    (high, wide), size = bin_size, 14
    height, width = size * high, size * wide
    bitmap = (rng.random((height, width)) < 0.5).astype(np.uint8)
    runs = np.diff(np.flatnonzero(np.diff(np.r_[0, bitmap.T.reshape(-1), 2]) != 0), prepend=0)
    transform = (-1, 1, width, 0) if mirrored else IDENTITY
    masks = masks_of(runs=[runs], frame=(height, width), transform=transform)
    box = torch.tensor([[0.0, 0.0, width, height]])
    target = mask_targets(masks, box, torch.tensor([0]), size)[0]
    covered = bitmap.reshape(size, high, size, wide).sum(axis=(1, 3))
    expected = 2 * covered >= high * wide
    assert (2 * covered == high * wide).any()
    assert np.array_equal(target.numpy(), expected[:, ::-1] if mirrored else expected)


def test_reference_averages_whole_pixels():
    rng = np.random.default_rng(2)
    bitmap = (rng.random((60, 60)) < 0.5).astype(np.uint8)
    runs = np.diff(np.flatnonzero(np.diff(np.r_[0, bitmap.T.reshape(-1), 2]) != 0), prepend=0)
    masks = masks_of(runs=[runs], frame=(60, 60))
    box = torch.tensor([6.0, 9.0, 48.0, 51.0], dtype=torch.float64)
    expected = torch.from_numpy(bitmap[9:51, 6:48]).double().view(14, 3, 14, 3).mean(dim=(1, 3))
    assert_close(reference.rle_coverage(masks, box, 0, 14), expected)


def test_mirrored_run_lengths_give_mirrored_targets():
    rng = np.random.default_rng(3)
    runs = [random_runs(rng, 40, 50) for _ in range(100)]
    # Halves are exact in float32, so both boxes cover the same pixels, and ties are frequent.
    boxes = (random_boxes(rng, 100, 40, 50) * 2).round() / 2
    boxes[:, 2:] += 0.5
    mirrored_boxes = torch.stack([50 - boxes[:, 2], boxes[:, 1], 50 - boxes[:, 0], boxes[:, 3]], 1)
    plain = masks_of(runs=runs, frame=(40, 50))
    mirrored = masks_of(runs=runs, frame=(40, 50), transform=(-1, 1, 50, 0))
    instance = torch.arange(100)
    targets = mask_targets(plain, boxes, instance, 28)
    assert torch.equal(mask_targets(mirrored, mirrored_boxes, instance, 28).flip(2), targets)


def mixed_masks():
    """Instances 0 and 1 of rings, 2 of run lengths, 3 empty."""
    square = [[10, 10], [50, 10], [50, 50], [10, 50]]
    triangle = [[0, 0], [30.5, 2], [4, 44.4]]
    return masks_of([[square], [triangle, square]], [[1000, 3000, 500, 2000, 3500], []])


def test_reference_equals_op_on_mixed_instances():
    rng = np.random.default_rng(4)
    boxes = random_boxes(rng, 60, 60, 60)
    instance = torch.tensor(rng.integers(-1, 4, 60))
    targets = assert_equal_but_near_ties(mixed_masks(), boxes, instance, 28)
    assert targets[(instance == -1) | (instance == 3)].sum() == 0
    assert targets[instance >= 0].sum() > 0


INF, NAN = float("inf"), float("nan")
EMPTY_BOXES = {
    "zero width": [10, 10, 10, 50],
    "zero height": [10, 10, 50, 10],
    "reversed": [50, 50, 10, 10],
    "NaN": [10, NAN, 50, 50],
    "infinite": [10, 10, INF, 50],
    "all infinite": [-INF, -INF, INF, INF],
    "far outside": [5000, 5000, 6000, 6000],
    "far outside, float32 limit": [2e38, 2e38, 3e38, 3e38],
}


@pytest.mark.parametrize("case", EMPTY_BOXES)
@pytest.mark.parametrize("instance", [0, 2])
def test_empty_targets(case, instance):
    box = torch.tensor([EMPTY_BOXES[case]])
    targets = mask_targets(mixed_masks(), box.float(), torch.tensor([instance]), 28)
    assert targets.shape == (1, 28, 28)
    assert targets.sum() == 0


RINGS_WITHOUT_AREA = {
    "no corner": [],
    "one corner": [[20, 20]],
    "two corners": [[20, 20], [40, 33]],
    "one corner repeated": [[20, 20]] * 5,
    "NaN": [[NAN, NAN]] * 3,
    "infinite": [[INF, INF], [INF, 0], [INF, 5]],
}


@pytest.mark.parametrize("case", RINGS_WITHOUT_AREA)
def test_rings_without_area_draw_nothing(case):
    masks = masks_of([[RINGS_WITHOUT_AREA[case]]])
    box = torch.tensor([[10.0, 10.0, 50.0, 50.0]])
    assert mask_targets(masks, box, torch.tensor([0]), 28).sum() == 0


def test_polygons_with_far_corners_equal_reference():
    """Long edges, nearly upright or level, pass the target between corners far outside."""
    rng = np.random.default_rng(8)
    rings = []
    for _ in range(100):
        ring = rng.uniform(0, 28, (rng.integers(3, 6), 2))
        far = rng.random(ring.shape) < 0.5
        rings.append([np.where(far, rng.uniform(-1e4, 1e4, ring.shape), ring)])
    boxes = torch.tensor([[0.0, 0.0, 28.0, 28.0]]).expand(100, 4)
    masks = masks_of(rings)
    actual = mask_targets(masks, boxes, torch.arange(100), 28)
    assert 0.1 < actual.mean() < 0.9
    assert torch.equal(actual, reference.mask_targets(masks, boxes, torch.arange(100), 28))


def test_far_corners_cost_no_time():
    far = 1e300
    masks = masks_of([[[[-far, -far], [far, -far], [far, far], [-far, far]]]])
    box = torch.tensor([[10.0, 10.0, 50.0, 50.0]])
    assert mask_targets(masks, box, torch.tensor([0]), 28).all()


def test_huge_box_over_run_lengths_is_bounded():
    masks = masks_of(runs=[[0, 10_000]])
    box = torch.tensor([[-1e9, -1e9, 1e9, 1e9]])
    assert mask_targets(masks, box, torch.tensor([0]), 28).sum() == 0


@pytest.mark.parametrize("threads", [2, 3])
def test_any_number_of_threads_gives_the_same(threads):
    boxes = random_boxes(np.random.default_rng(5), 100, 60, 60)
    instance = torch.arange(100) % 3
    one = mask_targets(mixed_masks(), boxes, instance, 28)
    torch.set_num_threads(threads)
    assert torch.equal(mask_targets(mixed_masks(), boxes, instance, 28), one)


@pytest.mark.parametrize("rois", [0, 1, 5])
def test_registration(rois):
    boxes = random_boxes(np.random.default_rng(6), rois, 60, 60)
    instance = torch.arange(rois) % 4
    arguments = (*mixed_masks().tensors().values(), boxes, instance, 28)
    torch.library.opcheck(torch.ops.mrcnn.mask_targets.default, arguments)


def test_no_instances_and_no_rois():
    none = masks_of()
    assert mask_targets(none, torch.zeros(0, 4), torch.zeros(0).long(), 28).shape == (0, 28, 28)
    padded = mask_targets(none, torch.tensor([[0.0, 0.0, 9.0, 9.0]]), torch.tensor([-1]), 28)
    assert padded.sum() == 0


def test_fake_tensors_have_the_right_shape():
    masks = mixed_masks().to("meta")
    box, first = torch.zeros(3, 4, device="meta"), torch.zeros(3, device="meta").long()
    assert mask_targets(masks, box, first, 14).shape == (3, 14, 14)


WRONG = {
    "boxes shape": ({"boxes": torch.zeros(1, 5)}, ValueError, r"boxes must have shape \(R, 4\)"),
    "boxes dtype": ({"boxes": torch.zeros(1, 4).double()}, TypeError, "boxes must be float32"),
    "instance shape": ({"instance": torch.tensor([0, 1])}, ValueError, "instance must have shape"),
    "instance dtype": ({"instance": torch.tensor([0.0])}, TypeError, "instance must be int64"),
    "instance range": ({"instance": torch.tensor([4])}, RuntimeError, r"instance must lie in"),
    "size": ({"size": 0}, ValueError, r"size must lie in \[1, 128\], got 0"),
    "device": ({"boxes": torch.zeros(1, 4, device="meta")}, ValueError, "on the device of boxes"),
}


def with_values_marked(cases, *by_value):
    marked = pytest.mark.by_value
    return [pytest.param(c, marks=marked if c in by_value else ()) for c in cases]


@pytest.mark.parametrize("case", with_values_marked(WRONG, "instance range"))
def test_wrong_arguments_are_named(case):
    change, error, message = WRONG[case]
    arguments = {
        "masks": mixed_masks(),
        "boxes": torch.zeros(1, 4),
        "instance": torch.tensor([0]),
        "size": 28,
    }
    with pytest.raises(error, match=f"mask_targets: .*{message}|{message}"):
        mask_targets(**arguments | change)


WRONG_MASKS = {
    "points": (torch.zeros(3, 3).double(), ValueError, r"masks.points must have shape \(V, 2\)"),
    "counts": (torch.zeros(5).long(), TypeError, "masks.counts must be int32"),
    "transform": (
        torch.zeros(3, 4).double(),
        ValueError,
        r"masks.transform must have shape \(4, 4",
    ),
    "ring_start": (torch.tensor([0, 4, 7, 99]), RuntimeError, "masks.ring_start must rise"),
    "instance_ring": (torch.tensor([0, 3, 1, 3, 3]), RuntimeError, "masks.instance_ring must rise"),
    "instance_count": (torch.tensor([-1, 0, 0, 5, 5]), RuntimeError, "masks.instance_count must"),
}


@pytest.mark.parametrize(
    "field", with_values_marked(WRONG_MASKS, "ring_start", "instance_ring", "instance_count")
)
def test_wrong_masks_are_named(field):
    value, error, message = WRONG_MASKS[field]
    masks = InstanceMasks(**mixed_masks().tensors() | {field: value})
    with pytest.raises(error, match=message):
        mask_targets(masks, torch.tensor([[0.0, 0.0, 9.0, 9.0]]), torch.tensor([0]), 28)
