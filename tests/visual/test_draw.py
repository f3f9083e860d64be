"""Overlays and sheets show the right things in the right places."""

import itertools

import numpy as np
import pytest
import torch
from pycocotools import mask as rle_codec

from mrcnn.ops import instance_masks
from mrcnn.structures import ImageBatch, Targets
from mrcnn.visual import draw, draw_instances, draw_marked, draw_targets, mosaic
from mrcnn.visual.names import short_name
from tests.helpers import tiny

NAMES = ("cat", "dog")


def encode(mask: np.ndarray) -> dict:
    return rle_codec.encode(np.asfortranarray(mask.astype(np.uint8)))


def grey(height: int = 600, width: int = 800, value: int = 100) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_no_detections_leave_the_image_unchanged():
    image = np.random.default_rng(0).integers(0, 256, (600, 520, 3), dtype=np.uint8)
    drawn = draw_instances(image, np.zeros((0, 4)), np.zeros(0, int), [], NAMES, np.zeros(0))
    np.testing.assert_array_equal(drawn, image)


@pytest.mark.parametrize("reduced", [1, 2])
def test_a_mask_is_tinted_and_traced(reduced):
    """Also on an image of 800 pixels that is reduced to 400."""
    mask = np.zeros((600, 800), bool)
    mask[100:200, 300:500] = True
    box = np.array([[300, 100, 500, 200]])
    image = grey()
    image.setflags(write=False)
    label = np.array([0])
    side = 800 // reduced
    drawn = draw_instances(image, box, label, [encode(mask)], NAMES, longest_side=side)
    assert drawn.shape == (600 // reduced, side, 3)
    colour = np.array(draw._colour(0))
    left, top, right, bottom = (corner // reduced for corner in (300, 100, 500, 200))
    inside = drawn[top + 5 : bottom - 5, left + 5 : right - 5]
    assert (inside == (100 * 0.65 + colour * 0.35).astype(np.uint8)).all()
    rows, columns = slice(top, bottom), slice(left, right)
    for edge in ((top, columns), (bottom - 1, columns), (rows, left), (rows, right - 1)):
        assert (drawn[edge] == colour).all()
    label_area = slice(top - 20, top), columns
    assert (drawn[label_area] != 100).any()
    outside = drawn.copy()
    outside[label_area] = outside[rows, columns] = 100
    assert (outside == 100).all()
    assert draw_instances(grey(), box, label, [], NAMES, longest_side=900).shape[1] == 800


def test_the_first_is_on_top():
    masks = np.zeros((2, 600, 800), bool)
    masks[0, 100:300, 100:300] = masks[1, 200:400, 200:400] = True
    boxes = np.array([[100, 100, 300, 300], [200, 200, 400, 400]])
    drawn = draw_instances(grey(), boxes, np.array([0, 1]), [encode(m) for m in masks], NAMES)
    assert (drawn[299, 200:300] == draw._colour(0)).all()


@pytest.mark.parametrize(("size", "factor"), [((256, 200), 2), ((128, 128), 4), ((512, 40), 1)])
def test_small_images_are_enlarged(size, factor):
    mask = np.zeros(size, bool)
    mask[10:14, 20:24] = True
    drawn = draw_instances(
        grey(*size), np.array([[20, 10, 24, 14]]), np.array([0]), [encode(mask)], NAMES
    )
    assert drawn.shape == (size[0] * factor, size[1] * factor, 3)
    assert (drawn[10 * factor, 20 * factor : 24 * factor] == draw._colour(0)).all()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dog", "dog"),
        ("two\nlines\there", "two lines here"),
        ("x" * 40, "x" * 23 + "…"),
        ("\x1b \ud800", "\\x1b \\ud800"),
    ],
)
def test_names_stay_on_one_line(name, text):
    assert short_name(name) == text


def labels_of(boxes: list[list[float]], size=(600, 800), names=NAMES) -> list[tuple]:
    """Return the areas of the labels that `draw_instances` writes for boxes."""
    taken: list[tuple] = []
    original = draw._draw_label

    def note(*arguments):
        original(*arguments)
        taken[:] = arguments[7]

    draw._draw_label = note
    try:
        count = len(boxes)
        draw_instances(
            grey(*size), np.array(boxes), np.zeros(count, int), [], names, np.linspace(1, 0, count)
        )
    finally:
        draw._draw_label = original
    return taken


def test_labels_stay_inside_and_apart():
    corners = [[0, 0, 90, 40], [710, 0, 800, 60], [0, 560, 50, 600], [770, 570, 800, 600]]
    places = labels_of([*corners, [0, 0, 800, 600], [300, 300, 301, 301], [300, 300, 302, 302]])
    assert len(places) == 7
    for x1, y1, x2, y2 in places:
        assert 0 <= x1 < x2 <= 800
        assert 0 <= y1 < y2 <= 600
    for a, b in itertools.combinations(places, 2):
        assert not draw._overlap(a, b)


def test_labels_of_many_stay_on_their_boxes():
    boxes = [[i % 40 * 20, i // 40 * 60, i % 40 * 20 + 15, i // 40 * 60 + 50] for i in range(399)]
    assert labels_of(boxes) == []
    assert len(labels_of([[0, 540, 300, 600], *boxes])) == 1


def test_the_name_of_an_only_class_is_written_on_few():
    boxes = [[x * 50, 100, x * 50 + 40, 150] for x in range(14)]
    narrow, wide = (labels_of(boxes[:count], names=["elephant"])[0] for count in (13, 12))
    assert narrow[2] - narrow[0] < wide[2] - wide[0]
    unscored = draw_instances(grey(), np.array(boxes), np.zeros(14, int), [], ["elephant"])
    assert (unscored[:100] == 100).all()


def test_labels_leave_small_objects_visible():
    """Two small boxes on top of each other: none lies under a label."""
    boxes = np.array([[300, 300, 320, 312], [300, 284, 320, 296], [200, 200, 500, 500]])
    for place in labels_of(boxes.tolist()):
        assert draw._hidden(place, boxes[:2]) == 0


def test_a_legend_lists_the_classes():
    """In a corner where nothing is hidden, with their colours; labels stay off it."""
    boxes = np.array([[600, 0, 800, 300], [0, 0, 300, 200], [0, 400, 300, 600]])
    labels = np.array([0, 1, 1])
    plain, listed = (draw_instances(grey(), boxes, labels, [], NAMES, legend=on) for on in (0, 1))
    changed = (plain != listed).any(2)
    ys, xs = np.nonzero(changed)
    assert (xs.max(), ys.max()) == (799, 599)
    assert xs.min() > 600
    assert ys.min() > 500
    for colour in (draw._colour(0), draw._colour(1)):
        assert (listed[changed] == colour).all(1).any()
    only = draw_instances(grey(), boxes, labels * 0, [], ["cat"], legend=True)
    assert (only[-30:, -100:] == 0).all(2).any()
    nothing = draw_instances(grey(), boxes[:0], labels[:0], [], NAMES, legend=True)
    np.testing.assert_array_equal(nothing, grey())


def test_text_and_lines_grow_with_the_image():
    heights = []
    for side in (600, 3000):
        (place,) = labels_of([[side / 2, side / 2, side * 0.75, side * 0.75]], (side, side))
        heights.append(place[3] - place[1])
    assert heights[1] == pytest.approx(5 * heights[0], rel=0.15)  # both are rounded to pixels


def test_a_label_that_cannot_fit_is_left_out():
    assert labels_of([[0, 0, 500, 9]], size=(9, 600), names=("cat", "y" * 200)) == []


def test_boxes_beyond_the_image():
    boxes = np.array([[-50, -50, 1000, 900], [900, 700, 950, 800], [10, 10, 10, 10]])
    assert draw_instances(grey(), boxes, np.array([0, 1, 0]), [], NAMES).shape == (600, 800, 3)


def test_colours_differ_and_show_on_dark_images():
    colours = [draw._colour(key) for key in range(80)]
    assert len(set(colours)) == 80
    for a, b in itertools.pairwise(colours):
        assert sum(abs(x - y) for x, y in zip(a, b, strict=True)) > 100
    assert min(draw._lightness(colour) for colour in colours) > 75
    for colour in colours:  # of the text on them: WCAG asks for 4.5 : 1
        ink = 255 if draw._lightness(colour) < draw._WHITE_TEXT else 0
        light, dark = sorted((relative(colour), relative((ink,) * 3)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4


def relative(colour) -> float:
    """Relative luminance of sRGB, by WCAG 2."""
    linear = [v / 3294.6 if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


# Sheets


def test_targets_are_drawn_as_the_network_sees_them():
    """A mirrored image: the mask goes with it, padding does not show."""
    image = np.random.default_rng(0).integers(0, 256, (512, 600, 3), dtype=np.uint8)
    mean, std = torch.tensor(tiny.CONFIG.pixel_mean), torch.tensor(tiny.CONFIG.pixel_std)
    pixels = torch.zeros(1, 3, 544, 640)
    pixels[0, :, :512, :600] = ((torch.tensor(image) - mean) / std).permute(2, 0, 1)
    counts = torch.tensor([100 * 512 + 50, 200, *[312, 200] * 99, 512 * 400 + 262])
    masks = instance_masks.empty()
    masks = type(masks)(
        points=masks.points,
        ring_start=masks.ring_start,
        instance_ring=torch.tensor([0, 0]),
        counts=counts.int(),  # rows 50 to 250, columns 100 to 200
        instance_count=torch.tensor([0, len(counts)]),
        frame=torch.tensor([[512, 600]]),
        transform=torch.tensor([[1.0, 1, 0, 0]], dtype=torch.float64),
    )
    assert int(counts.sum()) == 512 * 600
    masks = instance_masks.transformed(masks, (-1, 1), (600, 0))
    targets = Targets(
        boxes=torch.tensor([[[400.0, 50, 500, 250], [0, 0, 0, 0]]]),
        labels=torch.tensor([[1, -1]]),
        mask_index=torch.tensor([[0, -1]]),
        masks=masks,
    )
    batch = ImageBatch(pixels, torch.tensor([[512, 600]]))
    (drawn,) = draw_targets(batch, targets, tiny.CONFIG)
    colour = np.array(draw._colour(1))
    assert drawn.shape == image.shape
    expected = (image[60:240, 410:490] * 0.65 + colour * 0.35).astype(np.uint8)
    np.testing.assert_array_equal(drawn[60:240, 410:490], expected)
    np.testing.assert_array_equal(drawn[:, :400], image[:, :400])
    np.testing.assert_array_equal(drawn[250:], image[250:])


def test_mosaic():
    sizes = [(5, 9), (7, 3), (5, 9), (7, 3), (5, 9)]  # three, and two below
    images = [np.full((*size, 3), 200 + i, np.uint8) for i, size in enumerate(sizes)]
    sheet = mosaic(images)
    assert sheet.shape == (7 + 7 + 3 * 6, 9 + 9 + 9 + 4 * 6, 3)
    for i, image in enumerate(images):
        assert (sheet == 200 + i).all(axis=2).sum() == image.shape[0] * image.shape[1]
    assert mosaic(images[:1]).shape == (5 + 2 * 6, 9 + 2 * 6, 3)


def test_marked_instances_are_on_top():
    boxes = np.array([[100, 100, 300, 300], [100, 100, 300, 300]])
    arguments = ([], np.array([False, True]), NAMES, "wrong")
    drawn = draw_marked(grey(), boxes, np.array([0, 1]), *arguments)
    assert (drawn[299, 100:300] == draw._colour(3)).all()  # of "wrong dog"
    only = draw_marked(grey(), boxes, np.array([0, 0]), *arguments[:2], ["cat"], "wrong")
    assert (only[299, 100:300] == draw._colour(1)).all()
