"""Time RoIPool on one map against torchvision's, forward and backward; results are bit-identical.

1000 boxes on the stride-16 map of an 800 x 1344 image with 256 channels: sqrt(area) is log-uniform
from 16 to 600 pixels, aspect ratios are 1/2 to 2, centres uniform. benchmarks/ops/roi_align.py
explains "fresh" and "reused". torchvision gets a contiguous map, mrcnn a channels_last one. Without
a gradient, mrcnn does not store which cells were largest.

    python -m benchmarks.ops.roi_pool --threads 1
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks import harness
from mrcnn.ops import roi_pool

if harness.torchvision:
    from torchvision.ops import roi_pool as peer_roi_pool

STRIDE, CHANNELS, BINS = 16, 256, 7


def main() -> None:
    args = harness.parse(__doc__)
    facts, rows = harness.about(args), []
    count = 200 if args.quick else 1000
    boxes = harness.make_boxes(count)
    rois = torch.cat([torch.zeros(count, 1), boxes], dim=1)
    features = torch.randn(1, CHANNELS, harness.HEIGHT // STRIDE, harness.WIDTH // STRIDE)

    def run(maps: list[Tensor]) -> Tensor:
        return roi_pool(maps[0], rois, BINS, 1 / STRIDE)

    def peer(maps: list[Tensor]) -> Tensor:
        return peer_roi_pool(maps[0], rois, BINS, 1 / STRIDE)

    sides = {"mrcnn": (run, [features.contiguous(memory_format=torch.channels_last)])}
    if harness.torchvision:
        sides["torchvision"] = (peer, [features])
        if not torch.equal(run([features]), peer([features])):
            raise SystemExit("the results differ")
    output = 4 * CHANNELS * count * BINS * BINS
    for memory, bandwidth in harness.settings(args):
        runs = {
            "forward": {n: partial(pool, maps) for n, (pool, maps) in sides.items()},
            "backward": {n: harness.backward_of(pool, maps) for n, (pool, maps) in sides.items()},
        }
        for step, step_sides in runs.items():
            # The map and the output; backward also reads the index of each maximum.
            moved = features.nbytes + output * (2 if step == "backward" else 1)
            rows.append(
                harness.row(
                    f"{count} boxes, {BINS} x {BINS}, {step}, {memory}",
                    harness.measure(step_sides, args.repeats),
                    peer="torchvision",
                    floor_bytes=moved,
                    bandwidth=bandwidth,
                    error=0.0 if harness.torchvision else None,
                )
            )
    harness.finish(args, facts, rows)


if __name__ == "__main__":
    main()
