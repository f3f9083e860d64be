"""Objects as rows of a table, and as features of GeoJSON."""

from __future__ import annotations

import csv
import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.errors import UserError
from mrcnn.io.atomic import replacing
from mrcnn.ops import rle

# `object` counts from 1 in each image, and is the value in its label image. Boxes, centers and
# areas are in pixels; area and center are those of the mask, or of the box if there is no mask.
COLUMNS = {
    **{"image": str, "object": int, "name": str, "score": float},
    **dict.fromkeys(["x1", "y1", "x2", "y2", "area", "center_x", "center_y"], float),
}


def rows(
    image: str, names: Sequence[str], entries: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str | int | float, ...]]:
    """Yield the `COLUMNS` of each object of an image.

    Args:
        image: name of the image.
        names: class names of the D objects.
        entries: their D entries in a COCO result file.
    """
    for number, (name, entry) in enumerate(zip(names, entries, strict=True), start=1):
        x, y, width, height = entry["bbox"]
        area, center_x, center_y = width * height, x + width / 2, y + height / 2
        if "segmentation" in entry:
            left, top, mask = rle.decode_tight(entry["segmentation"])
            area = int(mask.sum())
            if area:
                ys, xs = mask.nonzero()
                center_x, center_y = left + xs.mean() + 0.5, top + ys.mean() + 0.5
        numbers = (x, y, x + width, y + height, area, center_x, center_y)
        score = round(entry["score"], 6)
        yield image, number, name, score, *(round(float(value), 3) for value in numbers)


def write_csv(path: Path, lines: Iterable[Sequence[str | int | float]]) -> None:
    """Write the lines of a table, the header first.

    Raises:
        UserError: if the file cannot be written.
    """
    with (
        replacing(path) as draft,
        draft.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        csv.writer(file).writerows(lines)


def to_feature(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Convert an object to a GeoJSON feature in pixels of the image, y downwards.

    Its outline is that of the mask, with holes filled, or the box if there is no mask.
    """
    x, y, width, height = entry["bbox"]
    rings = [[[x, y], [x + width, y], [x + width, y + height], [x, y + height]]]
    area = width * height
    if "segmentation" in entry:
        rings = [ring.tolist() for ring in rle.to_polygons(entry["segmentation"])]
        area = rle.area(entry["segmentation"])
    parts = [[[*ring, ring[0]]] for ring in rings]  # closed, and without holes
    kind, coordinates = ("Polygon", parts[0]) if len(parts) == 1 else ("MultiPolygon", parts)
    return {
        "type": "Feature",
        "properties": {"name": name, "score": round(entry["score"], 6), "area": area},
        "geometry": {"type": kind, "coordinates": coordinates},
    }


def polygon_area(polygon: NDArray[np.int32]) -> float:
    """Return the area of a polygon (V, 2), by the shoelace formula."""
    (x, y), (next_x, next_y) = polygon.T, np.roll(polygon, -1, axis=0).T
    return abs(float((x * next_y - next_x * y).sum())) / 2


def optional_library(library: str) -> Any:
    """Import a library that results are converted for.

    Raises:
        UserError: if it is not installed.
    """
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise UserError(
            f"Result.to_{library}: needs the library {library} ({error}); "
            f"run: pip install {library}"
        ) from error
