"""What `numerics="torchvision"` changes, against its definitions written down anew."""

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F

from mrcnn.config import ModelConfig
from mrcnn.data.images import resized, to_pixels
from mrcnn.models import build
from mrcnn.models.anchors import make_cell_anchors
from mrcnn.models.postprocess import whole_pixel_frames
from mrcnn.numerics import NUMERICS
from mrcnn.ops import paste_masks

CONFIG = ModelConfig(
    class_names=("a",), numerics="torchvision", backbone="resnet18", min_size=800, max_size=1333
)


def test_sides_are_cut_to_whole_pixels():
    # 427 x 640 is scaled by 800 / 427, which makes 640 into 1199.06; 333 x 500 by 800 / 333.
    assert resized(427, 640, CONFIG) == (800, 1199)
    assert resized(333, 500, CONFIG) == (800, 1201)
    rounded = dataclasses.replace(CONFIG, numerics="detectron2")
    assert resized(477, 640, CONFIG) == (800, 1073)  # of 1073.375
    assert resized(479, 640, CONFIG) == (800, 1068)  # of 1068.89
    assert resized(479, 640, rounded) == (800, 1069)


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
