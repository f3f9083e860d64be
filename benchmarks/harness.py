"""Shared parts of all benchmarks: command line, alternating timing, table and JSON file.

Each case runs mrcnn and its peer in one process, alternately, on the same inputs. A wrong result is
not timed. The floor of a case is the memory that must move at least once, at the bandwidth of a
copy measured in the same run.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

try:
    import torchvision
except ImportError:
    torchvision = None

ALLOCATOR = ("THP_MEM_ALLOC_ENABLE", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
MIN_SECONDS = 2e-3  # a shorter case is called several times for one reading


HEIGHT, WIDTH = 800, 1344  # of the image that boxes lie in, pixels


@dataclass
class Timing:
    """Seconds per call, over all repeats."""

    median: float
    minimum: float
    cpu: float  # median CPU time of the process, all threads


@dataclass
class Row:
    """One line of the table; None where no peer was measured."""

    case: str
    threads: int
    mrcnn_ms: float
    mrcnn_min_ms: float
    mrcnn_cpu_ms: float
    peer: str | None = None
    peer_ms: float | None = None
    ratio: float | None = None
    floor_ms: float | None = None
    percent_of_floor: float | None = None
    error: float | None = None


def parse(
    doc: str | None,
    *,
    threads: tuple[int, ...] = (1, 2),
    repeats: int = 9,
    ways: Sequence[str] = (),
) -> argparse.Namespace:
    """Parse the options that every benchmark has, and `--ways` if `ways` are given."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+", default=list(threads))
    parser.add_argument("--repeats", type=int, default=repeats, help="number of readings per case")
    parser.add_argument("--quick", action="store_true", help="3 readings, small cases: < 30 s")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    if ways:
        text = "which variants to time (default: all; with --quick the first)"
        parser.add_argument("--ways", nargs="+", choices=ways, help=text)
    args = parser.parse_args()
    if ways and args.ways is None:
        args.ways = list(ways[:1] if args.quick else ways)
    if args.quick:
        args.repeats = 3
    torch.manual_seed(0)
    return args


def measure(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, Timing]:
    """Time all sides alternately (A B A B …) after untimed warm-up calls.

    A side that prepares something in each call returns the seconds that count, as a float. Any
    other result is dropped before the next call.
    """
    calls: dict[str, int] = {}
    for name, run in sides.items():
        seconds = _seconds(run)[0]
        if seconds < 50 * MIN_SECONDS:  # a longer call needs no more warm-up
            seconds = min(_seconds(run)[0] for _ in range(2))
        calls[name] = max(1, min(1000, int(MIN_SECONDS / max(seconds, 1e-7))))
    readings: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            wall = cpu = 0.0
            for _ in range(calls[name]):
                call_wall, call_cpu = _seconds(run)
                wall, cpu = wall + call_wall, cpu + call_cpu
            readings[name].append((wall / calls[name], cpu / calls[name]))
    return {
        name: Timing(
            statistics.median(wall for wall, _ in times),
            min(wall for wall, _ in times),
            statistics.median(cpu for _, cpu in times),
        )
        for name, times in readings.items()
    }


def _seconds(run: Callable[[], object]) -> tuple[float, float]:
    """Return wall time and CPU time of one call."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = run()
    wall = time.perf_counter() - wall
    cpu = time.process_time() - cpu
    return (result if isinstance(result, float) else wall), cpu


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory, so that outputs reuse mapped pages.

    Returns:
        False if this system does not use glibc.
    """
    trim_threshold, mmap_max = -1, -4  # of glibc's mallopt (malloc.h)
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(mallopt(mmap_max, 0)) and bool(mallopt(trim_threshold, 2**31 - 1))


def settings(args: argparse.Namespace) -> Iterator[tuple[str, float]]:
    """Yield (memory, copy bandwidth) for each round of a benchmark with large outputs.

    Sets the number of threads. "fresh" memory is the system's default. "reused" comes last, because
    it cannot be undone.
    """
    for memory in ("fresh", "reused"):
        if memory == "reused" and not keep_freed_memory():
            print("this system cannot keep freed memory: no times for reused memory")
            return
        for threads in args.threads:
            torch.set_num_threads(threads)
            yield memory, copy_bandwidth()


def make_boxes(count: int) -> torch.Tensor:
    """Draw (count, 4) random xyxy boxes.

    sqrt(area) is log-uniform from 16 to 600 pixels, aspect ratios are 1/2 to 2, centres uniform.
    """
    size = torch.exp(torch.empty(count).uniform_(2.7726, 6.3969))  # log 16 … log 600
    aspect = torch.exp(torch.empty(count).uniform_(-0.3466, 0.3466))  # sqrt(1/2) … sqrt(2)
    center = torch.rand(count, 2) * torch.tensor([WIDTH, HEIGHT])
    half = torch.stack([size * aspect, size / aspect], dim=1) / 2
    return torch.cat([center - half, center + half], dim=1)


def backward_of(pool: Callable[..., torch.Tensor], maps: Any) -> Callable[[], float]:
    """Return a side for `measure` that times only the backward pass of `pool(maps)`."""
    leaves = [m.detach().requires_grad_() for m in maps]
    upstream: list[torch.Tensor] = []

    def run() -> float:
        out = pool(leaves)
        if not upstream:
            upstream.append(torch.ones_like(out))
        start = time.perf_counter()
        gradients = torch.autograd.grad(out, leaves, upstream[0])
        seconds = time.perf_counter() - start
        del gradients
        return seconds

    return run


def copy_bandwidth() -> float:
    """Measure bytes per second (read and written) when 256 MB are copied with all threads."""
    source = torch.ones(64 << 20)
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(_seconds(lambda: target.copy_(source))[0] for _ in range(6))


def row(
    case: str,
    times: dict[str, Timing],
    *,
    peer: str | None = None,
    floor_bytes: float | None = None,
    bandwidth: float | None = None,
    error: float | None = None,
) -> Row:
    """Build a table line from the timings of "mrcnn" and, if it was measured, of `peer`."""
    mrcnn, other = times["mrcnn"], times.get(peer) if peer else None
    floor = floor_bytes / bandwidth if floor_bytes is not None and bandwidth else None
    return Row(
        case=case,
        threads=torch.get_num_threads(),
        mrcnn_ms=1e3 * mrcnn.median,
        mrcnn_min_ms=1e3 * mrcnn.minimum,
        mrcnn_cpu_ms=1e3 * mrcnn.cpu,
        peer=peer if other else None,
        peer_ms=1e3 * other.median if other else None,
        ratio=other.median / mrcnn.median if other else None,
        floor_ms=1e3 * floor if floor is not None else None,
        percent_of_floor=100 * floor / mrcnn.median if floor is not None else None,
        error=error,
    )


def about(args: argparse.Namespace) -> dict[str, Any]:
    """Return commit, machine, versions and settings, on which the timings depend."""
    return {
        "commit": _git("rev-parse", "--short", "HEAD")
        + (
            "+changes"
            if _git(
                "status", "--porcelain", "--untracked-files=no", "--", ":/", ":!/benchmarks/results"
            )
            else ""
        ),
        "device": "cpu",
        "machine": _cpu_name(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__ if torchvision else None,
        "kernels": torch.ops.mrcnn.build_info(),
        "allocator": {name: os.environ[name] for name in ALLOCATOR if name in os.environ},
        "threads": args.threads,
        "repeats": args.repeats,
        "quick": args.quick,
        "load_before": os.getloadavg()[0],
    }


def _git(*arguments: str) -> str:
    """Return git's output, or an empty string without git or outside a clone."""
    try:
        process = subprocess.run(
            ["git", *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parent,
        )
    except OSError:
        return ""
    return process.stdout.strip()


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def finish(
    args: argparse.Namespace, facts: dict[str, Any], rows: Iterable[Row], notes: Iterable[str] = ()
) -> None:
    """Print the table and the notes, and write `args.out` if it is given."""
    rows, notes = list(rows), list(notes)
    if torchvision is None:
        notes.append("torchvision is not installed: no comparison")
    facts |= {"load_after": os.getloadavg()[0]}
    print(
        f"{facts['machine']}, {facts['cores']} cores, torch {facts['torch']}, "
        f"commit {facts['commit']}, allocator {facts['allocator'] or 'default'}, "
        f"load {facts['load_before']:.1f} to {facts['load_after']:.1f}"
    )
    width = max([len(r.case) for r in rows], default=0)
    print(
        f"{'case':<{width}} threads   mrcnn ms (    min)    peer ms    ratio   floor ms  of floor"
        "     error  peer"
    )
    for r in rows:
        print(
            f"{r.case:<{width}} {r.threads:>7} {r.mrcnn_ms:>10.3f} ({r.mrcnn_min_ms:>7.3f}) "
            f"{_cell(r.peer_ms, '10.3f')} {_cell(r.ratio, '7.2f', 'x')} "
            f"{_cell(r.floor_ms, '10.3f')} {_cell(r.percent_of_floor, '8.0f', '%')} "
            f"{_cell(r.error, '9.1e')}  {r.peer or ''}"
        )
    for note in notes:
        print(note)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        content = {"about": facts, "rows": [asdict(r) for r in rows], "notes": notes}
        args.out.write_text(json.dumps(content, indent=2) + "\n")


def _cell(value: float | None, form: str, unit: str = "") -> str:
    width = int(form.split(".")[0]) + len(unit)
    return f"{'':>{width}}" if value is None else f"{value:{form}}{unit}"
