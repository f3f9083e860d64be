"""What the answer to any call of an op must be: that of the reference, or an error that says why.

Tolerances follow from the number of roundings. Where the answer hangs on a rounding, as at the
border of a map or where an IoU meets the threshold, a call is undecided there, and its answer has
to be sane only; the tests see to it that this is rare.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from op_calls import (
    Arguments,
    Draw,
    Drawn,
    break_one,
    draw_candidates,
    draw_groups,
    draw_head_maps,
    draw_head_rows,
    draw_instances,
    draw_map_and_boxes,
    draw_map_boxes_and_bins,
    draw_pasted,
    draw_pyramid,
    draw_segments,
    draw_targets,
)
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves

from mrcnn import ops
from mrcnn.ops import reference, reference_masks
from mrcnn.ops.mask_targets import InstanceMasks

EPS32 = torch.finfo(torch.float32).eps
# Arguments that are handed on to a more general op, or whose shape says what others must have.
ALSO_NAMED = {
    "input": ("features[0]",),
    "idxs": ("groups",),
    "masks.frame": ("masks.", "frame"),
    **{f"masks.{name}": (name,) for name in InstanceMasks.__dataclass_fields__ if name != "frame"},
}
HUGE = 1e30  # products of larger numbers may leave float32


@dataclasses.dataclass
class Op:
    face: Callable[..., Any]
    draw: Callable[[Draw], Drawn]
    check: Callable[[Arguments, Any], float]  # asserts; returns which share was decided


@dataclasses.dataclass
class Call:
    """Arguments of an op; `wrong` is what the error must name, where one must come."""

    op: str
    seed: int
    arguments: Arguments
    wrong: str | None

    def answer(self) -> Any:
        return OPS[self.op].face(**self.arguments)

    def answer_and_gradients(self) -> list[Any]:
        """The parts of the answer and, where features ask for it, their gradients."""
        answer = tree_leaves(self.answer())
        given = [x for x in tree_leaves(self.arguments) if isinstance(x, Tensor)]
        if leaves := [x for x in given if x.requires_grad]:
            upstream = torch.randn(answer[0].shape, generator=torch.Generator().manual_seed(0))
            answer += torch.autograd.grad(answer[0], leaves, upstream.to(answer[0].dtype))
        return answer


def draw_call(op: str, seed: int, *, large: bool = False, sound: bool = False) -> Call:
    """The call of this seed; `sound` ones have no wrong argument."""
    draw = Draw(seed, large)
    arguments, wrong = OPS[op].draw(draw)
    while sound and wrong:
        arguments, wrong = OPS[op].draw(draw)
    if not sound and wrong is None and draw.chance(0.06):
        arguments, wrong = break_one(draw, arguments)
    return Call(op, seed, arguments, wrong)


def judge(call: Call) -> float | None:
    """Assert that a call does what it must.

    Returns:
        The share of the answer that was compared with the reference, or None of a refused call.
    """
    where = f"{call.op}, seed {call.seed}"
    refusal = None
    try:
        answer = call.answer()
    except (ValueError, TypeError, RuntimeError) as error:
        refusal = str(error)
    if refusal is not None:
        assert call.wrong is not None, f"{where}: {refusal}"
        names = (call.wrong, *ALSO_NAMED.get(call.wrong, ()))
        assert any(name in refusal for name in names), f"{where}: {refusal}"
        return None
    assert call.wrong is None, f"{where}: took a wrong {call.wrong}"
    try:
        return float(OPS[call.op].check(call.arguments, answer))
    except AssertionError as error:
        raise AssertionError(f"{where}: {error}") from error


def mean(decisions: list[bool]) -> float:
    """The share that is true; all of none."""
    return sum(decisions) / len(decisions) if decisions else 1.0


# --- RoIAlign ---------------------------------------------------------------------------------


@dataclasses.dataclass
class Certainty:
    """How far a float may lead a RoI away from the reference."""

    decided: bool
    error: float = 0.0  # of a sample's position, in cells
    samples: int = 0  # that a cell's weight is summed over, at most


def check_roi_align(given: Arguments, pooled: Tensor) -> float:
    """Arguments of `multiscale_roi_align`."""
    features, rois = given["features"], len(given["boxes"])
    dtype = features[0].dtype
    assert pooled.dtype == dtype
    assert pooled.shape == (rois, features[0].shape[1], *given["size"])
    eps = max(torch.finfo(dtype).eps if dtype == torch.float64 else EPS32, 0)
    exact = [feature.detach().double() for feature in features]
    sound = [feature.nan_to_num(0, 0, 0).requires_grad_() for feature in exact]
    options = {k: v for k, v in given.items() if k != "features"}
    certain = [roi_certainty(given, k, eps) for k in range(rois)]
    decided = torch.tensor([c.decided for c in certain], dtype=torch.bool)
    expected = reference.roi_align(sound, **options)

    # Cells that are not finite reach the bins that read them, and, as positions are rounded,
    # perhaps those of the next cell.
    broken = [(~feature.isfinite()).double() for feature in exact]
    clean = torch.ones(rois, 1, *given["size"], dtype=torch.bool)
    if any(b.any() for b in broken):
        one = [b.amax(1, keepdim=True) for b in broken]
        wide = [F.max_pool2d(b, 3, 1, 1) if b.numel() else b for b in one]
        clean = reference.roi_align(wide, **options) == 0
        clean[~decided] = False

    errors = torch.tensor([c.error for c in certain], dtype=torch.float64)
    samples = torch.tensor([float(c.samples) for c in certain], dtype=torch.float64)
    cells = max(feature.shape[2] * feature.shape[3] for feature in features)
    # Along each of two axes a sample that moves by e changes a value by at most 2 e of the largest;
    # sums of n products of two weights round at most 2 n times.
    share = 4 * errors + eps * 2 * (cells + samples)
    largest = max([x.detach().abs().max().item() for x in sound if x.numel()], default=0.0)
    once = torch.finfo(dtype).eps
    tiny = torch.finfo(dtype).smallest_normal * once
    bound = once * expected.abs() + tiny + (largest * share)[:, None, None, None]
    use = (clean & decided[:, None, None, None]).expand_as(expected)
    wrong = use & ~((pooled.double() - expected).abs() <= bound)
    assert not wrong.any(), f"values {pooled[wrong][:3]} instead of {expected[wrong][:3]}"
    if all(not b.any() for b in broken):
        limit = largest * (1 + once + eps * 2 * (cells + samples.max().item() if rois else 0))
        assert (pooled.double().abs() <= limit + tiny).all(), "beyond the largest feature"

    wanted = [i for i, feature in enumerate(features) if feature.requires_grad]
    if wanted:
        upstream = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(0))
        upstream = (upstream * decided[:, None, None, None]).to(dtype)
        actual = torch.autograd.grad(pooled, [features[i] for i in wanted], upstream)
        expected_grads = torch.autograd.grad(
            (expected * upstream.double()).sum() + 0 * sum(x.sum() for x in sound),
            [sound[i] for i in wanted],
        )
        amount = upstream.double().abs()
        total = amount.sum((0, 2, 3))[:, None, None]  # of a channel
        terms = rois * pooled.shape[2] * pooled.shape[3]
        loose = (amount * share.where(decided, 0)[:, None, None, None]).sum((0, 2, 3))
        for found, right in zip(actual, expected_grads, strict=True):
            assert found.dtype == dtype
            bound = once * right.abs() + tiny + eps * terms * total + loose[:, None, None]
            assert ((found.double() - right).abs() <= bound).all(), "gradient"
    return mean(decided.tolist())


def roi_certainty(given: Arguments, k: int, eps: float) -> Certainty:
    """What of RoI k is decided; one that pools to zero by rule is."""
    x1, y1, x2, y2 = box = given["boxes"][k].double().tolist()
    if given["image_index"][k] < 0 or not all(map(math.isfinite, box)):
        return Certainty(True)
    if max(map(abs, box)) > HUGE and eps == EPS32:
        return Certainty(False)
    levels, far = len(given["features"]), max(map(abs, box))
    width, height = max(x2 - x1, 0), max(y2 - y1, 0)
    if levels > 1:
        size = math.sqrt(width * height) / given["canonical_size"] + 1e-8
        doubt = 4 * eps * size
        if width > 0 and height > 0:
            doubt += 2 * eps * size * (far / width + far / height)
        borders = [2.0 ** (i - given["canonical_level"]) for i in range(1, levels)]
        if any(abs(size - border) <= doubt for border in borders) or size > HUGE:
            return Certainty(False)
    level = reference.roi_level(box, levels, given["canonical_size"], given["canonical_level"])
    cells = given["features"][level].shape[2:]
    axes = [
        axis_certainty(*ends, given["scales"][level], bins, n, given, eps)
        for ends, bins, n in zip(((y1, y2), (x1, x2)), given["size"], cells, strict=True)
    ]
    return Certainty(
        all(axis.decided for axis in axes),
        max(axis.error for axis in axes),
        max(axis.samples for axis in axes),
    )


def axis_certainty(
    low: float, high: float, scale: float, bins: int, cells: int, given: Arguments, eps: float
) -> Certainty:
    """One axis: nothing is decided where a rounding moves a sample into or out of the map."""
    reach = max(abs(low * scale), abs(high * scale)) + 1
    # Box, scale, product, offset, extent, bin size, its multiples by bin and by sample, two sums:
    # 12 roundings of numbers below 2 * reach, by eps / 2 each.
    error = 12 * eps * reach
    if reach > HUGE:
        return Certainty(False, error)
    offset = 0.5 if given["aligned"] else 0.0
    start, extent = low * scale - offset, (high - low) * scale
    if not given["aligned"]:
        extent = max(extent, 1.0)
    bin_size, samples = extent / bins, given["sampling_ratio"]
    if samples <= 0:
        near = round(bin_size)
        if abs(bin_size - near) <= error and 0 <= near <= reference.MAX_SAMPLES_PER_BIN:
            return Certainty(False, error)
        samples = math.ceil(min(max(bin_size, 0), reference.MAX_SAMPLES_PER_BIN))
    position = start + (torch.arange(bins * samples).double() + 0.5) * bin_size / max(samples, 1)
    margin = torch.minimum((position + 1).abs(), (position - cells).abs())
    return Certainty(bool((margin > error).all()), error, samples)


def check_roi_align_of_one_map(given: Arguments, pooled: Tensor) -> float:
    """Arguments of `roi_align`."""
    corners, index, size = plain_rois(given)
    pyramid = {
        "features": [given["input"]],
        "boxes": corners,
        "image_index": index,
        "scales": [given["spatial_scale"]],
        "size": size,
        "sampling_ratio": given["sampling_ratio"],
        "aligned": given["aligned"],
        "canonical_size": 224.0,
        "canonical_level": 2,
    }
    return check_roi_align(pyramid, pooled)


def plain_rois(given: Arguments) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Boxes (K, 4), image indices (K,) and bins of an op with torchvision's arguments."""
    boxes, size = given["boxes"], given["output_size"]
    size = (size, size) if isinstance(size, int) else size
    if isinstance(boxes, Tensor):
        return boxes[:, 1:], boxes[:, 0].long(), size
    index = [i for i, of_image in enumerate(boxes) for _ in of_image]
    corners = torch.cat([torch.zeros(0, 4), *boxes])
    return corners, torch.tensor(index, dtype=torch.int64), size


def check_roi_pool(given: Arguments, pooled: Tensor) -> float:
    """Values exactly; gradients as sums of so many terms round."""
    corners, index, size = plain_rois(given)
    feature = given["input"]
    seen = feature.detach().double().nan_to_num(-math.inf, math.inf, -math.inf).requires_grad_()
    expected = reference.roi_pool(
        seen.to(torch.promote_types(feature.dtype, torch.float32)),
        corners,
        index,
        scale=given["spatial_scale"],
        size=size,
    )
    assert pooled.dtype == feature.dtype
    assert_close(pooled.double(), expected.double(), rtol=0, atol=0)
    if feature.requires_grad:
        upstream = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(0))
        upstream = upstream.to(pooled.dtype)
        (actual,) = torch.autograd.grad(pooled, feature, upstream)
        winners = expected > -math.inf
        counts = upstream.double() * winners
        loss = (expected.where(winners, 0) * counts).sum() + seen.where(
            seen.isfinite(), 0
        ).sum() * 0
        (right,) = torch.autograd.grad(loss, seen)
        once, eps = torch.finfo(pooled.dtype).eps, torch.finfo(torch.float32).eps
        if pooled.dtype == torch.float64:
            eps = once
        total = counts.abs().sum((0, 2, 3))[:, None, None]  # of a channel
        terms = len(pooled) * size[0] * size[1]
        bound = once * right.abs() + torch.finfo(pooled.dtype).smallest_normal * once
        assert ((actual.double() - right).abs() <= bound + eps * terms * total).all(), "gradient"
    return 1.0


# --- NMS and matching: exact ------------------------------------------------------------------


def check_segmented_nms(given: Arguments, kept: tuple[Tensor, Tensor]) -> float:
    assert_close(kept, reference.nms(**given), rtol=0, atol=0)
    return 1.0


def check_nms(given: Arguments, kept: Tensor) -> float:
    groups = given.get("idxs", torch.empty(0, dtype=torch.int64))
    count = len(given["boxes"])
    indices, counts = reference.nms(
        given["boxes"][None], given["scores"][None], groups[None], given["iou_threshold"], count
    )
    assert_close(kept, indices[0, : int(counts)], rtol=0, atol=0)
    return 1.0


def check_match_boxes(given: Arguments, matched: tuple[Tensor, Tensor]) -> float:
    assert_close(matched, reference.match_boxes(**given), rtol=0, atol=0)
    return 1.0


# --- Selection: exact but for coordinates, where no choice hangs on their rounding ------------


def decode_error(deltas: Tensor, references: Tensor, weights: tuple[float, ...]) -> Tensor:
    """(..., 1) how far float32 may put a corner of the decoded box."""
    extent = (references[..., 2:] - references[..., :2]).abs()
    moved = (deltas[..., :2] / torch.tensor(weights[:2])).abs() * extent
    growth = (deltas[..., 2:] / torch.tensor(weights[2:])).clamp(max=reference.MAX_LOG_GROWTH)
    half = extent * growth.exp() * (1 + growth.abs()).nan_to_num(0)
    reach = references.abs().amax(-1, keepdim=True) + (extent + moved + half).amax(-1, keepdim=True)
    return 8 * EPS32 * reach  # at most 16 roundings of numbers within reach


def is_decided(
    decoded: Tensor, error: Tensor, size: list[int], threshold: float, min_side: float
) -> bool:
    """Whether float32 takes the same choices for (P, 4) candidates, `error` (P, 1) off."""
    usable = ~decoded.isnan().any(1)
    decoded, error = decoded[usable], error[usable]
    if (decoded.isfinite() & (decoded.abs() > HUGE)).any():
        return False
    error = error.nan_to_num(0, 0, 0)
    border = torch.tensor([size[1], size[0], size[1], size[0]], dtype=torch.float64)
    boxes = reference.clip(decoded, size)
    # A corner well beyond the border is clipped to exactly the border.
    off = torch.where((decoded < -error) | (decoded > border + error), 0.0, error)
    side, doubt = boxes[:, 2:] - boxes[:, :2], off[:, 2:] + off[:, :2]
    doubt = torch.where(doubt > 0, doubt + EPS32 * side.abs(), 0.0)
    if ((doubt > 0) & ((side - min_side).abs() <= doubt)).any():
        return False
    keep = (side > min_side).all(1)
    boxes, side, doubt = boxes[keep], side[keep].clamp(min=0), doubt[keep]
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    common, common_doubt = high - low, doubt[:, None] + doubt[None]
    apart = (common <= -common_doubt).any(-1)
    common = common.clamp(min=0)
    area = side.prod(1)
    area_doubt = (side * doubt.flip(1)).sum(1) + doubt.prod(1) + EPS32 * area
    overlap = common.prod(-1)
    overlap_doubt = (common * common_doubt.flip(-1)).sum(-1) + common_doubt.prod(-1)
    union = area[:, None] + area[None] - overlap
    total = area_doubt[:, None] + area_doubt[None] + 2 * overlap_doubt + 4 * EPS32 * union
    doubtful = (overlap - threshold * union).abs() <= total * (1 + threshold)
    return not (doubtful & ~apart & (total > 0)).triu(1).any()


def check_proposals(given: Arguments, found: tuple[Tensor, Tensor]) -> float:
    boxes, scores = found
    images, wanted = len(given["sizes"]), given["post_nms_top_k"]
    assert boxes.shape == (images, wanted, 4)
    assert scores.shape == (images, wanted)
    assert boxes.dtype == scores.dtype == torch.float32
    assert boxes.isfinite().all()
    assert not scores.isnan().any()
    assert not boxes[scores == -math.inf].any()
    decided, furthest = True, 0.0
    for level, stride in enumerate(given["strides"]):
        logits = given["logits"][level].double()
        anchors, height, width = logits.shape[1:]
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        corner = torch.stack([x, y, x, y], dim=-1)[:, :, None] * stride
        anchor = (corner + given["cell_anchors"][level].double()).reshape(-1, 4)
        for image in range(images):
            delta = given["deltas"][level][image].double().reshape(anchors, 4, height, width)
            delta = delta.permute(2, 3, 0, 1).reshape(-1, 4)
            score = logits[image].permute(1, 2, 0).flatten()
            score = score.where(score > -math.inf, -math.inf)
            order = score.sort(descending=True, stable=True).indices[: given["pre_nms_top_k"]]
            order = order[score[order] > -math.inf]
            error = decode_error(delta[order], anchor[order], (1.0,) * 4)
            decoded = reference.decode(delta[order], anchor[order], (1.0,) * 4)
            decided &= is_decided(
                decoded,
                error,
                given["sizes"][image].tolist(),
                given["nms_threshold"],
                given["min_side"],
            )
            furthest = max([furthest, *error[error.isfinite()].tolist()])
    if decided:
        expected = reference.select_proposals(**given)
        assert_close(scores.double(), expected[1], rtol=0, atol=0)
        assert_close(boxes.double(), expected[0], rtol=0, atol=furthest)
    return float(decided)


def check_detections(given: Arguments, found: tuple[Tensor, ...]) -> float:
    boxes, scores, labels, rois, counts = found
    images, count, classes = given["scores"].shape
    slots = torch.arange(given["max_detections"]) < counts[:, None]
    assert boxes.shape == (images, given["max_detections"], 4)
    assert boxes.isfinite().all()
    assert torch.equal(slots, labels >= 0)
    assert torch.equal(slots, rois >= 0)
    assert not boxes[~slots].any()
    assert not scores[~slots].any()
    decided, furthest = True, 0.0
    passes = given["scores"].float() > given["score_threshold"]
    for image in range(images):
        delta = given["deltas"][image].double()
        delta = delta.reshape(count, delta.shape[1] // 4, 4).expand(-1, classes, -1)
        references = given["boxes"][image].double()[:, None].expand(-1, classes, -1)
        error = decode_error(delta, references, given["delta_weights"])
        decoded = reference.decode(delta, references, given["delta_weights"])
        for label in range(classes):
            use = passes[image, :, label] & given["valid"][image]
            decided &= is_decided(
                decoded[use, label],
                error[use, label],
                given["sizes"][image].tolist(),
                given["nms_threshold"],
                given["min_side"],
            )
        furthest = max([furthest, *error[error.isfinite()].tolist()])
    if decided:
        expected = reference.select_detections(**given)
        assert_close(boxes.double(), expected[0], rtol=0, atol=furthest)
        assert_close(scores.double(), expected[1], rtol=0, atol=0)
        assert_close((labels, rois, counts), expected[2:], rtol=0, atol=0)
    return float(decided)


# --- Masks ------------------------------------------------------------------------------------


def check_mask_targets(given: Arguments, targets: Tensor) -> float:
    """Rings and boxes so far out that COCO's integers overflow have no defined drawing."""
    masks, boxes, instance, size = (given[k] for k in ("masks", "boxes", "instance", "size"))
    assert targets.shape == (len(boxes), size, size)
    assert ((targets == 0) | (targets == 1)).all()
    decisions = []
    for k, i in enumerate(instance.tolist()):
        box = boxes[k].double()
        if i < 0 or not box.isfinite().all() or (box[2:] <= box[:2]).any():
            assert not targets[k].any()
            continue
        runs = masks.counts[masks.instance_count[i] : masks.instance_count[i + 1]]
        if len(runs):
            decided = runs_decided(given, k, i)
            if decided:
                cover = reference_masks.run_length_cover(masks, box, i, size)
                certain = (cover - 0.5).abs() > 1e-6  # as in test_mask_targets.py
                assert torch.equal(targets[k][certain], (cover >= 0.5).float()[certain]), "runs"
        else:
            decided = rings_decided(given, k, i)
            if decided:
                only = boxes[k : k + 1], instance[k : k + 1], size
                assert torch.equal(targets[k], reference_masks.mask_targets(masks, *only)[0]), (
                    "rings"
                )
        decisions.append(decided)
    return mean(decisions)


def rings_decided(given: Arguments, k: int, i: int) -> bool:
    """Whether all corners of instance i stay within 1e5 fifths of a pixel of the target."""
    masks, box = given["masks"], given["boxes"][k].double()
    rings = masks.ring_start[masks.instance_ring[i] : masks.instance_ring[i + 1] + 1]
    points = masks.points[rings[0] : rings[-1]] if len(rings) else masks.points[:0]
    scale, shift = masks.transform[i].view(2, 2)
    extent = (box[2:] - box[:2]).clamp(min=0.1)
    position = 5 * (points * scale + shift - box[:2]) * (given["size"] / extent)
    return bool((position.abs() < 1e5).all())


def runs_decided(given: Arguments, k: int, i: int) -> bool:
    """Whether no sample count or border hangs on a rounding."""
    masks, box, size = given["masks"], given["boxes"][k].double(), given["size"]
    frame = masks.frame[i].tolist()
    scale, shift = masks.transform[i].view(2, 2)
    if not ((scale.abs() > 1e-3) & (scale.abs() < 1e3) & (shift.abs() < 1e6)).all():
        return False
    ends = ((box.view(2, 2) - shift) / scale).T.tolist()  # x, then y
    for (a, b), cells in zip(ends, reversed(frame), strict=True):
        low, high = min(a, b), max(a, b)
        if max(abs(low), abs(high)) > 1e6:
            return False
        options = {"aligned": True, "sampling_ratio": 0}
        if not axis_certainty(low, high, 1.0, size, cells, options, 1e-15).decided:
            return False
    return True


def check_paste_masks(given: Arguments, pasted: Tensor) -> float:
    masks, boxes, cells = given["masks"].float(), given["boxes"], given["masks"].shape[-1]
    height, width, threshold = given["height"], given["width"], given["threshold"]
    assert pasted.shape == (len(masks), height, width)
    assert pasted.dtype == torch.bool
    usable = boxes.isfinite().all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)
    usable &= (boxes[:, 2:] - boxes[:, :2]).isfinite().all(1)
    assert not pasted[~usable].any()
    if not cells:
        assert not pasted.any()
        return 1.0
    finite = masks.isfinite().all(-1).all(-1) & (masks.abs() <= 1e5).all(-1).all(-1)
    use = usable & finite
    values = reference_masks.paste_values(masks[use], boxes[use], height, width)
    # As in test_paste_masks.py, for masks of any size.
    largest = masks[use].abs().amax((1, 2), keepdim=True).clamp(min=1)
    error = 2 * (5 * cells + 3) * 2.0**-24 * 2 * largest
    certain = (values - threshold).abs() > error
    assert torch.equal(pasted[use][certain], (values >= threshold)[certain])
    return mean(finite.tolist())


def check_packed(given: Arguments, packed: Tensor) -> float:
    """Equal to numpy's packing of the dense masks."""
    dense = ops.paste_masks(**given)
    assert torch.equal(packed, torch.from_numpy(np.packbits(dense.numpy(), axis=-1)))
    return check_paste_masks(given, dense)


def check_run_lengths(given: Arguments, rles: list[dict[str, Any]]) -> float:
    """Equal to the encoded pixels, even where masks hold NaN."""
    dense = ops.paste_masks(**given)
    fortran = np.asfortranarray(dense.permute(1, 2, 0).numpy().astype(np.uint8))
    expected = coco_mask.encode(fortran) if len(dense) else []
    assert [rle["counts"] for rle in rles] == [rle["counts"].decode() for rle in expected]
    assert all(rle["size"] == [given["height"], given["width"]] for rle in rles)
    return 1.0


OPS = {
    "roi_align": Op(ops.roi_align, draw_map_and_boxes, check_roi_align_of_one_map),
    "multiscale_roi_align": Op(ops.multiscale_roi_align, draw_pyramid, check_roi_align),
    "roi_pool": Op(ops.roi_pool, draw_map_boxes_and_bins, check_roi_pool),
    "nms": Op(ops.nms, draw_candidates, check_nms),
    "batched_nms": Op(ops.batched_nms, draw_groups, check_nms),
    "segmented_nms": Op(ops.segmented_nms, draw_segments, check_segmented_nms),
    "select_proposals": Op(ops.select_proposals, draw_head_maps, check_proposals),
    "select_detections": Op(ops.select_detections, draw_head_rows, check_detections),
    "match_boxes": Op(ops.match_boxes, draw_targets, check_match_boxes),
    "mask_targets": Op(ops.mask_targets, draw_instances, check_mask_targets),
    "paste_masks": Op(ops.paste_masks, draw_pasted, check_paste_masks),
    "paste_masks_packed": Op(ops.paste_masks_packed, draw_pasted, check_packed),
    "paste_masks_rle": Op(ops.paste_masks_rle, draw_pasted, check_run_lengths),
}


def judge_many(seeds: range) -> dict[str, list[float]]:
    """Judge one call of each op for each seed, to the end even if some are wrong.

    Returns:
        The shares that were decided of the calls that were answered, by op.
    """
    shares: dict[str, list[float]] = {op: [] for op in OPS}
    wrong = []
    for op, found in shares.items():
        for seed in seeds:
            try:
                share = judge(draw_call(op, seed))
            except AssertionError as error:
                wrong.append(str(error))
            else:
                found += [] if share is None else [share]
    assert not wrong, f"{len(wrong)} calls are wrong:\n" + "\n".join(wrong[:20])
    return shares
