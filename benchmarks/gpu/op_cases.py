"""Benchmark cases of the operators on a GPU, with the inputs of benchmarks/ops.

Each generator compares the result of its first set of inputs with the CPU kernels or the float64
reference before it yields a case.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from benchmarks import harness
from benchmarks.gpu.timing import Call
from benchmarks.ops import mask_targets as mask_targets_bench
from benchmarks.ops import match_boxes as match_boxes_bench
from benchmarks.ops import nms as nms_bench
from benchmarks.ops import paste_masks as paste_masks_bench
from benchmarks.ops import roi_align as roi_align_bench
from benchmarks.ops import select_proposals as select_proposals_bench
from mrcnn.models.anchors import make_cell_anchors
from mrcnn.numerics import NUMERICS
from mrcnn.ops import (
    mask_targets,
    match_boxes,
    multiscale_roi_align,
    nms,
    paste_masks,
    paste_masks_packed,
    paste_masks_rle,
    segmented_nms,
    select_detections,
    select_proposals,
)
from mrcnn.ops.reference import roi_align as reference_roi_align

if harness.torchvision:
    from torchvision.models.detection.roi_heads import RoIHeads, paste_masks_in_image
    from torchvision.ops import MultiScaleRoIAlign
    from torchvision.ops import nms as peer_nms

SETS, DEVICE = 8, "cuda"
HEIGHT, WIDTH = harness.HEIGHT, harness.WIDTH


@dataclass
class Case:
    """Calls on different sets of inputs, and their peer, goal and floor."""

    name: str
    calls: Sequence[Call]  # replayed in a graph: fixed shapes, no host reads
    error: float | None = None
    floor_bytes: float | None = None
    goal_us: float | None = None
    aim_us: float | None = None
    faces: Sequence[Call] = ()  # public functions for the wall time, if they differ from `calls`
    peer: str | None = None
    peers: Sequence[Call] = field(default=())


def require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def to_gpu(*tensors: Tensor) -> list[Tensor]:
    return [x.to(DEVICE) for x in tensors]


# --- RoIAlign ---------------------------------------------------------------------------------


@dataclass
class RoiInputs:
    """Maps of `images` images, channels_last, and boxes of all of them."""

    maps: list[Tensor]
    boxes: Tensor
    index: Tensor

    def pool(self, bins: int) -> Tensor:
        return multiscale_roi_align(
            self.maps, self.boxes, self.index, scales=roi_align_bench.SCALES, size=(bins, bins),
            sampling_ratio=2, aligned=False,
        )  # fmt: skip


def roi_inputs(images: int, rois: int, dtype: torch.dtype) -> RoiInputs:
    shapes = [(HEIGHT // s, WIDTH // s) for s in roi_align_bench.STRIDES]
    maps = [torch.randn(images, roi_align_bench.CHANNELS, *s, device=DEVICE) for s in shapes]
    maps = roi_align_bench.channels_last([m.to(dtype) for m in maps])
    boxes = torch.cat([harness.make_boxes(rois) for _ in range(images)])
    index = torch.arange(images).repeat_interleave(rois)
    return RoiInputs(maps, *to_gpu(boxes, index))


def roi_peers(sets: list[RoiInputs], bins: int) -> list[Call]:
    """Return calls of torchvision's `MultiScaleRoIAlign`."""
    names = [str(i) for i in range(len(roi_align_bench.STRIDES))]
    dtype = torch.float32 if sets[0].maps[0].dtype == torch.float32 else torch.float16
    images = len(sets[0].maps[0])
    pooler = MultiScaleRoIAlign(names, bins, 2)
    calls = []
    for inputs in sets:
        maps = {n: m.to(dtype).contiguous() for n, m in zip(names, inputs.maps, strict=True)}
        boxes = [inputs.boxes[inputs.index == i].to(dtype) for i in range(images)]
        calls.append(partial(pooler, maps, boxes, [(HEIGHT, WIDTH)] * images))
    return calls


def roi_error(inputs: RoiInputs, bins: int) -> float:
    """Return the largest error of a few boxes against the float64 reference."""
    few = slice(None, None, len(inputs.boxes) // 8)
    boxes, index = inputs.boxes[few].double().cpu(), inputs.index[few].cpu()
    expected = reference_roi_align(
        [m.double().cpu() for m in inputs.maps], boxes, index, scales=roi_align_bench.SCALES,
        size=(bins, bins), sampling_ratio=2, aligned=False,
    )  # fmt: skip
    error = float((inputs.pool(bins)[few].double().cpu() - expected).abs().max())
    largest = max(float(m.abs().max()) for m in inputs.maps)
    # As in benchmarks/ops/roi_align.py: coordinates in float32, or the result rounded to 8 bits.
    share = 2e-4 if inputs.maps[0].dtype == torch.float32 else 2**-8
    require(error <= share * largest, f"RoIAlign is wrong by {error}")
    return error


def roi_bytes(inputs: RoiInputs, bins: int) -> float:
    """Return the bytes of the cells that boxes cover and of the result, each counted once."""
    images, channels = inputs.maps[0].shape[:2]
    boxes = inputs.boxes.cpu()
    per_image = boxes.split(len(boxes) // images)
    touched = sum(roi_align_bench.touched_bytes(b, channels) for b in per_image)  # of float32
    share = inputs.maps[0].element_size() / 4
    return share * (touched + 4 * len(boxes) * channels * bins**2)


def roi_align_cases(quick: bool) -> Iterator[Case]:
    bf16, fp32 = torch.bfloat16, torch.float32
    for images, rois, bins, dtype, goal, aim in (
        (1, 1000, 7, bf16, 43, 25),
        (1, 1000, 7, fp32, 75, None),
        (2, 512, 7, bf16, 55, 35),
        (1, 100, 14, bf16, 18, 12),
    ):
        torch.manual_seed(0)
        sets = [roi_inputs(images, rois, dtype) for _ in range(2 if quick else SETS)]
        name = str(dtype).removeprefix("torch.")
        yield Case(
            f"RoIAlign {images} x {rois} x {bins} x {bins} {name}",
            [partial(inputs.pool, bins) for inputs in sets],
            error=roi_error(sets[0], bins),
            floor_bytes=roi_bytes(sets[0], bins),
            goal_us=goal,
            aim_us=aim,
            peer="torchvision" + (" float16" if dtype == bf16 else ""),
            peers=roi_peers(sets, bins) if harness.torchvision else (),
        )


def gradients(pooled: Tensor, maps: list[Tensor], upstream: Tensor) -> object:
    return torch.autograd.grad(pooled, maps, upstream, retain_graph=True)


def roi_align_backward_cases(quick: bool) -> Iterator[Case]:
    for images, rois, bins, goal, aim in ((2, 512, 7, 110, 70), (1, 100, 14, 50, 30)):
        torch.manual_seed(0)
        sets = [roi_inputs(images, rois, torch.bfloat16) for _ in range(2 if quick else SETS)]
        upstream = torch.randn_like(sets[0].pool(bins))
        options = (roi_align_bench.SCALES, 2, False, 224.0, 2)

        def op(inputs: RoiInputs, upstream: Tensor = upstream, options: tuple = options) -> object:
            # Not through autograd, whose nodes belong to the stream of their forward.
            return torch.ops.mrcnn.roi_align_backward(
                upstream, inputs.maps, inputs.boxes, inputs.index, *options
            )

        first = sets[0]
        exact = torch.ops.mrcnn.roi_align_backward(
            upstream.float().cpu(), [m.float().cpu() for m in first.maps], first.boxes.cpu(),
            first.index.cpu(), *options,
        )  # fmt: skip
        grads = [g.float().cpu() for g in op(first)]
        error = max(float((a - b).abs().max()) for a, b in zip(grads, exact, strict=True))
        largest = max(float(g.abs().max()) for g in exact)
        # Sums are float32 on both sides; the result is rounded to 8 bits.
        require(error <= 2**-8 * largest, f"the gradient of RoIAlign is wrong by {error}")

        faces, peers = [], []
        half = upstream.half().contiguous()
        for inputs in sets:
            maps = [m.detach().requires_grad_() for m in inputs.maps]
            pooled = RoiInputs(maps, inputs.boxes, inputs.index).pool(bins)
            faces.append(partial(gradients, pooled, maps, upstream))
        for pool in roi_peers(sets, bins) if harness.torchvision else ():
            maps = {n: m.requires_grad_() for n, m in pool.args[0].items()}
            pooled = pool.func(maps, *pool.args[1:])
            peers.append(partial(gradients, pooled, list(maps.values()), half))
        moved = sum(m.nbytes for m in sets[0].maps) + upstream.nbytes
        yield Case(
            f"RoIAlign backward {images} x {rois} x {bins} x {bins} bfloat16",
            [partial(op, inputs) for inputs in sets],
            error=error,
            floor_bytes=moved,
            goal_us=goal,
            aim_us=aim,
            faces=faces,
            peer="torchvision float16",
            peers=peers,
        )


# --- Boxes ------------------------------------------------------------------------------------


def nms_cases(quick: bool) -> Iterator[Case]:
    goals = {1_000: (25, 15), 4_000: (60, 40), 12_000: (200, 120), 100_000: (3000, 1200)}
    threshold = nms_bench.THRESHOLD
    for count, (goal, aim) in list(goals.items())[: 2 if quick else None]:
        for clustered in (True, False):
            inputs = [nms_bench.make_boxes(count, clustered, seed) for seed in range(SETS)]
            expected = nms(*inputs[0], threshold)
            sets = [to_gpu(*tensors) for tensors in inputs]
            indices = nms(*sets[0], threshold).cpu()
            require(torch.equal(indices, expected), "NMS keeps different boxes than on the CPU")
            one_group = torch.empty(1, 0, dtype=torch.int64, device=DEVICE)
            kind = "clustered" if clustered else "sparse"
            yield Case(
                f"NMS {count} {kind} boxes, {len(expected)} kept",
                [
                    partial(segmented_nms, b[None], s[None], one_group, threshold, count)
                    for b, s in sets
                ],
                error=0.0,
                goal_us=goal,
                aim_us=aim,
                faces=[partial(nms, b, s, threshold) for b, s in sets],
                peer="torchvision",
                peers=[partial(peer_nms, b, s, threshold) for b, s in sets]
                if harness.torchvision
                else (),
            )


def select_proposals_cases(quick: bool) -> Iterator[Case]:
    anchors = make_cell_anchors(
        select_proposals_bench.SIZES,
        select_proposals_bench.RATIOS,
        select_proposals_bench.STRIDES,
        NUMERICS["torchvision"],
    )
    image = (select_proposals_bench.HEIGHT, select_proposals_bench.WIDTH)
    levels = len(select_proposals_bench.STRIDES)

    def select(logits, deltas, anchors, sizes):
        return select_proposals(
            logits, deltas, anchors, [(s, s) for s in select_proposals_bench.STRIDES], sizes,
            pre_nms_top_k=1000, post_nms_top_k=1000, nms_threshold=0.7, min_side=1e-3,
        )  # fmt: skip

    for images, goal, aim in ((1, 80, 50), (8, 150, 90)):
        calls, peers, error, note = [], [], None, ""
        for number in range(2 if quick else SETS):
            torch.manual_seed(number)
            maps = select_proposals_bench.make_maps(images)
            sizes = torch.tensor([image]).repeat(images, 1)
            last = [[m.contiguous(memory_format=torch.channels_last) for m in ms] for ms in maps]
            on_gpu = [to_gpu(*ms) for ms in last]
            calls.append(partial(select, *on_gpu, *to_gpu(anchors, sizes)))
            if number == 0:
                boxes, scores = select(*last, anchors, sizes)
                expected = [b[s > -torch.inf] for b, s in zip(boxes, scores, strict=True)]
                result = tuple(x.cpu() for x in calls[0]())
                error, same, total = select_proposals_bench.compare(result, expected)
                # exp rounds differently on a GPU, which decides about overlaps at the threshold.
                require(same >= 0.995 * total, f"only {same} of {total} proposals match the CPU")
                note = f", {same} of {total} match the CPU"
            if harness.torchvision:
                peers.append(proposal_peer(maps, images, image))
        moved = sum(m.nbytes for m in maps[0]) + images * levels * 1000 * 16
        yield Case(
            f"select_proposals, batch {images}{note}", calls, error=error, floor_bytes=moved,
            goal_us=goal, aim_us=aim, peer="torchvision", peers=peers,
        )  # fmt: skip


def proposal_peer(maps, images: int, image: tuple[int, int]) -> Call:
    from torchvision.models.detection.image_list import ImageList

    rpn = select_proposals_bench.make_peer(images)
    rpn.head.maps = tuple(to_gpu(*ms) for ms in maps)
    image_list = ImageList(torch.empty(images, 3, *image, device=DEVICE), [image] * images)
    features = {str(i): m for i, m in enumerate(rpn.head.maps[0])}

    def run() -> object:
        with torch.no_grad():
            return rpn(image_list, features)[0]

    return run


def select_detections_cases(quick: bool) -> Iterator[Case]:
    rois, classes = 1000, 90
    options = {"score_threshold": 0.05, "nms_threshold": 0.5, "min_side": 1e-2}

    def select(logits, deltas, boxes, valid, sizes):
        return select_detections(
            logits.softmax(-1)[..., :-1], deltas, boxes, valid, sizes,
            delta_weights=(10.0, 10.0, 5.0, 5.0), max_detections=100, **options,
        )  # fmt: skip

    for images, goal, aim in ((1, None, None), (8, 80, 50)):
        calls, peers, note = [], [], ""
        for number in range(SETS):
            torch.manual_seed(number)
            logits = 2 * torch.randn(images, rois, classes + 1)
            deltas = 0.5 * torch.randn(images, rois, 4 * classes)
            boxes = torch.stack([harness.make_boxes(rois) for _ in range(images)]).clamp(min=0)
            boxes = boxes.minimum(torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT]))
            valid = torch.ones(images, rois, dtype=torch.bool)
            sizes = torch.tensor([[HEIGHT, WIDTH]]).repeat(images, 1)
            inputs = logits, deltas, boxes, valid, sizes
            on_gpu = to_gpu(*inputs)
            calls.append(partial(select, *on_gpu))
            if number == 0:
                result, expected = [x.cpu() for x in calls[0]()], select(*inputs)
                kept = [b[:n] for b, n in zip(expected[0], expected[4], strict=True)]
                scores = torch.where(result[2] >= 0, result[1], -torch.inf)
                _, same, total = select_proposals_bench.compare((result[0], scores), kept)
                require(same >= 0.99 * total, f"only {same} of {total} detections match the CPU")
                note = f", {same} of {total} match the CPU"
            if harness.torchvision:
                peers.append(detection_peer(on_gpu, images))
        yield Case(
            f"select_detections, batch {images}{note}", calls, goal_us=goal, aim_us=aim,
            peer="torchvision", peers=peers,
        )  # fmt: skip


def detection_peer(inputs: list[Tensor], images: int) -> Call:
    from torchvision.models.detection._utils import BoxCoder

    heads = SimpleNamespace(
        box_coder=BoxCoder((10.0, 10.0, 5.0, 5.0)), score_thresh=0.05, nms_thresh=0.5,
        detections_per_img=100,
    )  # fmt: skip
    logits, deltas, boxes = inputs[:3]
    # torchvision's background is class 0.
    logits = logits.roll(1, -1).flatten(0, 1)
    deltas = torch.cat([torch.zeros_like(deltas[..., :4]), deltas], dim=-1).flatten(0, 1)
    sizes = [(HEIGHT, WIDTH)] * images
    return partial(RoIHeads.postprocess_detections, heads, logits, deltas, list(boxes), sizes)


def match_boxes_cases(quick: bool) -> Iterator[Case]:
    torch.manual_seed(0)
    anchors, count = match_boxes_bench.make_anchors(), 100
    for name, options in (
        ("anchors", match_boxes_bench.RPN),
        ("proposals", match_boxes_bench.HEAD),
    ):
        calls, peers = [], []
        for number in range(SETS):
            targets = match_boxes_bench.make_targets(count)
            boxes = anchors if name == "anchors" else match_boxes_bench.make_proposals(targets)
            on_gpu = to_gpu(boxes, targets)
            valid = torch.ones(1, count, dtype=torch.bool, device=DEVICE)
            calls.append(partial(match_boxes, *(x[None] for x in on_gpu), valid, **options))
            if match_boxes_bench.Matcher is not None:
                peers.append(partial(match_boxes_bench.peer, *on_gpu, options))
            if number == 0:
                expected, result = match_boxes_bench.run_mrcnn(boxes, targets, options), calls[0]()
                for a, b in zip(result, expected, strict=True):
                    require(torch.equal(a[0].cpu(), b), "matches differ from those on the CPU")
        yield Case(
            f"match_boxes {len(boxes)} {name} x {count}",
            calls,
            error=0.0,
            floor_bytes=len(boxes) * (16 + 8 + 1),
            peer="torchvision",
            peers=peers,
        )


# --- Masks ------------------------------------------------------------------------------------


def paste_masks_cases(quick: bool) -> Iterator[Case]:
    few = slice(10)
    for height, width in ((800, 1344),) if quick else ((800, 1344), (4000, 6000)):
        torch.manual_seed(0)
        inputs = [paste_masks_bench.make_inputs(100, height, width) for _ in range(SETS)]
        sets = [to_gpu(*tensors) for tensors in inputs]
        raw_rle = torch.ops.mrcnn.paste_masks_rle
        large = height > 800
        packed, dense = 100 * height * ((width + 7) // 8), 100 * height * width
        for name, face, call, size, goal, aim in (
            ("RLE", paste_masks_rle, raw_rle, None, *((150, 60) if large else (60, 25))),
            ("packed bits", paste_masks_packed, None, packed, *((140, 100) if large else (12, 6))),
            ("bool", paste_masks, None, dense, None, None),
        ):
            expected = face(inputs[0][0][few], inputs[0][1][few], height, width)
            result = face(sets[0][0][few], sets[0][1][few], height, width)
            if isinstance(result, Tensor):
                require(torch.equal(result.cpu(), expected), f"{name} differs from the CPU")
            else:
                require(result == expected, f"{name} differs from the CPU")
            calls = [
                partial(call or face, masks, boxes, height, width, paste_masks_bench.THRESHOLD)
                for masks, boxes in sets
            ]
            peers: list[Call] = []
            if harness.torchvision and name == "bool" and not large:  # floats of 4000 x 6000: 19 GB
                peers = [partial(paste_peer, *tensors, height, width) for tensors in sets]
            yield Case(
                f"paste_masks 100 in {height} x {width} as {name}", calls, error=0.0,
                floor_bytes=size, goal_us=goal, aim_us=aim,
                faces=[partial(face, *tensors, height, width) for tensors in sets],
                peer="torchvision", peers=peers,
            )  # fmt: skip


def paste_peer(masks: Tensor, boxes: Tensor, height: int, width: int) -> object:
    return paste_masks_in_image(masks[:, None], boxes, (height, width)) >= 0.5


def mask_targets_cases(quick: bool) -> Iterator[Case]:
    rois, size = 8 * 128, mask_targets_bench.SIZE
    calls = []
    for number in range(2 if quick else SETS):
        polygons, boxes = mask_targets_bench.make_polygons(rois, np.random.default_rng(number))
        masks = mask_targets_bench.instance_masks(polygons, [])
        index = torch.arange(rois)
        calls.append(partial(mask_targets, masks.to(DEVICE), *to_gpu(boxes, index), size))
        if number == 0:
            expected = mask_targets(masks, boxes, index, size)
            require(torch.equal(calls[0]().cpu(), expected), "targets differ from those on the CPU")
    yield Case(
        f"mask_targets, 8 x 128 RoIs, {size} x {size}", calls, error=0.0,
        floor_bytes=rois * size * size * 4 + sum(t.nbytes for t in masks.tensors().values()),
        goal_us=40, aim_us=20,
    )  # fmt: skip
