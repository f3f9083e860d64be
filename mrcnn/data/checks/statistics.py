"""Counts of a data set, as tables for the terminal and the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.data.checks.findings import ImageSummary

MOST_ROWS = 20  # of a table

_COUNTS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)  # where bins of objects begin
_LONGEST_BAR = 24  # characters

Rows = list[tuple[str, tuple[int, ...]]]
Splits = dict[str, list[ImageSummary]]


@dataclass(frozen=True)
class Table:
    """Rows of a name and one count per split."""

    title: str
    header: tuple[str, ...]
    rows: Rows
    has_bars: bool = True  # whether its rows can be compared

    def to_text(self) -> str:
        """Return aligned columns, with a bar for each row."""
        totals = [sum(counts) for _, counts in self.rows]
        longest = max(totals, default=0) or 1
        lines = [(*self.header, "")]
        for (name, counts), total in zip(self.rows, totals, strict=True):
            bar = "█" * round(_LONGEST_BAR * total / longest) if self.has_bars else ""
            lines.append((name, *(f"{n:,}" for n in counts), bar))
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.header))]
        text = [f"\n{self.title}"]
        for first, *rest in lines:
            cells = [first.ljust(widths[0]), *map(str.rjust, rest[:-1], widths[1:]), rest[-1]]
            text.append(("  " + "  ".join(cells)).rstrip())
        return "\n".join(text)


def tables(images: Sequence[ImageSummary], class_names: Sequence[str]) -> list[Table]:
    """Count images of all splits, their sizes, objects per image, areas of objects, and classes."""
    splits: Splits = {}
    for image in images:
        splits.setdefault(image.split, []).append(image)
    if not splits:
        return []
    sizes = [
        Counter(f"{image.size[1]} x {image.size[0]}" for image in images)
        for images in splits.values()
    ]
    classes = []
    for images in splits.values():
        labels = [class_names[label] for image in images for label in image.labels.tolist()]
        # Classes without objects have a row, too: the sum of counters would drop them.
        classes.append(Counter(dict.fromkeys(class_names, 0)))
        classes[-1].update(labels)
    return [
        Table("Contents", ("", *splits), _contents(splits), has_bars=False),
        Table("Image sizes", ("width x height", *splits), _most_frequent(sizes, "other sizes")),
        Table("Objects per image", ("objects", *splits), _objects_per_image(splits)),
        Table("Areas of objects", ("pixels", *splits), _areas(splits)),
        Table("Classes", ("class", *splits), _most_frequent(classes, "other classes")),
    ]


def _contents(splits: Splits) -> Rows:
    objects = [[len(image.labels) for image in images] for images in splits.values()]
    return [
        ("images", tuple(map(len, objects))),
        ("objects", tuple(map(sum, objects))),
        ("crowd regions", tuple(sum(i.crowds for i in images) for images in splits.values())),
        ("images without objects", tuple(counts.count(0) for counts in objects)),
    ]


def _objects_per_image(splits: Splits) -> Rows:
    """Count images by their number of objects."""
    counts = [np.array([len(image.labels) for image in images]) for images in splits.values()]
    most = max(int(count.max()) for count in counts)
    edges = [*(edge for edge in _COUNTS if edge <= most), most + 1]
    names = [f"{a}" if b == a + 1 else f"{a} to {b - 1}" for a, b in pairwise(edges)]
    return _histograms(names, counts, edges)


def _areas(splits: Splits) -> Rows:
    """Count objects by the root of their area, in octaves that include COCO's limits."""
    roots = [
        np.sqrt(np.concatenate([image.areas for image in images])) for images in splits.values()
    ]
    edges = [0, 4, 8, 16, 32, 64, 96, 192, 384, 100_000]
    size_of = {0: "small", 32: "medium", 96: "large"}
    names, size = [], ""
    for low, high in pairwise(edges):
        size = size_of.get(low, size)
        names.append(f"{low}² to {high}², {size}" if high < edges[-1] else f"from {low}², {size}")
    return _histograms(names, roots, edges)


def _histograms(names: Sequence[str], values: Sequence[NDArray[Any]], edges: Sequence[int]) -> Rows:
    """Count the values of each split between edges, one row per name."""
    counts = (np.histogram(of_split, edges)[0].tolist() for of_split in values)
    return [*zip(names, zip(*counts, strict=True), strict=True)]


def _most_frequent(counts: Sequence[Counter[str]], others: str) -> Rows:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    names = [name for name, _ in total.most_common()]
    rows = [(name, tuple(count[name] for count in counts)) for name in names[:MOST_ROWS]]
    if rest := names[MOST_ROWS:]:
        left = tuple(sum(count[name] for name in rest) for count in counts)
        rows.append((f"{len(rest)} {others}", left))
    return rows
