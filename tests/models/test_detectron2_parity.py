"""`numerics="detectron2"` against Detectron2's published definitions, written down in NumPy."""

import dataclasses
import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pycocotools import mask as rle_codec

from mrcnn.config import ModelConfig
from mrcnn.data.images import network_size, to_pixels
from mrcnn.models import build
from mrcnn.models.anchors import grid_anchors, make_cell_anchors
from mrcnn.models.pooling import RoIPooler
from mrcnn.models.postprocess import to_detections
from mrcnn.numerics import NUMERICS
from mrcnn.ops import match_boxes
from mrcnn.ops.boxes import decode_boxes, encode_boxes
from mrcnn.structures import DetectionBatch, Proposals

NUMBERS = NUMERICS["detectron2"]
STRIDES = (4, 8, 16, 32, 64)
BOX_ROUNDING = 12 * 2.0**-24 * 256  # pixels; a dozen operations on numbers of up to 256
CONFIG = ModelConfig(class_names=("a", "b", "c"), backbone="resnet18")


def iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    overlap = sides.clip(min=0).prod(1)
    area = (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return overlap / (area - overlap).clip(min=1e-9)


def nms(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """Kept indices, best first."""
    left, kept = np.argsort(-scores, kind="stable"), []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(int(best))
        overlap = iou(boxes[best], boxes[left])
        assert (np.abs(overlap - threshold) > 1e-5).all(), "rounding would decide; other inputs!"
        left = left[overlap <= threshold]
    return kept


def decode(deltas: np.ndarray, boxes: np.ndarray, weights: tuple[float, ...]) -> np.ndarray:
    dx, dy, dw, dh = (deltas / np.array(weights)).T
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    x = boxes[:, 0] + width / 2 + dx * width
    y = boxes[:, 1] + height / 2 + dy * height
    limit = math.log(1000 / 16)
    width, height = (
        width * np.exp(np.minimum(dw, limit)),
        height * np.exp(np.minimum(dh, limit)),
    )
    return np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)


def clip(boxes: np.ndarray, height: float, width: float) -> np.ndarray:
    return boxes.clip(0, [width, height, width, height])


def random_boxes(rng: np.random.Generator, count: int, low: float, high: float) -> np.ndarray:
    corner = rng.uniform(0, 100, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(low, high, (count, 2))], axis=1)


def test_cell_anchors_of_the_pyramid():
    cell = make_cell_anchors([[32], [64], [128], [256], [512]], (0.5, 1, 2), STRIDES, NUMBERS)
    known = [[-22.627417, -11.313708], [-16, -16], [-11.313708, -22.627417]]  # of 32 pixels
    for level in range(5):
        corner = torch.tensor(known) * 2**level
        torch.testing.assert_close(cell[level], torch.cat([corner, -corner], dim=1))


def test_cell_anchors_of_one_level():
    """15 for C4: the three ratios of the first size, then of the next."""
    cell = make_cell_anchors([[32, 64, 128, 256, 512]], (0.5, 1, 2), [16], NUMBERS)
    expected = []
    for size in (32, 64, 128, 256, 512):
        for ratio in (0.5, 1.0, 2.0):
            width = math.sqrt(size**2 / ratio)
            height = ratio * width
            expected.append([-width / 2, -height / 2, width / 2, height / 2])
    assert cell.tolist() == [torch.tensor(expected).tolist()]


def test_grid_of_anchors():
    """Row by row, then column, then anchor; the first lies around the corner of the image."""
    cell = make_cell_anchors([[32], [64]], (0.5, 1.0), [4, 8], NUMBERS)
    expected = [
        cell[level, a].numpy() + np.array([x, y, x, y]) * stride
        for level, (stride, height, width) in enumerate([(4, 3, 2), (8, 2, 1)])
        for y in range(height)
        for x in range(width)
        for a in range(2)
    ]
    found = grid_anchors(cell, [(4, 4), (8, 8)], [(3, 2), (2, 1)])
    torch.testing.assert_close(found[0].double(), torch.tensor(np.array(expected)).double())


def test_box_coder():
    reference = torch.tensor([[10.0, 20.0, 110.0, 70.0]])  # 100 x 50 around (60, 45)
    target = torch.tensor([[60.0, 45.0, 110.0, 145.0]])  # 50 x 100 around (85, 95)
    deltas = torch.tensor([[0.25, 1.0, math.log(0.5), math.log(2)]])
    weights = (10.0, 10.0, 5.0, 5.0)
    torch.testing.assert_close(encode_boxes(target, reference), deltas)
    weighted = deltas * torch.tensor(weights)
    torch.testing.assert_close(encode_boxes(target, reference, weights), weighted)
    torch.testing.assert_close(decode_boxes(weighted, reference, weights), target)
    # A side grows by at most 1000 / 16 = 62.5, and shrinks as far as it may.
    grown = decode_boxes(torch.tensor([[0.0, 0.0, 50.0, -50.0]]), reference)
    torch.testing.assert_close(grown, torch.tensor([[-3065.0, 45.0, 3185.0, 45.0]]))


def test_matcher_of_anchors():
    targets = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [100.0, 100.0, 120.0, 120.0]]])
    cases = [  # box, the target it answers for, its role
        ((0, 0, 10, 10), 0, 1),
        ((0, 0, 10, 7), 0, 1),  # from 0.7 on
        ((0, 0, 10, 6.9), 0, -1),
        ((0, 0, 10, 3), 0, -1),  # from 0.3 on
        ((0, 0, 10, 2.9), 0, 0),
        ((100, 100, 104, 104), 1, 1),  # 0.04, the most that overlaps target 1,
        ((116, 116, 120, 120), 1, 1),  # and its tie
        ((100, 100, 104, 103), 1, 0),
        ((50, 50, 60, 60), 0, 0),
    ]
    boxes = torch.tensor([[box for box, _, _ in cases]], dtype=torch.float32)
    valid = torch.ones(1, 2, dtype=torch.bool)
    matched, role = match_boxes(
        boxes, targets, valid, low_threshold=0.3, high_threshold=0.7, low_quality=True
    )
    assert role[0].tolist() == [r for _, _, r in cases]
    assert matched[0].tolist() == [m for _, m, _ in cases]


def test_matcher_of_rois():
    targets, valid = torch.tensor([[[0.0, 0.0, 10.0, 10.0]]]), torch.ones(1, 1, dtype=torch.bool)
    boxes = torch.tensor([[[0.0, 0.0, 10.0, 5.0], [0.0, 0.0, 10.0, 4.9]]])
    _, role = match_boxes(
        boxes, targets, valid, low_threshold=0.5, high_threshold=0.5, low_quality=False
    )
    assert role[0].tolist() == [1, 0]


def test_proposals():
    """Per level the best logits, decoded, clipped, not empty, NMS at 0.7; the best of all."""
    config = dataclasses.replace(
        CONFIG, fpn_levels=1, anchor_sizes=(16, 48), pre_nms_top_k=150, post_nms_top_k=60
    )
    rpn = build(config).rpn
    rng, size, shapes = np.random.default_rng(0), (61, 90), [(16, 24), (8, 12)]
    logits = [rng.normal(0, 1, (3, h, w)) for h, w in shapes]
    deltas = [rng.normal(0, 0.3, (12, h, w)) for h, w in shapes]
    boxes, scores = [], []
    for level, (height, width) in enumerate(shapes):
        y, x, a = (index.reshape(-1) for index in np.indices((height, width, 3)))
        side = np.sqrt(config.anchor_sizes[level] ** 2 / np.array([0.5, 1, 2]))[a]
        half = np.stack([side, side * np.array([0.5, 1, 2])[a]], axis=1) / 2
        center = np.stack([x, y], axis=1) * 4 * 2**level
        anchors = np.concatenate([center - half, center + half], axis=1)
        own_deltas = deltas[level].reshape(3, 4, height, width)[a, :, y, x]
        own = clip(decode(own_deltas, anchors, (1, 1, 1, 1)), *size)
        logit = logits[level][a, y, x]
        best = np.argsort(-logit)[:150]
        best = best[((own[best, 2:] - own[best, :2]) > 0).all(1)]
        kept = best[nms(own[best], logit[best], 0.7)]
        boxes.append(own[kept])
        scores.append(logit[kept])
    order = np.argsort(-np.concatenate(scores))[:60]
    found = rpn.propose(
        [torch.tensor(x)[None].float() for x in logits],
        [torch.tensor(x)[None].float() for x in deltas],
        torch.tensor([size]),
        training=False,
    )
    expected = torch.tensor(np.concatenate(scores)[order]).float()
    assert torch.equal(found.scores[0], expected)
    expected = torch.tensor(np.concatenate(boxes)[order]).float()
    torch.testing.assert_close(found.boxes[0], expected, rtol=0, atol=BOX_ROUNDING)
    assert rpn.cell_anchors.shape == (2, 3, 4)


def test_levels_of_rois():
    """Floor of 4 + log2(sqrt(area) / 224), from P2 to P5."""
    sides = np.array([0.5, 20, 111.99, 112, 112.01, 223.99, 224, 447.99, 448, 449, 896, 1000])
    expected = np.floor(4 + np.log2(sides / 224)).clip(2, 5)
    assert expected.tolist() == [2, 2, 2, 3, 3, 3, 4, 4, 5, 5, 5, 5]
    maps = {f"p{i}": torch.full((1, 1, 2048 >> i, 2048 >> i), float(i)) for i in range(2, 6)}
    boxes = torch.tensor([[[0, 0, side / 2, 2 * side] for side in sides]]).float()
    pooler = RoIPooler(1, 1, STRIDES[:4], NUMBERS)
    pooled = pooler(maps, boxes, torch.ones(boxes.shape[:2], dtype=torch.bool))
    assert pooled.flatten().round().tolist() == expected.tolist()


def roi_align(feature: np.ndarray, box: np.ndarray, stride: int, bins: int) -> np.ndarray:
    """The mean over each bin of samples one cell apart or less; cell centres lie at + 0.5."""

    def value(y: float, x: float) -> float:
        height, width = feature.shape
        if not (-1 <= y <= height and -1 <= x <= width):
            return 0.0
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        top, left = min(int(y), height - 2), min(int(x), width - 2)
        near = feature[top : top + 2, left : left + 2]
        return float(np.array([1 - (y - top), y - top]) @ near @ [1 - (x - left), x - left])

    x1, y1, x2, y2 = box / stride - 0.5
    high, wide = (y2 - y1) / bins, (x2 - x1) / bins
    rows, columns = math.ceil(high), math.ceil(wide)
    result = np.zeros((bins, bins))
    for i in range(bins):
        for j in range(bins):
            samples = [
                value(y1 + (i + (a + 0.5) / rows) * high, x1 + (j + (b + 0.5) / columns) * wide)
                for a in range(rows)
                for b in range(columns)
            ]
            result[i, j] = np.mean(samples) if samples else 0.0
    return result


def test_pooled_features():
    rng = np.random.default_rng(0)
    boxes = np.array(
        [
            [3.2, 5.7, 40.1, 77.3],
            [-20.0, -9.0, 30.0, 12.0],  # beyond the image
            [70.0, 60.0, 140.0, 150.0],
            [10.0, 10.0, 10.5, 10.25],  # smaller than a cell
            [8.0, 8.0, 8.0, 20.0],  # empty
            [1.0, 2.0, 127.0, 126.0],  # of the second level
        ]
    )
    maps = [rng.normal(size=(128 // s, 128 // s)) for s in (4, 8)]
    features = {f"p{i + 2}": torch.tensor(m)[None, None] for i, m in enumerate(maps)}
    pooler = RoIPooler(1, 7, STRIDES[:2], NUMBERS)
    valid = torch.ones(1, len(boxes), dtype=torch.bool)
    found = pooler(features, torch.tensor(boxes)[None], valid)
    for k, box in enumerate(boxes):
        level = int(math.prod(box[2:] - box[:2]) >= 112**2)
        expected = roi_align(maps[level], box, STRIDES[level], 7)
        np.testing.assert_allclose(found[k, 0].numpy(), expected, rtol=0, atol=1e-12)


def test_detections_of_the_box_head():
    """Softmax, scores above 0.05, NMS at 0.5 within a class, the 100 best; a box for each class."""
    head = build(CONFIG).box_head
    rng, size = np.random.default_rng(1), (97, 120)
    logits, deltas = rng.normal(0, 1.5, (200, 4)), rng.normal(0, 1, (200, 3, 4))
    rois = random_boxes(rng, 200, 5, 60)
    logits[0], deltas[0, 2, 0] = [0, 0, 9, 0], -900.0  # far outside: an empty box, still kept
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    every = []
    for label in range(3):  # the last class is background
        own = clip(decode(deltas[:, label], rois, (10, 10, 5, 5)), *size)
        above = np.nonzero(scores[:, label] > 0.05)[0]
        kept = above[nms(own[above], scores[above, label], 0.5)]
        every += [(scores[k, label], label, *own[k]) for k in kept]
    assert len(every) > 100
    every = sorted(every, reverse=True)[:100]

    flat = torch.tensor(deltas).float().flatten(1)[None]
    head.forward = lambda *_: (torch.tensor(logits).float()[None], flat)
    proposals = Proposals(torch.tensor(rois).float()[None], torch.zeros(1, 200))
    found = head.detect({}, proposals, torch.tensor([size]))
    assert found.counts.tolist() == [100]
    assert found.labels[0].tolist() == [label for _, label, *_ in every]
    expected = torch.tensor([row[0] for row in every])
    torch.testing.assert_close(found.scores[0].double(), expected, rtol=1e-6, atol=0)
    expected = torch.tensor([row[2:] for row in every]).float()
    torch.testing.assert_close(found.boxes[0], expected, rtol=0, atol=BOX_ROUNDING)
    assert (found.boxes[0, :, 0] == found.boxes[0, :, 2]).any()


def finish(boxes: np.ndarray, masks: torch.Tensor, size, original):
    """One image of detections with falling scores, through `to_detections`."""
    count = len(boxes)
    batch = DetectionBatch(
        torch.tensor(boxes).float()[None],
        torch.linspace(0.9, 0.1, count)[None],
        torch.arange(count)[None],
        torch.tensor([count]),
        masks[None],
    )
    return to_detections(batch, torch.tensor([size]), [original], NUMBERS)[0]


def test_results_are_scaled_clipped_and_dropped_where_empty():
    boxes = np.array(
        [
            [10.0, 20.0, 30.0, 50.0],
            [40.0, 10.0, 40.0, 30.0],  # no width
            [5.0, 12.0, 50.0, 12.0],  # no height
            [0.0, 0.0, 200.0, 100.0],
        ]
    )
    masks = torch.tensor([1.0, 1.0, 1.0, 0.0])[:, None, None].expand(4, 28, 28)
    found = finish(boxes, masks, (100, 200), (50, 400))  # half as high, twice as wide
    assert found.boxes.tolist() == [[20, 10, 60, 25], [0, 0, 400, 50]]
    assert found.labels.tolist() == [0, 3]
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.1]))
    assert rle_codec.area(found.masks).tolist() == [40 * 15, 0]
    without_masks = finish(boxes, torch.ones(4, 0, 0), (100, 200), (50, 400))
    assert torch.equal(without_masks.boxes, found.boxes)
    assert without_masks.masks == []
    # Where scaling rounds a corner past the border, clipping brings it back.
    size, original = next(
        (size, original)
        for size in range(100, 200)
        for original in range(100, 200)
        if np.float32(size) * (np.float32(original) / np.float32(size)) > original
    )
    whole = np.array([[0.0, 0.0, size, size]])
    at_border = finish(whole, torch.ones(1, 28, 28), (size, size), (original, original))
    assert at_border.boxes.tolist() == [[0, 0, original, original]]


def test_masks_are_sampled_at_pixel_centres():
    """Bilinear, cells outside the mask 0, pixels from 0.5 on."""
    rng, height, width, cells = np.random.default_rng(2), 110, 130, 28
    boxes = clip(random_boxes(rng, 60, 1, 90), height, width).astype(np.float32)
    boxes = boxes[((boxes[:, 2:] - boxes[:, :2]) > 0.5).all(1)]
    coarse = torch.tensor(rng.uniform(0, 1, (len(boxes), 1, 5, 5))).float()
    masks = F.interpolate(coarse, cells, mode="bicubic")[:, 0].clamp(0, 1)
    found = finish(boxes, masks, (height, width), (height, width))
    pasted = rle_codec.decode(found.masks).transpose(2, 0, 1).astype(bool)
    decided_by_rounding = 0
    for box, mask, pixels in zip(boxes.astype(float), masks.double().numpy(), pasted, strict=True):
        framed = np.pad(mask, 1)
        weights = []
        for low, high, size in ((box[1], box[3], height), (box[0], box[2], width)):
            at = (np.arange(size) + 0.5 - low) / (high - low) * cells - 0.5 + 1  # in framed cells
            cell = np.arange(cells + 2)
            weights.append((1 - np.abs(at[:, None] - cell)).clip(min=0))
        value = weights[0] @ framed @ weights[1].T
        # In float32 a pixel less a corner is off by half a unit in the last place of the corner,
        # a coordinate by that over the size of a cell and by three roundings of its own; a mask
        # changes by 1 a cell at most, along both axes.
        unit = 2.0**-24
        cell_side = (box[2:] - box[:2]).min() / cells
        tolerance = 2 * unit * (max(height, width) / cell_side + 3 * (cells + 1)) + 4 * unit
        unsure = np.abs(value - 0.5) <= tolerance
        decided_by_rounding += int(unsure.sum())
        assert np.array_equal((value >= 0.5)[~unsure], pixels[~unsure])
    assert pasted.sum() > 10_000
    assert decided_by_rounding < 10


def test_sizes_of_images():
    """The shorter side becomes 800; the longer at most 1333; both rounded in the end."""
    assert network_size(480, 640, CONFIG) == (800, 1067)
    assert network_size(11, 22, CONFIG) == (666, 1333)  # of 666.5, computed as 666.4999…
    for height in range(1, 1500, 7):
        for width in range(1, 1500, 11):
            scale = 800 / min(height, width)
            new = [scale * height, 800] if width <= height else [800, scale * width]
            if max(new) > 1333:
                shrink = 1333 / max(new)
                new = [side * shrink for side in new]
            expected = max(int(new[0] + 0.5), 1), max(int(new[1] + 0.5), 1)
            assert network_size(height, width, CONFIG) == expected, (height, width)


def test_pixels_are_those_of_bgr_reversed():
    """Pillow's bilinear filter, then BGR less its mean; reversed weights take RGB instead."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((333, 211), Image.Resampling.BICUBIC))
    bgr_mean = np.array([103.53, 116.28, 123.675], np.float32)
    config = dataclasses.replace(
        CONFIG, pixel_mean=(123.675, 116.28, 103.53), pixel_std=(1.0, 1.0, 1.0)
    )
    for size in ((800, 1263), (60, 95)):
        bgr = Image.fromarray(np.ascontiguousarray(image[:, :, ::-1]))
        small = np.asarray(bgr.resize(size[::-1], Image.Resampling.BILINEAR))
        theirs = torch.tensor((small.astype(np.float32) - bgr_mean).transpose(2, 0, 1))
        ours = to_pixels(image, size, config)
        assert torch.equal(ours.flip(0), theirs)
        weight = torch.tensor(rng.normal(size=(8, 3, 7, 7)))
        expected = F.conv2d(theirs[None].double(), weight, stride=2, padding=3)
        found = F.conv2d(ours[None].double(), weight.flip(1), stride=2, padding=3)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
