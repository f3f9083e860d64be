"""Time all operators and the whole model on a GPU, with goal, floor, and torchvision in one run.

The inputs are those of each operator's own benchmark. "replay" is the time of a call in a CUDA
graph whose calls rotate over eight sets of inputs; if these are large, they exceed the L2 cache.
"hot" repeats one set. "wall" is a call from Python and the synchronisation after it. Before
anything is timed, the result is compared with the CPU kernels or the float64 reference.

The goals and aims are this project's own, for an H100 or H200. The floor is the memory that must
move at least once, at the bandwidth of a copy measured in the same run. torchvision gets contiguous
maps. Where mrcnn runs in bfloat16, which torchvision's kernels do not take, it runs in float16. Its
calls cannot be captured: the table has their wall time and the sum of their kernels.

    python -m benchmarks.gpu.measure --out gpu.json
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks import harness
from benchmarks.gpu import model_cases, op_cases
from benchmarks.gpu.op_cases import Case
from benchmarks.gpu.timing import (
    Row,
    copy_bandwidth,
    gpu_facts,
    graph_us,
    kernels_of,
    peak_mb,
    wall_us,
)

CASES: dict[str, Callable[[bool], Iterator[Case]]] = {
    "roi_align": op_cases.roi_align_cases,
    "roi_align_backward": op_cases.roi_align_backward_cases,
    "nms": op_cases.nms_cases,
    "select_proposals": op_cases.select_proposals_cases,
    "select_detections": op_cases.select_detections_cases,
    "match_boxes": op_cases.match_boxes_cases,
    "paste_masks": op_cases.paste_masks_cases,
    "mask_targets": op_cases.mask_targets_cases,
    "inference": model_cases.inference,
    "training": model_cases.training,
}


CASE_WIDTH = 56


def measure(case: Case, bandwidth: float) -> Row:
    row = Row(case.name, goal_us=case.goal_us, aim_us=case.aim_us, error=case.error)
    faces = case.faces or case.calls
    row.wall_us = wall_us(faces)
    row.kernels, _ = kernels_of(case.calls)
    row.peak_mb = peak_mb(faces[0])
    if case.peers:
        row.peer = case.peer
        row.peer_wall_us = wall_us(case.peers)
        _, row.peer_kernels_us = kernels_of(case.peers)
        row.ratio_wall = row.peer_wall_us / row.wall_us
    try:
        row.graph_us = graph_us(case.calls)
        if len(case.calls) > 1:
            row.hot_us = graph_us(case.calls[:1] * len(case.calls))
    except RuntimeError as error:
        traceback.print_exc()
        row.failure = f"not captured: {first_line(error)}"
        return row
    if case.floor_bytes is not None:
        row.floor_us = 1e6 * case.floor_bytes / bandwidth
        row.percent_of_floor = 100 * row.floor_us / row.graph_us
    if row.peer_kernels_us is not None:
        row.ratio_kernels = row.peer_kernels_us / row.graph_us
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--quick", action="store_true", help="fewer sets and cases: < 60 s")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit(f"no GPU: PyTorch {torch.__version__} does not find one; nothing is measured")
    args.threads, args.repeats = [torch.get_num_threads()], None
    kernels = importlib.import_module("mrcnn_CUDA").build_info()
    facts = harness.about(args) | gpu_facts() | {"cuda_kernels": kernels}
    bandwidth = copy_bandwidth()
    facts["copy_gb_per_s"] = round(bandwidth / 1e9)
    show_head(facts)
    rows: list[Row] = []
    for name in args.only:
        start = time.perf_counter()
        for row in measure_all(CASES[name], args.quick, bandwidth, name):
            rows.append(row)
            show(row)
            if args.out:  # after each row, in case the run is cut off
                write(args.out, facts, rows)
        torch.cuda.empty_cache()
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    print("* meets its goal. of floor: time to move the bytes once, as a share of the time taken.")
    if failed := [row.case for row in rows if row.failure]:
        sys.exit(f"failed: {', '.join(failed)}")


def measure_all(
    cases: Callable[[bool], Iterator[Case]], quick: bool, bandwidth: float, name: str
) -> Iterator[Row]:
    """Yield the rows of one benchmark; a failure does not stop the others."""
    try:
        for case in cases(quick):
            try:
                yield measure(case, bandwidth)
            except Exception as error:
                traceback.print_exc()
                yield Row(case.name, failure=first_line(error))
    except Exception as error:
        traceback.print_exc()
        yield Row(name, failure=first_line(error))


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]


def write(path: Path, facts: dict[str, Any], rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"about": facts, "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(content, indent=2) + "\n")


def show_head(facts: dict[str, Any]) -> None:
    """Print the machine, the versions and the head of the table."""
    print(
        f"{facts['machine']}, driver {facts.get('driver_version')}, torch {facts['torch']}, "
        f"torchvision {facts['torchvision']}, commit {facts['commit'] or 'unknown'}, "
        f"copy {facts['copy_gb_per_s']} GB/s; microseconds per call"
    )
    print(
        f"{'case':<{CASE_WIDTH}}  replay     hot    wall kernels   goal/aim of floor "
        "| peer wall kernels | ratio wall kernels |  error peak MB"
    )


def show(row: Row) -> None:
    """Print a line of the table."""
    goal = "" if row.goal_us is None else f"{row.goal_us:.0f}/"
    goal += "" if row.aim_us is None else f"{row.aim_us:.0f}"
    reached = "*" if row.goal_us and row.graph_us and row.graph_us <= row.goal_us else ""
    error = "" if row.error is None else f"{row.error:.0e}"
    print(
        f"{row.case:<{CASE_WIDTH}}{_number(row.graph_us, 8)}{_number(row.hot_us, 8)}"
        f"{_number(row.wall_us, 8)}{_number(row.kernels, 8)}{goal + reached:>11}"
        f"{_number(row.percent_of_floor, 9, '%')} | {_number(row.peer_wall_us, 9)}"
        f"{_number(row.peer_kernels_us, 8)} | {_number(row.ratio_wall, 10, 'x')}"
        f"{_number(row.ratio_kernels, 8, 'x')} |{error:>7}{_number(row.peak_mb, 8)}",
        flush=True,
    )
    if row.failure:
        print(f"  FAILED: {row.failure}", flush=True)


def _number(value: float | None, width: int, unit: str = "") -> str:
    if value is None:
        return " " * width
    digits = 0 if abs(value) >= 100 or isinstance(value, int) else 1
    return f"{f'{value:.{digits}f}{unit}':>{width}}"


if __name__ == "__main__":
    main()
