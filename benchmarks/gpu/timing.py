"""Time GPU calls: CUDA events around batches, graph replays, wall time, kernels by name.

The calls of a case rotate over several sets of inputs, so that large inputs are not in the L2 cache
from the previous call ("cold"). "hot" repeats the first set.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import torch

WARM_UPS, CALLS = 20, 200
BATCH_US = 1000.0  # between two events at least
WALL_SECONDS = 0.5  # for one median of wall times, at most

Call = Callable[[], object]


@dataclass
class Row:
    """One line of the table, microseconds per call; None if not measured."""

    case: str
    graph_us: float | None = None  # replayed in a graph, cold inputs
    hot_us: float | None = None  # replayed in a graph, one set of inputs
    wall_us: float | None = None  # called from Python, with a synchronisation
    kernels: int | None = None  # launched per call
    goal_us: float | None = None
    aim_us: float | None = None
    floor_us: float | None = None
    percent_of_floor: float | None = None
    peer: str | None = None
    peer_wall_us: float | None = None
    peer_kernels_us: float | None = None  # sum of its kernels, without the gaps between them
    ratio_wall: float | None = None
    ratio_kernels: float | None = None  # that sum to graph_us
    error: float | None = None
    peak_mb: float | None = None
    failure: str | None = None


def event_us(run: Call, calls: int = 1) -> float:
    """Return the median time of one of the `calls` that `run` makes, by events around batches."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def batch_us(size: int) -> float:
        start.record()
        for _ in range(size):
            run()
        end.record()
        end.synchronize()
        return 1e3 * start.elapsed_time(end)

    single = batch_us(1)
    for _ in range(min(-(-WARM_UPS // calls), max(1, int(2e5 / max(single, 1.0))))):
        single = min(single, batch_us(1))
    size = max(1, -(-int(BATCH_US) // max(int(single), 1)))
    enough = max(9, -(-CALLS // (size * calls)))
    batches = max(3, min(enough, int(1e6 * WALL_SECONDS / (max(single, 1.0) * size))))
    return statistics.median(batch_us(size) for _ in range(batches)) / (size * calls)


def graph_us(calls: Sequence[Call]) -> float:
    """Return the time of one call when all calls are captured in turn in one graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls[:2]:
            call()
        estimate = event_us(calls[0])
    torch.cuda.current_stream().wait_stream(stream)
    # Long enough to make the cost of launching the graph negligible.
    count = len(calls) * max(1, min(16, int(4 * BATCH_US / (estimate * len(calls)))))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in islice(cycle(calls), count):
            call()
    return event_us(graph.replay, count)


def wall_us(calls: Sequence[Call]) -> float:
    """Return the median wall time of a call and the synchronisation after it."""
    torch.cuda.synchronize()
    seconds: list[float] = []
    rotation, begin = cycle(calls), time.perf_counter()
    for i in range(WARM_UPS + CALLS):
        call = next(rotation)
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        if i >= 4 and time.perf_counter() - begin > WALL_SECONDS:
            break
    return 1e6 * statistics.median(seconds[min(WARM_UPS, len(seconds) // 2) :])


def kernels_of(calls: Sequence[Call]) -> tuple[int | None, float | None]:
    """Return the number of kernels per call and the sum of their times; None without a profiler."""
    calls = list(islice(cycle(calls), 5))
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        for call in calls:
            call()
        torch.cuda.synchronize()
    on_gpu = torch.autograd.DeviceType.CUDA
    times = [e.time_range.elapsed_us() for e in profiler.events() if e.device_type == on_gpu]
    if not times:
        return None, None
    return round(len(times) / len(calls)), sum(times) / len(calls)


def peak_mb(call: Call) -> float:
    """Return the memory that a call takes beyond its inputs, including its result, in MB."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = call()
    torch.cuda.synchronize()
    del result
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def copy_bandwidth() -> float:
    """Measure bytes per second (read and written) when 1 GB is copied."""
    source = torch.ones(250_000_000, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / (1e-6 * event_us(lambda: target.copy_(source)))


def gpu_facts() -> dict[str, object]:
    """Return the GPU, its driver and its clocks."""
    about = torch.cuda.get_device_properties(0)
    query = "driver_version,clocks.sm,clocks.mem,power.limit,compute_mode"
    try:
        output = subprocess.run(
            ["nvidia-smi", "-i", "0", f"--query-gpu={query}", "--format=csv,noheader"],
            capture_output=True, text=True, check=False, timeout=30,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        output = ""
    values = [value.strip() for value in output.split(",")]
    return {
        "device": "cuda",
        "machine": about.name,
        "multiprocessors": about.multi_processor_count,
        "memory_gb": round(about.total_memory / 1e9, 1),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        **dict(zip(query.split(","), values, strict=False)),
    }
