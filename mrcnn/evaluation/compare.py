"""Comparison of two evaluations: metrics, classes and images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mrcnn.data.coco.read import CocoDataset
from mrcnn.evaluation.coco import KINDS
from mrcnn.evaluation.evaluation import Evaluation
from mrcnn.evaluation.tables import cell, class_lines, class_names, metric_names, metrics_tree

SIDES: tuple[Literal["B", "A"], ...] = ("B", "A")
_NAMED = 5  # images named where one side is better


@dataclass(frozen=True)
class Comparison:
    """Two evaluations on the same images, of the same kinds."""

    a: Evaluation
    b: Evaluation
    dataset: CocoDataset  # the images

    def __str__(self) -> str:
        """All tables: metrics, classes by their change, and images."""
        tables = [self._metrics_table()]
        if len(class_names(self.a.metrics)) > 1:
            tables.append(self._class_table())
        return "\n\n".join("\n".join(lines) for lines in (*tables, self._image_lines()))

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics of both sides and the F1 of every image, for JSON."""
        sides = self.a.errors, self.b.errors
        ids = [pair.image_id for pair in sides[0].pairs]
        f1 = zip(ids, *(side.image_f1.tolist() for side in sides), strict=True)
        return {
            "metrics": {"a": metrics_tree(self.a.metrics), "b": metrics_tree(self.b.metrics)},
            "images": {
                "kind": sides[0].kind,
                "score": {"a": sides[0].score, "b": sides[1].score},
                "f1": [{"id": id, "a": a, "b": b} for id, a, b in f1],
            },
        }

    def classes(self) -> list[str]:
        """Return the classes with objects in ascending order of their change of AP."""
        kind, a, b = self.a.kinds[-1], self.a.metrics, self.b.metrics
        keys = {name: f"{kind}_AP/{name}" for name in class_names(a)}
        change = {name: b[key] - a[key] for name, key in keys.items() if a[key] > -1}
        return sorted(change, key=lambda name: change[name])

    def better_images(self, side: Literal["A", "B"], most: int) -> list[tuple[int, Path | None]]:
        """Return the images where the F1 of one side is higher, those with the largest gain first.

        For at most `most` images, the position in `errors.pairs`, and the path if there is a name.
        """
        gain = self.b.errors.image_f1 - self.a.errors.image_f1
        gain = gain if side == "B" else -gain
        index_of = {int(id): i for i, id in enumerate(self.dataset.image_ids)}
        images = []
        for i in np.argsort(-gain, kind="stable")[:most].tolist():
            path = self.dataset.path(index_of[self.a.errors.pairs[i].image_id])
            if gain[i] > 0:  # without a file name, the path is the folder
                images.append((i, path if path != self.dataset.folder else None))
        return images

    def _metrics_table(self) -> list[str]:
        kinds = self.a.kinds
        header = "".join(f"{KINDS[kind] + ': A':>11}{'B':>8}{'B - A':>8}" for kind in kinds)
        lines = [" " * 6 + header]
        for name in metric_names(self.a.metrics, kinds[0]):
            cells = "".join(f"   {self._cells(f'{kind}_{name}')}" for kind in kinds)
            lines.append(f"{name:<6}{cells}")
        return lines

    def _class_table(self) -> list[str]:
        kind = self.a.kinds[-1]
        header = f"{'A':>8}{'B':>8}{'B - A':>8}   AP of {KINDS[kind]}"
        return class_lines(
            "class", header, self.classes(), lambda name: self._cells(f"{kind}_AP/{name}")
        )

    def _image_lines(self) -> list[str]:
        """Count the images where each side is better, and name those where it is most."""
        a, b = self.a.errors, self.b.errors
        change = b.image_f1 - a.image_f1
        lines = [
            f"F1 per image, {KINDS[a.kind]}, IoU 0.5; A with score >= {a.score:.2f}, "
            f"B with score >= {b.score:.2f}:",
            f"B is better in {(change > 0).sum()}, A in {(change < 0).sum()}, and "
            f"{(change == 0).sum()} are equal",
        ]
        for side in SIDES:
            for i, path in self.better_images(side, _NAMED):
                name = path.name if path else f"image {a.pairs[i].image_id}"
                values = f"({a.image_f1[i]:.2f}, {b.image_f1[i]:.2f})"
                lines.append(f"{side} is better by {abs(change[i]):.2f} {values}: {name}")
        return lines

    def _cells(self, name: str) -> str:
        a, b = self.a.metrics[name], self.b.metrics[name]
        change = f"{b - a:+8.3f}" if min(a, b) > -1 else f"{'-':>8}"
        return cell(a) + cell(b) + change
