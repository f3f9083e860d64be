"""Contents of plots: lines of charts, and confusion matrices of few classes. C classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mrcnn.visual.names import short_name

FEW_CLASSES = 8  # up to which each class has its own precision-recall curve
MATRIX_CLASSES = 15  # with a row each in a confusion matrix; the others share one


@dataclass(frozen=True)
class Line:
    """Points to connect, x ascending; all finite."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    value: float | None = None  # for the legend


@dataclass(frozen=True)
class Chart:
    """Lines over a common x axis; the y axis starts at 0."""

    title: str
    x_label: str
    lines: Sequence[Line]
    x_limits: tuple[float, float]
    y_limit: float | None = None
    mark: tuple[float, str] | None = None  # an x to point out, and its name


def training_charts(
    rows: Sequence[Mapping[str, float]], best_step: float | None = None
) -> list[Chart]:
    """Return the charts of losses, AP, learning rate, gradient norm and speed over the steps.

    Args:
        rows: the table of a run, by column; values that were not measured are absent.
        best_step: of the best weights, to be marked in the chart of AP.
    """

    def line(column: str, name: str) -> Line:
        xs = [row["step"] for row in rows if column in row]
        ys = [row[column] for row in rows if column in row]
        return Line(name, xs, ys, ys[-1] if ys else None)

    parts = sorted({name for row in rows for name in row if name.startswith("loss_")})
    mark = None if best_step is None else (best_step, "best")
    charts = {
        "Loss": [line("loss", "training"), line("val_loss", "validation")],
        "Loss terms": [line(name, name[5:].replace("_", " ")) for name in parts],
        "AP on validation images": [line("bbox_AP", "boxes"), line("segm_AP", "masks")],
        "Learning rate": [line("lr", "learning rate")],
        "Gradient norm before clipping": [line("gradient_norm", "norm")],
        "Images per second": [line("images_per_second", "training")],
    }
    limits = (0.0, max((row["step"] for row in rows), default=1.0))
    return [
        Chart(title, "step", [line for line in lines if line.xs], limits,
              mark=mark if title.startswith("AP") else None)
        for title, lines in charts.items()
    ]  # fmt: skip


def precision_recall_charts(
    precision: Mapping[float, NDArray[np.float64]],
    names: Sequence[str],
    scores: NDArray[np.float64],
    at_score: Mapping[str, NDArray[np.float64]],
    score: float,
    what: str,
) -> list[Chart]:
    """Return charts of precision over recall, and of precision, recall and F1 over the score.

    Args:
        precision: IoU -> (C, R) precision at R evenly spaced recalls from 0 to 1; -1 for a class
            without objects.
        names: of the C classes.
        scores: (S,) thresholds.
        at_score: "precision", … -> (S,), NaN where it has no value.
        score: the chosen threshold.
        what: "boxes" or "masks".
    """
    first_iou, first = next(iter(precision.items()))
    recalls = np.linspace(0, 1, first.shape[1]).tolist()
    known = np.flatnonzero(first[:, 0] >= 0).tolist()

    def line(name: str, values: NDArray[np.float64]) -> Line:
        return Line(name, recalls, values.tolist(), float(values.mean()))

    means = [
        line(f"AP at IoU {i:g}", rows[known].mean(axis=0)) for i, rows in precision.items() if known
    ]
    charts = [Chart(f"Precision of {what}, mean of classes", "recall", means, (0, 1), 1.0)]
    if 1 < len(known) <= FEW_CLASSES:
        lines = [line(short_name(names[c], 40), first[c]) for c in known]
        title = f"Precision of each class, IoU {first_iou:g}"
        charts.append(Chart(title, "recall", lines, (0, 1), 1.0))
    chosen = int(np.abs(scores - score).argmin())
    lines = []
    for name, values in at_score.items():
        measured = ~np.isnan(values)
        value = float(values[chosen]) if measured[chosen] else None
        lines.append(Line(name, scores[measured].tolist(), values[measured].tolist(), value))
    label = f"score threshold, at IoU {first_iou:g}"
    charts.append(
        Chart(
            "Precision and recall by threshold", label, lines, (0, 1), 1.0, (score, f"{score:.2f}")
        )
    )
    return charts


def overlaid(a: Sequence[Chart], b: Sequence[Chart]) -> list[Chart]:
    """Return charts with the lines of two runs, named `A: …` and `B: …`, over each other.

    Charts and lines are matched by their titles and names; lines of only one side stay.
    """
    groups: dict[str, list[tuple[str, Chart]]] = {}
    for side, charts in (("A", a), ("B", b)):
        for chart in charts:
            groups.setdefault(chart.title, []).append((side, chart))
    result = []
    for title, sides in groups.items():
        lines = [
            replace(line, name=f"{side}: {line.name}")
            for name in dict.fromkeys(line.name for _, chart in sides for line in chart.lines)
            for side, chart in sides
            for line in chart.lines
            if line.name == name
        ]
        first, last = sides[0][1], max(chart.x_limits[1] for _, chart in sides)
        limits = (first.x_limits[0], last)
        result.append(Chart(title, first.x_label, lines, limits, first.y_limit))
    return result


def fold_confusions(
    matrix: NDArray[np.int64], names: Sequence[str]
) -> tuple[NDArray[np.int64], list[str]]:
    """Reduce a confusion matrix to few rows.

    The classes most often confused with others are kept; all others become the row and the column
    before the background's.

    Args:
        matrix: (C + 1, C + 1), rows are true classes, the background last.
        names: of the C classes.

    Returns:
        The matrix, and the names of its rows without the background's.
    """
    if len(names) <= MATRIX_CLASSES + 1:
        return matrix, list(names)
    mixed = matrix[:-1, :-1] - np.diag(np.diag(matrix[:-1, :-1]))
    order = np.argsort(-(mixed.sum(axis=0) + mixed.sum(axis=1)), kind="stable")
    kept = np.sort(order[:MATRIX_CLASSES])
    position = np.full(len(matrix), MATRIX_CLASSES)
    position[kept] = np.arange(MATRIX_CLASSES)
    position[-1] = MATRIX_CLASSES + 1
    folded = np.zeros((MATRIX_CLASSES + 2,) * 2, np.int64)
    np.add.at(folded, (position[:, None], position[None, :]), matrix)
    return folded, [*(names[c] for c in kept), f"{len(names) - MATRIX_CLASSES} others"]


def number(value: float | None) -> str:
    """Return a number in a few characters; nothing for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
