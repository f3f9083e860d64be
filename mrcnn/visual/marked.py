"""Instances over their image, the wrong ones on top and named as such.

D instances of an image of h x w pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mrcnn import rle
from mrcnn.visual.draw import draw_instances


def draw_marked(
    image: NDArray[np.uint8],
    boxes: NDArray[np.float64],
    labels: NDArray[np.int64],
    masks: Sequence[dict[str, Any]],
    is_wrong: NDArray[np.bool_],
    class_names: Sequence[str],
    word: str,
    scores: NDArray[np.float64] | None = None,
    longest_side: int = 800,
) -> Image.Image:
    """Draw instances; `word` stands before the names of wrong ones, which have their own colours;
    where there is one class, it stands alone.

    Args:
        image: (h, w, 3) RGB; a larger one is reduced to `longest_side`, so that names stay legible.
        boxes: (D, 4) xyxy, pixels of the image.
        labels: (D,) in [0, C).
        masks: D COCO run lengths of the size of the image, or none.
        is_wrong: (D,).
        class_names: C names.
        scores: (D,) in [0, 1].
    """
    height, width = image.shape[:2]
    scale = min(1.0, longest_side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if scale < 1:
        image = np.array(Image.fromarray(image).resize(size, Image.Resampling.BOX))
        masks = [_resized(mask, size) for mask in masks]
    wrong_names = [f"{word} {name}" for name in class_names] if len(class_names) > 1 else [word]
    order = np.argsort(~is_wrong, kind="stable")
    return Image.fromarray(
        draw_instances(
            image,
            boxes[order] * scale,
            (labels + len(class_names) * is_wrong)[order],
            [masks[i] for i in order] if len(masks) else [],
            [*class_names, *wrong_names],
            None if scores is None else scores[order],
        )
    )


def _resized(mask: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """Run lengths of the nearest pixels; size is (width, height)."""
    pixels = Image.fromarray(rle.decode(mask)).resize(size, Image.Resampling.NEAREST)
    return rle.encode(np.asarray(pixels))
