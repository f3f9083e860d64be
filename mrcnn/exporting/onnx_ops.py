"""Translations of the inference ops to standard ONNX operators, for PyTorch's exporter.

Each function takes the arguments of one op and adds nodes to the graph that is being built. There
are no loops: levels are unrolled, and groups of NMS are classes and images of NonMaxSuppression.
Ties go to the lower index, as in TopK. Inputs that a model cannot produce (image indices out of
range) are not checked.

N images, L levels, A anchors per cell, K boxes, P proposals, R RoIs, C classes, D detections.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import onnxscript
import torch
from onnxscript import opset18 as op

from mrcnn.ops import library  # noqa: F401  registers the ops
from mrcnn.ops.boxes import MAX_LOG_GROWTH

OPSET = 18
FLOAT, INT64 = onnxscript.FLOAT.dtype, onnxscript.INT64.dtype
LOWEST = torch.finfo(torch.float32).min  # a threshold that all scores but -inf exceed

Value = Any  # a tensor of the graph


def roi_align(
    features: Sequence[Value],
    boxes: Value,
    image_index: Value,
    scales: Sequence[float],
    bins_h: int,
    bins_w: int,
    sampling_ratio: int,
    aligned: bool,
    canonical_size: float,
    canonical_level: int,
) -> Value:
    """Pool the boxes of each level separately, and scatter the features into a tensor of zeros."""
    is_used = op.GreaterOrEqual(image_index, 0)
    level = _roi_level(boxes, len(features), canonical_size, canonical_level)
    pooled = _zeros(boxes, (features[0].shape[1], bins_h, bins_w))
    for i, feature in enumerate(features):
        of_level = is_used if len(features) == 1 else op.And(is_used, op.Equal(level, i))
        slots = _true_slots(of_level)
        values = op.RoiAlign(
            feature,
            op.Gather(boxes, slots),
            op.Gather(image_index, slots),
            coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
            output_height=bins_h,
            output_width=bins_w,
            sampling_ratio=max(sampling_ratio, 0),
            spatial_scale=scales[i],
        )
        pooled = op.ScatterND(pooled, op.Unsqueeze(slots, [1]), values)
    return pooled


def _roi_level(boxes: Value, levels: int, canonical_size: float, canonical_level: int) -> Value:
    """Return the level of each box, (K,): FPN, equation 1, by thresholds as in the kernels."""
    area = op.ReduceProd(op.Relu(_extent(boxes)), [1], keepdims=1)  # (K, 1)
    size = op.Add(op.Div(op.Sqrt(area), canonical_size), 1e-8)
    limits = [2.0 ** (level + 1 - canonical_level) for level in range(levels - 1)] or [math.inf]
    return op.ReduceSum(op.Cast(op.GreaterOrEqual(size, limits), to=INT64), [1], keepdims=0)


def roi_pool(
    features: Value,
    boxes: Value,
    image_index: Value,
    scale: float,
    bins_h: int,
    bins_w: int,
    with_argmax: bool,
) -> tuple[Value, Value]:
    """Pool the boxes without NaN, which marks padding, with MaxRoiPool."""
    slots = _true_slots(op.Not(op.IsNaN(op.ReduceSum(boxes, [1], keepdims=0))))
    rois = op.Concat(op.Unsqueeze(op.Cast(image_index, to=FLOAT), [1]), boxes, axis=1)
    values = op.MaxRoiPool(
        features, op.Gather(rois, slots), pooled_shape=(bins_h, bins_w), spatial_scale=scale
    )
    pooled = _zeros(boxes, (features.shape[1], bins_h, bins_w))
    no_argmax = op.Shape(boxes, start=0, end=0)  # empty
    return op.ScatterND(pooled, op.Unsqueeze(slots, [1]), values), no_argmax


def select_proposals(
    logits: Sequence[Value],
    deltas: Sequence[Value],
    cell_anchors: Value,
    strides: Sequence[int | Value],
    sizes: Value,
    pre_nms_top_k: int,
    post_nms_top_k: int,
    nms_threshold: float,
    min_side: float,
) -> tuple[Value, Value]:
    """Decode the best boxes of all levels together; each level is a class of the NMS."""
    anchors_per_cell = logits[0].shape[1]
    scores, chosen, anchors, level_of = [], [], [], []
    for level, maps in enumerate(zip(logits, deltas, strict=True)):
        by_cell = [op.Transpose(x, perm=[0, 2, 3, 1]) for x in maps]
        flat = op.Reshape(by_cell[0], [0, -1])  # (N, H_l W_l A)
        count = op.Min(op.Shape(flat, start=1, end=2), _ints(pre_nms_top_k))  # (1,)
        score, index = op.TopK(flat, count, axis=1)  # (N, K_l)
        scores.append(score)
        chosen.append(_take(op.Reshape(by_cell[1], [0, -1, 4]), index))
        level_of.append(op.Expand(level, count))
        # index = (y * width + x) * A + a
        cell = op.Gather(op.Gather(cell_anchors, level), op.Mod(index, anchors_per_cell))
        position, width = op.Div(index, anchors_per_cell), op.Shape(by_cell[0], start=2, end=3)
        x = op.Unsqueeze(op.Mul(op.Mod(position, width), strides[2 * level + 1]), [2])
        y = op.Unsqueeze(op.Mul(op.Div(position, width), strides[2 * level]), [2])
        anchors.append(op.Add(cell, op.Cast(op.Concat(x, y, x, y, axis=2), to=FLOAT)))
    score = op.Concat(*scores, axis=1)  # (N, K)
    boxes = _decode(op.Concat(*chosen, axis=1), op.Concat(*anchors, axis=1))  # (N, K, 4)
    boxes = _clip(boxes, sizes, [1])

    levels = op.Unsqueeze(_ints(*range(len(logits))), [1])
    in_level = op.Equal(op.Concat(*level_of, axis=0), levels)  # (L, K)
    usable = op.And(in_level, op.Unsqueeze(_longer_than(boxes, min_side), [1]))  # (N, L, K)
    competing = op.Where(usable, op.Unsqueeze(score, [1]), -math.inf)
    selected = op.NonMaxSuppression(boxes, competing, [post_nms_top_k], [nms_threshold], [LOWEST])
    score, index = _best_of(score, op.Gather(selected, [0, 2], axis=1), post_nms_top_k)
    found = op.Greater(score, -math.inf)
    boxes = op.Where(op.Unsqueeze(found, [2]), _take(boxes, index), 0.0)
    return _padded(boxes, post_nms_top_k, 0.0), _padded(score, post_nms_top_k, -math.inf)


def select_detections(
    scores: Value,
    deltas: Value,
    boxes: Value,
    valid: Value,
    sizes: Value,
    delta_weights: Sequence[float],
    score_threshold: float,
    nms_threshold: float,
    min_side: float,
    max_detections: int,
) -> tuple[Value, Value, Value, Value, Value]:
    """Select detections; if each class has a box, (image, class) pairs are images of the NMS."""
    classes, one_box = scores.shape[2], deltas.shape[2] == 4
    deltas = op.Reshape(deltas, [0, 0, -1, 4])  # (N, R, C or 1, 4)
    decoded = _decode(deltas, op.Unsqueeze(boxes, [2]), delta_weights)
    decoded = _clip(decoded, sizes, [1, 2])
    usable = op.And(op.Unsqueeze(valid, [2]), _longer_than(decoded, min_side))
    usable = op.And(usable, op.Greater(scores, score_threshold))  # (N, R, C)
    competing = op.Transpose(op.Where(usable, scores, -math.inf), perm=[0, 2, 1])  # (N, C, R)
    thresholds = [max_detections], [nms_threshold], [LOWEST]
    if one_box:
        selected = op.NonMaxSuppression(op.Squeeze(decoded, [2]), competing, *thresholds)
        image, label, roi = (_column(selected, i) for i in range(3))
    else:
        roi_count = op.Shape(scores, start=1, end=2)
        by_class = op.Transpose(decoded, perm=[0, 2, 1, 3])  # (N, C, R, 4)
        selected = op.NonMaxSuppression(
            op.Reshape(by_class, op.Concat(_ints(-1), roi_count, _ints(4), axis=0)),
            op.Reshape(competing, op.Concat(_ints(-1, 1), roi_count, axis=0)),
            *thresholds,
        )
        image, label = (f(_column(selected, 0), classes) for f in (op.Div, op.Mod))
        roi = _column(selected, 2)
    pair = op.Add(op.Mul(roi, classes), label)
    position = op.Concat(image, pair, axis=1)
    score, pair = _best_of(op.Reshape(scores, [0, -1]), position, max_detections)
    found = op.Greater(score, -math.inf)
    roi = op.Div(pair, classes)
    boxes = _take(op.Reshape(decoded, [0, -1, 4]), roi if one_box else pair)
    outputs = (
        (op.Where(op.Unsqueeze(found, [2]), boxes, 0.0), 0.0),
        (op.Where(found, score, 0.0), 0.0),
        (op.Where(found, op.Mod(pair, classes), -1), -1),
        (op.Where(found, roi, -1), -1),
    )
    padded = [_padded(values, max_detections, fill) for values, fill in outputs]
    return (*padded, op.ReduceSum(op.Cast(found, to=INT64), [1], keepdims=0))


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.mrcnn.roi_align.default: roi_align,
    torch.ops.mrcnn.roi_pool.default: roi_pool,
    torch.ops.mrcnn.select_proposals.default: select_proposals,
    torch.ops.mrcnn.select_detections.default: select_detections,
}


def _decode(
    deltas: Value, references: Value, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)
) -> Value:
    """Return boxes (..., 4); see `mrcnn.ops.boxes.decode_boxes`."""
    if any(weight != 1 for weight in weights):
        deltas = op.Div(deltas, list(weights))
    low, extent = _part(references, 0, 2), _extent(references)
    center = op.Add(op.Mul(_part(deltas, 0, 2), extent), op.Add(low, op.Mul(extent, 0.5)))
    growth = op.Exp(op.Min(_part(deltas, 2, 4), op.Constant(value_float=MAX_LOG_GROWTH)))
    half = op.Mul(op.Mul(extent, 0.5), growth)
    return op.Concat(op.Sub(center, half), op.Add(center, half), axis=-1)


def _clip(boxes: Value, sizes: Value, axes: list[int]) -> Value:
    """Clip boxes (N, ..., 4) to sizes (N, 2), which get the new `axes` to match the boxes."""
    high = op.Unsqueeze(op.Cast(op.Gather(sizes, [1, 0, 1, 0], axis=1), to=FLOAT), axes)
    return op.Min(op.Relu(boxes), high)


def _longer_than(boxes: Value, min_side: float) -> Value:
    """Return (...) bool: both sides of boxes (..., 4) are longer."""
    return op.Greater(op.ReduceMin(_extent(boxes), [-1], keepdims=0), min_side)


def _extent(boxes: Value) -> Value:
    """Return width and height, (..., 2)."""
    return op.Sub(_part(boxes, 2, 4), _part(boxes, 0, 2))


def _ints(*values: int) -> Value:
    """Add a constant, for operators that take several tensors of any type."""
    return op.Constant(value_ints=list(values))


def _part(values: Value, start: int, end: int) -> Value:
    """Slice the last axis."""
    return op.Slice(values, [start], [end], [-1])


def _column(values: Value, i: int) -> Value:
    """Return a column (S, 1) of (S, 3)."""
    return _part(values, i, i + 1)


def _true_slots(flags: Value) -> Value:
    """Return the indices where flags (K,) are true."""
    return op.Squeeze(op.NonZero(flags), [0])


def _take(values: Value, index: Value) -> Value:
    """Return rows (N, k, 4) of (N, K, 4) at indices (N, k)."""
    return op.GatherND(values, op.Unsqueeze(index, [2]), batch_dims=1)


def _zeros(boxes: Value, shape: Sequence[int]) -> Value:
    """Return zeros (K, *shape) for boxes (K, 4)."""
    return op.Expand(0.0, op.Concat(op.Shape(boxes, start=0, end=1), _ints(*shape), axis=0))


def _best_of(scores: Value, position: Value, most: int) -> tuple[Value, Value]:
    """Return the highest of the scores (N, K) at `position`, and their indices, both (N, k).

    The positions are rows (image, index), (S, 2). k is the smaller of K and `most`. Slots without a
    score are -inf.
    """
    none = op.Expand(-math.inf, op.Shape(scores))
    chosen = op.ScatterND(none, position, op.GatherND(scores, position))
    count = op.Min(op.Shape(scores, start=1, end=2), _ints(most))
    best, index = op.TopK(chosen, count, axis=1)
    return best, index


def _padded(values: Value, slots: int, fill: float) -> Value:
    """Pad (N, k, ...) to (N, slots, ...)."""
    missing = op.Sub([slots], op.Shape(values, start=1, end=2))
    return op.Pad(values, op.Concat(_ints(0), missing, axis=0), fill, [1])
