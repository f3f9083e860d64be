"""What the answer of an op on boxes and features must be: that of the reference.

Tolerances follow from the number of roundings. Where the answer hangs on a rounding, as at the
border of a map or where an IoU meets the threshold, a call is undecided there, and its answer has
to be sane only; the tests see to it that this is rare.
"""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from mrcnn.ops import reference
from tests.helpers.op_calls import Arguments

EPS32 = torch.finfo(torch.float32).eps
HUGE = 1e30  # products of larger numbers may leave float32


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
    boxes, scores, threshold = given["boxes"][None], given["scores"][None], given["iou_threshold"]
    indices, counts = reference.nms(boxes, scores, groups[None], threshold, count, padded=False)
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
    for level, (step_y, step_x) in enumerate(given["strides"]):
        logits = given["logits"][level].double()
        anchors, height, width = logits.shape[1:]
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        x, y = x * step_x, y * step_y
        corner = torch.stack([x, y, x, y], dim=-1)[:, :, None]
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
