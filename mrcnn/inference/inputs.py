"""Images as callers pass them (files, arrays, tensors), read into RGB pixels."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from mrcnn.data.images import MAX_PIXELS, read_image
from mrcnn.errors import UserError

Pixels = NDArray[np.uint8]  # (h, w, 3) RGB
ImageLike = str | os.PathLike[str] | Image.Image | NDArray[np.uint8] | Tensor


@dataclass(frozen=True)
class InputImage:
    """The pixels of an image, and the file they come from."""

    pixels: Pixels
    path: Path | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]


def read_input(image: ImageLike, max_pixels: int = MAX_PIXELS) -> InputImage | UserError:
    """Read an image of any kind; return the error if its file cannot be read.

    Raises:
        ValueError: if an array or tensor has a wrong shape.
        TypeError: if it has a wrong type.
    """
    if not isinstance(image, str | os.PathLike):
        return InputImage(_to_rgb(image))
    try:
        return InputImage(read_image(image, max_pixels=max_pixels), Path(image))
    except UserError as error:
        return error


def _to_rgb(image: Image.Image | NDArray[np.uint8] | Tensor) -> Pixels:
    if isinstance(image, Image.Image):
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8:
            raise TypeError(f"predict: image must be a tensor of uint8, got {image.dtype}")
        if image.dim() == 3 and image.shape[0] == 3 and image.numel():
            return image.cpu().permute(1, 2, 0).contiguous().numpy()
        raise ValueError(
            f"predict: image must be a tensor of shape (3, h, w), got {tuple(image.shape)}"
        )
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8:
            raise TypeError(f"predict: image must be an array of uint8, got {image.dtype}")
        if image.ndim == 2 and image.size:
            return np.repeat(image[:, :, None], 3, axis=2)
        if image.ndim == 3 and image.shape[2] == 3 and image.size:
            return image
        raise ValueError(f"predict: image must have shape (h, w, 3) or (h, w), got {image.shape}")
    raise TypeError(
        f"predict: image must be a path, a PIL image, an array or a tensor, got {type(image)}"
    )
