"""Random calls of every op with what callers do to them, by seed.

Boxes are reversed, empty, denormal, NaN, infinite or 1e30; sizes and counts are zero; tensors are
channels_last, permuted, expanded, sliced and misaligned, of every dtype; some arguments are wrong.
op_checks.py and op_checks_masks.py check the answers; op_checker.py lists the ops.
"""

from __future__ import annotations

import dataclasses
import math
import random
from typing import Any

import torch
from torch import Tensor

from mrcnn.ops.instance_masks import InstanceMasks

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
BROKEN = (math.nan, math.inf, -math.inf, 1e30, -1e30, 3e38, 1e-40, -1e-40, 1e5, -0.0)
CHANNELS = (1, 3, 7, 63, 65, 130)

Arguments = dict[str, Any]
Drawn = tuple[Arguments, str | None]  # what the message must name, where the arguments are wrong


class Draw:
    """A source of random choices and tensors; `large` sizes keep several threads at work."""

    def __init__(self, seed: int, large: bool = False) -> None:
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.large = large

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def pick(self, *options: Any) -> Any:
        return self.random.choice(options)

    def count(self, most: int, large: int | None = None) -> int:
        """0 to `most`; `large`, where large sizes are wanted."""
        if self.large and large is not None:
            return large
        return self.pick(0, 1, *[self.random.randint(1, most) for _ in range(8)])

    def dtype(self) -> torch.dtype:
        return self.pick(torch.float32, *DTYPES)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator, dtype=torch.float64)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def spoil(self, values: Tensor, probability: float, broken: tuple[float, ...] = BROKEN) -> None:
        """Break some of the values, in place."""
        hit = self.uniform(*values.shape) < probability
        choice = torch.randint(len(broken), values.shape, generator=self.generator)
        values[hit] = torch.tensor(broken, dtype=torch.float64)[choice[hit]]

    def boxes(self, *shape: int, extent: float) -> Tensor:
        """(*shape, 4) float64 xyxy around (0, 0, extent, extent)."""
        centre = (self.uniform(*shape, 2) * 1.4 - 0.2) * extent
        half = extent * torch.exp(-7 * self.uniform(*shape, 2)) / 2
        boxes = torch.cat([centre - half, centre + half], dim=-1)
        if self.chance(0.3):
            boxes = boxes.round()
        rate = self.pick(0, 0, 0.05, 0.3)
        if rate:
            reversed_ = self.uniform(*shape) < rate
            boxes[reversed_] = boxes[reversed_][:, [2, 1, 0, 3]]
            empty = self.uniform(*shape) < rate
            boxes[empty, 2] = boxes[empty, 0]
            self.spoil(boxes, rate / 2)
        if self.chance(0.2):  # ties
            same = torch.randint(max(shape[-1], 1), shape[-1:], generator=self.generator)
            boxes = boxes[..., same, :]
        return boxes

    def laid_out(self, values: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The same values in a random layout; now and then with equal rows, expanded from one."""
        values = values.to(dtype or values.dtype)
        layout = self.pick("plain", "plain", "last", "permuted", "expanded", "sliced", "shifted")
        if layout == "last" and values.dim() == 4:
            return values.contiguous(memory_format=torch.channels_last)
        if layout == "permuted":
            order = self.random.sample(range(values.dim()), values.dim())
            back = torch.tensor(order).argsort().tolist()
            return values.permute(order).contiguous().permute(back)
        if layout == "expanded" and len(values) and values.dtype.is_floating_point:
            return values[:1].expand(values.shape)
        if layout == "sliced" and values.dim():
            wide = torch.zeros(*(2 * n + 1 for n in values.shape), dtype=values.dtype)
            view = wide[tuple(slice(1, None, 2) for _ in values.shape)]
            return view.copy_(values)
        if layout == "shifted":  # no longer aligned to what an instruction loads
            flat = torch.zeros(values.numel() + 7, dtype=values.dtype)
            start = self.random.randint(1, 7)
            strides = torch.empty(values.shape, device="meta").stride()
            return flat.as_strided(values.shape, strides, start).copy_(values)
        return values


def draw_map(draw: Draw, images: int, channels: int, cells: int, dtype: torch.dtype) -> Tensor:
    """(images, channels, up to `cells`, up to `cells`)."""
    height, width = (draw.count(cells, cells) for _ in range(2))
    values = draw.normal(images, channels, height, width)
    if draw.chance(0.15):
        draw.spoil(values, 0.02)
    elif draw.chance(0.1):
        values *= draw.pick(1e4, 1e-5, 1e-30, 1e30)
    largest = torch.finfo(dtype).max
    values = torch.where(values.isfinite(), values.clamp(-largest, largest), values)
    return draw.laid_out(values, dtype).requires_grad_(draw.chance(0.6))


def draw_pyramid(draw: Draw) -> Drawn:
    """Arguments of `multiscale_roi_align`."""
    levels, dtype = draw.pick(1, 1, 2, 4), draw.dtype()
    images, channels = draw.count(3, 2), draw.pick(*CHANNELS, draw.pick(0, 64))
    rois = draw.count(12, 700)
    size = draw.pick(1, 2, 7), draw.pick(1, 3, 7)
    if draw.large:
        channels, size = draw.pick(64, 128, 130), (7, 7)  # outputs larger than a cache
    cells = 12 if channels > 60 else 20
    features = [
        draw_map(draw, images, channels, max(1, cells >> level), dtype) for level in range(levels)
    ]
    scale = draw.pick(1.0, 0.5, 0.25, 0.25, 1 / 16, 0.3, 1e-30, 1e30)
    scales = [scale / 2**level for level in range(levels)]
    extent = min(max(cells / scale, 1e-3), 1e4)
    boxes = draw.boxes(rois, extent=extent)
    image_index = torch.randint(-1, max(images, 1), (rois,), generator=draw.generator)
    wrong = None
    if images == 0:
        image_index.fill_(-1)
    if rois and draw.chance(0.05):
        image_index[draw.random.randrange(rois)] = draw.pick(images, -2, 10**6, -(2**63), 2**63 - 1)
        wrong = "image_index"
    sampling_ratio = draw.pick(0, 0, -1, 1, 2, 2, 3, 17, 1024 if rois < 4 else 2)
    canonical_level = draw.pick(0, 1, 2, 3, -3, 40)
    if wrong is None and draw.chance(0.02):
        sampling_ratio, wrong = draw.pick(1025, 2**62), "sampling_ratio"
    elif wrong is None and draw.chance(0.02):
        canonical_level, wrong = draw.pick(65, 2**62, -(2**63)), "canonical_level"
    box_dtype = torch.float64 if dtype == torch.float64 else draw.pick(torch.float32, torch.float64)
    return {
        "features": features,
        "boxes": draw.laid_out(boxes, box_dtype),
        "image_index": draw.laid_out(image_index),
        "scales": scales,
        "size": size,
        "sampling_ratio": sampling_ratio,
        "aligned": draw.chance(0.5),
        "canonical_size": extent * draw.pick(0.01, 0.1, 0.3, 1.0, 1e10, 1e-10),
        "canonical_level": canonical_level,
    }, wrong


def draw_map_and_boxes(draw: Draw) -> Drawn:
    """Arguments of `roi_align`."""
    given, wrong = draw_pyramid(draw)
    wrong = "sampling_ratio" if wrong == "sampling_ratio" else None
    feature = given["features"][0]
    images, rois = feature.shape[0], len(given["boxes"])
    corners = given["boxes"]
    index = given["image_index"].clamp(0, max(images - 1, 0))
    if images == 0:
        corners, index, rois = corners[:0], index[:0], 0
    if rois and wrong is None and draw.chance(0.05):
        index = index.clone()
        index[0] = draw.pick(images, -1, 10**6)
        wrong = "image index"
    boxes: Any = torch.cat([index[:, None].to(corners.dtype), corners], dim=1)
    if wrong in (None, "sampling_ratio") and draw.chance(0.3):
        boxes = [draw.laid_out(corners[index == image]) for image in range(images)]
    return {
        "input": feature,
        "boxes": boxes,
        "output_size": given["size"] if draw.large else draw.pick(given["size"], 2),
        "spatial_scale": given["scales"][0],
        "sampling_ratio": given["sampling_ratio"],
        "aligned": given["aligned"],
    }, wrong


def draw_map_boxes_and_bins(draw: Draw) -> Drawn:
    """Arguments of `roi_pool`."""
    given, wrong = draw_map_and_boxes(draw)
    del given["sampling_ratio"], given["aligned"]
    if draw.large:  # the gradient of the reference takes a step for each bin
        boxes = given["boxes"]
        given["boxes"] = boxes[:24] if isinstance(boxes, Tensor) else [b[:12] for b in boxes]
    return given, None if wrong == "sampling_ratio" else wrong


def draw_scores(draw: Draw, *shape: int) -> Tensor:
    """Few distinct values, so that ties are common, or many; exact in float32."""
    scores = draw.uniform(*shape)
    if draw.chance(0.4):
        scores = (scores * 4).round() / 4
    draw.spoil(scores, draw.pick(0, 0, 0.1), (math.nan, math.inf, -math.inf, -0.0, -1e30, 1e-40))
    return scores.float().double()


def draw_threshold(draw: Draw) -> float:
    return draw.pick(0.0, 0.1, 0.3, 0.5, 0.5, 0.7, 0.95, 1.0, 1 / 3)


def draw_crowd(draw: Draw, *shape: int) -> Tensor:
    """Boxes that overlap, or hardly; some so small that their areas are denormal."""
    extent = 400.0 if draw.large else draw.pick(16.0, 16.0, 16.0, 400.0, 4e-22)
    return draw.boxes(*shape, extent=extent)


def draw_segments(draw: Draw) -> Drawn:
    """Arguments of `segmented_nms`."""
    segments, count, dtype = draw.count(3, 3), draw.count(30, 1500), draw.dtype()
    groups = torch.randint(3, (segments, count), generator=draw.generator)
    max_keep = draw.pick(0, 1, count, count + 3, -1 if draw.chance(0.1) else 5)
    return {
        "boxes": draw.laid_out(draw_crowd(draw, segments, count), dtype),
        "scores": draw.laid_out(draw_scores(draw, segments, count), draw.pick(dtype, draw.dtype())),
        "groups": draw.laid_out(groups if draw.chance(0.7) else groups[:, :0]),
        "iou_threshold": draw.pick(draw_threshold(draw), -0.5, 1.5, math.nan),
        "max_keep": max_keep,
    }, "max_keep" if max_keep < 0 else None


def draw_groups(draw: Draw) -> Drawn:
    """Arguments of `batched_nms`."""
    count, dtype = draw.count(30, 2000), draw.dtype()
    return {
        "boxes": draw.laid_out(draw_crowd(draw, count), dtype),
        "scores": draw.laid_out(draw_scores(draw, count), dtype),
        "idxs": draw.laid_out(torch.randint(-1, 2, (count,), generator=draw.generator) * 2**40),
        "iou_threshold": draw_threshold(draw),
    }, None


def draw_candidates(draw: Draw) -> Drawn:
    """Arguments of `nms`."""
    given, wrong = draw_groups(draw)
    del given["idxs"]
    return given, wrong


def draw_deltas(draw: Draw, *shape: int) -> Tensor:
    deltas = draw.normal(*shape) * draw.pick(0.0, 0.3, 0.3, 2.0)
    draw.spoil(deltas, draw.pick(0, 0, 0.02))
    return deltas


def draw_sizes(draw: Draw, images: int) -> Tensor:
    """(images, 2) int64 heights and widths."""
    sizes = torch.randint(1, 64, (images, 2), generator=draw.generator)
    return sizes * draw.pick(0, 1, 1, 1, 1, 1)


def draw_head_maps(draw: Draw) -> Drawn:
    """Arguments of `select_proposals`."""
    images, levels, anchors = draw.count(2, 4), draw.pick(1, 2, 3), draw.pick(1, 1, 2, 3)
    strides = [
        (draw.pick(4, 8, 16) << level, draw.pick(4, 8, 16) << level) for level in range(levels)
    ]
    logits, deltas, dtype = [], [], draw.dtype()
    for _ in range(levels):
        height, width = (draw.count(5, 12) for _ in range(2))
        logits.append(draw.laid_out(draw_scores(draw, images, anchors, height, width), dtype))
        deltas.append(draw.laid_out(draw_deltas(draw, images, 4 * anchors, height, width), dtype))
    half = (draw.uniform(levels, anchors, 2) * 20).float().double()
    top_k = draw.pick(0, 1, 7, 30, 1000, -1 if draw.chance(0.1) else 30)
    return {
        "logits": logits,
        "deltas": deltas,
        "cell_anchors": draw.laid_out(torch.cat([-half, half], dim=-1), torch.float32),
        "strides": strides,
        "sizes": draw.laid_out(draw_sizes(draw, images)),
        "pre_nms_top_k": top_k,
        "post_nms_top_k": draw.pick(0, 1, 10, 50),
        "nms_threshold": draw_threshold(draw),
        "min_side": draw.pick(0.0, 0.0, -1.0, 3.0, math.inf),
    }, "pre_nms_top_k" if top_k < 0 else None


def draw_head_rows(draw: Draw) -> Drawn:
    """Arguments of `select_detections`."""
    images, rois, classes = draw.count(2, 4), draw.count(12, 60), draw.count(4, 5)
    dtype, columns = draw.dtype(), 4 if draw.chance(0.3) else 4 * classes
    return {
        "scores": draw.laid_out(draw_scores(draw, images, rois, classes), dtype),
        "deltas": draw.laid_out(draw_deltas(draw, images, rois, columns), dtype),
        "boxes": draw.laid_out(draw.boxes(images, rois, extent=48.0), torch.float32),
        "valid": draw.laid_out(draw.uniform(images, rois) < 0.8),
        "sizes": draw.laid_out(draw_sizes(draw, images)),
        "delta_weights": draw.pick((10.0, 10.0, 5.0, 5.0), (1.0, 1.0, 1.0, 1.0)),
        "score_threshold": draw.pick(0.05, 0.25, 0.5, -math.inf, math.nan),
        "nms_threshold": draw_threshold(draw),
        "min_side": draw.pick(0.0, 0.0, -1.0, 3.0),
        "max_detections": draw.pick(0, 1, 10, 100),
    }, None


def draw_targets(draw: Draw) -> Drawn:
    """Arguments of `match_boxes`."""
    images, count, targets = draw.count(3, 3), draw.count(30, 3000), draw.count(8, 8)
    shared = draw.chance(0.4)
    boxes = draw_crowd(draw, max(images, 1), count + targets)
    return {
        "boxes": draw.laid_out(boxes[: 1 if shared else images, :count], draw.dtype()),
        "targets": draw.laid_out(boxes[:images, count:], draw.dtype()),
        "valid": draw.laid_out(draw.uniform(images, targets) < 0.8),
        "low_threshold": draw.pick(0.1, 0.3, 0.5, math.nan),
        "high_threshold": draw.pick(0.3, 0.5, 0.7),
        "low_quality": draw.chance(0.5),
    }, None


def draw_rings(draw: Draw) -> list[Tensor]:
    """Up to three rings of (V, 2) float64 corners."""
    rings = []
    for _ in range(draw.count(3)):
        corners = draw.uniform(draw.count(12), 2) * draw.pick(40.0, 400.0)
        if draw.chance(0.3):
            corners = (corners * 5).round() / 5
        draw.spoil(corners, draw.pick(0, 0, 0, 0.1))
        rings.append(corners)
    return rings


def draw_runs(draw: Draw, pixels: int) -> list[int]:
    """Run lengths that fill `pixels`, some empty."""
    cuts = sorted(draw.random.randint(0, pixels) for _ in range(draw.count(20)))
    return [b - a for a, b in zip([0, *cuts], [*cuts, pixels], strict=True)]


def draw_instances(draw: Draw) -> Drawn:
    """Arguments of `mask_targets`."""
    instances, rois = draw.count(4, 6), draw.count(8, 40)
    frame = torch.randint(1, 40, (instances, 2), generator=draw.generator)
    rings = [[] if draw.chance(0.5) else draw_rings(draw) for _ in range(instances)]
    runs = [
        [] if rings[i] or draw.chance(0.1) else draw_runs(draw, int(frame[i].prod()))
        for i in range(instances)
    ]
    offsets = {
        "ring_start": [len(ring) for part in rings for ring in part],
        "instance_ring": [len(part) for part in rings],
        "instance_count": [len(part) for part in runs],
    }
    offsets = {name: torch.tensor([0, *lengths]).cumsum(0) for name, lengths in offsets.items()}
    scale = torch.where(draw.uniform(instances, 2) < 0.3, -1.0, 1.0) * draw.pick(1.0, 0.5, 3.3)
    transform = torch.cat([scale.double(), draw.normal(instances, 2) * 5], dim=1)
    draw.spoil(transform, draw.pick(0, 0, 0.05), (*BROKEN, 0.0))
    index = torch.randint(-1, max(instances, 1), (rois,), generator=draw.generator)
    if not instances:
        index.fill_(-1)
    wrong, attack = None, draw.random.random()
    if attack < 0.04 and rois:
        index[0], wrong = draw.pick(instances, -2, 10**6), "instance"
    elif attack < 0.08:
        wrong = draw.pick(*offsets)
        offsets[wrong][-1] += draw.pick(1, 10**6, 2**62)
    elif attack < 0.1:
        wrong = draw.pick(*offsets)
        offsets[wrong][0] = draw.pick(-1, 2**62, -(2**63))
    elif attack < 0.16 and any(runs):
        part, wrong = draw.pick(*filter(None, runs)), "counts"
        part[draw.random.randrange(len(part))] = draw.pick(-5, 2**31 - 1, -(2**31))
    elif attack < 0.2 and any(runs):
        broken = next(i for i, part in enumerate(runs) if part)
        frame[broken], wrong = torch.tensor(draw.pick([2**62, 2**62], [-1, 5], [0, 0])), "frame"
    size = draw.pick(1, 7, 28, 64, 65, 128) if wrong or draw.chance(0.95) else draw.pick(0, 129, -1)
    if not 1 <= size <= 128:
        wrong = "size"
    points = [ring for part in rings for ring in part]
    masks = InstanceMasks(
        points=draw.laid_out(torch.cat([torch.zeros(0, 2, dtype=torch.float64), *points])),
        counts=draw.laid_out(torch.tensor([n for part in runs for n in part], dtype=torch.int32)),
        frame=draw.laid_out(frame),
        transform=draw.laid_out(transform),
        **{name: draw.laid_out(tensor) for name, tensor in offsets.items()},
    )
    return {
        "masks": masks,
        "boxes": draw.laid_out(draw.boxes(rois, extent=48.0), torch.float32),
        "instance": draw.laid_out(index),
        "size": size,
    }, wrong


def draw_pasted(draw: Draw) -> Drawn:
    """Arguments of `paste_masks`."""
    count, cells = draw.count(8, 20), draw.pick(0, 1, 2, 5, 14, 28)
    masks = draw.uniform(count, cells, cells)
    if draw.chance(0.3):
        masks = (masks * 4).round() / 4
    draw.spoil(masks, draw.pick(0, 0, 0, 0.05))
    masks = torch.where(masks.abs() < 1e30, masks.clamp(-6e4, 6e4), masks)
    height, width = (draw.random.randint(1, draw.pick(20, 60, 300)) for _ in range(2))
    if draw.large:
        height, width = 400, 650
    extent = float(max(height, width))
    threshold, wrong = draw.pick(0.5, 0.5, 0.25, 0.7, math.inf), None
    attack = draw.random.random()
    if attack < 0.03:
        height, wrong = draw.pick(0, -1, 2**31, 2**62), "height"
    elif attack < 0.06:
        threshold, wrong = draw.pick(0.0, -1.0, math.nan), "threshold"
    return {
        "masks": draw.laid_out(masks, draw.dtype()),
        "boxes": draw.laid_out(draw.boxes(count, extent=extent), torch.float32),
        "height": height,
        "width": width,
        "threshold": threshold,
    }, wrong


def break_one(draw: Draw, arguments: Arguments) -> Drawn:
    """The arguments with one tensor of a wrong shape, dtype or device; and the name of that one."""
    change = draw.pick(
        lambda x: x[None],
        lambda x: x.to(torch.int16),
        lambda x: x.to(torch.complex64),
        lambda x: x.to("meta"),
    )
    name = draw.pick(*(name for name, value in arguments.items() if is_breakable(value)))
    value = arguments[name]
    if name == "idxs":  # of any number, as in torchvision
        return arguments | {name: value[None]}, name
    if isinstance(value, InstanceMasks):
        field = draw.pick(*value.tensors())
        broken = dataclasses.replace(value, **{field: change(getattr(value, field))})
        return arguments | {name: broken}, f"masks.{field}"
    if isinstance(value, list):
        at = draw.random.randrange(len(value))
        one = [change(x) if i == at or name == "boxes" else x for i, x in enumerate(value)]
        return arguments | {name: one}, name
    return arguments | {name: change(value)}, name


def is_breakable(value: Any) -> bool:
    """Tensors and what holds them."""
    of_tensors = isinstance(value, list) and len(value) > 0 and isinstance(value[0], Tensor)
    return of_tensors or isinstance(value, (Tensor, InstanceMasks))
