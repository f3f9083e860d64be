"""The run folder: its tables, its environment, and the rows that go into them."""

from __future__ import annotations

import csv
import io
import platform
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mrcnn import __version__
from mrcnn.errors import UserError
from mrcnn.io.atomic import replacing, sweep_drafts
from mrcnn.training.loop import LOSSES, StepRecord

RESULTS, TIMING = "results.csv", "timing.csv"
COLUMNS = {
    # Bit-identical however often a run is interrupted.
    RESULTS: (
        "step", "lr", "loss", *LOSSES, "gradient_norm", "skipped", "val_loss", "bbox_AP", "segm_AP"
    ),
    TIMING: ("step", "seconds", "images_per_second", "loader_share", "memory_gib"),
}  # fmt: skip


def make_run_folder(folder: Path | None, parent: Path) -> Path:
    """Make `folder`; if it is None, make the next free one of `parent`/1, `parent`/2 and so on.

    Raises:
        UserError: if the folder already holds files.
    """
    if folder is None:
        used = [int(p.name) for p in parent.glob("*") if p.name.isdigit()]
        folder = parent / str(max(used, default=0) + 1)
    sweep_drafts(folder)  # of a run that was killed before it wrote its first file
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(
            f"--out {folder}: exists and is not empty; name a new folder, "
            f"or continue the run there with --resume {folder}"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--out {folder}: cannot be created ({error.strerror or error}); name another folder"
        ) from error
    return folder


def environment() -> dict[str, Any]:
    """Return what the results of a run depend on, besides its configuration."""
    return {
        "command": sys.argv,
        "mrcnn": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "machine": platform.machine(),
        "system": platform.platform(),
        "threads": torch.get_num_threads(),
    }


def results_row(records: Sequence[StepRecord], metrics: Mapping[str, float]) -> dict[str, Any]:
    """Return the means of `records`, without skipped steps, and the metrics measured afterwards."""
    valid = [r for r in records if not r.skipped] or records
    row = {"step": records[-1].step, "lr": records[-1].lr, **mean_losses(records)}
    row["gradient_norm"] = sum(r.gradient_norm for r in valid) / len(valid)
    row["skipped"] = sum(r.skipped for r in records)
    return row | {name: metrics[name] for name in COLUMNS[RESULTS] if name in metrics}


def timing_row(records: Sequence[StepRecord], seconds: float) -> dict[str, Any]:
    """Return the speed and memory of `records`, and the `seconds` of training so far."""
    spent = sum(r.seconds for r in records) or float("nan")
    return {
        "step": records[-1].step,
        "seconds": seconds,
        "images_per_second": sum(r.images for r in records) / spent,
        "loader_share": sum(r.data_seconds for r in records) / spent,
        "memory_gib": memory() / 2**30,
    }


def format_progress(records: Sequence[StepRecord], steps: int) -> str:
    """Return one line: step, mean losses, speed, memory, time left, share of waiting, rate."""
    last, timing = records[-1], timing_row(records, 0.0)
    mean = mean_losses(records)
    each = " ".join(
        f"{name.removeprefix('loss_')} {value:.3f}"
        for name, value in mean.items()
        if name != "loss"
    )
    left = int((steps - last.step) * sum(r.seconds for r in records) / len(records))
    return (
        f"step {last.step}/{steps}  loss {mean['loss']:.3f}  "
        f"{timing['images_per_second']:.1f} img/s  {timing['memory_gib']:.1f} GiB  "
        f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left  "
        f"loader {timing['loader_share']:.0%}  lr {last.lr:.2g}  {each}"
    )


def mean_losses(records: Sequence[StepRecord]) -> dict[str, float]:
    """Return the mean of each loss over `records`, without skipped steps where there are others."""
    valid = [r for r in records if not r.skipped] or records
    return {name: sum(r.losses[name] for r in valid) / len(valid) for name in records[-1].losses}


def append_row(folder: Path, table: str, row: Mapping[str, Any]) -> None:
    """Add a row to `RESULTS` or `TIMING`.

    Raises:
        UserError: if the file cannot be written.
    """
    path, text = folder / table, io.StringIO()
    writer = csv.DictWriter(text, COLUMNS[table], restval="", lineterminator="\n")
    if not path.exists():
        writer.writeheader()
    writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    try:
        with path.open("a", newline="", encoding="utf-8") as file:
            file.write(text.getvalue())
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); free space, then --resume"
        ) from error


def cut_tables(folder: Path, step: int) -> None:
    """Remove rows of steps after `step`, and a row that a crash cut off."""
    for table in COLUMNS:
        path = folder / table
        if not path.is_file():
            continue
        header, *rows = path.read_text(encoding="utf-8").splitlines(keepends=True) or [""]
        kept = [
            row
            for row in rows
            if row.endswith("\n") and row.count(",") == header.count(",")
            if int(row.partition(",")[0]) <= step
        ]
        with replacing(path) as draft:
            draft.write_text("".join([header, *kept]), encoding="utf-8", newline="")


def memory() -> int:
    """Return the peak memory of this process in bytes: GPU memory if it uses a GPU."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
