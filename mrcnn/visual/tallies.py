"""What a model finds and misses, as tables of a run's report.

C classes; a figure of -1 says that there was nothing to measure it on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrcnn.visual.page import Html, bar, join, table, tag

MATRIX_CLASSES = 15  # with a row each in the confusion matrix; the others share one

_FIGURES = {
    "AP": "IoU 0.50 to 0.95",
    "AP50": "IoU 0.5",
    "AP75": "IoU 0.75",
    "APs": "small objects",
    "APm": "medium objects",
    "APl": "large objects",
    "AR1": "recall with 1",
    "AR10": "recall with 10",
    "AR": "recall with all",
    "ARs": "of small objects",
    "ARm": "of medium objects",
    "ARl": "of large objects",
}
_FOUND_RULES = {
    "correct": "the class and an overlap of IoU ≥ 0.5 are right",
    "duplicate": "IoU ≥ 0.5 with an object of its class that a detection of better score has taken",
    "class": "IoU ≥ 0.5, but with an object of another class",
    "location": "0.1 ≤ IoU < 0.5 with an object of its class",
    "class and location": "0.1 ≤ IoU < 0.5 with an object of another class",
    "background": "IoU < 0.1 with every object",
}
_OBJECT_RULES = {
    "found": "by a correct detection",
    "class": "not found, but a detection wrong in its class lies there",
    "location": "not found, but a detection wrong in its location lies there",
    "missed": "none of these",
}


@dataclass(frozen=True)
class ClassRow:
    """One class at the chosen score."""

    name: str
    objects: int
    aps: Sequence[float]  # of each kind of figures
    ap50: float
    correct: int  # detections, and so many objects are found
    wrong: int  # other detections of this class


@dataclass(frozen=True)
class SizeRow:
    """Objects, and detections, of one size."""

    name: str
    aps: Sequence[float]  # of each kind of figures
    objects: Mapping[str, int]  # by kind
    found: Mapping[str, int]  # detections by kind


def averages(
    kinds: Mapping[str, Mapping[str, float]], classes: Sequence[ClassRow], what: str, score: float
) -> Html:
    """COCO's figures, a column for boxes and masks each, and those of each class.

    Args:
        what: the kind that counts of classes are of.
        score: from which detections are counted.
    """
    rows = [
        (name, *(figure(figures[name]) for figures in kinds.values()), meaning)
        for name, meaning in _FIGURES.items()
    ]
    note = (
        f"Lowest AP first. AP50 is that of {what}; recall, precision and wrong detections are "
        f"counted at score ≥ {score:.2f} and IoU ≥ 0.5. “—”: there is nothing to measure it on."
    )
    return tag(
        "div",
        tag("div", table(["", *kinds, ""], rows, class_="counts"), class_="panel"),
        tag(
            "div", class_table(classes, list(kinds)), tag("p", note, class_="note"), class_="panel"
        ),
        class_="grid two",
    )


def class_table(rows: Sequence[ClassRow], kinds: Sequence[str]) -> Html:
    """Figures of each class, the lowest AP first; classes without objects come last."""
    header = ["class", "objects", *(f"AP {kind}" for kind in kinds), ""]
    header += ["AP50", "recall", "precision", "wrong"]
    ordered = sorted(rows, key=lambda row: (row.objects == 0, row.aps[-1], row.name))
    return table(
        header,
        (
            (
                _cut(row.name, 60),
                row.objects,
                *map(figure, row.aps),
                bar(row.aps[-1]),
                figure(row.ap50),
                _share(row.correct, row.objects),
                _share(row.correct, row.correct + row.wrong),
                row.wrong,
            )
            for row in ordered
        ),
    )


def errors(found: Mapping[str, int], objects: Mapping[str, int], what: str, score: float) -> Html:
    """Kinds of detections and of objects, counted, with what the kinds mean."""
    note = (
        f"Counted for {what} with score ≥ {score:.2f}: from there on, F1 at IoU 0.5 is best on "
        "these images (0.50 if nothing is right). Matching is COCO's: best score first, each "
        "detection takes the free object of its class that it overlaps most. Any other detection "
        "is judged by the object, of any class, that it overlaps most. Crowd regions, and what "
        "lies in them, are left out."
    )
    parts = [tag("p", note, class_="note")]
    for title, counts, rules in (
        ("Detections", found, _FOUND_RULES),
        ("Objects", objects, _OBJECT_RULES),
    ):
        total = sum(counts.values())
        rows = (
            (kind, count, _share(count, total), bar(count / max(total, 1), int(i > 0)), rules[kind])
            for i, (kind, count) in enumerate(counts.items())
        )
        heading = tag("h3", f"{title}: {total:,}")
        inner = table(["kind", "count", "share", "", "which"], rows, class_="counts kinds")
        parts.append(tag("div", heading, inner, class_="panel"))
    return join(parts)


def sizes(rows: Sequence[SizeRow], kinds: Sequence[str]) -> Html:
    """The same by area, with COCO's AP of each size."""
    header = ["size", *(f"AP {kind}" for kind in kinds), "objects", "found", "", "wrong class"]
    header += ["wrong location", "missed", "background", "duplicates"]
    cells = [
        (
            row.name,
            *map(figure, row.aps),
            total := sum(row.objects.values()),
            _share(row.objects["found"], total),
            bar(row.objects["found"] / max(total, 1)),
            *(row.objects[kind] for kind in ("class", "location", "missed")),
            *(row.found[kind] for kind in ("background", "duplicate")),
        )
        for row in rows
    ]
    note = (
        "Small objects have an area below 32² = 1,024 pixels, large ones from 96² = 9,216 on. "
        "Background and duplicates are detections of that size; all else counts objects."
    )
    return tag("div", table(header, cells), tag("p", note, class_="note"), class_="panel")


def confusions(matrix: NDArray[np.int64], names: Sequence[str], what: str, score: float) -> Html:
    """A confusion matrix whose last row and column are the background.

    With many classes, those most often confused are shown, and the others as one.

    Args:
        matrix: (C + 1, C + 1), rows are true classes.
        names: C names.
    """
    matrix, labels = folded(matrix, names)
    is_folded = len(labels) < len(names)
    head = tag(
        "tr",
        tag("th", "true \\ found"),
        *(tag("th", tag("span", _cut(name)), scope="col", title=name) for name in labels),
        tag("th", tag("span", "background (missed)"), scope="col"),
    )
    body = []
    for r, name in enumerate([*labels, "background (false)"]):
        total = max(int(matrix[r].sum()), 1)
        is_one_class = not is_folded or r < MATRIX_CLASSES
        cells = [_cell(int(n), n / total, r == c and is_one_class) for c, n in enumerate(matrix[r])]
        if r == len(labels):
            cells[-1] = tag("td")
        body.append(tag("tr", tag("th", _cut(name), scope="row", title=name), *cells))
    note = (
        f"Rows are what an object is, columns what it was found as, for {what} with score "
        f"≥ {score:.2f}. Detections left over by the matching take a free object of another class "
        "at IoU ≥ 0.5, or else stand in the last row, as duplicates do. Shades are shares of a row."
    )
    if is_folded:
        note += " The classes most often confused are shown; the others share a row and a column."
    inner = tag("table", tag("thead", head), tag("tbody", *body), class_="matrix")
    inner = tag("div", inner, class_="scroll", tabindex=0)
    return tag("div", inner, tag("p", note, class_="note"), class_="panel beside")


def folded(matrix: NDArray[np.int64], names: Sequence[str]) -> tuple[NDArray[np.int64], list[str]]:
    """A matrix of few rows, and their names without the background's.

    The classes most often confused with others are kept; all others become the row and the column
    before the background's.
    """
    if len(names) <= MATRIX_CLASSES + 1:
        return matrix, list(names)
    mixed = matrix[:-1, :-1] - np.diag(np.diag(matrix[:-1, :-1]))
    order = np.argsort(-(mixed.sum(axis=0) + mixed.sum(axis=1)), kind="stable")
    kept = np.sort(order[:MATRIX_CLASSES])
    place = np.full(len(matrix), MATRIX_CLASSES)
    place[kept] = np.arange(MATRIX_CLASSES)
    place[-1] = MATRIX_CLASSES + 1
    folded = np.zeros((MATRIX_CLASSES + 2,) * 2, np.int64)
    np.add.at(folded, (place[:, None], place[None, :]), matrix)
    return folded, [*(names[c] for c in kept), f"{len(names) - MATRIX_CLASSES} others"]


def _cell(count: int, share: float, is_right: bool) -> Html:
    """A cell as dark as its share of its row."""
    if not count:
        return tag("td", "·", class_="none")
    colour = "right" if is_right else "wrong"
    style = f"background:rgb(var(--{colour})/{0.08 + 0.42 * share:.2f})"
    return tag("td", f"{count:,}", style=style, title=f"{share:.1%} of the row")


def figure(value: float) -> str:
    return f"{value:.3f}" if value > -1 and not math.isnan(value) else "—"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "—"


def _cut(name: str, longest: int = 24) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"
