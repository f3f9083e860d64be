"""The page of `mrcnn compare`: metrics, curves, classes and images of two runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrcnn.evaluation.coco import KINDS
from mrcnn.evaluation.compare import SIDES, Comparison
from mrcnn.evaluation.tables import metric_names
from mrcnn.reports.page import Section, embed, format_metric, write_page
from mrcnn.reports.sections import chart_section, overlays, precision_recall
from mrcnn.visual.charts import overlaid, training_charts
from mrcnn.visual.names import short_file

_IMAGES = 3  # drawn where one side is better


def write_comparison(
    path: Path,
    comparison: Comparison,
    names: Sequence[Path],
    rows: Sequence[Sequence[Mapping[str, float]]],
) -> Path:
    """Write the page that compares A and B, and return its path.

    Args:
        path: .html file.
        comparison: evaluations of both sides.
        names: of A and B.
        rows: tables of the runs, see `read_rows`; empty for a side that is a result file.

    Raises:
        UserError: If an image cannot be read, or the page cannot be written.
    """
    a, b = comparison.a, comparison.b
    kind = a.kinds[-1]

    def table(keys: Mapping[str, Sequence[str]]) -> list[tuple[str, list[tuple[float, float]]]]:
        return [
            (name, [(a.metrics[key], b.metrics[key]) for key in row]) for name, row in keys.items()
        ]

    metrics = {
        name: [f"{kind}_{name}" for kind in a.kinds] for name in metric_names(a.metrics, a.kinds[0])
    }
    head = [f"{KINDS[kind]}: {word}" for kind in a.kinds for word in ("A", "B", "B - A")]
    classes = {name: [f"{kind}_AP/{name}"] for name in comparison.classes()}
    charts = overlaid(*(precision_recall(side.errors) for side in (a, b)))
    sections = [
        Section("Metrics", "comparison", {"head": ["metric", *head], "rows": table(metrics)}),
        chart_section("Precision and recall", charts),
        Section("Classes, by their change of AP", "comparison",
                {"head": ["class", *head[-3:]], "rows": table(classes)}),
    ]  # fmt: skip
    if any(rows):
        charts = overlaid(*map(training_charts, rows))
        sections.insert(1, chart_section("Training curves", [c for c in charts if c.lines]))
    if images := _images(comparison):
        sections.append(Section("Images that differ", "differences", {"images": images}))
    key = f"{kind}_AP"
    return write_page(
        path,
        macros="run_sections.html.j2",
        title=f"Comparison of {names[0].resolve().name} and {names[1].resolve().name}",
        facts=[f"A: {names[0]}", f"B: {names[1]}", f"{len(comparison.dataset):,} images"],
        tiles=[
            ("AP of A", format_metric(a.metrics[key]), f"of {KINDS[kind]}"),
            ("AP of B", format_metric(b.metrics[key]), f"of {KINDS[kind]}"),
            ("Change of AP", f"{b.metrics[key] - a.metrics[key]:+.3f}", "B - A"),
        ],
        warnings=[],
        sections=sections,
    )


def _images(comparison: Comparison) -> list[tuple[Any, ...]]:
    """Return the images where each side is better by most: a title, and the overlays of A and B.

    Images whose files are not here are left out.
    """
    images = []
    for side in SIDES:
        for i, path in comparison.better_images(side, _IMAGES):
            if path is None or not path.is_file():
                continue
            drawn = [
                embed(overlays(sided, i, path)[0], f"{word}: F1 {sided.errors.image_f1[i]:.2f}",
                      f"Detections of {word} in {path.name}")
                for word, sided in (("A", comparison.a), ("B", comparison.b))
            ]  # fmt: skip
            images.append((f"{side} is better: {short_file(path.name)}", *drawn))
    return images
