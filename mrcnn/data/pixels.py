"""RGB pixels with 8 bits: one rule for files, PIL images, arrays and tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from mrcnn.errors import FileError

_ROWS = 2048  # rows of an image copied at a time
_CHANNELS = (1, 2, 3, 4)  # grey, grey and alpha, RGB, RGB and alpha
_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {  # EXIF orientation -> operation that turns the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 if absent or damaged.

    In a PNG only data before the pixels is read, so that the header alone decides.
    """
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # parsers of EXIF raise errors of many kinds
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def load(image: Image.Image) -> None:
    """Decode an image that is still in its file."""
    filename = getattr(image, "filename", "")
    if not isinstance(image, TiffImageFile) or image.tag_v2.get(_ORIENTATION, 1) == 1:
        image.load()
        return
    # Pillow maps an uncompressed file into memory, with swapped sides if it is to be turned. It
    # does not if there is no name.
    image.filename = ""
    try:
        image.load()
    finally:
        image.filename = filename


def from_pil(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """Convert an image of any mode to upright RGB (h, w, 3).

    Transparency is dropped (the colours under it are kept); modes of more than 8 bits follow
    `from_array`.

    Args:
        image: is loaded, but not changed otherwise.
        name: of the image, for messages.

    Raises:
        FileError: as `from_array`.
    """
    turn = 1 if image.format == "TIFF" else orientation(image)  # Pillow turns TIFF while loading
    load(image)
    if image.mode[0] in "IF":  # I, I;16, F
        rgb = Image.fromarray(from_array(np.asarray(image), name))
    else:
        # Pillow needs the alpha of a palette made explicit before it is dropped.
        explicit = image.convert("RGBA") if "transparency" in image.info else image
        rgb = explicit if explicit.mode == "RGB" else explicit.convert("RGB")
    return _copied(rgb.transpose(_UPRIGHT[turn]) if turn in _UPRIGHT else rgb)


def from_array(array: NDArray[Any], name: str, channels_first: bool = False) -> NDArray[np.uint8]:
    """Convert an array to RGB (h, w, 3), uint8; a view of it where that is possible.

    bool is black and white, uint16 keeps its high byte, and floats in [0, 1] are multiplied by 255
    and rounded. Other integers follow uint16 if they need more than 8 bits and fit in 16. Alpha is
    dropped.

    Args:
        array: (h, w), (h, w, c) or (c, h, w) with 1 to 4 channels: grey, grey and alpha, RGB, RGB
            and alpha.
        name: of the image, for messages.
        channels_first: the order if both ends of the shape may be channels.

    Raises:
        FileError: if the shape is another one, or the values leave the range. The message states
            the line that converts them.
    """
    shape = array.shape
    if array.ndim == 3:
        ends = (0, 2) if channels_first else (2, 0)
        array = np.moveaxis(array, next((i for i in ends if shape[i] in _CHANNELS), 2), 2)
    elif array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or not array.size or array.shape[2] not in _CHANNELS:
        problem = (
            f"must have shape (h, w), (h, w, c) or (c, h, w) with 1 to 4 channels, got {shape}"
        )
        lines = {3: "image[:, :, :3]", 4: "a list of images: list(images)"}
        line = lines.get(array.ndim, "image.reshape(h, w, c)")
        raise FileError(name, problem, f"pass {line if array.size else 'an image with pixels'}")
    pixels = _to_8_bits(array, name)
    return pixels[:, :, :3] if pixels.shape[2] > 2 else np.repeat(pixels[:, :, :1], 3, axis=2)


def _to_8_bits(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind not in "iuf":
        raise FileError(name, f"holds values of {array.dtype}", "pass image.astype('uint8')")
    low, high = array.min(), array.max()
    if array.dtype.kind == "f":
        if low >= 0 and high <= 1:  # not NaN
            scaled: NDArray[Any] = np.rint(array * array.dtype.type(255))
            return scaled.astype(np.uint8)
        problem = f"holds floats from {low:g} to {high:g}, they must be in [0, 1]"
        raise FileError(name, problem, f"pass or save {_scaled(float(low), float(high), True)}")
    # 32 bits that hold 8 would become black.
    if (array.dtype.kind, array.dtype.itemsize) == ("u", 2) or high == low == 0:
        return (array >> 8).astype(np.uint8)
    if low < 0 or not 255 < high <= 0xFFFF:
        problem = f"holds integers from {low} to {high}, neither 8 nor 16 bits"
        raise FileError(name, problem, f"pass or save {_scaled(int(low), int(high), False)}")
    return (array >> 8).astype(np.uint8)


def _scaled(low: float, high: float, is_float: bool) -> str:
    """Return the line that brings values into [0, 1]; it also holds for tensors."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return "np.nan_to_num(image, posinf=1, neginf=0)"
    if is_float and low >= -0.5 and high <= 1.5:
        return "image.clip(0, 1)"
    if low >= 0 and high <= 0xFFFF:
        return "image > 0" if high <= 1 else "image / 255" if high <= 255 else "image / 65535"
    return f"((image - {low:g}) / {high - low:g}).clip(0, 1)".replace("- -", "+ ")


def _copied(rgb: Image.Image) -> NDArray[np.uint8]:
    """Convert to (h, w, 3). Pillow copies pixels twice, so large images are converted in parts."""
    width, height = rgb.size
    if height <= _ROWS:
        return np.array(rgb)
    pixels = np.empty((height, width, 3), np.uint8)
    for y in range(0, height, _ROWS):
        pixels[y : y + _ROWS] = np.asarray(rgb.crop((0, y, width, min(y + _ROWS, height))))
    return pixels
