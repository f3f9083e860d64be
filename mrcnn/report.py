"""One page about a training run: `mrcnn report RUN` writes RUN/report.html anew."""

from __future__ import annotations

import csv
import json
import math
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from tyro.conf import Positional

from mrcnn.data.coco import CocoDataset
from mrcnn.data.formats import Split, find_splits
from mrcnn.data.images import read_image
from mrcnn.errors import UserError
from mrcnn.evaluation import Evaluation
from mrcnn.evaluation.coco import KINDS
from mrcnn.evaluation.matching import DEFAULT_SCORE
from mrcnn.evaluation.truth import read_split
from mrcnn.files import replacing
from mrcnn.flags import parse, run
from mrcnn.io.json_files import read_json, shown
from mrcnn.report_analysis import metrics_by_kind, read_evaluation, sections_of
from mrcnn.visual import report
from mrcnn.visual.page import Html, join, page, picture

_COLUMNS = (
    "step", "lr", "gradient_norm", "seconds", "images_per_second", "bbox_AP", "segm_AP", "val_loss"
)  # fmt: skip

Row = dict[str, float]


def write_report(folder: Path, dataset: CocoDataset, evaluation: Evaluation | None = None) -> Path:
    """Write report.html of a run: one page that needs no network and no script.

    Reads config.json, environment.json, results.csv and timing.csv, and, where they are,
    train_batch.jpg and val_results.json, the detections of the best weights on the validation
    images.

    Args:
        folder: of the run.
        dataset: validation images.
        evaluation: of the best weights; by default val_results.json is read and scored.
    Returns:
        The file written.
    Raises:
        UserError: if a file of the run cannot be read, or the page cannot be written.
    """
    config, environment = (read_json(folder / f"{name}.json") for name in ("config", "environment"))
    timing = {row["step"]: row for row in read_table(folder / "timing.csv")}
    rows = [{**timing.get(row["step"], {}), **row} for row in read_table(folder / "results.csv")]
    batch = folder / "train_batch.jpg"
    evaluation = evaluation or read_evaluation(folder, dataset, config["model"])
    judged = evaluation if evaluation and evaluation.entries else None
    best = _best_row(rows)
    header = [_summary(config, dataset), _tiles(config, rows, judged)]
    if evaluation is None:
        header.append(report.warning("val_results.json is absent: nothing is analysed."))
    elif judged is None:
        header.append(report.warning("val_results.json is empty: the best weights find nothing."))
    elif best:
        header += _differences(best, judged)
    sections = [("Course", report.course(rows, best.get("step")))]
    if judged:
        sections += sections_of(judged, dataset)
    if batch.exists():
        caption = "Images and ground truth as the network sees them, after augmentation."
        image = picture(Image.fromarray(read_image(batch)), caption, "training images")
        sections.append(("First training batch", image))
    sections.append(("Commands", report.commands(_commands(folder, config, judged))))
    groups = {"Training": config["train"], "Model": config["model"], "Environment": environment}
    sections.append(("Configuration", report.settings(groups)))
    path = folder / "report.html"
    title = f"Training run {folder.resolve().name}"
    with replacing(path) as draft:
        draft.write_text(page(title, join(header), sections), encoding="utf-8")
    return path


def read_table(path: Path) -> list[Row]:
    """The rows of results.csv or timing.csv: finite values of the columns that the page shows.

    Raises:
        UserError: if the file cannot be read, or a value is no number.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error}); name the folder of a run") from error
    rows = []
    for line, record in enumerate(table, start=2):
        row = {}
        for name, value in record.items():
            if name and value and (name in _COLUMNS or name.startswith("loss")):
                try:
                    row[name] = float(value)
                except ValueError:
                    raise UserError(
                        f"{path}: line {line}: {name} must be a number, got {shown(value)}; "
                        "correct or remove the line"
                    ) from None
        if "step" not in row:
            raise UserError(f"{path}: line {line}: has no step; correct or remove the line")
        rows.append({name: value for name, value in row.items() if _is_measured(name, value)})
    return rows


def _is_measured(name: str, value: float) -> bool:
    """AP is -1 where there is nothing to find."""
    return math.isfinite(value) and not (name.endswith("_AP") and value < 0)


def _best_row(rows: list[Row]) -> Row:
    """The row of the best weights, the first of equals; empty if nothing was evaluated."""
    for name in ("segm_AP", "bbox_AP"):
        if measured := [row for row in rows if name in row]:
            return max(measured, key=lambda row: row[name])
    return {}


def _differences(best: Row, judged: Evaluation) -> list[Html]:
    """Whether the detections have the AP that was measured during training."""
    notes = []
    for kind, what in KINDS.items():
        if kind in judged.kinds and f"{kind}_AP" in best:
            now, then = judged.metrics[f"{kind}_AP"], best[f"{kind}_AP"]
            if abs(now - then) > 1e-4:  # results.csv holds six digits
                notes.append(
                    report.warning(
                        f"AP of {what} is {now:.4f} in val_results.json, but {then:.4f} at step "
                        f"{best['step']:.0f} in results.csv: they are of other weights or images."
                    )
                )
    return notes


def _number(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _summary(config: dict[str, Any], dataset: CocoDataset) -> Html:
    train, model = config["train"], config["model"]
    return report.summary(
        f"{model['backbone']}, {_number(len(dataset.class_names), 'class', 'classes')}",
        f"{train['steps']:,} steps of {train['batch_size']} images, {train['optimizer']}",
        f"validated on {len(dataset):,} images with {int((~dataset.crowd).sum()):,} objects",
    )


def _tiles(config: dict[str, Any], rows: list[Row], judged: Evaluation | None) -> Html:
    """The headline."""
    best, train = _best_row(rows), config["train"]
    figures = (
        metrics_by_kind(judged)
        if judged
        else {
            what: {"AP": best[f"{kind}_AP"]} for kind, what in KINDS.items() if f"{kind}_AP" in best
        }
    )
    timed = [row for row in rows if "seconds" in row]
    seconds, images = (
        (timed[-1]["seconds"], timed[-1]["step"] * train["batch_size"]) if timed else (0.0, 0.0)
    )
    at_score = None
    if judged:
        curves, at = judged.errors.curves, judged.errors.best
        at_score = (
            judged.errors.score,
            *(float(values[at]) for values in (curves.f1, curves.precision, curves.recall)),
        )
    return report.headline(
        kinds=figures,
        best_step=best.get("step"),
        last_step=rows[-1]["step"] if rows else 0,
        steps=train["steps"],
        seconds=seconds,
        images=images,
        at_score=at_score,
    )


def _commands(folder: Path, config: dict[str, Any], judged: Evaluation | None) -> dict[str, str]:
    """Lines to type: with these weights, and for the same run again."""
    score = judged.errors.score if judged else DEFAULT_SCORE
    run, data = shlex.quote(str(folder)), config["train"].get("data")
    use = [f"mrcnn predict --weights {run} --score-threshold {score:.2f} --out found IMAGES"]
    if data:
        use.append(f"mrcnn evaluate --weights {run} --data {shlex.quote(str(data))}")
    python = (
        f"import mrcnn\n\nmodel = mrcnn.load({json.dumps(str(folder))})\n"
        f'result = model.predict("photo.jpg", {score:.2f})\nresult.save("overlay.png")'
    )
    return {
        "Use the weights": "\n".join(use),
        "In Python": python,
        "Repeat the run": f"mrcnn train --config {run}/config.json",
        "Write this page anew": f"mrcnn report {run}",
    }


@dataclass(frozen=True)
class ReportConfig:
    """Write the page about a finished run, report.html in its folder, anew."""

    run: Positional[Path]
    """The folder of the run."""


def main(argv: list[str] | None = None) -> None:
    """Find the validation data of a run and write its page."""
    args = parse(ReportConfig, argv)
    file = args.run / "config.json"
    config = read_json(file)
    split = _validation_data(file, config)
    model = config["model"]
    dataset, truth = read_split(split, None, model["class_names"], model["category_ids"])
    print(write_report(args.run, dataset, read_evaluation(args.run, dataset, model, truth)))


def _validation_data(file: Path, config: Any) -> Split:
    """The annotation file and the folder of images that config.json names.

    Where the annotations are a folder, it holds a data set in another format than COCO.
    """
    try:
        split = config["data"]["val"]
        annotations, images = Path(split["annotations"]), Path(split["images"])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{file}: data.val must name the annotations and images of the validation data; add "
            '"data": {"val": {"annotations": "FILE", "images": "FOLDER"}}'
        ) from error
    for name, path, is_there in (
        ("annotations", annotations, annotations.exists()),
        ("images", images, images.is_dir()),
    ):
        if not is_there:
            raise UserError(
                f"{file}: data.val.{name}: {path} is gone; put it back, or correct the path"
            )
    if annotations.is_dir():
        return find_splits(annotations, needs=("val",))["val"]
    return Split(annotations, images)


if __name__ == "__main__":
    sys.exit(run(main))
