"""Images as callers pass them (files, bytes, PIL images, arrays, tensors), read into RGB pixels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mrcnn.config import ModelConfig
from mrcnn.data.images import (
    MAX_PIXELS,
    MAX_TILED_PIXELS,
    check_network_size,
    network_size,
    read_image,
    read_pil,
)
from mrcnn.data.pixels import from_array
from mrcnn.errors import FileError, UserError

if TYPE_CHECKING:  # in typing itself since Python 3.13
    from typing_extensions import TypeIs

Pixels = NDArray[np.uint8]  # (h, w, 3) RGB
Contents = bytes | bytearray | memoryview  # of an image file
ImageLike = str | os.PathLike[str] | Image.Image | NDArray[Any] | Tensor | Contents | IO[bytes]


@dataclass(frozen=True)
class InputImage:
    """The pixels of an image, the file they come from, and a name for messages.

    An image that cannot be read has an error, and no pixels.
    """

    pixels: Pixels
    path: Path | None = None
    name: str = "image"
    error: UserError | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]


def is_image(value: ImageLike | Iterable[ImageLike]) -> TypeIs[ImageLike]:
    """Return whether a value is one image, not a list of them."""
    kinds = (str, os.PathLike, Image.Image, np.ndarray, Tensor, bytes, bytearray, memoryview)
    # What is not a list either, or a dict, is refused as an image.
    is_list = hasattr(value, "__iter__") and not isinstance(value, Mapping)
    return isinstance(value, kinds) or hasattr(value, "read") or not is_list


def read_inputs(
    images: Iterable[ImageLike], config: ModelConfig, zoom: float = 1.0, tile: int | None = None
) -> Iterator[InputImage]:
    """Read images of any kind; one that cannot be read, or is too large, has an error.

    Images of one content give equal pixels, or equal errors, whatever their kind.

    Args:
        images: see `Predictor.predict`.
        config: of the model that is applied to them.
        zoom: factor on the size that the configuration states.
        tile: side of a tile, if they are processed in tiles; then they may be larger.

    Raises:
        TypeError: if a value is not an image.
    """
    for number, image in enumerate(images, start=1):
        try:
            read = _read(image, f"image {number}", tile is not None)
            height, width = (min(side, tile or side) for side in read.size)
            network = [round(side * zoom) for side in network_size(height, width, config)]
            check_network_size(read.name, (height, width), (network[0], network[1]), config)
            yield read
        except UserError as error:
            path = Path(image) if isinstance(image, str | os.PathLike) else None
            yield InputImage(np.zeros((0, 0, 3), np.uint8), path, error=error)


def _read(image: ImageLike, name: str, tiled: bool) -> InputImage:
    max_pixels = MAX_TILED_PIXELS if tiled else MAX_PIXELS
    if isinstance(image, str | os.PathLike):
        return InputImage(read_image(image, None, max_pixels), Path(image), os.fspath(image))
    if isinstance(image, Image.Image):
        name = getattr(image, "filename", "") or name
        return InputImage(read_pil(image, name, max_pixels), name=name)
    if isinstance(image, np.ndarray | Tensor):
        pixels = from_array(*_as_array(image, name))
        height, width = pixels.shape[:2]
        if height * width > max_pixels and not tiled:
            problem = f"is {width} x {height} pixels, the limit is {max_pixels:,}"
            raise FileError(name, problem, "scale it down or cut it into tiles")
        return InputImage(pixels, name=name)
    if not isinstance(image, Contents) and hasattr(image, "read"):
        name = image.name if isinstance(getattr(image, "name", None), str) else name
        if hasattr(image, "seekable") and image.seekable():
            image.seek(0)  # as Pillow
        image = image.read()
    if not isinstance(image, Contents):
        raise TypeError(
            "predict: image must be a path, a PIL image, an array or a tensor, or the bytes of a "
            f"file or a file open in mode 'rb', got {type(image).__name__}"
            + " (cv2.imread returns None for a file that it cannot read)"
            * (image is None)
        )
    return InputImage(read_image(name, bytes(image), max_pixels), name=name)


def _as_array(image: NDArray[Any] | Tensor, name: str) -> tuple[NDArray[Any], str, bool]:
    """Return the arguments of `from_array`."""
    if isinstance(image, np.ndarray):
        return np.asarray(image), name, False
    try:
        image = image.detach().cpu()
        # NumPy has no bfloat16 and no floats of 8 bits.
        image = image.float() if image.is_floating_point() and image.element_size() < 4 else image
        return image.numpy(), name, True
    except (RuntimeError, TypeError, NotImplementedError) as error:
        problem = f"is a tensor that NumPy cannot hold ({error})"
        raise FileError(name, problem, "pass image.to(torch.uint8)") from error
