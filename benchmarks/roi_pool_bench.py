"""RoIPool on one map: ours against torchvision's, forward and backward, with the same bits.

1000 boxes on the stride-16 map of an 800 x 1344 image with 256 channels: sqrt(area) log-uniform
from 16 to 600 pixels, aspect 1/2 to 2, centres uniform. "fresh" and "reused" mean what they do in
roi_align_bench.py. torchvision gets a contiguous map, ours a channels_last one; without a gradient
to come, ours does not write which cells won.

    python benchmarks/roi_pool_bench.py --threads 1
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

import common
from mrcnn.ops import roi_pool

if common.torchvision:
    from torchvision.ops import roi_pool as peer_roi_pool

STRIDE, CHANNELS, BINS = 16, 256, 7


def main() -> None:
    args = common.parse(__doc__)
    facts, rows = common.about(args), []
    count = 200 if args.quick else 1000
    boxes = common.make_boxes(count)
    rois = torch.cat([torch.zeros(count, 1), boxes], dim=1)
    features = torch.randn(1, CHANNELS, common.HEIGHT // STRIDE, common.WIDTH // STRIDE)

    def ours(maps: list[Tensor]) -> Tensor:
        return roi_pool(maps[0], rois, BINS, 1 / STRIDE)

    def peer(maps: list[Tensor]) -> Tensor:
        return peer_roi_pool(maps[0], rois, BINS, 1 / STRIDE)

    sides = {"ours": (ours, [features.contiguous(memory_format=torch.channels_last)])}
    if common.torchvision:
        sides["torchvision"] = (peer, [features])
        if not torch.equal(ours([features]), peer([features])):
            raise SystemExit("the results differ")
    output = 4 * CHANNELS * count * BINS * BINS
    for memory, bandwidth in common.settings(args):
        runs = {
            "forward": {n: partial(pool, maps) for n, (pool, maps) in sides.items()},
            "backward": {n: common.backward_of(pool, maps) for n, (pool, maps) in sides.items()},
        }
        for step, of_step in runs.items():
            # The map and the output; backward also reads the place of every maximum.
            moved = features.nbytes + output * (2 if step == "backward" else 1)
            rows.append(
                common.row(
                    f"{count} boxes, {BINS} x {BINS}, {step}, {memory}",
                    common.measure(of_step, args.repeats),
                    peer="torchvision",
                    floor_bytes=moved,
                    bandwidth=bandwidth,
                    error=0.0 if common.torchvision else None,
                )
            )
    common.finish(args, facts, rows)


if __name__ == "__main__":
    main()
