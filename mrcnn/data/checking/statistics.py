"""What a data set holds, counted: tables for the terminal and the page alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mrcnn.data.checking.run import Figures

SMALL, LARGE = 32**2, 96**2  # pixels: COCO's limits of areas
MOST_ROWS = 20  # of a table

_COUNTS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)  # where bins of objects an image begin


@dataclass(frozen=True)
class Table:
    """Rows of a name and a count for every split."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, tuple[int, ...]]]
    has_bars: bool = True  # whether its rows can be compared


def tables(images: Sequence[Figures], class_names: Sequence[str]) -> list[Table]:
    """Splits, image sizes, objects an image, their areas, and classes.

    Args:
        images: of all splits.
    """
    splits = list(dict.fromkeys(one.split for one in images))
    of = {name: [one for one in images if one.split == name] for name in splits}
    return [
        _contents(of),
        _sizes(of),
        _objects(of),
        _areas(of),
        _classes(of, class_names),
    ]


Splits = dict[str, list[Figures]]


def _contents(of: Splits) -> Table:
    rows = [
        ("images", tuple(len(images) for images in of.values())),
        ("objects", tuple(sum(len(one.labels) for one in images) for images in of.values())),
        ("crowd regions", tuple(sum(one.crowds for one in images) for images in of.values())),
        (
            "images without objects",
            tuple(sum(not len(one.labels) for one in images) for images in of.values()),
        ),
    ]
    return Table("Contents", ("", *of), rows, has_bars=False)


def _sizes(of: Splits) -> Table:
    """Image sizes, the most frequent first."""
    counts = [Counter(f"{one.size[1]} x {one.size[0]}" for one in images) for images in of.values()]
    return Table("Image sizes", ("width x height", *of), _most_frequent(counts, "other sizes"))


def _objects(of: Splits) -> Table:
    """Images by their number of objects."""
    counts = [np.array([len(one.labels) for one in images]) for images in of.values()]
    most = max((int(count.max()) for count in counts if len(count)), default=0)
    edges = [*(edge for edge in _COUNTS if edge <= most), most + 1]
    rows = []
    for low, high in pairwise(edges):
        name = f"{low}" if high == low + 1 else f"{low} to {high - 1}"
        rows.append((name, tuple(int(((n >= low) & (n < high)).sum()) for n in counts)))
    return Table("Objects an image", ("objects", *of), rows)


def _areas(of: Splits) -> Table:
    """Objects by area, in octaves of its root, COCO's limits among them."""
    roots = [
        np.sqrt(np.concatenate([np.zeros(0), *(one.areas for one in images)]))
        for images in of.values()
    ]
    edges = [0, 4, 8, 16, 32, 64, 96, 192, 384, 100_000]
    words = {4: "small", 32: "medium", 96: "large"}
    rows = []
    word = "small"
    for low, high in pairwise(edges):
        word = words.get(low, word)
        name = f"{low}² to {high}², {word}" if high < edges[-1] else f"from {low}², {word}"
        rows.append((name, tuple(int(((r >= low) & (r < high)).sum()) for r in roots)))
    return Table("Areas of objects", ("pixels", *of), rows)


def _classes(of: Splits, class_names: Sequence[str]) -> Table:
    """Objects of each class, the most frequent first."""
    counts = [
        Counter(dict.fromkeys(class_names, 0))
        + Counter(class_names[label] for one in images for label in one.labels.tolist())
        for images in of.values()
    ]
    return Table("Classes", ("class", *of), _most_frequent(counts, "other classes"))


def _most_frequent(
    counts: Sequence[Counter[str]], others: str
) -> list[tuple[str, tuple[int, ...]]]:
    total = sum(counts, Counter())
    names = [name for name, _ in total.most_common()]
    rows = [(name, tuple(count[name] for count in counts)) for name in names[:MOST_ROWS]]
    if rest := names[MOST_ROWS:]:
        left = tuple(sum(count[name] for name in rest) for count in counts)
        rows.append((f"{len(rest)} {others}", left))
    return rows
