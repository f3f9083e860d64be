"""What a detector gets wrong as one picture: curves, kinds of errors, confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.visual.report import FEW_CLASSES
from mrcnn.visual.tallies import folded

_LONGEST = 20  # characters of a class name


def draw_mistakes(
    picture: Path,
    precision: Mapping[float, NDArray[np.float64]],
    names: Sequence[str],
    scores: NDArray[np.float64],
    at_score: Mapping[str, NDArray[np.float64]],
    score: float,
    found: Mapping[str, int],
    objects: Mapping[str, int],
    confusions: NDArray[np.int64],
    what: str,
) -> None:
    """Draw four panels.

    Args:
        picture: .png, .svg or .pdf file to write.
        precision: IoU -> (C, R) precision at R evenly spaced recalls from 0 to 1; -1 without
            objects.
        names: C.
        scores: (S,) thresholds.
        at_score: "precision", … -> (S,), NaN where it has no value.
        score: the chosen threshold, from which on all else is counted.
        found, objects: counts of detections and of objects by kind, the right ones first.
        confusions: (C + 1, C + 1), rows are true classes, the background last.
        what: "boxes" or "masks".
    """
    from matplotlib.figure import Figure  # takes half a second, and only this needs it

    figure = Figure(figsize=(13, 10.5), layout="constrained")
    (recalls, thresholds), (kinds, matrix) = figure.subplots(2, 2)
    first, *_ = precision.values()
    known = np.flatnonzero(first[:, 0] >= 0).tolist()
    grid = np.linspace(0, 1, first.shape[1])
    for iou, rows in precision.items():
        if len(known):
            recalls.plot(grid, rows[known].mean(axis=0), label=f"IoU {iou:g}", linewidth=2.2)
    if 1 < len(known) <= FEW_CLASSES:
        iou = next(iter(precision))
        for c in known:
            label = f"IoU {iou:g}: {_cut(names[c])}"
            recalls.plot(grid, first[c], label=label, linewidth=1, alpha=0.8)
    recalls.set(title=f"Precision of {what} over recall, mean of classes", xlabel="recall")
    for name, values in at_score.items():
        thresholds.plot(scores, values, label=name)
    thresholds.axvline(score, color="0.4", linestyle=":", label=f"score {score:.2f}")
    thresholds.set(title="By the lowest score taken, IoU 0.5", xlabel="score")
    for axes in (recalls, thresholds):
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(alpha=0.25)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize="small")
    _draw_kinds(kinds, found, objects)
    kinds.set_title(f"What became of {what} with score ≥ {score:.2f}, and of objects")
    _draw_matrix(matrix, confusions, names)
    for axes in (recalls, thresholds, kinds):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=110)


def _draw_kinds(axes: Any, found: Mapping[str, int], objects: Mapping[str, int]) -> None:
    bars = [(f"detections: {kind}", count, i == 0) for i, (kind, count) in enumerate(found.items())]
    bars += [(f"objects: {kind}", count, i == 0) for i, (kind, count) in enumerate(objects.items())]
    colours = ["tab:green" if is_right else "tab:red" for _, _, is_right in bars]
    drawn = axes.barh([name for name, _, _ in bars], [n for _, n, _ in bars], color=colours)
    axes.bar_label(drawn, labels=[f"{count:,}" for _, count, _ in bars], padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.12)


def _draw_matrix(axes: Any, confusions: NDArray[np.int64], names: Sequence[str]) -> None:
    """Shares of each row; of many classes, those most often confused."""
    counts, labels = folded(confusions, names)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    short = [_cut(name) for name in labels]
    axes.set_xticks(range(len(counts)), [*short, "missed"], rotation=90)
    axes.set_yticks(range(len(counts)), [*short, "background"])
    axes.set(title="Confusions: rows are true, columns found", xlabel="found", ylabel="true")
    for r, c in np.argwhere(counts):
        colour = "white" if shares[r, c] > 0.5 else "black"
        axes.text(c, r, f"{counts[r, c]:,}", ha="center", va="center", color=colour, fontsize=7)


def _cut(name: str) -> str:
    """Short, and without the dollars that would be taken for a formula."""
    short = name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
    return short.replace("$", r"\$")
