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
from mrcnn.evaluation.matching import Curves, Floats, ImagePair, Ints, Outcomes
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
        """Precision, recall and F1 over the score threshold."""
        return matching.score_curves(self.pairs, IOUS[0])

    @cached_property
    def score(self) -> float:
        """Lowest score that counts: that of the best F1."""
        return float(self.curves.scores[self.curves.best()])

    @cached_property
    def rates(self) -> dict[str, float]:
        """F1, precision (NaN without detections) and recall at that score."""
        curves, best = self.curves, self.curves.best()
        values = {"F1": curves.f1, "precision": curves.precision, "recall": curves.recall}
        return {name: float(curve[best]) for name, curve in values.items()}

    @cached_property
    def outcomes(self) -> tuple[Outcomes, Outcomes]:
        """Kinds of the detections with at least that score, and of the objects."""
        return matching.outcomes(self.pairs, self.score, IOUS[0])

    @property
    def detections(self) -> dict[str, int]:
        """Number of detections of each kind in `DETECTION_KINDS`."""
        return self.outcomes[0].totals()

    @property
    def objects(self) -> dict[str, int]:
        """Number of objects of each kind in `OBJECT_KINDS`."""
        return self.outcomes[1].totals()

    @cached_property
    def precision(self) -> dict[float, Floats]:
        """IoU -> precision at `RECALLS`, (C, 101); -1 for a class without objects."""
        count = len(self.names)
        return {iou: matching.precision_at_recalls(self.pairs, count, iou) for iou in IOUS}

    @cached_property
    def confusions(self) -> Ints:
        """Counts (C + 1, C + 1); rows are true classes, the background comes last."""
        return matching.confusion_matrix(self.pairs, len(self.names), self.score, IOUS[0])

    @cached_property
    def image_f1(self) -> Floats:
        """F1 of each image, (N,)."""
        return matching.image_f1(*self.outcomes, len(self.pairs))

    def most_confused(self, limit: int) -> list[tuple[str, str, int]]:
        """Return up to `limit` pairs of classes: true class, predicted class and count."""
        mixed = self.confusions[:-1, :-1] * ~np.eye(len(self.names), dtype=bool)
        order = np.argsort(-mixed, axis=None, kind="stable")[:limit]
        pairs = zip(*np.unravel_index(order, mixed.shape), strict=True)
        return [(self.names[r], self.names[c], int(mixed[r, c])) for r, c in pairs if mixed[r, c]]

    def __str__(self) -> str:
        rates = ", ".join(
            f"{name} {'-' if np.isnan(value) else format(value, '.3f')}"
            for name, value in self.rates.items()
        )
        lines = [
            f"{KINDS[self.kind]} with score >= {self.score:.2f}, where F1 is best, "
            f"at IoU {IOUS[0]}: {rates}"
        ]
        for title, counts in (("detections", self.detections), ("objects", self.objects)):
            words = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
            lines.append(f"{title} {sum(counts.values()):,}: {words}")
        if pairs := self.most_confused(_NAMED):
            words = ", ".join(f"{actual} as {named} {count:,}" for actual, named, count in pairs)
            lines.append(f"most confused: {words}")
        total, missed = self.confusions[:-1].sum(axis=1), self.confusions[:-1, -1]
        if len(self.names) > 1 and missed.any():
            worst = [c for c in np.argsort(-missed, kind="stable")[:_NAMED] if missed[c]]
            words = ", ".join(f"{self.names[c]} {missed[c]:,} of {total[c]:,}" for c in worst)
            lines.append(f"most often without a detection: {words}")
        tenths = slice(None, None, 10)
        lines.append(f"{'recall':<19}" + "".join(f"{r:6.1f}" for r in matching.RECALLS[tenths]))
        for iou, rows in self.precision.items():
            known = rows[rows[:, 0] >= 0]
            mean = known.mean(axis=0) if len(known) else np.zeros(rows.shape[1])
            values = "".join(f"{value:6.2f}" for value in mean[tenths])
            lines.append(f"{f'precision, IoU {iou}':<19}{values}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return all errors for JSON.

        `confusions` lists [true class, detected class, count] of pairs that occur; None is the
        background.
        """
        names, matrix = [*self.names, None], self.confusions
        rates = {name.lower(): value for name, value in self.rates.items()}
        return {
            "kind": self.kind,
            "iou": IOUS[0],
            "score": round(self.score, 2),
            **{name: None if np.isnan(value) else value for name, value in rates.items()},
            "detections": self.detections,
            "objects": self.objects,
            "confusions": [[names[r], names[c], int(matrix[r, c])] for r, c in np.argwhere(matrix)],
            "precision_at_recalls": {
                str(iou): {
                    name: np.round(row, 4).tolist()
                    for name, row in zip(self.names, rows, strict=True)
                    if row[0] >= 0
                }
                for iou, rows in self.precision.items()
            },
        }


def find_errors(
    truth: GroundTruth, entries: Sequence[Record], kind: Kind, max_detections: int = 100
) -> ErrorAnalysis:
    """Compare detections with ground truth; the arguments are those of `pair_images`."""
    pairs = list(matching.pair_images(truth, entries, kind, max_detections))
    return ErrorAnalysis(kind, [category["name"] for category in truth.categories], pairs)
