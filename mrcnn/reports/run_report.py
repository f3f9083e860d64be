"""The report of a training run: `report.html` in its folder."""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mrcnn.config import ModelConfig
from mrcnn.data.coco.read import CocoDataset
from mrcnn.data.images import read_image
from mrcnn.errors import UserError
from mrcnn.evaluation import Evaluation
from mrcnn.evaluation.coco import KINDS, Kind
from mrcnn.evaluation.evaluation import score
from mrcnn.evaluation.matching import DEFAULT_SCORE
from mrcnn.evaluation.result_files import read_results
from mrcnn.evaluation.truth import GroundTruth
from mrcnn.io.json_files import read_json, read_text, shown
from mrcnn.reports import sections
from mrcnn.reports.page import Section, Tile, embed, format_metric, write_page

Row = dict[str, float]


PAGE = "report.html"
REFRESH_SECONDS = 30  # of the page during a run


def write_report(
    folder: Path, dataset: CocoDataset, evaluation: Evaluation | None, is_running: bool = False
) -> Path:
    """Write report.html of a run, from the other files of its folder, and return its path.

    Args:
        folder: Folder of the run.
        dataset: Validation images.
        evaluation: Of the best weights on these images; None if there is none.
        is_running: Whether the run has not ended. A browser then loads the page again and again.

    Raises:
        UserError: If a file of the run cannot be read, or the page cannot be written.
    """
    config, environment = (read_json(folder / f"{name}.json") for name in ("config", "environment"))
    rows, batch = read_rows(folder), folder / "train_batch.jpg"
    best = _best_row(rows)
    warnings = [] if rows else ["results.csv has no rows: no step was recorded."]
    if is_running:
        every = f"This page is written again during the run, and loads every {REFRESH_SECONDS} s."
        later = "" if evaluation else " AP, errors and images follow with the first evaluation."
        warnings.append(f"The run has not ended. {every}{later}")
    elif evaluation is None:
        warnings.append("val_results.json is absent: there are no detections to analyse.")
    if evaluation and not evaluation.entries:
        warnings.append("val_results.json is empty: the best weights detect nothing.")
        evaluation = None
    elif evaluation and best:
        warnings += _differences(best, evaluation)
    parts = [sections.training_curves(rows, best.get("step"))] if rows else []
    if evaluation:
        parts += sections.evaluation_sections(evaluation, dataset)
    if batch.exists():
        caption = "Images and ground truth as the network's input, after augmentation."
        image = embed(Image.fromarray(read_image(batch)), caption, "Images of a training batch")
        parts.append(Section("First training batch", "single_image", {"image": image}))
    data = config["train"].get("data")
    commands = {
        "run": shlex.quote(str(folder)),
        "path": json.dumps(str(folder)),
        "data": data and shlex.quote(str(data)),
        "score": evaluation.errors.score if evaluation else DEFAULT_SCORE,
    }
    parts.append(Section("Commands", "commands", commands))
    groups = {"Training": config["train"], "Model": config["model"], "Environment": environment}
    parts.append(sections.settings(groups))
    return write_page(
        folder / PAGE,
        macros="run_sections.html.j2",
        title=f"Training run {folder.resolve().name}",
        facts=_facts(config, dataset),
        tiles=_tiles(config["train"], rows, evaluation),
        warnings=warnings,
        sections=parts,
        refresh=REFRESH_SECONDS if is_running else 0,
    )


def read_evaluation(
    folder: Path, dataset: CocoDataset, model: ModelConfig, truth: GroundTruth | None = None
) -> Evaluation | None:
    """Score val_results.json of a run; return None if it is absent.

    Args:
        folder: Folder of the run.
        dataset: Validation images.
        model: Configuration of the model.
        truth: Ground truth of the images, if it was read before.

    Raises:
        UserError: If the file cannot be read, or an entry is wrong.
    """
    file = folder / "val_results.json"
    if not file.exists():
        return None
    truth = truth or GroundTruth.of_dataset(dataset)
    kinds: tuple[Kind, ...] = ("bbox", "segm") if model.masks else ("bbox",)
    entries = read_results(file, truth, kinds)
    return score(truth, entries, kinds, model.max_detections)


# Columns that the page shows, beside the losses; users may add others.
_COLUMNS = (
    "step", "lr", "gradient_norm", "seconds", "images_per_second", "bbox_AP", "segm_AP", "val_loss"
)  # fmt: skip


def read_rows(folder: Path) -> list[Row]:
    """Read the table of a run: the rows of results.csv and timing.csv, without missing values.

    Raises:
        UserError: If a file cannot be read, or a value is not a number.
    """
    timing = {row["step"]: row for row in _read_table(folder / "timing.csv")}
    results = _read_table(folder / "results.csv")
    return [{**timing.get(row["step"], {}), **row} for row in results]


def _read_table(path: Path) -> list[Row]:
    try:
        text = io.StringIO(read_text(path, "name the folder of a run"), newline="")
        table = list(csv.DictReader(text))
    except csv.Error as error:
        raise UserError(f"{path}: cannot be read ({error}); name the folder of a run") from error
    rows = []
    for line, record in enumerate(table, start=2):
        row = {}
        for name, value in record.items():
            # Cells beyond the header have no name.
            if name and value and (name in _COLUMNS or name.startswith("loss")):
                try:
                    row[name] = float(value)
                except ValueError:
                    raise UserError(
                        f"{path}: line {line}: {name} must be a number, got {shown(value)}; "
                        "correct or remove the line"
                    ) from None
        if not math.isfinite(row.get("step", math.nan)):
            raise UserError(f"{path}: line {line}: has no step; correct or remove the line")
        # AP is -1 on images without objects.
        is_absent = {name: name.endswith("_AP") and value < 0 for name, value in row.items()}
        rows.append({n: v for n, v in row.items() if math.isfinite(v) and not is_absent[n]})
    return rows


def _best_row(rows: Sequence[Row]) -> Row:
    """Return the row of the best weights, the first of equals; empty if nothing was evaluated."""
    for name in ("segm_AP", "bbox_AP"):
        if measured := [row for row in rows if name in row]:
            return max(measured, key=lambda row: row[name])
    return {}


def _differences(best: Row, evaluation: Evaluation) -> list[str]:
    """Return warnings about AP that differs from the one measured during training."""
    warnings = []
    for kind in evaluation.kinds:
        now, then = evaluation.metrics[f"{kind}_AP"], best.get(f"{kind}_AP")
        if then is not None and abs(now - then) > 1e-4:  # results.csv has six digits
            warnings.append(
                f"AP of {KINDS[kind]} is {now:.4f} in val_results.json, but {then:.4f} at step "
                f"{best['step']:.0f} in results.csv: they come from other weights or images."
            )
    return warnings


def _facts(config: Mapping[str, Any], dataset: CocoDataset) -> list[str]:
    train, model = config["train"], config["model"]
    classes = len(dataset.class_names)
    return [
        f"{model['backbone']}, {classes:,} {'class' if classes == 1 else 'classes'}",
        f"{train['steps']:,} steps of {train['batch_size']} images, {train['optimizer']}",
        f"validated on {_counted(len(dataset), 'image')} with "
        f"{_counted(int((~dataset.crowd).sum()), 'object')}",
    ]


def _counted(count: int, word: str) -> str:
    return f"{count:,} {word}{'s' * (count != 1)}"


def _tiles(
    train: Mapping[str, Any], rows: Sequence[Row], evaluation: Evaluation | None
) -> list[Tile]:
    """Return the headline numbers: AP of the best weights, best F1, time and speed."""
    best = _best_row(rows)
    metrics: Mapping[str, float] = evaluation.metrics if evaluation else best
    note = f"best weights, step {best['step']:,.0f}" if best else ""
    tiles = [
        (f"AP of {KINDS[kind]}", format_metric(metrics[f"{kind}_AP"]), note)
        for kind in ("segm", "bbox")
        if f"{kind}_AP" in metrics
    ]
    if evaluation:
        errors = evaluation.errors
        value = format_metric(metrics[f"{errors.kind}_AP50"])
        tiles.append((f"AP50 of {KINDS[errors.kind]}", value, "at IoU 0.5 only"))
        f1, precision, recall = map(format_metric, errors.rates.values())
        note = f"precision {precision}, recall {recall} at score ≥ {errors.score:.2f}"
        tiles.append(("Best F1", f1, note))
    last, steps = rows[-1]["step"] if rows else 0, train["steps"]
    done = f"all {steps:,} steps" if last >= steps else f"{last:,.0f} of {steps:,} steps"
    timed = [row for row in rows if row.get("seconds")]
    if not timed:
        return [*tiles, ("Steps", f"{last:,.0f}", done)]
    seconds, images = timed[-1]["seconds"], timed[-1]["step"] * train["batch_size"]
    speed = f"{images / seconds:.3g}"
    tiles.append(("Training time", format_duration(seconds), f"{done}, without evaluation"))
    return [*tiles, ("Speed", speed, "images per second, on average")]


def format_duration(seconds: float) -> str:
    """Return a duration in its one or two largest units."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours < 2:
        return f"{60 * hours + minutes} min"
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
