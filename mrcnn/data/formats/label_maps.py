"""Label maps: one number per pixel, which counts objects or names classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.data.problems import RuleError

# Share of shaded pixels at the borders. Interpolation and JPEG leave at least 15 % between labels,
# and 9 % around a white object; sharp labels reach 13 % where thousands of objects overlap.
_OF_LABELS, _OF_OBJECT = 0.15, 0.06


def single_channel(values: NDArray[Any]) -> NDArray[Any]:
    """Return (h, w) pixels of an image whose channels are all the same, apart from alpha."""
    if values.ndim == 3:
        colours = values[:, :, : values.shape[2] - (values.shape[2] in (2, 4))]
        if (colours == colours[:, :, :1]).all():
            return colours[:, :, 0]
    return values


def has_shaded_borders(values: NDArray[Any], most: float = _OF_OBJECT) -> bool:
    """Return whether borders in (h, w) pixels are shaded, as interpolation or JPEG leaves them.

    A pixel is shaded if its value is between those of its neighbours left and right, or above and
    below. Sharp labels have such pixels only where an object is one pixel wide.
    """
    if ((values == 0) | (values == values.max(initial=0))).all():
        return False
    shaded = borders = 0
    for rows in (values, np.ascontiguousarray(values.T)):
        before, after = rows[:, :-1], rows[:, 1:]
        for step in (before < after, before > after):
            borders += int(np.count_nonzero(step))
            shaded += int(np.count_nonzero(step[:, :-1] & step[:, 1:]))
    return shaded > most * borders


def check_sharp(values: NDArray[Any], file: str) -> None:
    """Refuse labels with shaded borders: the numbers there are not labels."""
    if has_shaded_borders(values, _OF_LABELS):
        fix = "save it as PNG, and resize it without interpolation (nearest neighbour)"
        raise RuleError(file, "have sharp borders between labels", "shaded borders", fix)
