"""The run folder: its tables, its environment, and the rows that go into them."""

from __future__ import annotations

import csv
import fcntl
import io
import logging
import os
import platform
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from mrcnn import __version__
from mrcnn.errors import UserError
from mrcnn.io.atomic import replacing, sweep_drafts
from mrcnn.io.json_files import read_text
from mrcnn.training.loop import LOSSES, StepRecord

logger = logging.getLogger("mrcnn")

LOCK = ".lock"
RESULTS, TIMING = "results.csv", "timing.csv"
COLUMNS = {
    # Bit-identical however often a run is interrupted.
    RESULTS: (
        "step", "lr", "loss", *LOSSES, "gradient_norm", "skipped", "val_loss", "bbox_AP", "segm_AP"
    ),
    TIMING: ("step", "seconds", "images_per_second", "loader_share", "memory_gib"),
}  # fmt: skip


@contextmanager
def new_run_folder(folder: Path | None, parent: Path) -> Iterator[Path]:
    """Make `folder` and hold its lock inside this context.

    If it is None, make the next free one of `parent`/1, `parent`/2 and so on.

    Raises:
        UserError: if the folder already holds files, or another process trains there.
    """
    given = folder
    while True:
        if given is None:
            used = [int(p.name) for p in parent.glob("*") if p.name.isdecimal()]
            folder = parent / str(max(used, default=0) + 1)
        assert folder is not None
        sweep_drafts(folder)  # of a run that was killed before it wrote its first file
        if given is not None:
            _check_empty(folder)
        try:
            folder.mkdir(parents=True, exist_ok=given is not None)
            break
        except FileExistsError as error:
            if given is not None:
                raise _not_empty(folder) from error
        except OSError as error:
            reason = error.strerror or error
            raise UserError(
                f"--out {folder}: cannot be created ({reason}); name another folder"
            ) from error
    with locked(folder):
        _check_empty(folder)
        yield folder


def _check_empty(folder: Path) -> None:
    if folder.exists() and not (
        folder.is_dir() and all(path.name == LOCK for path in folder.iterdir())
    ):
        raise _not_empty(folder)


def _not_empty(folder: Path) -> UserError:
    return UserError(
        f"--out {folder}: exists and is not empty; name a new folder, "
        f"or continue the run there with --resume {folder}"
    )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder inside this context: one process trains there.

    The system releases the lock when the process ends, however it ends. File systems without locks
    lead to a warning.

    Raises:
        UserError: if another process holds the lock, or the folder cannot be written.
    """
    try:
        file = (folder / LOCK).open("a+")
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); check its permissions"
        ) from error
    with file:
        try:
            # Not `flock`: worker processes inherit it, and outlive a trainer that is killed.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # which one depends on the system
            file.seek(0)
            holder = file.read(200).strip() or "another process"
            raise UserError(
                f"{folder}: {holder} is training here; wait until it has ended, or stop it"
            ) from None
        except OSError as error:
            logger.warning(
                "%s: cannot be locked (%s); do not train there twice at once",
                folder, error.strerror,
            )  # fmt: skip
        with suppress(OSError):  # of a full disk; the names are for messages alone
            file.truncate(0)
            print(f"process {os.getpid()} on {platform.node()}", file=file, flush=True)
        yield


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


def format_progress(records: Sequence[StepRecord], steps: int, losses: Mapping[str, float]) -> str:
    """Return one line, the most important first: 80 columns show the learning rate, too.

    Args:
        records: The last steps. Speed and time left leave out the first, which may be slow.
        steps: Steps of the run.
        losses: Mean losses; empty before they were read.
    """
    last, timing = records[-1], timing_row(records[1:] or records, 0.0)
    parts = [f"step {last.step}/{steps}", *(f"loss {losses[n]:.3f}" for n in losses if n == "loss")]
    if len(records) > 1:
        left = int((steps - last.step) * sum(r.seconds for r in records[1:]) / (len(records) - 1))
        hours, minutes = f"{left // 3600}:" if left >= 3600 else "", left // 60 % 60
        parts.append(f"{hours}{minutes:0{2 if hours else 1}}:{left % 60:02} left")
    parts += [
        f"{timing['images_per_second']:.1f} img/s",
        f"lr {last.lr:.2g}",
        f"loader {timing['loader_share']:.0%}",
        f"{timing['memory_gib']:.1f} GiB",
        *(f"{n.removeprefix('loss_')} {losses[n]:.3f}" for n in losses if n != "loss"),
    ]
    return "  ".join(parts)


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
    """Remove rows of steps after `step`, and a row that a crash cut off.

    Raises:
        UserError: if a table cannot be read, or was changed so that its rows are no longer clear.
    """
    for table in COLUMNS:
        path = folder / table
        if not path.is_file():
            continue
        text = read_text(path, "remove the file")
        if "\n" not in text:  # a crash cut off its heading, which is then written again
            path.unlink()
            continue
        header, *rows = text.splitlines(keepends=True)
        if header.strip().split(",") != list(COLUMNS[table]):
            raise UserError(f"{path}: must begin with {','.join(COLUMNS[table])}; remove the file")
        kept = []
        for number, row in enumerate(rows, 2):
            if not row.endswith("\n") or row.count(",") != header.count(","):
                continue
            first = row.partition(",")[0]
            if not first.isdecimal():
                raise UserError(
                    f"{path}: line {number} must begin with a step, got {first!r:.40}; correct it, "
                    "or remove the file"
                )
            if int(first) <= step:
                kept.append(row)
        with replacing(path) as draft:
            draft.write_text("".join([header, *kept]), encoding="utf-8", newline="")


def memory() -> int:
    """Return the peak memory of this process in bytes: GPU memory if it uses a GPU."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
