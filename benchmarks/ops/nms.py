"""Time non-maximum suppression against torchvision's; both return the same indices.

Clustered boxes jitter around one object for every eight boxes, as proposals do; sparse boxes are
anywhere. Both are in an 800 x 1344 image (3000 x 5000 for 100,000 boxes), at IoU 0.7. Each case is
measured with three seeds, and the table shows the mean of their times. (100,000 boxes take
torchvision a quarter of a minute: one seed, two readings.)

    python -m benchmarks.ops.nms --threads 1
"""

from __future__ import annotations

import math
import statistics
from functools import partial

import torch
from torch import Tensor

from benchmarks import harness
from mrcnn.ops import batched_nms, nms

if harness.torchvision:
    from torchvision.ops import batched_nms as peer_batched_nms
    from torchvision.ops import nms as peer_nms

THRESHOLD = 0.7
COUNTS = (1_000, 4_000, 12_000, 100_000)
CLASSES = 80


def make_boxes(count: int, clustered: bool, seed: int) -> tuple[Tensor, Tensor]:
    """Draw (count, 4) boxes and (count,) scores as described above."""
    generator = torch.Generator().manual_seed(seed)
    height, width = (800, 1344) if count < 100_000 else (3000, 5000)
    objects = max(count // 8, 1) if clustered else count
    center = torch.rand(objects, 2, generator=generator) * torch.tensor([width, height])
    side = torch.exp(
        torch.rand(objects, 2, generator=generator) * math.log(300 / 16) + math.log(16)
    )
    if clustered:
        index = torch.randint(objects, (count,), generator=generator)
        jitter = torch.randn(count, 4, generator=generator) * 0.1
        center = center[index] + jitter[:, :2] * side[index]
        side = side[index] * torch.exp(jitter[:, 2:])
    boxes = torch.cat([center - side / 2, center + side / 2], dim=1)
    return boxes, torch.rand(count, generator=generator)


def mean_of_seeds(rows: list[harness.Row], case: str) -> harness.Row:
    """Average the lines of one case over its seeds."""
    first = rows[0]
    mrcnn_ms = statistics.mean(r.mrcnn_ms for r in rows)
    peer_ms = statistics.mean(r.peer_ms for r in rows) if first.peer_ms is not None else None
    return harness.Row(
        case=case,
        threads=first.threads,
        mrcnn_ms=mrcnn_ms,
        mrcnn_min_ms=min(r.mrcnn_min_ms for r in rows),
        mrcnn_cpu_ms=statistics.mean(r.mrcnn_cpu_ms for r in rows),
        peer=first.peer,
        peer_ms=peer_ms,
        ratio=peer_ms / mrcnn_ms if peer_ms is not None else None,
        error=0.0 if peer_ms is not None else None,
    )


def main() -> None:
    args = harness.parse(__doc__, threads=(1,), repeats=7)
    facts, rows = harness.about(args), []
    seeds = (0,) if args.quick else (0, 1, 2)
    for threads in args.threads:
        torch.set_num_threads(threads)
        for count in COUNTS[:3] if args.quick else COUNTS:
            for clustered in (True, False):
                rows_of_seeds, kept = [], 0
                for seed in seeds if count < COUNTS[-1] else (0,):
                    boxes, scores = make_boxes(count, clustered, seed)
                    indices = nms(boxes, scores, THRESHOLD)
                    kept = len(indices)
                    sides = {"mrcnn": partial(nms, boxes, scores, THRESHOLD)}
                    if harness.torchvision:
                        expected = peer_nms(boxes, scores, THRESHOLD)
                        if not torch.equal(indices, expected):
                            raise SystemExit(f"{count} boxes, seed {seed}: indices differ")
                        sides["torchvision"] = partial(peer_nms, boxes, scores, THRESHOLD)
                    repeats = 2 if count == COUNTS[-1] else args.repeats
                    rows_of_seeds.append(
                        harness.row("", harness.measure(sides, repeats), peer="torchvision")
                    )
                kind = "clustered" if clustered else "sparse"
                rows.append(mean_of_seeds(rows_of_seeds, f"{count} {kind} boxes, {kept} kept"))
        boxes, scores = make_boxes(4_000, clustered=True, seed=0)
        classes = torch.randint(CLASSES, (len(boxes),), generator=torch.Generator().manual_seed(0))
        sides = {"mrcnn": partial(batched_nms, boxes, scores, classes, THRESHOLD)}
        if harness.torchvision:
            # torchvision adds offsets to boxes, which rounds them: a few indices may differ.
            sides["torchvision"] = partial(peer_batched_nms, boxes, scores, classes, THRESHOLD)
        rows.append(
            harness.row(
                f"batched: 4000 boxes of {CLASSES} classes",
                harness.measure(sides, args.repeats),
                peer="torchvision",
            )
        )
    harness.finish(args, facts, rows)


if __name__ == "__main__":
    main()
