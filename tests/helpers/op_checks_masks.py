"""What the answer of an op on masks must be: that of the reference; see op_checks.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from mrcnn import ops
from mrcnn.ops import reference_masks
from tests.helpers.op_calls import Arguments
from tests.helpers.op_checks import axis_certainty, mean


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
                cover = reference_masks.rle_coverage(masks, box, i, size)
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
