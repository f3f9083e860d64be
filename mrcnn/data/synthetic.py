"""A generated data set: overlapping textured shapes on a textured background, with exact masks.

It is written as files in the plain layout (`train.json`, `val.json`, `images/`), and is read like
any other data.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mrcnn.data.formats import Split
from mrcnn.errors import UserError
from mrcnn.io.atomic import creating_folder
from mrcnn.ops.rle import area, bounding_box, encode

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

CLASS_NAMES = ("circle", "triangle", "ring")
VERSION = 1  # of the images; a folder of another version is overwritten

_MAX_OBJECTS = 5
_SIZES = (28.0, 84.0)  # diameter of the circle around an object, pixels
_MIN_SHOWN = 0.7  # fraction of its area that stays visible of every object
_MIN_CONTRAST = 70  # between the mean colours of an object and what it covers, of 255
_TRIES = 5  # positions tried per object


def write_shapes(
    folder: Path, *, train: int = 500, val: int = 100, size: int = 128, seed: int = 0
) -> dict[str, Split]:
    """Write the data set to `folder`, unless it exists with the same parameters.

    The folder appears complete or not at all.

    Args:
        folder: to create.
        train: number of training images.
        val: number of validation images.
        size: side of the square images, pixels.
        seed: equal seeds give equal images, whatever `train` and `val` are.

    Raises:
        UserError: if `folder` has other contents.
        ValueError: if `size` is below 32.
    """
    if size < 32:
        raise ValueError(f"write_shapes: size must be at least 32 pixels, got {size}")
    parameters = {"version": VERSION, "train": train, "val": val, "size": size, "seed": seed}
    if _parameters(folder) != parameters:
        if folder.exists() and any(folder.iterdir()) and _parameters(folder) is None:
            raise UserError(f"{folder}: has other files; name an empty folder for the shapes")
        with creating_folder(folder) as draft:
            (draft / "images").mkdir()
            for number, (split, count) in enumerate((("train", train), ("val", val))):
                _write_split(draft, split, count, size, (seed, number))
            (draft / "shapes.json").write_text(json.dumps(parameters))
            shutil.rmtree(folder, ignore_errors=True)
    return {name: Split(folder / f"{name}.json", folder / "images") for name in ("train", "val")}


def _parameters(folder: Path) -> Any:
    """Return the parameters of the data set in `folder`, None if there is none."""
    try:
        return json.loads((folder / "shapes.json").read_text())
    except (OSError, ValueError):
        return None


def _write_split(folder: Path, split: str, count: int, size: int, seed: tuple[int, int]) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        pixels, objects = _draw_scene(size, np.random.default_rng([*seed, index]))
        name = f"{split}_{index:05}.png"
        Image.fromarray(pixels).save(folder / "images" / name, compress_level=1)
        images.append({"id": index + 1, "file_name": name, "height": size, "width": size})
        for label, mask in objects:
            segmentation = encode(mask)
            annotations.append({
                "id": len(annotations) + 1, "image_id": index + 1, "category_id": label + 1,
                "segmentation": segmentation, "area": area(segmentation),
                "bbox": [int(side) for side in bounding_box(segmentation)], "iscrowd": 0,
            })  # fmt: skip
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(CLASS_NAMES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"{split}.json").write_text(json.dumps(content))


def _draw_scene(
    size: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], list[tuple[int, Bools]]]:
    """Draw the background, some clutter, then 1 to 5 objects, later ones in front.

    Returns:
        The image (size, size, 3), and the label and the visible mask (size, size) of each object.
    """
    canvas = _texture(size, size, rng)
    for _ in range(rng.integers(0, 4)):
        _paint(canvas, _stroke(size, rng), _texture(size, size, rng))

    objects: list[tuple[int, Bools]] = []
    areas: list[int] = []  # before later objects covered some
    for _ in range(rng.integers(1, _MAX_OBJECTS + 1)):
        for _ in range(_TRIES):
            label, window, distance = _place_object(size, rng)
            mask = np.zeros((size, size), bool)
            mask[window] = distance < 0
            rest = [(other_label, other & ~mask) for other_label, other in objects]
            if all(m.sum() >= _MIN_SHOWN * a for (_, m), a in zip(rest, areas, strict=True)):
                _paint(canvas[window], distance, _contrasting(canvas[window], distance < 0, rng))
                objects = [*rest, (label, mask)]
                areas.append(int(mask.sum()))
                break
    noise = rng.standard_normal(canvas.shape, np.float32) * rng.uniform(2, 8)
    return np.clip(canvas + noise, 0, 255).astype(np.uint8), objects


def _place_object(size: int, rng: np.random.Generator) -> tuple[int, tuple[slice, slice], Floats]:
    """Draw a class, a window of the image, and the signed distance to an object inside it."""
    label = int(rng.integers(len(CLASS_NAMES)))
    low, high = np.log(_SIZES[0]), np.log(min(_SIZES[1], 0.8 * size))
    radius = float(np.exp(rng.uniform(low, high))) / 2
    x, y = rng.uniform(radius, size - radius, 2).tolist()
    turn = float(rng.uniform(0, 2 * np.pi))
    rows, columns = (  # a pixel more than the object, for its soft edge
        slice(max(0, int(at - radius) - 1), min(size, int(at + radius) + 2)) for at in (y, x)
    )
    ys, xs = np.mgrid[rows, columns] + 0.5  # pixel centres
    return label, (rows, columns), _distance(CLASS_NAMES[label], xs - x, ys - y, radius, turn)


def _distance(name: str, x: Floats, y: Floats, radius: float, turn: float) -> Floats:
    """Compute the signed distance from (x, y) to a shape around the origin, negative inside."""
    if name in ("circle", "ring"):
        centre = np.hypot(x, y)
        inner = 0.5 * radius if name == "ring" else 0.0
        return np.maximum(centre - radius, inner - centre)
    angles = turn + 2 * np.pi * np.arange(3) / 3
    corners = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)  # (3, 2)

    nearest, inside = np.full(x.shape, np.inf), np.zeros(x.shape, bool)
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        nearest = np.minimum(nearest, _segment_distance(x, y, a, b))
        inside ^= ((a[1] > y) != (b[1] > y)) & (
            (b[0] - a[0]) * (y - a[1]) / (b[1] - a[1]) > x - a[0]
        )
    return np.where(inside, -nearest, nearest)


def _segment_distance(x: Floats, y: Floats, a: Floats, b: Floats) -> Floats:
    """Compute the distance from (x, y) to the line from a to b."""
    along = ((x - a[0]) * (b[0] - a[0]) + (y - a[1]) * (b[1] - a[1])) / ((b - a) ** 2).sum()
    along = np.clip(along, 0, 1)
    nearest = a[:, None, None] + along * (b - a)[:, None, None]  # (2, h, w)
    away: Floats = np.hypot(x - nearest[0], y - nearest[1])
    return away


def _stroke(size: int, rng: np.random.Generator) -> Floats:
    """Draw the signed distance to a thin line across the image: clutter unlike any class."""
    ys, xs = np.mgrid[:size, :size] + 0.5
    ends = rng.uniform(0, size, (2, 2))
    return _segment_distance(xs, ys, ends[0], ends[1]) - rng.uniform(0.8, 2.5)


def _texture(height: int, width: int, rng: np.random.Generator) -> Floats:
    """Draw a texture (height, width, 3): two colours mixed by coarse noise or stripes."""
    colours = rng.uniform(0, 255, 3) + np.outer((-1, 1), rng.uniform(-40, 40, 3))
    if rng.random() < 0.5:
        cell = rng.uniform(3, 40)
        cells = int(height / cell) + 2, int(width / cell) + 2
        noise = Image.fromarray(rng.integers(0, 256, cells, dtype=np.uint8))
        mix = np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC)) / 255
    else:
        angle, period = rng.uniform(0, np.pi), rng.uniform(4, 24)
        ys, xs = np.mgrid[:height, :width]
        wave = (xs * np.cos(angle) + ys * np.sin(angle)) * 2 * np.pi / period
        mix = 0.5 + 0.5 * np.sin(wave + rng.uniform(0, 2 * np.pi))
    texture: Floats = colours[0] + mix[..., None] * (colours[1] - colours[0])
    return texture


def _contrasting(canvas: Floats, mask: Bools, rng: np.random.Generator) -> Floats:
    """Draw a texture with a mean colour that differs from what the object covers."""
    covered = canvas[mask].mean(0)
    while True:
        texture = _texture(mask.shape[0], mask.shape[1], rng)
        if np.abs(texture[mask].mean(0) - covered).max() > _MIN_CONTRAST:
            return texture


def _paint(canvas: Floats, distance: Floats, texture: Floats) -> None:
    """Blend a texture over the canvas, with a soft edge of one pixel around distance 0."""
    canvas += np.clip(0.5 - distance, 0, 1)[..., None] * (texture - canvas)
