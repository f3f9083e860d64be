"""The folder of a run: everything needed to understand it later."""

from __future__ import annotations

import csv
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mrcnn.errors import UserError
from mrcnn.training.loop import LOSSES, StepRecord

COLUMNS = (
    "step",
    "lr",
    "loss",
    *LOSSES,
    "gradient_norm",
    "images_per_second",
    "bbox_AP",
    "segm_AP",
)


def make_run_folder(wanted: Path | None, parent: Path) -> Path:
    """Make the wanted folder, or else the next free one of `parent`/1, `parent`/2, …

    Raises:
        UserError: if the wanted folder holds files already.
    """
    if wanted is None:
        used = [int(p.name) for p in parent.glob("*") if p.name.isdigit()]
        wanted = parent / str(max(used, default=0) + 1)
    if wanted.exists() and not (wanted.is_dir() and not any(wanted.iterdir())):
        raise UserError(f"--out {wanted}: exists and is not empty; name a new folder")
    wanted.mkdir(parents=True, exist_ok=True)
    return wanted


def environment() -> dict[str, Any]:
    """What the numbers of a run depend on besides its configuration."""
    return {
        "command": sys.argv,
        "mrcnn": version("mrcnn") if _installed() else "source tree",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "machine": platform.machine(),
        "system": platform.platform(),
        "threads": torch.get_num_threads(),
    }


def _installed() -> bool:
    try:
        version("mrcnn")
    except ImportError:
        return False
    return True


def append_results(
    path: Path, records: Sequence[StepRecord], metrics: dict[str, float] | None = None
) -> None:
    """One row: the mean of `records`, and the AP measured after them, if any."""
    is_new = not path.exists()
    last = records[-1]
    row: dict[str, Any] = {"step": last.step, "lr": last.lr}
    for name in ("loss", *LOSSES):
        row[name] = sum(r.losses[name] for r in records) / len(records)
    row["gradient_norm"] = sum(r.gradient_norm for r in records) / len(records)
    row["images_per_second"] = sum(r.images for r in records) / sum(r.seconds for r in records)
    row |= metrics or {}
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        if is_new:
            writer.writeheader()
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
