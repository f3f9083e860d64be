"""Non-maximum suppression: ours against torchvision's, with the same indices.

Clustered boxes jitter around one object for every eight boxes, as proposals do; sparse boxes lie
anywhere. Both in an 800 x 1344 image (3000 x 5000 for 100,000 boxes), at IoU 0.7; every case is
measured for three seeds, and the table shows the mean of their times. (100,000 boxes take
torchvision a quarter of a minute: one seed, two readings.)

    python benchmarks/nms_bench.py --threads 1
"""

from __future__ import annotations

import math
import statistics
from functools import partial

import torch
from torch import Tensor

import common
from mrcnn.ops import batched_nms, nms

if common.torchvision:
    from torchvision.ops import batched_nms as peer_batched_nms
    from torchvision.ops import nms as peer_nms

THRESHOLD = 0.7
COUNTS = (1_000, 4_000, 12_000, 100_000)
CLASSES = 80


def make_boxes(count: int, clustered: bool, seed: int) -> tuple[Tensor, Tensor]:
    """(count, 4) boxes and (count,) scores as described above."""
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


def mean_of_seeds(rows: list[common.Row], case: str) -> common.Row:
    """One line for the same case with other seeds."""
    first = rows[0]
    ours = statistics.mean(r.ours_ms for r in rows)
    theirs = [r.peer_ms for r in rows if r.peer_ms is not None]
    return common.Row(
        case=case,
        threads=first.threads,
        ours_ms=ours,
        ours_min_ms=min(r.ours_min_ms for r in rows),
        ours_cpu_ms=statistics.mean(r.ours_cpu_ms for r in rows),
        peer=first.peer,
        peer_ms=statistics.mean(theirs) if theirs else None,
        ratio=statistics.mean(theirs) / ours if theirs else None,
        error=0.0 if theirs else None,
    )


def main() -> None:
    args = common.parse(__doc__, threads=(1,), repeats=7)
    facts, rows = common.about(args), []
    seeds = (0,) if args.quick else (0, 1, 2)
    for threads in args.threads:
        torch.set_num_threads(threads)
        for count in COUNTS[:3] if args.quick else COUNTS:
            for clustered in (True, False):
                of_seeds, kept = [], 0
                for seed in seeds if count < COUNTS[-1] else (0,):
                    boxes, scores = make_boxes(count, clustered, seed)
                    found = nms(boxes, scores, THRESHOLD)
                    kept = len(found)
                    sides = {"ours": partial(nms, boxes, scores, THRESHOLD)}
                    if common.torchvision:
                        expected = peer_nms(boxes, scores, THRESHOLD)
                        if not torch.equal(found, expected):
                            raise SystemExit(f"{count} boxes, seed {seed}: other indices")
                        sides["torchvision"] = partial(peer_nms, boxes, scores, THRESHOLD)
                    repeats = 2 if count == COUNTS[-1] else args.repeats
                    of_seeds.append(
                        common.row("", common.measure(sides, repeats), peer="torchvision")
                    )
                kind = "clustered" if clustered else "sparse"
                rows.append(mean_of_seeds(of_seeds, f"{count} {kind} boxes, {kept} kept"))
        boxes, scores = make_boxes(4_000, clustered=True, seed=0)
        classes = torch.randint(CLASSES, (len(boxes),), generator=torch.Generator().manual_seed(0))
        sides = {"ours": partial(batched_nms, boxes, scores, classes, THRESHOLD)}
        if common.torchvision:
            # Its coordinate offsets round boxes, so that a few indices may differ.
            sides["torchvision"] = partial(peer_batched_nms, boxes, scores, classes, THRESHOLD)
        rows.append(
            common.row(
                f"batched: 4000 boxes of {CLASSES} classes",
                common.measure(sides, args.repeats),
                peer="torchvision",
            )
        )
    common.finish(args, facts, rows)


if __name__ == "__main__":
    main()
