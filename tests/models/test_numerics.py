"""What the numerics other than Detectron2's change, against their definitions written down anew."""

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as rle_codec

from mrcnn.config import ModelConfig
from mrcnn.data.images import network_size, to_pixels
from mrcnn.models import build
from mrcnn.models.anchors import make_cell_anchors
from mrcnn.models.pooling import RoIPooler
from mrcnn.models.postprocess import to_detections, whole_pixel_frames
from mrcnn.numerics import NUMERICS
from mrcnn.ops import paste_masks, roi_align
from mrcnn.structures import DetectionBatch

CONFIG = ModelConfig(
    class_names=("a",), numerics="torchvision", backbone="resnet18", min_size=800, max_size=1333
)
LEGACY = dataclasses.replace(CONFIG, numerics="maskrcnn_benchmark")


def test_sides_are_cut_to_whole_pixels():
    # 427 x 640 is scaled by 800 / 427, which makes 640 into 1199.06; 333 x 500 by 800 / 333.
    assert network_size(427, 640, CONFIG) == (800, 1199)
    assert network_size(333, 500, CONFIG) == (800, 1201)
    rounded = dataclasses.replace(CONFIG, numerics="detectron2")
    assert network_size(477, 640, CONFIG) == (800, 1073)  # of 1073.375
    assert network_size(479, 640, CONFIG) == (800, 1068)  # of 1068.89
    assert network_size(479, 640, rounded) == (800, 1069)


def test_the_longer_side_follows_the_shorter():
    """maskrcnn-benchmark: the shorter is rounded, then the longer is cut."""
    assert network_size(479, 640, LEGACY) == (800, 1068)  # of 1068.89
    # 1333 / 640 x 360 is 749.8, and 750 / 360 x 640 is 1333.3.
    assert network_size(360, 640, LEGACY) == (750, 1333)
    assert network_size(640, 301, LEGACY) == (1333, 627)  # of 626.9 and 1333.2
    assert network_size(640, 300, LEGACY) == (1333, 625)  # of 624.8 and 1333.3
    assert network_size(800, 1000, LEGACY) == (800, 1000)


def test_opencv_resizes_in_fixed_point():
    """Weights in units of 1 / 2048; sums cut to 2 bits behind the point, then rounded."""
    plain = dataclasses.replace(
        CONFIG, numerics="mmdetection", pixel_mean=(0.0,) * 3, pixel_std=(1.0,) * 3
    )
    image = np.zeros((1, 3, 3), np.uint8)
    image[0, :, 0] = [0, 100, 255]
    # Centres of 7 pixels lie at 3 / 7 (x + 0.5) - 0.5; beyond the ends the image goes on.
    places = [-0.2857, 0.1429, 0.5714, 1, 1.4286, 1.8571, 2.2857]
    exact = np.interp(places, [0, 1, 2], [0, 100, 255])  # 0 14.3 57.1 100 166.4 232.9 255
    found = to_pixels(image, (1, 7), plain)[0, 0].numpy()
    assert found.tolist() == [0, 14, 57, 100, 166, 233, 255]
    assert (np.abs(found - exact) <= 0.5).all()
    # Of 127.5, half of 255, the last row is left 127: both its taps lie in one cell, and are cut.
    image = np.zeros((2, 2, 3), np.uint8)
    image[1, 1] = 255
    assert to_pixels(image, (3, 3), plain)[0].tolist() == [[0, 0, 0], [0, 64, 128], [0, 127, 255]]
    # Without a filter that widens: centres at 1.5 and 5.5 see only cells 1 and 2, 5 and 6.
    image = np.full((8, 8, 3), 255, np.uint8)
    image[1:3, 1:3] = 8
    assert to_pixels(image, (2, 2), plain)[0].tolist() == [[8, 255], [255, 255]]


def test_images_shrink_by_four_taps():
    image = np.zeros((8, 8, 3), np.uint8)
    image[3, 3] = 200
    plain = dataclasses.replace(CONFIG, pixel_mean=(0.0, 0.0, 0.0), pixel_std=(1.0, 1.0, 1.0))
    # Pixel (0, 0) of the result has its centre at (2, 2): the mean of cells 1 and 2.
    assert to_pixels(image, (2, 2), plain).max() == 0
    assert to_pixels(image, (4, 4), plain).max() == 50
    # A filter that widens reaches every cell.
    assert to_pixels(image, (2, 2), dataclasses.replace(plain, numerics="detectron2")).max() > 0


def test_corners_of_cell_anchors_are_rounded():
    cell = make_cell_anchors([[32]], [0.5, 1, 2], [4], NUMERICS["torchvision"])[0]
    assert cell.tolist() == [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]
    cell = make_cell_anchors([[32, 64]], [0.5, 1], [16], NUMERICS["torchvision"])[0]
    assert cell[:, 2].tolist() == [23, 45, 16, 32]  # both sizes of one ratio, then of the next


def test_sides_of_anchors_are_rounded_at_one_cell():
    """Detectron 1's; these nine are the anchors of Faster R-CNN, with x2 and y2 one higher."""
    cell = make_cell_anchors([[128, 256, 512]], [0.5, 1, 2], [16], NUMERICS["maskrcnn_benchmark"])
    assert cell[0].tolist() == [
        [-84, -40, 100, 56],
        [-176, -88, 192, 104],
        [-360, -184, 376, 200],
        [-56, -56, 72, 72],
        [-120, -120, 136, 136],
        [-248, -248, 264, 264],
        [-36, -80, 52, 96],
        [-80, -168, 96, 184],
        [-168, -344, 184, 360],
    ]
    # At stride 4 a cell of half the height is 6 x 3 pixels, 8 times which is 48 x 24 around (2, 2).
    cell = make_cell_anchors([[32]], [0.5], [4], NUMERICS["maskrcnn_benchmark"])
    assert cell[0].tolist() == [[-22, -10, 26, 14]]


def test_anchors_of_mmdetection_are_exact_and_by_ratio():
    cell = make_cell_anchors([[32, 64]], [0.25, 1], [16], NUMERICS["mmdetection"])
    assert cell[0, :, 2:].tolist() == [[32, 8], [64, 16], [16, 16], [32, 32]]


def test_strides_of_anchors_come_from_the_grid():
    rpn = build(CONFIG).rpn
    shapes = [(200, 336), (100, 168), (50, 84), (25, 42), (13, 21)]  # of 800 x 1344 pixels
    maps = [torch.empty(1, 3, *shape, device="meta") for shape in shapes]
    assert rpn._anchor_strides(maps) == [(4, 4), (8, 8), (16, 16), (32, 32), (61, 64)]
    rpn = build(dataclasses.replace(CONFIG, numerics="detectron2")).rpn
    assert rpn._anchor_strides(maps)[-1] == (64, 64)


def test_masks_are_pasted_into_whole_pixels():
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(40, 2, generator=generator) * 60 - 10
    boxes = torch.cat([low, low + torch.rand(40, 2, generator=generator) * 50 + 0.5], dim=1)
    masks = F.interpolate(torch.rand(40, 1, 5, 5, generator=generator), 28, mode="bicubic")[:, 0]
    masks = masks.clamp(0, 1)
    pasted = paste_masks(masks, whole_pixel_frames(boxes, 28), 64, 72)
    different = 0
    for mask, box, found in zip(masks, boxes, pasted, strict=True):
        center, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * 30 / 28
        x1, y1 = (center - half).int().tolist()
        x2, y2 = (center + half).int().tolist()
        size = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
        stretched = F.interpolate(F.pad(mask, (1, 1, 1, 1))[None, None], size, mode="bilinear")
        image = torch.zeros(300, 300)  # with a margin of 100
        image[100 + y1 : 100 + y1 + size[0], 100 + x1 : 100 + x1 + size[1]] = stretched[0, 0]
        different += int(((image[100:164, 100:172] >= 0.5) != found).sum())
    assert pasted.any(0).sum() > 1000
    assert different <= 2  # where a value is within rounding of 0.5


def levels(numerics: str, sides: list[float]) -> list[int]:
    """The maps, 2 to 5, that squares of these sides are pooled from."""
    maps = {f"p{i}": torch.full((1, 1, 1024 >> i, 1024 >> i), float(i)) for i in range(2, 6)}
    boxes = torch.tensor([[[8, 8, 8 + side, 8 + side] for side in sides]])
    pooler = RoIPooler(1, 1, (4, 8, 16, 32), NUMERICS[numerics])
    valid = torch.ones(1, len(sides), dtype=torch.bool)
    return [round(x) for x in pooler(maps, boxes, valid).flatten().tolist()]


def test_levels_begin_a_little_early():
    """Where an epsilon is added: 1e-6 to the level by torchvision, to side / 224 by the other."""
    sides = [223.9995, 223.9998, 223.9999, 224.0, 447.9996, 447.9998, 448.0]
    assert levels("detectron2", sides) == [3, 3, 3, 4, 4, 4, 5]
    assert levels("torchvision", sides) == [3, 3, 4, 4, 4, 5, 5]  # 0.00016 and 0.00031 pixels
    assert levels("maskrcnn_benchmark", sides) == [3, 4, 4, 4, 4, 5, 5]  # 0.00022 pixels


def test_rois_end_at_their_last_pixel():
    """The level is that of the whole box; the samples lie in a box one pixel less wide and high."""
    torch.manual_seed(0)
    maps = {f"p{i}": torch.randn(1, 3, 256 >> i, 256 >> i, requires_grad=True) for i in (2, 3)}
    boxes = torch.tensor(
        [[[3.0, 4.0, 44.5, 63.2], [10, 20, 122.5, 132.5], [5, 6, 7, 8], [9, 9, 200, 190]]]
    )
    valid = torch.tensor([[True, True, False, True]])
    found = RoIPooler(3, 7, (4, 8), NUMERICS["maskrcnn_benchmark"])(maps, boxes, valid)
    expected = [
        roi_align(maps[level], box[None], 7, scale, sampling_ratio=2)
        for level, scale, box in (
            ("p2", 1 / 4, torch.tensor([0, 3, 4, 43.5, 62.2])),
            ("p3", 1 / 8, torch.tensor([0, 10, 20, 121.5, 131.5])),  # 112.5 pixels wide as a whole
            ("p3", 1 / 8, torch.tensor([0, 9, 9, 199.0, 189])),
        )
    ]
    assert torch.equal(found[[0, 1, 3]], torch.cat(expected))
    assert not found[2].any()
    assert found.is_contiguous(memory_format=torch.channels_last)
    grads = torch.autograd.grad(found.square().sum(), list(maps.values()))
    wanted = torch.autograd.grad(torch.cat(expected).square().sum(), list(maps.values()))
    for grad, other in zip(grads, wanted, strict=True):
        torch.testing.assert_close(grad, other)


def test_results_are_scaled_from_their_last_pixel():
    """A box over pixels 10 to 29, twice as large, covers 20 to 58; nothing is clipped."""
    batch = DetectionBatch(
        boxes=torch.tensor([[[10.0, 10.0, 30.0, 30.0], [40.0, 5.0, 40.0, 9.0]]]),
        scores=torch.tensor([[0.9, 0.8]]),
        labels=torch.tensor([[0, 0]]),
        counts=torch.tensor([2]),
        masks=torch.ones(1, 2, 28, 28),
    )
    sizes = torch.tensor([[50, 50]])
    (found,) = to_detections(batch, sizes, [(100, 100)], NUMERICS["maskrcnn_benchmark"])
    assert found.boxes.tolist() == [[20, 20, 59, 59], [80, 10, 79, 17]]
    # Framed by 38 x 30 / 28 / 2 = 20.36 around 39: pixels 18 to 59, of which one cell is frame.
    inside = rle_codec.decode(found.masks[0])
    assert inside.any(0).nonzero()[0].tolist() == list(range(19, 59))
    (found,) = to_detections(batch, sizes, [(100, 100)], NUMERICS["mmdetection"])
    assert found.boxes.tolist() == [[20, 20, 60, 60], [80, 10, 80, 18]]
    assert rle_codec.area(found.masks).tolist() == [1600, 0]
