"""Time RoIAlign over a feature pyramid against torchvision's, forward and backward.

Boxes are in an 800 x 1344 image: sqrt(area) is log-uniform from 16 to 600 pixels, aspect ratios are
1/2 to 2, centres uniform; 256 channels on P2 to P5. torchvision's `MultiScaleRoIAlign` gets
contiguous maps, mrcnn channels_last maps. In cases named NCHW, mrcnn gets contiguous maps, too, and
converts them.

"fresh" is a call with the default allocator: its output is new memory, which the system maps page
by page. "reused" keeps freed memory in the process (glibc's mallopt), so that outputs reuse it;
torchvision is measured under the same setting.

    python -m benchmarks.ops.roi_align --threads 1 2
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks import harness
from mrcnn.ops import multiscale_roi_align
from mrcnn.ops.reference import roi_align as reference_roi_align

if harness.torchvision:
    from torchvision.ops import MultiScaleRoIAlign

STRIDES = (4, 8, 16, 32)
SCALES = [1 / stride for stride in STRIDES]
CHANNELS = 256
CASES = {"box head": (1000, 7), "mask head": (100, 14)}  # boxes, bins
Pool = Callable[[list[Tensor]], Tensor]


def touched_bytes(boxes: Tensor, channels: int) -> int:
    """Return the bytes of all cells that the boxes cover, each counted once, in float32."""
    size = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()
    level = (4 + torch.log2(size / 224)).floor().clamp(2, 5).long() - 2
    cells = 0
    for i, stride in enumerate(STRIDES):
        covered = torch.zeros(harness.HEIGHT // stride, harness.WIDTH // stride, dtype=torch.bool)
        for x1, y1, x2, y2 in (boxes[level == i] / stride).tolist():
            covered[max(int(y1), 0) : int(y2) + 2, max(int(x1), 0) : int(x2) + 2] = True
        cells += int(covered.sum())
    return 4 * channels * cells


def make_maps(channels: int) -> list[Tensor]:
    sizes = [(harness.HEIGHT // s, harness.WIDTH // s) for s in STRIDES]
    return [torch.randn(1, channels, *size) for size in sizes]


def channels_last(maps: list[Tensor]) -> list[Tensor]:
    return [m.contiguous(memory_format=torch.channels_last) for m in maps]


def mrcnn_pool(boxes: Tensor, bins: int, sampling_ratio: int = 2) -> Pool:
    options = {"scales": SCALES, "size": (bins, bins), "aligned": False}
    index = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    return lambda maps: multiscale_roi_align(
        maps, boxes, index, sampling_ratio=sampling_ratio, **options
    )


def peer_pool(boxes: Tensor, bins: int, sampling_ratio: int = 2) -> Pool:
    names = [str(i) for i in range(len(STRIDES))]
    pooler = MultiScaleRoIAlign(names, bins, sampling_ratio)
    size = [(harness.HEIGHT, harness.WIDTH)]
    return lambda maps: pooler(dict(zip(names, maps, strict=True)), [boxes], size)


def check(
    pool: Callable[[Tensor, int], Pool], maps: list[Tensor], boxes: Tensor, bins: int
) -> float:
    """Return the largest error of a few boxes against the float64 reference."""
    few = boxes[:8]
    expected = reference_roi_align(
        [m.double() for m in maps], few.double(), torch.zeros(len(few), dtype=torch.int64),
        scales=SCALES, size=(bins, bins), sampling_ratio=2, aligned=False,
    )  # fmt: skip
    error = float((pool(few, bins)(maps).double() - expected).abs().max())
    # float32 rounds coordinates of up to 336 cells, and the slope of the map multiplies that error.
    # bfloat16 rounds the result to 8 bits.
    largest = max(float(m.abs().max()) for m in maps)
    bound = 2e-4 * largest if maps[0].dtype == torch.float32 else 2**-8 * largest
    if not error <= bound:
        raise SystemExit(f"RoIAlign is wrong by {error}")
    return error


def measure_case(
    name: str, count: int, bins: int, memory: str, repeats: int, bandwidth: float
) -> list[harness.Row]:
    """Time forward, backward, NCHW input, bfloat16 and, on fresh memory, adaptive sampling."""
    boxes = harness.make_boxes(count)
    maps = make_maps(CHANNELS)
    last = channels_last(maps)
    halves = [m.bfloat16() for m in last]
    error = check(mrcnn_pool, last, boxes, bins)
    half_error = check(mrcnn_pool, halves, boxes, bins)
    title = f"{name}: {count} x {bins} x {bins}"
    output = 4 * CHANNELS * count * bins * bins
    touched = touched_bytes(boxes, CHANNELS) + output
    every_map = sum(m.nbytes for m in maps)

    def row(step: str, run: Callable, peer: Callable | None, floor: float, error: float):
        sides = {"mrcnn": run}
        if harness.torchvision and peer:
            sides["torchvision"] = peer
        times = harness.measure(sides, repeats)
        return harness.row(
            f"{title} {step}, {memory}", times, peer="torchvision", floor_bytes=floor,
            bandwidth=bandwidth, error=error,
        )  # fmt: skip

    pool = mrcnn_pool(boxes, bins)
    peer = peer_pool(boxes, bins) if harness.torchvision else None
    forward_peer = partial(peer, maps) if peer else None
    backward_peer = harness.backward_of(peer, maps) if peer else None
    rows = [
        row("forward", partial(pool, last), forward_peer, touched, error),
        row("backward", harness.backward_of(pool, last), backward_peer, every_map + output, error),
        row("forward from NCHW", partial(pool, maps), forward_peer, 2 * every_map + touched, error),
        row("forward bfloat16", partial(pool, halves), None, touched / 2, half_error),
    ]
    if memory == "fresh" and repeats > 3:  # not in a quick run
        adaptive_peer = partial(peer_pool(boxes, bins, 0), maps) if peer else None
        adaptive = partial(mrcnn_pool(boxes, bins, 0), last)
        rows.append(row("forward adaptive", adaptive, adaptive_peer, touched, error))
    return rows


def measure_growth(repeats: int) -> list[harness.Row]:
    """Time different numbers of boxes and channels, on reused memory."""
    rows = []
    for count, channels in ((250, 256), (500, 256), (1000, 64), (1000, 128), (2000, 256)):
        maps = channels_last(make_maps(channels))
        pool = mrcnn_pool(harness.make_boxes(count), 7)
        times = harness.measure({"mrcnn": partial(pool, maps)}, repeats)
        rows.append(harness.row(f"{count} x 7 x 7, {channels} channels, forward, reused", times))
    return rows


def measure_scaling(repeats: int) -> list[harness.Row]:
    """Time two threads against one, alternately, on reused memory."""
    rows = []
    for name, (count, bins) in CASES.items():
        maps = channels_last(make_maps(CHANNELS))
        pool = mrcnn_pool(harness.make_boxes(count), bins)
        directions = {"forward": partial(pool, maps), "backward": harness.backward_of(pool, maps)}
        for direction, run in directions.items():

            def on(threads: int, run: Callable = run) -> object:
                torch.set_num_threads(threads)
                return run()

            sides = {"mrcnn on 1 thread": partial(on, 1), "mrcnn": partial(on, 2)}
            times = harness.measure(sides, repeats)
            title = f"{name}: {direction}, 2 threads against 1, reused"
            rows.append(harness.row(title, times, peer="mrcnn on 1 thread"))
    return rows


def main() -> None:
    args = harness.parse(__doc__)
    facts, rows = harness.about(args), []
    for memory, bandwidth in harness.settings(args):
        for name, (count, bins) in CASES.items():
            torch.manual_seed(0)
            count = count // 20 if args.quick else count
            rows += measure_case(name, count, bins, memory, args.repeats, bandwidth)
        if memory == "reused" and not args.quick:
            rows += measure_growth(args.repeats)
    if memory == "reused" and len(args.threads) > 1 and not args.quick:
        rows += measure_scaling(args.repeats)
    harness.finish(args, facts, rows)


if __name__ == "__main__":
    main()
