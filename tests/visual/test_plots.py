"""Plots of runs and evaluations, as files and as inline SVG."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrcnn.reports import page
from mrcnn.visual import charts, names, plots
from mrcnn.visual.charts import Chart, Line, fold_confusions, number
from mrcnn.visual.plots import chart_svg, matrix_svg

ROWS = [
    {"step": 10.0, "lr": 0.1, "loss": 3.0, "loss_mask": 1.0},
    {"step": 20.0, "lr": 0.2, "loss": 2.5, "loss_mask": 1.0, "bbox_AP": 0.2, "segm_AP": 0.1},
]


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], []], ids=["a run", "not evaluated", "no steps"])
def test_training_curves(tmp_path, rows):
    plots.save_training_curves(tmp_path / "curves.png", rows)
    with Image.open(tmp_path / "curves.png") as image:
        assert image.size[0] > 1000
        pixels = np.asarray(image.convert("RGB"))
    coloured = (pixels.max(axis=2).astype(int) - pixels.min(axis=2) > 60).sum()
    assert (coloured > 100) == bool(rows)


def test_charts_of_a_run():
    by_title = {chart.title: chart for chart in charts.training_charts(ROWS, 20.0)}
    (boxes, masks) = by_title["AP on validation images"].lines
    assert (boxes.name, boxes.xs, boxes.ys, boxes.value) == ("boxes", [20.0], [0.2], 0.2)
    assert masks.value == 0.1
    assert by_title["AP on validation images"].mark == (20.0, "best")
    assert [line.name for line in by_title["Loss"].lines] == ["training"]
    assert by_title["Images per second"].lines == []


def test_charts_of_two_runs():
    short = charts.training_charts([{"step": 5.0, "loss": 1.0}])
    by_title = {
        chart.title: chart for chart in charts.overlaid(charts.training_charts(ROWS), short)
    }
    loss = by_title["Loss"]
    assert [(line.name, line.value) for line in loss.lines] == [
        ("A: training", 2.5), ("B: training", 1.0)
    ]  # fmt: skip
    assert loss.x_limits == (0, 20)
    assert [line.name for line in by_title["AP on validation images"].lines] == [
        "A: boxes", "A: masks"
    ]  # fmt: skip


def test_precision_recall_charts():
    """The values in the legends are AP and those at the chosen score; NaN is not drawn."""
    precision = {0.5: np.array([[1.0, 0.5], [0.5, 0.0], [-1.0, -1.0]])}
    scores, found = np.array([0.25, 0.5, 0.75]), np.array([0.5, 0.75, np.nan])
    means, classes, by_score = charts.precision_recall_charts(
        precision, ["a", "b", "absent"], scores, {"precision": found}, 0.5, "masks"
    )
    assert [(line.ys, line.value) for line in means.lines] == [([0.75, 0.25], 0.5)]
    assert [(line.name, line.value) for line in classes.lines] == [("a", 0.75), ("b", 0.25)]
    assert [(line.xs, line.value) for line in by_score.lines] == [([0.25, 0.5], 0.75)]
    assert by_score.mark == (0.5, "0.50")


def test_svg_is_text_in_the_colours_of_the_page():
    """From (0, 0) to (10, 1): from the lower left to the upper right corner of the plot."""
    chart = Chart("t", "step", [Line("<b> & \ud800", [0, 10], [0, 1])], (0, 10), 1.0)
    svg = chart_svg(chart)
    assert svg == chart_svg(chart)
    assert svg.startswith('<svg viewBox="0 0 350 200" role="img" aria-label="t: &lt;b&gt; &amp; ')
    assert re.search(r"M 46 164 ?\nL 338 18", svg)
    assert "stroke: var(--c0)" in svg
    assert ">step</text>" in svg
    assert not re.search(r"#[0-9a-f]{6}|http|<style|font-family|<g id", svg)


def test_values_of_a_chart():
    """The script finds points by the place of the axes and by the limits."""
    chart = Chart("t", "step", [Line("a\u202e", [10, 20], [0.123456, 2e6])], (5, 5))
    values = plots.chart_values(chart)
    assert values["lines"] == [["a\\u202e", [10, 20], ["0.123", "2,000,000"]]]
    assert values["limits"] == (5, 6)
    assert values["sides"] == (46 / 350, 338 / 350)


@pytest.mark.parametrize(
    ("name", "text"), [("a.png", "a.png"), ("0123456789.png", "012….png"), ("01234567", "01234567")]
)
def test_file_names_are_cut_in_the_middle(name, text):
    assert names.short_file(name, 8) == text


def test_the_style_sheet_has_the_same_colours():
    style = (Path(page.__file__).parent / "style.css").read_text()
    light = style[: style.index("@media")]
    for colour, variable in plots._VARIABLES.items():
        assert f"{variable[4:-1]}: {colour};" in light


def test_lines_of_one_point_and_of_many():
    assert "<path" in chart_svg(Chart("t", "step", [Line("a", [5], [0.0])], (5, 5)))
    assert plots._thinned([i % 5 for i in range(1000)]) == [2.0] * 200
    assert plots._thinned([1, 2]) == [1, 2]


def test_confusions_are_drawn():
    svg, width = matrix_svg(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]]), ["$cat$", "x" * 100])
    assert 200 < width < 500
    assert "$cat$</text>" in svg
    assert "x" * 23 + "…</text>" in svg
    assert len(re.findall("fill: var\\(--c0\\)", svg)) == 2
    assert len(re.findall("fill: var\\(--c1\\)", svg)) == 1


def test_a_large_confusion_matrix_is_folded():
    """Classes 40 and 3 are confused; the sum of all cells stays the same."""
    matrix = np.diag(np.arange(100, 151))
    matrix[40, 3], matrix[20, 50], matrix[50, 50] = 7, 5, 0
    folded, names = fold_confusions(matrix, [f"c{i}" for i in range(50)])
    assert folded.shape == (17, 17)
    assert names[:4] == ["c0", "c1", "c2", "c3"]
    assert names[-2:] == ["c40", "35 others"]
    assert folded[14, 3] == 7
    assert folded[15, 16] == 5
    assert folded.sum() == matrix.sum()
    whole, names = fold_confusions(matrix[-17:, -17:], [str(i) for i in range(16)])
    assert (whole.shape, len(names)) == ((17, 17), 16)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0.0, "0"), (0.25, "0.25"), (1350.4, "1,350"), (5e-5, "5e-05"), (99.96, "100")],
)
def test_short_numbers(value, text):
    assert number(value) == text
