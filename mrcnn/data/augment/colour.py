"""Random colour changes: brightness, contrast, saturation and hue as one matrix.

Each of them is affine in (red, green, blue), so that together they take one pass over the pixels.
They are applied to 8-bit pixels before the resize. There a pixel has 3 bytes and a known range to
clip to; apart from clipping, the order makes no difference.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Matrix = NDArray[np.float64]

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_CHROMA = np.array([[0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])  # I, Q
_MEAN_STRIDE = 4  # every 4th row and column is enough for the mean colour


def random_colours(
    image: NDArray[np.uint8],
    rng: np.random.Generator,
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> NDArray[np.uint8]:
    """Draw and apply colour changes to an RGB image (h, w, 3), clipped to [0, 255] at the end.

    Brightness scales all channels by a factor in [1 - brightness, 1 + brightness]. Contrast and
    saturation do so for the distance to the mean grey of the image, and to the pixel's own grey.
    The hue is turned by a value in [-hue, hue], where 1 is a full circle.
    """
    mean = image[::_MEAN_STRIDE, ::_MEAN_STRIDE].reshape(-1, 3).mean(0)
    bright, strong, vivid = (1 + rng.uniform(-by, by) for by in (brightness, contrast, saturation))
    matrix = colour_matrix(mean, bright, strong, vivid, rng.uniform(-hue, hue))
    coloured = Image.fromarray(image).convert("RGB", tuple(matrix.ravel().tolist()))
    return np.asarray(coloured)


def colour_matrix(
    mean: NDArray[np.float64], brightness: float, contrast: float, saturation: float, turn: float
) -> Matrix:
    """Compute the matrix (3, 4) that maps (red, green, blue, 1) to the changed colour.

    `mean` (3,) is the mean colour of the image, the reference of contrast. The next three are
    factors, and `turn` is the change of the hue as a fraction of the circle.
    """
    angle = 2 * np.pi * turn
    to_yiq = np.vstack([LUMA, _CHROMA])
    rotation = np.array(
        [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    )
    grey = np.outer(np.ones(3), LUMA)
    saturate = saturation * np.eye(3) + (1 - saturation) * grey
    colour = np.linalg.solve(to_yiq, rotation @ to_yiq) @ saturate
    offset = (1 - contrast) * brightness * (LUMA @ mean) * np.ones(3)
    return np.column_stack([contrast * brightness * colour, colour @ offset])
