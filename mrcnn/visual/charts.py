"""Line charts as inline SVG, in the colours of the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from mrcnn.visual.page import Html, join, tag

MOST_POINTS = 240  # of a line; of more, neighbours are averaged
COLOURS = 10  # of the style sheet

_WIDTH, _HEIGHT = 360, 220  # so that text has its natural size on a phone
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 12, 16, 34
_BANDS = 60  # places that show their values under the pointer
_FEW = 30  # points that are drawn as dots, too


@dataclass(frozen=True)
class Line:
    """Points to connect, x ascending; all finite."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]


def line_chart(
    title: str,
    lines: Sequence[Line],
    x_label: str,
    *,
    y_limit: float | None = None,
    x_limits: tuple[float, float] | None = None,
    mark: tuple[float, str] | None = None,
    show_last: bool = True,
) -> Html:
    """Draw lines from y = 0 on; a chart without any points says so.

    Args:
        y_limit: upper end of the y axis, else that of the values.
        x_limits: ends of the x axis, else those of the values.
        mark: an x to point out, and its name.
        show_last: write the last value of each line into the legend.
    """
    lines = [line for line in lines if len(line.xs)]
    if not lines:
        return tag("div", tag("h3", title), tag("p", "not measured", class_="note"), class_="chart")
    legend = tag("ul", *(_entry(i, line, show_last) for i, line in enumerate(lines)))
    thin = [thinned(line) for line in lines]
    low, high = x_limits or (min(line.xs[0] for line in thin), max(line.xs[-1] for line in thin))
    high = high if high > low else low + 1
    top = y_limit or max(max(line.ys) for line in thin) or 1.0
    y_ticks = ticks(0, top, 4)
    if y_limit is None and y_ticks[-1] < top:
        y_ticks.append(y_ticks[-1] + y_ticks[1])
        top = y_ticks[-1]

    def x_at(x: float) -> float:
        return _LEFT + (x - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def y_at(y: float) -> float:
        return _HEIGHT - _BOTTOM - max(y, 0.0) / top * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for y in y_ticks:
        parts.append(_segment(_LEFT, y_at(y), _WIDTH - _RIGHT, y_at(y), "axis"))
        parts.append(tag("text", short(y), x=_LEFT - 6, y=_n(y_at(y) + 4), text_anchor="end"))
    for x in ticks(low, high, 5):
        place = {"x": _n(x_at(x)), "y": _HEIGHT - _BOTTOM + 15}
        parts.append(tag("text", short(x), text_anchor="middle", **place))
    middle = _n((_LEFT + _WIDTH - _RIGHT) / 2)
    parts.append(tag("text", x_label, x=middle, y=_HEIGHT - 4, text_anchor="middle"))
    if mark:
        x, name = mark
        parts.append(_segment(x_at(x), _TOP, x_at(x), _HEIGHT - _BOTTOM, "mark"))
        place = {"x": _n(min(x_at(x), _WIDTH - _RIGHT - 10)), "y": _TOP - 4}
        parts.append(tag("text", name, text_anchor="middle", **place))
    for i, line in enumerate(thin):
        colour = f"var(--c{i % COLOURS})"
        points = " ".join(
            f"{_n(x_at(x))},{_n(y_at(y))}" for x, y in zip(line.xs, line.ys, strict=True)
        )
        parts.append(tag("polyline", class_="line", points=Html(points), style=f"stroke:{colour}"))
        if len(line.xs) <= _FEW:
            parts += (
                tag("circle", cx=_n(x_at(x)), cy=_n(y_at(y)), r=2.4, style=f"fill:{colour}")
                for x, y in zip(line.xs, line.ys, strict=True)
            )
    parts.append(_bands(thin, x_label, x_at))
    drawing = tag("svg", *parts, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=title)
    return tag("div", tag("h3", title), legend, drawing, class_="chart")


def thinned(line: Line) -> Line:
    """At most `MOST_POINTS` points, each the mean of as many neighbours."""
    size = -(-len(line.xs) // MOST_POINTS)
    starts = range(0, len(line.xs), size)
    xs = [_mean(line.xs[start : start + size]) for start in starts]
    ys = [_mean(line.ys[start : start + size]) for start in starts]
    return Line(line.name, xs, ys)


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers from low to high, about `count` steps."""
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.7)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def short(value: float) -> str:
    """A number in a few characters."""
    size = abs(value)
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            return f"{value / (1e3 if letter == 'k' else limit):.4g}{letter}"
    if size < 1e-3 and value:
        digits, exponent = f"{value:.2e}".split("e")
        return f"{float(digits):g}e{int(exponent)}"
    return f"{value:.3g}" if size < 100 else f"{value:.0f}"


def _entry(number: int, line: Line, show_last: bool) -> Html:
    """A line of the legend."""
    colour = tag("i", style=f"background:var(--c{number % COLOURS})")
    last = join([" ", tag("b", short(line.ys[-1]))]) if show_last else ""
    return tag("li", colour, line.name, last)


def _bands(lines: Sequence[Line], x_label: str, x_at: Callable[[float], float]) -> Html:
    """Invisible columns that tell the values at their x under the pointer, without a script."""
    values: dict[float, list[str]] = {}
    for line in lines:
        for x, y in zip(line.xs, line.ys, strict=True):
            values.setdefault(x, []).append(f"{line.name} {short(y)}")
    xs = sorted(values)
    xs = xs[:: -(-len(xs) // _BANDS)]
    edges = [_LEFT, *((x_at(a) + x_at(b)) / 2 for a, b in pairwise(xs)), _WIDTH - _RIGHT]
    return join(
        tag(
            "rect",
            tag("title", f"{x_label} {short(x)}: {', '.join(values[x])}"),
            x=_n(left),
            y=_TOP,
            width=_n(max(right - left, 0)),
            height=_HEIGHT - _TOP - _BOTTOM,
            class_="hover",
        )
        for x, left, right in zip(xs, edges, edges[1:], strict=False)
    )


def _segment(x1: float, y1: float, x2: float, y2: float, class_: str) -> Html:
    return tag("line", x1=_n(x1), y1=_n(y1), x2=_n(x2), y2=_n(y2), class_=class_)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _n(value: float) -> str:
    """A coordinate."""
    return f"{value:.1f}".removesuffix(".0")
