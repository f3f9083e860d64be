"""RoIAlign over a feature pyramid: ours against torchvision's, forward and backward.

Both see the same values in one process, in turn; a result that is wrong is not timed. Boxes are
those of an 800 x 1344 image: sqrt(area) log-uniform from 16 to 600 pixels, aspect 1/2 to 2, centres
uniform.
torchvision gets contiguous maps and its own `MultiScaleRoIAlign`, ours channels_last maps.

The floor is the least memory that must move (cells touched and output, once each) at the bandwidth
of a copy measured in the same run.

    python benchmarks/roi_align_bench.py --threads 2
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.testing import assert_close

from mrcnn.ops import multiscale_roi_align
from mrcnn.ops.reference import roi_align as reference_roi_align

try:
    from torchvision.ops import MultiScaleRoIAlign
except ImportError:
    MultiScaleRoIAlign = None

STRIDES = (4, 8, 16, 32)
SCALES = [1 / stride for stride in STRIDES]
HEIGHT, WIDTH, CHANNELS, SAMPLING_RATIO = 800, 1344, 256, 2
CASES = {"box head: 1000 x 7 x 7": (1000, 7), "mask head: 100 x 14 x 14": (100, 14)}


def make_boxes(count: int) -> Tensor:
    """(count, 4) as described above."""
    size = torch.exp(torch.empty(count).uniform_(2.7726, 6.3969))  # log 16 … log 600
    aspect = torch.exp(torch.empty(count).uniform_(-0.3466, 0.3466))  # sqrt(1/2) … sqrt(2)
    center = torch.rand(count, 2) * torch.tensor([WIDTH, HEIGHT])
    half = torch.stack([size * aspect, size / aspect], dim=1) / 2
    return torch.cat([center - half, center + half], dim=1)


def copy_bandwidth() -> float:
    """Bytes a second, read and write counted, of copying 256 MB."""
    source = torch.ones(64 << 20)
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(timed(target.copy_, source) for _ in range(5))


def timed(run: Callable[..., object], *args: object) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run(*args)
    return time.perf_counter() - start


def touched_bytes(boxes: Tensor) -> int:
    """The cells that the boxes cover, each once."""
    size = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()
    level = (4 + torch.log2(size / 224)).floor().clamp(2, 5).long() - 2
    cells = 0
    for i, stride in enumerate(STRIDES):
        covered = torch.zeros(HEIGHT // stride, WIDTH // stride, dtype=torch.bool)
        for x1, y1, x2, y2 in (boxes[level == i] / stride).tolist():
            covered[max(int(y1), 0) : int(y2) + 2, max(int(x1), 0) : int(x2) + 2] = True
        cells += int(covered.sum())
    return 4 * CHANNELS * cells


def ours(maps: list[Tensor], boxes: Tensor, bins: int) -> Tensor:
    index = torch.zeros(len(boxes), dtype=torch.int64)
    return multiscale_roi_align(
        maps, boxes, index, scales=SCALES, size=(bins, bins),
        sampling_ratio=SAMPLING_RATIO, aligned=False,
    )  # fmt: skip


def peer(maps: list[Tensor], boxes: Tensor, bins: int) -> Tensor:
    pooler = MultiScaleRoIAlign([str(i) for i in range(len(maps))], bins, SAMPLING_RATIO)
    named = {str(i): feature for i, feature in enumerate(maps)}
    return pooler(named, [boxes], [(HEIGHT, WIDTH)])


def measure(name: str, repeats: int, bandwidth: float) -> list[dict[str, object]]:
    """Rows of one case: forward and backward."""
    count, bins = CASES[name]
    boxes = make_boxes(count)
    maps = [torch.randn(1, CHANNELS, HEIGHT // s, WIDTH // s) for s in STRIDES]
    sides: dict[str, tuple[Callable[..., Tensor], list[Tensor]]] = {
        "ours": (ours, [m.contiguous(memory_format=torch.channels_last) for m in maps])
    }
    if MultiScaleRoIAlign is not None:
        sides["torchvision"] = (peer, maps)

    few = boxes[:8]
    index = torch.zeros(len(few), dtype=torch.int64)
    expected = reference_roi_align(
        [m.double() for m in maps], few.double(), index, scales=SCALES, size=(bins, bins),
        sampling_ratio=SAMPLING_RATIO, aligned=False,
    )  # fmt: skip
    error, largest = 0.0, max(float(m.abs().max()) for m in maps)
    for run, features in sides.values():
        found = run(features, few, bins).double()
        # float32 rounds coordinates of up to 336 cells, which the slope of the map multiplies.
        assert_close(found, expected, atol=2e-4 * largest, rtol=0)
        error = error or float((found - expected).abs().max())

    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(repeats + 1):
        for side, (run, features) in sides.items():
            leaves = [m.detach().requires_grad_() for m in features]
            with torch.no_grad():
                forward = timed(run, features, boxes, bins)
            out = run(leaves, boxes, bins)
            gradient = torch.ones_like(out)
            backward = timed(torch.autograd.grad, out, leaves, gradient)
            times.setdefault((side, "forward"), []).append(forward)
            times.setdefault((side, "backward"), []).append(backward)
    output = 4 * CHANNELS * count * bins * bins
    moved = {
        "forward": touched_bytes(boxes) + output,
        "backward": sum(m.nbytes for m in maps) + output,  # every gradient is written once
    }
    rows = []
    for step, amount in moved.items():
        median = {side: statistics.median(times[side, step][1:]) for side in sides}  # 1 warms up
        theirs = median.get("torchvision")
        rows.append(
            {
                "case": name,
                "step": step,
                "ours_ms": 1e3 * median["ours"],
                "torchvision_ms": 1e3 * theirs if theirs else None,
                "ratio": theirs / median["ours"] if theirs else None,
                "floor_ms": 1e3 * amount / bandwidth,
                "percent_of_floor": 100 * amount / bandwidth / median["ours"],
                "max_error": error,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="2 repeats")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    bandwidth = copy_bandwidth()
    repeats = 2 if args.quick else args.repeats
    rows = [row for name in CASES for row in measure(name, repeats, bandwidth)]
    git = ["git", "rev-parse", "--short", "HEAD"]
    about = {
        "commit": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": args.threads,
        "repeats": repeats,
        "load": os.getloadavg()[0],
        "copy_GB_per_s": bandwidth / 1e9,
    }
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    if MultiScaleRoIAlign is None:
        print("torchvision is not installed: no ratios")
    print(f"{'case':<26}{'step':<9}    ours ms    peer ms  ratio   floor ms  of floor      error")
    for row in rows:
        theirs = f"{row['torchvision_ms']:11.1f}{row['ratio']:6.1f}x" if row["ratio"] else " " * 18
        print(
            f"{row['case']:<26}{row['step']:<9}{row['ours_ms']:11.1f}{theirs}"
            f"{row['floor_ms']:11.1f}{row['percent_of_floor']:9.0f}%{row['max_error']:11.1e}"
        )
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"about": about, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
