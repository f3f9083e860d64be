"""Errors of a detector: their kinds, curves, and confusions of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mrcnn.data.coco.truth import Record
from mrcnn.evaluation import matching
from mrcnn.evaluation.coco import KINDS, Kind
from mrcnn.evaluation.matching import (
    DETECTION_KINDS,
    OBJECT_KINDS,
    Curves,
    Floats,
    ImagePair,
    Ints,
    Outcomes,
)
from mrcnn.evaluation.truth import GroundTruth

IOUS = (0.5, 0.75)  # of the precision-recall curves; all else is counted at the first
_NAMED = 6  # classes, or pairs of them, in a line


@dataclass(frozen=True, eq=False)
class ErrorAnalysis:
    """Detections compared with objects, of C classes in ascending order of their ids.

    Errors are counted from the score on where F1 is best. Each property is computed once, when it
    is first used.
    """

    kind: Kind
    names: list[str]  # C
    pairs: list[ImagePair]  # N

    @cached_property
    def curves(self) -> Curves:
        """Precision, recall and F1 over the lowest score."""
        return matching.score_curves(self.pairs, IOUS[0])

    @cached_property
    def best(self) -> int:
        """Position of the best F1 in the curves."""
        return self.curves.best()

    @property
    def score(self) -> float:
        """Lowest score that counts: that of the best F1."""
        return float(self.curves.scores[self.best])

    @cached_property
    def outcomes(self) -> Outcomes:
        """Kind of each detection with at least that score, and of each object."""
        return matching.outcomes(self.pairs, self.score, IOUS[0])

    @property
    def detections(self) -> dict[str, int]:
        """Number of detections of each kind in `DETECTION_KINDS`."""
        return _count(self.outcomes.detection_kind, DETECTION_KINDS)

    @property
    def objects(self) -> dict[str, int]:
        """Number of objects of each kind in `OBJECT_KINDS`."""
        return _count(self.outcomes.object_kind, OBJECT_KINDS)

    @cached_property
    def precision(self) -> dict[float, Floats]:
        """IoU -> precision at `RECALLS`, (C, 101); -1 for a class without objects."""
        count = len(self.names)
        return {iou: matching.precision_at_recalls(self.pairs, count, iou) for iou in IOUS}

    @cached_property
    def confusions(self) -> Ints:
        """Counts (C + 1, C + 1); rows are true classes, the background comes last."""
        return matching.confusion_matrix(self.pairs, len(self.names), self.score, IOUS[0])

    @property
    def image_f1(self) -> Floats:
        """F1 of each image, (N,)."""
        return self.outcomes.f1(len(self.pairs))

    def mean_precision(self, iou: float) -> Floats:
        """Return the mean over the classes with objects, (101,); zeros without any."""
        rows = self.precision[iou]
        known = rows[rows[:, 0] >= 0]
        return known.mean(axis=0) if len(known) else np.zeros(rows.shape[1])


def find_errors(
    truth: GroundTruth, entries: Sequence[Record], kind: Kind, max_detections: int = 100
) -> ErrorAnalysis:
    """Compare detections with ground truth; the arguments are those of `pair_images`."""
    pairs = list(matching.pair_images(truth, entries, kind, max_detections))
    return ErrorAnalysis(kind, [category["name"] for category in truth.categories], pairs)


def format_errors(errors: ErrorAnalysis) -> str:
    """Format the errors in a few lines."""
    curves, best = errors.curves, errors.best
    rates = ", ".join(
        f"{name} {'-' if np.isnan(values[best]) else format(values[best], '.3f')}"
        for name, values in (
            ("F1", curves.f1),
            ("precision", curves.precision),
            ("recall", curves.recall),
        )
    )
    lines = [
        f"{KINDS[errors.kind]} with score >= {errors.score:.2f}, where F1 is best, "
        f"at IoU {IOUS[0]}: {rates}",
        _format_counts("detections", errors.detections),
        _format_counts("objects", errors.objects),
    ]
    matrix = errors.confusions
    mixed = matrix[:-1, :-1] * ~np.eye(len(matrix) - 1, dtype=bool)
    order = np.argsort(-mixed, axis=None, kind="stable")[:_NAMED]
    pairs = [tuple(map(int, np.unravel_index(i, mixed.shape))) for i in order]
    if mixed.any():
        words = [
            f"{errors.names[r]} as {errors.names[c]} {mixed[r, c]:,}"
            for r, c in pairs
            if mixed[r, c]
        ]
        lines.append(f"most confused: {', '.join(words)}")
    if len(errors.names) > 1 and matrix[:-1, -1].any():
        worst = np.argsort(-matrix[:-1, -1], kind="stable")[:_NAMED]
        words = [
            f"{errors.names[c]} {matrix[c, -1]:,} of {matrix[c].sum():,}"
            for c in worst
            if matrix[c, -1]
        ]
        lines.append(f"most often without a detection: {', '.join(words)}")
    tenths = slice(None, None, 10)
    lines.append(f"{'recall':<19}" + "".join(f"{r:6.1f}" for r in matching.RECALLS[tenths]))
    for iou in IOUS:
        values = errors.mean_precision(iou)[tenths]
        lines.append(f"{f'precision, IoU {iou}':<19}" + "".join(f"{v:6.2f}" for v in values))
    return "\n".join(lines)


def errors_tree(errors: ErrorAnalysis) -> dict[str, Any]:
    """Return all errors for JSON.

    `confusions` lists [true class, detected class, count] of pairs that occur, with None for the
    background.
    """
    curves, best = errors.curves, errors.best
    names = [*errors.names, None]
    matrix = errors.confusions
    return {
        "kind": errors.kind,
        "iou": IOUS[0],
        "score": round(errors.score, 2),
        "f1": float(curves.f1[best]),
        "precision": None if np.isnan(curves.precision[best]) else float(curves.precision[best]),
        "recall": float(curves.recall[best]),
        "detections": errors.detections,
        "objects": errors.objects,
        "confusions": [[names[r], names[c], int(matrix[r, c])] for r, c in np.argwhere(matrix)],
        "precision_at_recalls": {
            str(iou): {
                name: np.round(row, 4).tolist()
                for name, row in zip(errors.names, rows, strict=True)
                if row[0] >= 0
            }
            for iou, rows in errors.precision.items()
        },
    }


def _count(kinds: Ints, names: Sequence[str]) -> dict[str, int]:
    return dict(zip(names, np.bincount(kinds, minlength=len(names)).tolist(), strict=True))


def _format_counts(title: str, counts: dict[str, int]) -> str:
    words = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    return f"{title} {sum(counts.values()):,}: {words}"
