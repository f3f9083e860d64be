"""Comparison of two evaluations: metrics, classes and images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mrcnn.data.coco.read import CocoDataset
from mrcnn.evaluation.coco import KINDS
from mrcnn.evaluation.evaluation import Evaluation
from mrcnn.evaluation.tables import (
    SHOWN_CLASSES,
    cell,
    class_names,
    metrics_tree,
    select_classes,
    shorten,
)

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

    def _metrics_table(self) -> list[str]:
        kinds = self.a.kinds
        header = "".join(f"{KINDS[kind] + ': A':>11}{'B':>8}{'B - A':>8}" for kind in kinds)
        lines = [" " * 6 + header]
        prefix = f"{kinds[0]}_"
        names = [name.removeprefix(prefix) for name in self.a.metrics if name.startswith(prefix)]
        for name in names:
            if "/" not in name:
                cells = [self._cells(f"{kind}_{name}") for kind in kinds]
                lines.append(f"{name:<6}" + "".join(f"   {cell}" for cell in cells))
        return lines

    def _class_table(self) -> list[str]:
        """Return the classes in ascending order of their change of AP."""
        kind = self.a.kinds[-1]
        a, b = self.a.metrics, self.b.metrics
        keys = {name: f"{kind}_AP/{name}" for name in class_names(a)}
        change = {name: b[key] - a[key] for name, key in keys.items() if a[key] > -1}
        rows, between = select_classes(change)
        width = max([len("class"), *(len(shorten(name)) for name in rows)])
        lines = [f"{'class':<{width}}{'A':>8}{'B':>8}{'B - A':>8}   AP of {KINDS[kind]}"]
        for position, name in enumerate(rows):
            if between and position == SHOWN_CLASSES:
                lines.append(f"… {between} classes between")
            lines.append(f"{shorten(name):<{width}}{self._cells(keys[name])}")
        return lines

    def _image_lines(self) -> list[str]:
        """Count the images where each side is better, and name those where it is most."""
        a, b = self.a.errors, self.b.errors
        f1 = a.image_f1, b.image_f1
        change = f1[1] - f1[0]
        path_of = {int(id): self.dataset.path(i) for i, id in enumerate(self.dataset.image_ids)}
        better = int((change > 0).sum()), int((change < 0).sum())
        lines = [
            f"F1 per image, {KINDS[a.kind]}, IoU 0.5; A with score >= {a.score:.2f}, "
            f"B with score >= {b.score:.2f}:",
            f"B is better in {better[0]}, A in {better[1]}, and {len(change) - sum(better)} "
            "are equal",
        ]
        for side, order, count in (("B", _ranked(-change), better[0]),
                                   ("A", _ranked(change), better[1])):  # fmt: skip
            for i in order[: min(_NAMED, count)]:
                id = a.pairs[i].image_id
                # Without a file name, the path is the folder.
                name = f"image {id}" if path_of[id] == self.dataset.folder else path_of[id].name
                values = f"({f1[0][i]:.2f}, {f1[1][i]:.2f})"
                lines.append(f"{side} is better by {abs(change[i]):.2f} {values}: {name}")
        return lines

    def _cells(self, name: str) -> str:
        a, b = self.a.metrics[name], self.b.metrics[name]
        change = f"{b - a:+8.3f}" if min(a, b) > -1 else f"{'-':>8}"
        return cell(a) + cell(b) + change


def _ranked(values: Any) -> Sequence[int]:
    order: list[int] = np.argsort(values, kind="stable").tolist()
    return order
