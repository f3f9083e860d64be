"""Plots of training runs and evaluations, drawn by matplotlib.

`mrcnn evaluate --plots` and `curves.png` combine several in one file. The report of a run shows
each as inline SVG, whose colours are the variables of its style sheet. C classes.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.errors import printable
from mrcnn.visual.charts import Chart, fold_confusions, number, training_charts
from mrcnn.visual.names import short_name

MOST_POINTS = 240  # of a line; neighbours of longer ones are averaged

# The style sheet of the reports defines --c0, --c1, … with these values in its light scheme.
PALETTE = (
    "#2456c7", "#d1490c", "#0b7a53", "#8239e0", "#946400",
    "#0e7490", "#c2185b", "#4a525d", "#5d7a14", "#7b4b2a",
)  # fmt: skip
_INK, _SOFT, _RULE = "#1b1e23", "#59626d", "#dfe2e6"  # --ink, --soft, --rule
_VARIABLES = {colour: f"var(--c{i})" for i, colour in enumerate(PALETTE)} | {
    _INK: "var(--ink)", _SOFT: "var(--soft)", _RULE: "var(--rule)"
}  # fmt: skip
_CHART_SIZE = (350, 200)  # pixels: text has its natural size on a phone
_PLOT_SIDES = 46 / 350, 338 / 350  # left and right of the axes, as shares of the width
_CELL = 44  # pixels of a cell of a confusion matrix
_FEW_POINTS = 30  # up to which points are marked


def save_training_curves(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write the charts of `training_charts` to one .png or .svg file."""
    with _figure((15, 7)) as figure:
        panels = figure.subplots(2, 3).flat
        for axes, chart in zip(panels, training_charts(rows), strict=True):
            _draw_titled(axes, chart)
        figure.savefig(path, dpi=110)


def save_errors(
    path: Path,
    charts: Sequence[Chart],
    counts: Mapping[str, Mapping[str, int]],
    matrix: NDArray[np.int64],
    names: Sequence[str],
) -> None:
    """Write what a detector gets wrong to one file.

    Args:
        path: .png, .svg or .pdf file.
        charts: of `precision_recall_charts`.
        counts: "detections" and "objects" -> kind -> count, the right ones first.
        matrix: (C + 1, C + 1) confusion matrix, rows are true classes, the background last.
        names: of the C classes.
    """
    with _figure((13, 10.5)) as figure:
        upper, lower = figure.subfigures(2, 1)
        panels = upper.subplots(1, len(charts), squeeze=False).flat
        for axes, chart in zip(panels, charts, strict=True):
            _draw_titled(axes, chart)
        bars, cells = lower.subplots(1, 2)
        _draw_kinds(bars, counts)
        _draw_matrix(cells, *fold_confusions(matrix, names), len(names))
        figure.savefig(path, dpi=110)


def chart_svg(chart: Chart) -> str:
    """Return a chart as an inline SVG element, without its title and legend."""
    width, height = _CHART_SIZE
    with _figure((width / 72, height / 72), chart.title, "none") as figure:
        # The same margins for all, so that charts side by side are aligned.
        left, right = _PLOT_SIDES
        axes = figure.add_axes((left, 36 / height, right - left, 1 - 54 / height))
        _draw_chart(axes, chart)
        return _inline_svg(figure, f"{chart.title}: {', '.join(x.name for x in chart.lines)}")


def chart_values(chart: Chart) -> dict[str, Any]:
    """Return the points that `chart_svg` draws, as JSON values, with the place of its x axis."""
    return {
        "label": chart.x_label,
        "sides": _PLOT_SIDES,
        "limits": _x_limits(chart),
        "lines": [
            [printable(line.name), [float(f"{x:.7g}") for x in _thinned(line.xs)],
             [number(y) for y in _thinned(line.ys)]]
            for line in chart.lines
        ],
    }  # fmt: skip


def matrix_svg(matrix: NDArray[np.int64], names: Sequence[str]) -> tuple[str, int]:
    """Return the confusion matrix of `save_errors` as inline SVG, and its width in pixels."""
    counts, labels = fold_confusions(matrix, names)
    margin = 36 + 7 * max(len("background"), *(len(short_name(name)) for name in labels))
    side = margin + _CELL * len(counts) + 2
    start, part = 1 / side, _CELL * len(counts) / side
    with _figure((side / 72, side / 72), "confusions", "none") as figure:
        axes = figure.add_axes((margin / side, start, part, part))
        _draw_matrix(axes, counts, labels, len(names))
        return _inline_svg(figure, "Confusion matrix of true and predicted classes"), side


@contextmanager
def _figure(
    size: tuple[float, float], name: str = "", layout: Any = "constrained"
) -> Iterator[Any]:
    """Yield a figure of a size in inches; ids in its SVG are derived from the name."""
    import matplotlib  # takes half a second, and only plots need it
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": 11.0,
        "text.parse_math": False,
        "text.color": _INK,
        "axes.titlesize": 12.0,
        "axes.titlepad": 18.0,
        "axes.labelsize": 11.0,
        "axes.labelcolor": _SOFT,
        "axes.edgecolor": _RULE,
    }
    for axis in ("xtick", "ytick"):
        style |= {f"{axis}.color": _SOFT, f"{axis}.labelsize": 11.0}
        style |= {f"{axis}.major.size": 0, f"{axis}.major.pad": 6}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # class names of any script
        yield Figure(figsize=size, layout=layout)


def _draw_titled(axes: Any, chart: Chart) -> None:
    """Draw a chart with its title and legend."""
    _draw_chart(axes, chart)
    axes.set_title(chart.title, loc="left")
    # matplotlib drops labels that begin with an underscore, as a class name may.
    labels = [f" {line.name} {number(line.value)}".rstrip() for line in chart.lines]
    if labels:
        axes.legend(axes.lines[: len(labels)], labels, frameon=False, fontsize=9)


def _draw_chart(axes: Any, chart: Chart) -> None:
    for i, line in enumerate(chart.lines):
        xs, ys = _thinned(line.xs), _thinned(line.ys)
        marker = "o" if len(xs) <= _FEW_POINTS else ""
        axes.plot(xs, ys, color=PALETTE[i % len(PALETTE)], linewidth=1.8, marker=marker,
                  markersize=4, clip_on=False)  # fmt: skip
    axes.set_xlim(*_x_limits(chart))
    top = chart.y_limit or max((max(line.ys) for line in chart.lines), default=0.0) * 1.05
    axes.set_ylim(0, top or 1.0)
    axes.set_xlabel(chart.x_label)
    if chart.mark:
        x, name = chart.mark
        axes.axvline(x, color=_SOFT, linewidth=1, linestyle=(0, (3, 3)))
        axes.annotate(name, (x, 1), (0, 3), xycoords=("data", "axes fraction"), color=_SOFT,
                      textcoords="offset points", ha="center", fontsize=10)  # fmt: skip
    axes.grid(axis="y", color=_RULE)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    for axis, steps in ((axes.xaxis, 5), (axes.yaxis, 4)):
        axis.get_major_locator().set_params(nbins=steps)
        axis.set_major_formatter(lambda value, _: f"{value:,.7g}")


def _x_limits(chart: Chart) -> tuple[float, float]:
    low, high = chart.x_limits
    return low, high if high > low else low + 1


def _draw_kinds(axes: Any, counts: Mapping[str, Mapping[str, int]]) -> None:
    """Draw a bar for each kind of detections and objects."""
    bars = [(f"{title}: {kind}", count, PALETTE[0 if i == 0 else 1])
            for title, kinds in counts.items()
            for i, (kind, count) in enumerate(kinds.items())]  # fmt: skip
    names, values, colours = zip(*bars, strict=True)
    drawn = axes.barh(names, values, color=colours)
    axes.bar_label(drawn, labels=[f"{count:,}" for count in values], padding=3)
    axes.set_title("Kinds of detections and objects", loc="left")
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_matrix(
    axes: Any, counts: NDArray[np.int64], labels: Sequence[str], num_classes: int
) -> None:
    """Draw a matrix of `fold_confusions`, in cells that are as dark as their share of the row."""
    from matplotlib.patches import Rectangle

    size = len(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for r, c in np.argwhere(counts).tolist():
        is_right = r == c and (r < len(labels) - 1 or num_classes == len(labels))
        axes.add_patch(Rectangle((c, r), 1, 1, linewidth=0, alpha=0.1 + 0.5 * shares[r, c],
                                 facecolor=PALETTE[0 if is_right else 1]))  # fmt: skip
        axes.text(c + 0.5, r + 0.53, f"{counts[r, c]:,}", ha="center", va="center", fontsize=10)
    axes.set(xlim=(0, size), ylim=(size, 0), aspect="equal")
    axes.set_xlabel("predicted", labelpad=14)
    axes.set_ylabel("true", labelpad=10)
    names = [short_name(name) for name in labels]
    middles = np.arange(size) + 0.5
    axes.set_xticks(middles, [*names, "missed"], rotation=90)
    axes.set_yticks(middles, [*names, "background"])
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    for position in range(size + 1):
        for draw_line in (axes.axhline, axes.axvline):
            draw_line(position, color=_RULE, linewidth=1)
    axes.spines[:].set_visible(False)


def _inline_svg(figure: Any, label: str) -> str:
    """Return a figure as an SVG element without ids of groups, fonts, and colours of its own."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None}, dpi=72)
    width, height = (round(72 * side) for side in figure.get_size_inches())
    opening = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(label)}">'
    text = buffer.getvalue()
    text = opening + text[text.index(">", text.index("<svg")) + 1 :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r'<g id="[^"]*"', "<g", text).replace("xlink:href", "href")
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)  # before matplotlib 3.11
    text = re.sub(r" font-family: [^;\"]*;| transform=\"rotate\(-0 [^\"]*\"|<g/>", "", text)
    text = re.sub(r"(?<=: )#[0-9a-f]{6}\b", lambda c: _VARIABLES.get(c[0], c[0]), text)
    return re.sub(r"\s*\n\s*", "\n", text)


def _thinned(values: Sequence[float]) -> list[float]:
    """Return at most `MOST_POINTS` values, each the mean of as many neighbours."""
    size = -(-len(values) // MOST_POINTS)
    chunks = [values[start : start + size] for start in range(0, len(values), max(size, 1))]
    return [sum(chunk) / len(chunk) for chunk in chunks]
