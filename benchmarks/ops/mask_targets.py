"""Time 28 x 28 mask targets, drawn from polygons and RLE, against Detectron2's method.

Polygons have 20 to 60 corners on a wavy outline; sqrt(area) of their bounds is log-uniform from 16
to 600 pixels, and every third instance has two. Boxes are their bounds, each side moved by up to a
tenth. The peer does what Detectron2 does: it moves and scales the corners into the box, then calls
pycocotools' `frPyObjects`, `merge` and `decode`. Both results must be equal before they are timed.

RLE masks are the polygons of 100 instances drawn in an 800 x 1344 image. The peer decodes them and
pools the bitmaps with torchvision's `roi_align` and a threshold of one half, as Detectron2 does.

    python -m benchmarks.ops.mask_targets --threads 1 2
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Row, about, finish, measure, parse, row
from mrcnn.ops import library, mask_targets
from mrcnn.ops.instance_masks import InstanceMasks
from mrcnn.ops.reference_masks import mask_targets as reference_mask_targets
from mrcnn.ops.reference_masks import rle_coverage

try:
    from pycocotools import mask as coco_mask
except ImportError:
    coco_mask = None
try:
    from torchvision.ops import roi_align
except ImportError:
    roi_align = None

host = library.load("mrcnn_host")
SIZE, HEIGHT, WIDTH = 28, 800, 1344
REFERENCE_INSTANCES = 20  # the reference is plain Python
Rings = list[np.ndarray]  # (corners, 2) float64 each


def make_polygons(count: int, rng: np.random.Generator) -> tuple[list[Rings], Tensor]:
    """Draw the rings of each instance and (count, 4) boxes, as described above."""
    instances, boxes = [], []
    for i in range(count):
        extent = np.exp(rng.uniform(np.log(16), np.log(600))) / 2
        center = rng.uniform(0, (WIDTH, HEIGHT))
        rings = []
        for part in range(2 if i % 3 == 0 else 1):
            angle = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(20, 61)))
            wave = 1 + 0.3 * np.sin(3 * angle + rng.uniform(0, 6)) + rng.normal(0, 0.04, len(angle))
            outline = np.stack([np.cos(angle), np.sin(angle)], axis=1) * wave[:, None] / 1.3
            rings.append(center + extent * (outline + np.array([part * 0.8, 0])))
        corners = np.concatenate(rings)
        low, high = corners.min(0), corners.max(0)
        moved = np.concatenate([low, high]) + rng.uniform(-0.1, 0.1, 4) * np.tile(high - low, 2)
        instances.append(rings)
        boxes.append(moved)
    return instances, torch.tensor(np.array(boxes), dtype=torch.float32)


def offsets(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *np.cumsum(lengths, dtype=np.int64).tolist()])


def instance_masks(polygons: list[Rings], runs: list[np.ndarray]) -> InstanceMasks:
    """Build instances of rings, then instances of RLE, in image pixels."""
    rings = [ring for instance in polygons for ring in instance]
    count = len(polygons) + len(runs)
    return InstanceMasks(
        points=torch.from_numpy(np.concatenate([np.zeros((0, 2)), *rings])),
        ring_start=offsets([len(ring) for ring in rings]),
        instance_ring=offsets([len(instance) for instance in polygons] + [0] * len(runs)),
        counts=torch.from_numpy(np.concatenate([np.zeros(0, np.int32), *runs])),
        instance_count=offsets([0] * len(polygons) + [len(run) for run in runs]),
        frame=torch.tensor([[HEIGHT, WIDTH]]).repeat(count, 1),
        transform=torch.tensor([[1.0, 1.0, 0.0, 0.0]], dtype=torch.float64).repeat(count, 1),
    )


def peer_polygons(polygons: list[Rings], boxes: Tensor) -> Tensor:
    """Draw (R, 28, 28) float32 targets as Detectron2 does."""
    targets = []
    for rings, box in zip(polygons, boxes.double().numpy(), strict=True):
        ratio = SIZE / np.maximum(box[2:] - box[:2], 0.1)
        flat = [((ring - box[:2]) * ratio).reshape(-1) for ring in rings]
        encoded = coco_mask.merge(coco_mask.frPyObjects(flat, SIZE, SIZE))
        targets.append(torch.from_numpy(coco_mask.decode(encoded)))
    return torch.stack(targets).float()


def encode(polygons: list[Rings]) -> list[dict[str, object]]:
    """Draw each instance in the image, as RLE."""
    flat = [[ring.reshape(-1) for ring in rings] for rings in polygons]
    return [coco_mask.merge(coco_mask.frPyObjects(rings, HEIGHT, WIDTH)) for rings in flat]


def peer_rle(encoded: list[dict[str, object]], boxes: Tensor) -> Tensor:
    """Pool bitmaps to (R, 28, 28) float32, one at a time, so that they stay in the cache."""
    targets = []
    for rle, box in zip(encoded, boxes, strict=True):
        bitmap = torch.from_numpy(coco_mask.decode(rle)).float()[None, None]
        targets.append(roi_align(bitmap, [box[None]], SIZE, 1.0, 0, True)[0, 0] >= 0.5)
    return torch.stack(targets).float()


def check_polygons(masks: InstanceMasks, polygons: list[Rings], boxes: Tensor) -> str:
    targets = mask_targets(masks, boxes, torch.arange(len(boxes)), SIZE)
    few = slice(0, REFERENCE_INSTANCES)
    expected = reference_mask_targets(masks, boxes[few], torch.arange(len(boxes[few])), SIZE)
    if not torch.equal(targets[few], expected):
        raise AssertionError("targets from polygons differ from the reference")
    if coco_mask is not None and not torch.equal(targets, peer_polygons(polygons, boxes)):
        raise AssertionError("targets from polygons differ from pycocotools'")
    return f"{len(boxes)} targets from polygons: 0 pixels differ from pycocotools"


def check_rle(masks: InstanceMasks, encoded: list[dict[str, object]], boxes: Tensor) -> str:
    targets = mask_targets(masks, boxes, torch.arange(len(boxes)), SIZE)
    for r in range(REFERENCE_INSTANCES):
        coverage = rle_coverage(masks, boxes[r].double(), r, SIZE)
        if ((coverage - 0.5).abs()[targets[r] != (coverage >= 0.5)] > 1e-6).any():
            raise AssertionError(f"target {r} from RLE differs from the reference")
    if roi_align is None:
        return f"{len(boxes)} targets from RLE"
    different = int((targets != peer_rle(encoded, boxes)).sum())
    return f"{len(boxes)} targets from RLE: {different} pixels differ from torchvision's float32"


def main() -> None:
    args = parse(__doc__)
    facts = about(args)
    rng = np.random.default_rng(0)
    count, few = (200, 30) if args.quick else (1000, 100)
    polygons, boxes = make_polygons(count, rng)
    masks, index = instance_masks(polygons, []), torch.arange(count)
    notes = [check_polygons(masks, polygons, boxes)]
    cases = {
        f"{count} targets from polygons": {"mrcnn": lambda: mask_targets(masks, boxes, index, SIZE)}
    }
    peer = "pycocotools"
    if coco_mask is None:
        notes = ["pycocotools is not installed: no peer, and RLE is not measured"]
    else:
        cases[f"{count} targets from polygons"][peer] = lambda: peer_polygons(polygons, boxes)
        encoded = encode(polygons[:few])
        runs = [host.rle_from_string(rle["counts"], HEIGHT, WIDTH) for rle in encoded]
        run_masks = instance_masks([], runs)
        notes.append(check_rle(run_masks, encoded, boxes[:few]))
        sides = {"mrcnn": lambda: mask_targets(run_masks, boxes[:few], index[:few], SIZE)}
        if roi_align is not None:
            sides[peer] = lambda: peer_rle(encoded, boxes[:few])
        cases[f"{few} targets from RLE"] = sides

    rows: list[Row] = []
    for name, sides in cases.items():
        for threads in args.threads:
            torch.set_num_threads(threads)
            times = measure(sides, args.repeats)
            rows.append(row(name, times, peer=peer if peer in sides else None))
            per_instance = 1e6 * times["mrcnn"].median / int(name.split()[0])
            notes.append(f"{name}, {threads} threads: {per_instance:.2f} us per instance")
    finish(args, facts, rows, notes)


if __name__ == "__main__":
    main()
