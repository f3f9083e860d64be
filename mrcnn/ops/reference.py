"""Specification of the ops in slow, plain PyTorch, for tests and benchmarks only.

Values are computed in float64. Decisions of `nms` and `match_boxes` depend on single bits of an
IoU. So these two compute it exactly as the ops do: in float32 (float64 for float64 boxes), with one
rounding after each operation and thresholds rounded likewise.

N images, L levels, A anchors per cell, K boxes, S segments, G targets, R RoIs, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_SAMPLES_PER_BIN = 1024  # limit of adaptive sampling along one axis
MAX_CELL = 2**30  # RoIPool clamps indices of cells to it
MAX_LOG_GROWTH = math.log(1000 / 16)


def roi_align(
    features: Sequence[Tensor],
    boxes: Tensor,
    image_index: Tensor,
    *,
    scales: Sequence[float],
    size: tuple[int, int],
    sampling_ratio: int = 0,
    aligned: bool = True,
    canonical_size: float = 224.0,
    canonical_level: int = 2,
) -> Tensor:
    """Compute `multiscale_roi_align`, in float64; with one level also `roi_align`."""
    maps = [feature.double() for feature in features]
    zeros = maps[0].new_zeros((maps[0].shape[1], *size))
    pooled = []
    for corners, image in zip(boxes.tolist(), image_index.tolist(), strict=True):
        if image < 0 or not all(map(math.isfinite, corners)):
            pooled.append(zeros)
            continue
        level = roi_level(corners, len(maps), canonical_size, canonical_level)
        x1, y1, x2, y2 = (corner * scales[level] for corner in corners)
        height, width = maps[level].shape[2:]
        rows = averaging_matrix(y1, y2, size[0], height, sampling_ratio, aligned)
        columns = averaging_matrix(x1, x2, size[1], width, sampling_ratio, aligned)
        pooled.append(rows @ maps[level][image] @ columns.T)  # (C, bins_h, bins_w)
    return torch.stack(pooled) if pooled else zeros[None][:0]


def roi_level(
    box: Sequence[float], levels: int, canonical_size: float, canonical_level: int
) -> int:
    """Compute floor(k0 + log2(sqrt(area) / canonical size)), clamped to the levels (FPN, eq. 1)."""
    area = max(box[2] - box[0], 0) * max(box[3] - box[1], 0)
    level = canonical_level + math.log2(math.sqrt(area) / canonical_size + 1e-8)
    return int(min(max(level, 0), levels - 1))


def averaging_matrix(
    low: float, high: float, bins: int, cells: int, sampling_ratio: int, aligned: bool
) -> Tensor:
    """Compute the weight of each cell in each bin along one axis of RoIAlign, (bins, cells).

    A bin is the mean of evenly spaced samples. A sample at p is interpolated linearly, so cell i
    has weight max(0, 1 - |p - i|). A sample beyond the outermost cell centres is moved to the
    nearest one; more than one cell outside the map, it counts as zero.
    """
    if aligned:
        low, high = low - 0.5, high - 0.5
    extent = high - low if aligned else max(high - low, 1)
    bin_size = extent / bins
    samples = sampling_ratio
    if samples <= 0:
        samples = math.ceil(min(max(bin_size, 0), MAX_SAMPLES_PER_BIN))
    if samples == 0:
        return torch.zeros(bins, cells, dtype=torch.float64)
    step = torch.arange(bins * samples, dtype=torch.float64).reshape(bins, samples) + 0.5
    position = low + step * bin_size / samples  # (bins, samples)
    inside = (position >= -1) & (position <= cells)
    distance = position.clamp(0, max(cells - 1, 0))[..., None] - torch.arange(cells)
    weight = (1 - distance.abs()).clamp(min=0) * inside[..., None]  # (bins, samples, cells)
    return weight.mean(dim=1)


def roi_pool(
    features: Tensor,
    boxes: Tensor,
    image_index: Tensor,
    *,
    scale: float,
    size: tuple[int, int],
) -> Tensor:
    """Compute `roi_pool`.

    Cells are found in float32 (float64 for float64 maps), as in torchvision: a rounding decides
    whether a bin touches one more cell.
    """
    maps = features.double()
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    pooled = maps.new_zeros((len(boxes), maps.shape[1], *size))
    for k, (box, image) in enumerate(zip(boxes.to(dtype), image_index.tolist(), strict=True)):
        if image < 0 or not box.isfinite().all():
            continue
        # Rounded as in C, halves away from zero.
        cells = (box * scale).trunc()
        cells = cells + ((box * scale - cells).abs() >= 0.5) * (box * scale).sign()
        x1, y1, x2, y2 = cells.clamp(-MAX_CELL, MAX_CELL).long().tolist()
        rows = touched_cells(y1, y2, size[0], maps.shape[2], dtype)
        columns = touched_cells(x1, x2, size[1], maps.shape[3], dtype)
        for by, (top, bottom) in enumerate(rows):
            for bx, (left, right) in enumerate(columns):
                values = maps[image, :, top:bottom, left:right].flatten(1)
                if values.shape[1]:
                    pooled[k, :, by, bx] = values.max(dim=1).values
    return pooled


def touched_cells(
    first: int, last: int, bins: int, cells: int, dtype: torch.dtype
) -> list[list[int]]:
    """Compute the cells of each bin along one axis of RoIPool, as [first, last + 1]."""
    bin_size = torch.tensor(max(last - first + 1, 1), dtype=dtype) / bins
    begin = (torch.arange(bins, dtype=dtype) * bin_size).floor().long() + first
    end = (torch.arange(1, bins + 1, dtype=dtype) * bin_size).ceil().long() + first
    return torch.stack([begin, end], dim=1).clamp(0, cells).tolist()


def pairwise_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Compute the (A, B) IoUs of (A, 4) and (B, 4) boxes.

    NaN for two boxes without area, or for a box with NaN.
    """
    x1, y1 = (torch.maximum(boxes1[:, None, i], boxes2[None, :, i]) for i in (0, 1))
    x2, y2 = (torch.minimum(boxes1[:, None, i], boxes2[None, :, i]) for i in (2, 3))
    overlap = (x2 - x1).clamp(min=0) * (y2 - y1).clamp(min=0)
    area1, area2 = (
        (b[:, 2] - b[:, 0]).clamp(min=0) * (b[:, 3] - b[:, 1]).clamp(min=0)
        for b in (boxes1, boxes2)
    )
    return overlap / (area1[:, None] + area2[None, :] - overlap)


def nms(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    iou_threshold: float,
    max_keep: int,
    padded: bool = True,
) -> tuple[Tensor, Tensor]:
    """Compute `segmented_nms`, or `nms` of each segment without padding."""
    if boxes.dtype != torch.float64:
        boxes = boxes.float()
    indices = torch.full((len(boxes), max_keep), -1)
    counts = torch.zeros(len(boxes), dtype=torch.int64)
    for s in range(len(boxes)):
        # Comparing a tensor with a Python number uses the dtype of the tensor.
        excess = (pairwise_iou(boxes[s], boxes[s]) > iou_threshold).tolist()
        score = scores[s].to(boxes.dtype).tolist()
        group = groups[s].tolist() or [0] * len(score)
        corners = boxes[s].tolist()
        usable = [
            i
            for i in range(len(score))
            if not padded or (score[i] > -math.inf and not any(map(math.isnan, corners[i])))
        ]
        kept: list[int] = []
        for i in sorted(usable, key=lambda i: (not math.isnan(score[i]), -score[i], i)):
            if not any(excess[i][j] and group[i] == group[j] for j in kept):
                kept.append(i)
        kept = kept[:max_keep]
        indices[s, : len(kept)] = torch.tensor(kept, dtype=torch.int64)
        counts[s] = len(kept)
    return indices, counts


def decode(deltas: Tensor, references: Tensor, weights: Sequence[float]) -> Tensor:
    """Move centres by dx, dy extents and scale extents by exp(dw), exp(dh) (R-CNN, appendix C).

    Deltas and references are (..., 4), float64.
    """
    dx, dy, dw, dh = (deltas[..., i] / weights[i] for i in range(4))
    x1, y1, x2, y2 = references.unbind(-1)
    x, width = (x1 + x2) / 2 + dx * (x2 - x1), (x2 - x1) * dw.clamp(max=MAX_LOG_GROWTH).exp()
    y, height = (y1 + y2) / 2 + dy * (y2 - y1), (y2 - y1) * dh.clamp(max=MAX_LOG_GROWTH).exp()
    return torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], dim=-1)


def clip(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Clip boxes (..., 4) at the borders of an image of (height, width)."""
    height, width = size
    x1, y1, x2, y2 = boxes.unbind(-1)
    x1, x2 = x1.clamp(0, width), x2.clamp(0, width)
    y1, y2 = y1.clamp(0, height), y2.clamp(0, height)
    return torch.stack([x1, y1, x2, y2], dim=-1)


def longer_than(boxes: Tensor, min_side: float) -> Tensor:
    """Return whether both sides of boxes (..., 4) are longer; False with NaN."""
    return (boxes[..., 2] - boxes[..., 0] > min_side) & (boxes[..., 3] - boxes[..., 1] > min_side)


def select_proposals(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    cell_anchors: Tensor,
    strides: Sequence[tuple[int, int]],
    sizes: Tensor,
    *,
    pre_nms_top_k: int,
    post_nms_top_k: int,
    nms_threshold: float,
    min_side: float,
) -> tuple[Tensor, Tensor]:
    """Compute `select_proposals` with float64 boxes: all anchors are made and decoded."""
    images = len(logits[0])
    boxes = torch.zeros(images, post_nms_top_k, 4, dtype=torch.float64)
    scores = torch.full((images, post_nms_top_k), -math.inf, dtype=torch.float64)
    for n in range(images):
        candidates = []
        for level, (step_y, step_x) in enumerate(strides):
            anchors, height, width = logits[level].shape[1:]
            y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            x, y = x * step_x, y * step_y
            corner = torch.stack([x, y, x, y], dim=-1)[:, :, None]  # (H, W, 1, 4)
            anchor = corner + cell_anchors[level].double()  # (H, W, A, 4)
            delta = deltas[level][n].double().reshape(anchors, 4, height, width)
            decoded = decode(delta.permute(2, 3, 0, 1), anchor, (1, 1, 1, 1))
            box = clip(decoded, sizes[n].tolist()).reshape(-1, 4)
            score = logits[level][n].double().permute(1, 2, 0).flatten().tolist()

            usable = [i for i in range(len(score)) if score[i] > -math.inf]
            top = sorted(usable, key=lambda i: (-score[i], i))[:pre_nms_top_k]
            top = [i for i in top if longer_than(box[i], min_side)]
            top_scores = torch.tensor([score[i] for i in top], dtype=torch.float64)
            kept, counts = nms(
                box[None, top], top_scores[None], torch.empty(1, 0), nms_threshold, len(top)
            )
            candidates += [(score[top[i]], box[top[i]]) for i in kept[0, : counts[0]].tolist()]
        candidates.sort(key=lambda pair: -pair[0])  # stable: ties go to the finer level
        for slot, (value, corners) in enumerate(candidates[:post_nms_top_k]):
            boxes[n, slot], scores[n, slot] = corners, value
    return boxes, scores


def select_detections(
    scores: Tensor,
    deltas: Tensor,
    boxes: Tensor,
    valid: Tensor,
    sizes: Tensor,
    *,
    delta_weights: tuple[float, float, float, float],
    score_threshold: float,
    nms_threshold: float,
    min_side: float,
    max_detections: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Compute `select_detections` with float64 boxes: all pairs are decoded."""
    images, rois, classes = scores.shape
    passes = scores.float() > score_threshold
    out_boxes = torch.zeros(images, max_detections, 4, dtype=torch.float64)
    out_scores = torch.zeros(images, max_detections, dtype=torch.float64)
    labels, roi = (torch.full((images, max_detections), -1) for _ in range(2))
    for n in range(images):
        delta = deltas[n].double().reshape(rois, deltas.shape[2] // 4, 4).expand(-1, classes, -1)
        decoded = decode(delta, boxes[n].double()[:, None], delta_weights)
        box = clip(decoded, sizes[n].tolist())  # (R, C, 4)
        usable = passes[n] & valid[n, :, None] & longer_than(box, min_side)
        score = torch.where(usable, scores[n].double(), -math.inf)
        group = torch.arange(classes).expand(rois, -1)
        kept, counts = nms(
            box.reshape(1, -1, 4),
            score.reshape(1, -1),
            group.reshape(1, -1),
            nms_threshold,
            max_detections,
        )
        for slot, pair in enumerate(kept[0, : counts[0]].tolist()):
            r, c = divmod(pair, classes)
            out_boxes[n, slot], out_scores[n, slot] = box[r, c], score[r, c]
            labels[n, slot], roi[n, slot] = c, r
    return out_boxes, out_scores, labels, roi, (labels >= 0).sum(1)


def match_boxes(
    boxes: Tensor,
    targets: Tensor,
    valid: Tensor,
    *,
    low_threshold: float,
    high_threshold: float,
    low_quality: bool,
) -> tuple[Tensor, Tensor]:
    """Compute `match_boxes` from the matrix of all overlaps."""
    low, high = torch.tensor([low_threshold, high_threshold]).tolist()  # rounded to float32
    images, count = len(targets), boxes.shape[1]
    matched = torch.zeros(images, count, dtype=torch.int64)
    role = torch.zeros(images, count, dtype=torch.int8)
    for n in range(images):
        overlap = pairwise_iou(boxes.expand(images, -1, -1)[n].float(), targets[n].float())
        rows = torch.where(valid[n], overlap, 0).nan_to_num().tolist()
        best_of_target = [max(column) for column in zip(*rows, strict=True)]
        for i, row in enumerate(rows):
            best = max(row, default=0)
            matched[n, i] = row.index(best) if row else 0
            role[n, i] = 1 if best >= high else -1 if best >= low else 0
            pairs = zip(row, best_of_target, strict=True)
            if low_quality and any(value == most > 0 for value, most in pairs):
                role[n, i] = 1
    return matched, role
