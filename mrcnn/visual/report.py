"""The sections of a run's report, from plain data to HTML.

C classes; a figure of -1 says that there was nothing to measure it on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mrcnn.visual.charts import Line, line_chart
from mrcnn.visual.page import Html, join, picture, table, tag, tiles
from mrcnn.visual.tallies import figure

FEW_CLASSES = 8  # with a precision-recall curve each


@dataclass(frozen=True)
class Comparison:
    """An image with its objects, and the same with what was found."""

    title: str
    truth: Image.Image
    found: Image.Image
    truth_caption: str
    found_caption: str


def warning(words: str) -> Html:
    """What the reader should know before the figures."""
    return tag("p", words, class_="warn")


def summary(*facts: str) -> Html:
    """The line under the title."""
    return tag("p", " · ".join(facts))


def headline(
    kinds: Mapping[str, Mapping[str, float]],
    best_step: float | None,
    last_step: float,
    steps: int,
    seconds: float,
    images: float,
    at_score: tuple[float, ...] | None,
) -> Html:
    """The figures that matter most.

    Args:
        kinds: AP, and AP50 where it is known, of boxes and masks of the best weights.
        best_step: of these weights.
        last_step, steps: done and planned.
        seconds, images: of training.
        at_score: the lowest score taken, F1, precision, recall.
    """
    at = "" if best_step is None else f"best weights, step {best_step:,.0f}"
    ordered = list(kinds.items())[::-1]
    values = [(f"AP of {what}", figure(figures["AP"]), at) for what, figures in ordered]
    values += [
        (f"AP50 of {what}", figure(figures["AP50"]), "as AP, at IoU 0.5 alone")
        for what, figures in ordered[:1]
        if "AP50" in figures
    ]
    if at_score is not None:
        score, f1, precision, recall = at_score
        words = f"precision {figure(precision)}, recall {figure(recall)} at score ≥ {score:.2f}"
        values.append(("Best F1", figure(f1), words))
    done = f"all {steps:,} steps" if last_step >= steps else f"{last_step:,.0f} of {steps:,} steps"
    if seconds:
        values.append(("Training time", _duration(seconds), f"{done}, without evaluation"))
        values.append(("Speed", f"{images / seconds:.3g}", "images a second, on average"))
    else:
        values.append(("Steps", f"{last_step:,.0f}", done))
    return tiles(values)


def course(rows: Sequence[Mapping[str, float]], best_step: float | None) -> Html:
    """Charts over the steps of a run.

    Args:
        rows: of results.csv, by column; a value that was not measured is absent.
    """

    def line(column: str, name: str) -> Line:
        points = [(row["step"], row[column]) for row in rows if column in row]
        return Line(name, [step for step, _ in points], [value for _, value in points])

    parts = sorted({name for row in rows for name in row if name.startswith("loss_")})
    mark = None if best_step is None else (best_step, "best")
    charts = [
        ("Loss", [line("loss", "training"), line("val_loss", "validation")], None),
        ("Parts of the loss", [line(p, p[5:].replace("_", " ")) for p in parts], None),
        ("AP on validation images", [line("bbox_AP", "boxes"), line("segm_AP", "masks")], mark),
        ("Learning rate", [line("lr", "learning rate")], None),
        ("Norm of the gradient, before clipping", [line("gradient_norm", "norm")], None),
        ("Images a second", [line("images_per_second", "training")], None),
    ]
    if not rows:
        return warning("results.csv has no rows: no step was recorded.")
    whole = (0.0, max(row["step"] for row in rows))
    drawn = [
        line_chart(title, lines, "step", mark=at, x_limits=whole) for title, lines, at in charts
    ]
    return tag("div", *drawn, class_="grid")


def precision_recall(
    curves: Mapping[float, NDArray[np.float64]],
    names: Sequence[str],
    scores: NDArray[np.float64],
    at_score: Mapping[str, NDArray[np.float64]],
    score: float,
    what: str,
) -> Html:
    """Precision over recall of boxes or masks, and precision, recall and F1 over the score.

    Args:
        curves: IoU -> (C, R) precision at R evenly spaced recalls from 0 to 1; -1 without objects.
        scores: (S,) thresholds.
        at_score: "precision", … -> (S,), NaN where it has no value.
        score: the chosen threshold.
        what: "boxes" or "masks".
    """
    first, *_ = curves.values()
    recalls = np.linspace(0, 1, first.shape[1]).tolist()
    known = np.flatnonzero(first[:, 0] >= 0).tolist()
    means = [
        Line(f"IoU {iou:g}", recalls, values[known].mean(axis=0).tolist())
        for iou, values in curves.items()
        if len(known)
    ]
    charts = [_square(f"Precision of {what}, mean of classes", means, "recall")]
    if 1 < len(known) <= FEW_CLASSES:
        iou = next(iter(curves))
        lines = [Line(names[c][:40], recalls, first[c].tolist()) for c in known]
        charts.append(_square(f"Precision of each class, IoU {iou:g}", lines, "recall"))
    over = [
        Line(name, scores[~np.isnan(values)].tolist(), values[~np.isnan(values)].tolist())
        for name, values in at_score.items()
    ]
    chosen = (score, f"{score:.2f}")
    charts.append(_square("By the lowest score taken, IoU 0.5", over, "score", chosen))
    return tag("div", *charts, class_="grid")


def comparisons(pairs: Sequence[Comparison], score: float) -> Html:
    """Pictures in pairs."""
    note = (
        f"Lowest F1 at IoU 0.5 and score ≥ {score:.2f}, then highest. Objects not found and wrong "
        "detections lie on top, in colours of their own."
    )
    parts = [tag("p", note, class_="note")]
    for pair in pairs:
        truth = picture(pair.truth, pair.truth_caption, f"objects of {pair.title}")
        found = picture(pair.found, pair.found_caption, f"detections in {pair.title}")
        parts.append(
            tag(
                "div",
                tag("h3", pair.title),
                tag("div", truth, found, class_="pair"),
                class_="panel",
            )
        )
    return join(parts)


def settings(groups: Mapping[str, Mapping[str, Any]]) -> Html:
    """Names and values, a part to unfold for each group."""
    return join(
        tag(
            "details",
            tag("summary", title),
            tag(
                "div",
                table(
                    ["name", "value"], ((k, _value(v)) for k, v in values.items()), class_="words"
                ),
                class_="panel",
            ),
        )
        for title, values in groups.items()
    )


def commands(blocks: Mapping[str, str]) -> Html:
    """What to type, under headings."""
    return join(
        join([tag("h3", title), tag("pre", tag("code", *_lines(block)))])
        for title, block in blocks.items()
    )


def _square(
    title: str, lines: Sequence[Line], x_label: str, mark: tuple[float, str] | None = None
) -> Html:
    """A chart whose axes both run from 0 to 1."""
    return line_chart(
        title, lines, x_label, y_limit=1.0, x_limits=(0.0, 1.0), mark=mark, show_last=False
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours < 2:
        return f"{60 * hours + minutes} min"
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _lines(block: str) -> list[Any]:
    """Lines of a block, each escaped, with breaks between them."""
    return [part for line in block.split("\n") for part in (line, Html("\n"))][:-1]
