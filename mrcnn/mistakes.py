"""What a detector gets wrong, summed up for `mrcnn evaluate --errors`: the kinds of a run's report.

C classes in ascending order of their ids.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mrcnn import analysis
from mrcnn.analysis import FOUND, OBJECTS, Curves, Floats, Ints
from mrcnn.coco_scores import Kind
from mrcnn.data.coco_truth import Record

IOUS = (0.5, 0.75)  # of the precision-recall curves; all else is counted at the first
KINDS: dict[Kind, str] = {"bbox": "boxes", "segm": "masks"}
_NAMED = 6  # classes, or pairs of them, in a line


@dataclass(frozen=True)
class Mistakes:
    """Detections with at least the score of the best F1, and objects, counted by kind."""

    kind: Kind
    names: list[str]  # C
    precision: dict[float, Floats]  # IoU -> (C, 101), -1 for a class without objects
    curves: Curves
    chosen: int  # position in the curves
    found: dict[str, int]  # detections by their kind in `analysis.FOUND`
    objects: dict[str, int]  # by their kind in `analysis.OBJECTS`
    confusions: Ints  # (C + 1, C + 1), rows are true classes, the background last

    @property
    def score(self) -> float:
        """The lowest score that counts."""
        return float(self.curves.scores[self.chosen])

    def mean_precision(self, iou: float) -> Floats:
        """(101,) mean over the classes with objects; zeros without any."""
        rows = self.precision[iou]
        known = rows[rows[:, 0] >= 0]
        return known.mean(axis=0) if len(known) else np.zeros(rows.shape[1])


def find_mistakes(
    truth: Record,
    entries: Sequence[Record],
    kind: Kind,
    max_detections: int = 100,
    image_ids: Collection[int] | None = None,
) -> Mistakes:
    """Compare detections with ground truth; the arguments are those of `analysis.compare`."""
    pairs = list(analysis.compare(truth, entries, kind, max_detections, image_ids))
    names = [c["name"] for c in sorted(truth["categories"], key=lambda c: int(c["id"]))]
    curves = analysis.score_curves(pairs, IOUS[0])
    chosen = curves.best()
    score = float(curves.scores[chosen])
    outcomes = analysis.outcomes(pairs, score, IOUS[0])
    found = np.bincount(outcomes.found_kind, minlength=len(FOUND)).tolist()
    objects = np.bincount(outcomes.object_kind, minlength=len(OBJECTS)).tolist()
    return Mistakes(
        kind=kind,
        names=names,
        precision={iou: analysis.precision_at_recalls(pairs, len(names), iou) for iou in IOUS},
        curves=curves,
        chosen=chosen,
        found=dict(zip(FOUND, found, strict=True)),
        objects=dict(zip(OBJECTS, objects, strict=True)),
        confusions=analysis.confusion_matrix(pairs, len(names), score, IOUS[0]),
    )


def format_mistakes(mistakes: Mistakes) -> str:
    """A few lines."""
    curves, at = mistakes.curves, mistakes.chosen
    rates = ", ".join(
        f"{name} {'-' if np.isnan(values[at]) else format(values[at], '.3f')}"
        for name, values in (
            ("F1", curves.f1),
            ("precision", curves.precision),
            ("recall", curves.recall),
        )
    )
    lines = [
        f"{KINDS[mistakes.kind]} with score >= {mistakes.score:.2f}, where F1 is best, "
        f"at IoU {IOUS[0]}: {rates}",
        _counts("detections", mistakes.found),
        _counts("objects", mistakes.objects),
    ]
    matrix = mistakes.confusions
    mixed = matrix[:-1, :-1] * ~np.eye(len(matrix) - 1, dtype=bool)
    order = np.argsort(-mixed, axis=None, kind="stable")[:_NAMED]
    pairs = [tuple(map(int, np.unravel_index(i, mixed.shape))) for i in order]
    if mixed.any():
        words = [
            f"{mistakes.names[r]} as {mistakes.names[c]} {mixed[r, c]:,}"
            for r, c in pairs
            if mixed[r, c]
        ]
        lines.append(f"most confused: {', '.join(words)}")
    if len(mistakes.names) > 1 and matrix[:-1, -1].any():
        worst = np.argsort(-matrix[:-1, -1], kind="stable")[:_NAMED]
        words = [
            f"{mistakes.names[c]} {matrix[c, -1]:,} of {matrix[c].sum():,}"
            for c in worst
            if matrix[c, -1]
        ]
        lines.append(f"most often without a detection: {', '.join(words)}")
    tenths = slice(None, None, 10)
    lines.append(f"{'recall':<19}" + "".join(f"{r:6.1f}" for r in analysis.RECALLS[tenths]))
    for iou in IOUS:
        values = mistakes.mean_precision(iou)[tenths]
        lines.append(f"{f'precision, IoU {iou}':<19}" + "".join(f"{v:6.2f}" for v in values))
    return "\n".join(lines)


def mistakes_tree(mistakes: Mistakes) -> dict[str, Any]:
    """All of it for JSON; `confusions` lists [true class, found class, count] of pairs that occur,
    None for the background."""
    curves, at = mistakes.curves, mistakes.chosen
    names = [*mistakes.names, None]
    matrix = mistakes.confusions
    return {
        "kind": mistakes.kind,
        "iou": IOUS[0],
        "score": round(mistakes.score, 2),
        "f1": float(curves.f1[at]),
        "precision": None if np.isnan(curves.precision[at]) else float(curves.precision[at]),
        "recall": float(curves.recall[at]),
        "detections": mistakes.found,
        "objects": mistakes.objects,
        "confusions": [[names[r], names[c], int(matrix[r, c])] for r, c in np.argwhere(matrix)],
        "precision_at_recalls": {
            str(iou): {
                name: np.round(row, 4).tolist()
                for name, row in zip(mistakes.names, rows, strict=True)
                if row[0] >= 0
            }
            for iou, rows in mistakes.precision.items()
        },
    }


def _counts(title: str, counts: dict[str, int]) -> str:
    words = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    return f"{title} {sum(counts.values()):,}: {words}"
