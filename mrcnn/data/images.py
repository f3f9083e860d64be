"""Images: reading files, resizing for the network, normalising, padding to a batch."""

from __future__ import annotations

import io
import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from mrcnn.config import ModelConfig
from mrcnn.data.pixels import from_pil, load, orientation
from mrcnn.errors import FileError, UserError
from mrcnn.io.plain_files import open_plain
from mrcnn.ops import library
from mrcnn.structures import ImageBatch

_host = library.load("mrcnn_host")

MAX_PIXELS = 100_000_000  # per image; checked in the header, before anything is decoded
MAX_TILED_PIXELS = 178_956_970  # per image processed in tiles; Pillow refuses larger ones
# Of the network's input, per image and with padding.
MAX_NETWORK_PIXELS = 25_000_000

# No formats that start another program (EPS) or fetch other files.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000")
_OTHER_KINDS = {  # first bytes of files that Pillow does not open -> what they are
    rb"\xff\xd8\xff": "a damaged JPEG, or one of more than 8 bits",
    rb"\x89PNG|GIF8|RIFF....WEBP": "a damaged image",
    rb"II[*+]\0|MM\0[*+]": "a TIFF of a kind that is not read, such as one of 7 bands",
    rb"....ftypavi": "AVIF, which is not read",
    rb"....ftyp": "HEIC or a video, which are not read as images",
    rb"8BPS": "PSD, which is not read",
    rb"%PDF": "PDF, which is not read",
    rb"(\xef\xbb\xbf)?\s*<": "HTML or SVG, not an image of pixels",
}
_SUBFILE = 254  # TIFF tag; bit 0 marks a reduced image
_SIDEWAYS = (5, 6, 7, 8)  # orientations that swap height and width

# MAX_PIXELS is stricter, and an error rather than a warning.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# The error that follows is enough.
logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)


def read_image(
    path: str | os.PathLike[str], data: bytes | None = None, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Read an image file as upright RGB (h, w, 3).

    EXIF orientation is applied. Grey and palette images are expanded to RGB, CMYK is converted,
    transparency is dropped (the colours under it are kept), 16 bits keep their high byte, floats
    in [0, 1] are scaled, and an animation or a file of many pages gives its first. If `data` is
    given, it is the contents of the file, and `path` only names it in messages.

    Raises:
        UserError: if the file is missing, empty, truncated, too large, or not an image.
    """
    with _opened(path, data, max_pixels) as image:
        return from_pil(image, os.fspath(path))


def read_pil(image: Image.Image, name: str, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Convert a PIL image to the pixels that `read_image` has for its file, or refuse it too."""
    with _errors_named(name, max_pixels):
        if image.format not in (None, "MPO", *_FORMATS):
            problem = f"is a file in the format {image.format}, which is not read"
            raise FileError(name, problem, "pass image.convert('RGB')")
        _check_pixels(name, image.size, max_pixels)
        return from_pil(image, name)


def read_stored(path: str | os.PathLike[str], size: tuple[int, int]) -> NDArray[np.generic]:
    """Read the pixels of a mask file as they are stored: palette indices, bits, 8 or 16 bits.

    Returns:
        (h, w) or (h, w, channels), bool or integer.

    Raises:
        UserError: as `read_image`, and if its (height, width) is not `size`.
    """
    with _opened(path) as image:
        load(image)  # first, because some versions of Pillow turn the size of a TIFF only then
        if image.size != size[::-1]:
            width, height = image.size
            raise FileError(
                path,
                f"must be {size[1]} x {size[0]} pixels like its image, got {width} x {height}",
                "save the mask again; a rotated image must be saved upright first",
            )
        stored = np.array(image)
        if stored.dtype.kind not in "bui":
            raise FileError(path, "holds floating-point pixels", "save it with 8 or 16 bits")
        return stored


def read_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return the (height, width) of the image that `read_image` returns, from the header alone.

    Raises:
        UserError: as `read_image`, except for damage after the header.
    """
    with _opened(path) as image:
        width, height = image.size
        if isinstance(image, TiffImageFile):  # Pillow versions differ in whether they turn the size
            width, height = image.tag_v2[256], image.tag_v2[257]
        return (width, height) if orientation(image) in _SIDEWAYS else (height, width)


def network_size(
    height: int, width: int, config: ModelConfig, min_size: int | None = None
) -> tuple[int, int]:
    """Compute the (height, width) to which an image is resized for the network.

    `config.scale`, if set, multiplies both sides. Otherwise the shorter side becomes
    `min_size`, by default `config.min_size`, or less if the longer side would exceed
    `config.max_size`.
    """
    rule = config.conventions.size_rule
    shorter, longer = sorted((height, width))
    short, long = float(min_size or config.min_size), float(config.max_size)
    if config.scale is not None:
        short, long = shorter * config.scale, longer * config.scale
    elif rule == "shorter":
        if longer / shorter * short > long:
            short = round(long * shorter / longer)
        long = short * longer / shorter
    elif rule == "cut":
        scale = min(short / shorter, long / longer)
        short, long = shorter * scale, longer * scale
    else:  # in two steps as Detectron2, because rounding decides sizes that end on half a pixel
        scaled = short / shorter * longer
        if scaled > long:
            short *= long / scaled
            scaled *= long / scaled
        long = scaled
    half = 0.5 if rule == "round" else 0.0
    short, long = max(1, int(short + half)), max(1, int(long + half))
    return (short, long) if height <= width else (long, short)


def check_network_size(
    path: str | os.PathLike[str],
    image_size: tuple[int, int],
    size: tuple[int, int],
    config: ModelConfig,
) -> None:
    """Refuse an image that is larger for the network than `MAX_NETWORK_PIXELS`.

    Args:
        path: names the image in the message.
        image_size: (height, width) of the image.
        size: (height, width) that it is resized to.
        config: gives the multiple to which sides are padded.

    Raises:
        UserError: if it is too large.
    """
    multiple = config.size_multiple
    height, width = (-(-side // multiple) * multiple for side in size)
    if height * width > MAX_NETWORK_PIXELS:
        limit = f"the limit is {MAX_NETWORK_PIXELS:,} pixels"
        raise FileError(
            path,
            f"of {image_size[1]} x {image_size[0]} pixels fills {width} x {height} in the network, "
            f"{limit}",
            "predict with --tiles 1024, or use a model with a smaller scale or image size",
        )


def to_pixels(image: NDArray[np.uint8], size: tuple[int, int], config: ModelConfig) -> Tensor:
    """Resize an RGB image (h, w, 3) to `size` = (height, width), bilinearly, and normalise it.

    Returns:
        (3, height, width) float32, channels innermost in memory.
    """
    pixels = torch.empty(*size, 3).permute(2, 0, 1)
    write_view(image, (0, 0, image.shape[1], image.shape[0]), pixels, config)
    return pixels


def write_view(
    image: NDArray[np.uint8],
    window: tuple[int, int, int, int],
    out: Tensor,
    config: ModelConfig,
    *,
    mirror_x: bool = False,
    mirror_y: bool = False,
) -> None:
    """Write a window of an image as network input: resized, mirrored and normalised.

    With Pillow's filter, the result is bit-identical to every Pillow before 13. Later versions
    round differently where they shrink columns first. They do so if the height shrinks by more than
    twice as many pixels as the width.

    Args:
        image: (h, w, 3) RGB, with any strides.
        window: (x1, y1, x2, y2) in pixels of `image`.
        out: (3, height, width) float32, channels innermost in memory, as from `unpadded_views`. The
            window is resized to its size.
        config: gives the filter, mean and standard deviation.
        mirror_x: mirror left and right.
        mirror_y: mirror top and bottom.

    Raises:
        ValueError: if a shape or dtype is wrong, or the window leaves the image.
    """
    _host.write_pixels(
        image,
        window,
        mirror_x,
        mirror_y,
        config.conventions.resize_filter,
        config.pixel_mean,
        config.pixel_std,
        out.movedim(0, -1).numpy(),
    )


def empty_batch(sizes: Sequence[tuple[int, int]], multiple: int) -> ImageBatch:
    """Allocate zeros for images of these (height, width), padded to one multiple of `multiple`.

    Raises:
        UserError: if wide and high images together are padded beyond `MAX_NETWORK_PIXELS`.
    """
    unpadded = torch.tensor(sizes)  # (N, 2)
    height, width = (-(-unpadded.amax(0) // multiple) * multiple).tolist()
    if height * width > MAX_NETWORK_PIXELS and len(sizes) > 1:
        raise UserError(
            f"a batch of {len(sizes)} images is padded to {width} x {height} in the network, the "
            f"limit is {MAX_NETWORK_PIXELS:,} pixels; use a smaller --batch-size"
        )
    pixels = torch.zeros(len(sizes), height, width, 3)
    return ImageBatch(pixels.permute(0, 3, 1, 2), unpadded)


def unpadded_views(batch: ImageBatch) -> list[Tensor]:
    """Return a view (3, h, w) of the pixels of each image in the batch, without the padding."""
    sizes = batch.sizes.tolist()
    return [pixels[:, :h, :w] for pixels, (h, w) in zip(batch.pixels, sizes, strict=True)]


def pad_images(images: list[Tensor], multiple: int) -> ImageBatch:
    """Stack (3, h, w) images, zero-padded right and below to one multiple of `multiple`."""
    batch = empty_batch([(image.shape[1], image.shape[2]) for image in images], multiple)
    for view, image in zip(unpadded_views(batch), images, strict=True):
        view.copy_(image)
    return batch


@contextmanager
def _opened(
    path: str | os.PathLike[str], data: bytes | None = None, max_pixels: int = MAX_PIXELS
) -> Iterator[Image.Image]:
    """Open an image and read its header; any failure inside the block becomes a `UserError`."""
    fix = "correct the name, or add the file"
    with (
        _errors_named(path, max_pixels),
        open_plain(Path(path), fix=fix) if data is None else io.BytesIO(data) as source,
    ):
        if not source.read(1):
            raise FileError(path, "is empty (0 bytes)", "restore or remove it")
        try:
            image = Image.open(source, formats=_FORMATS)
        except UnidentifiedImageError as error:
            source.seek(0)
            raise FileError(path, *_other_kind(source.read(64))) from error
        with image:
            _check_pixels(path, image.size, max_pixels)
            if isinstance(image, TiffImageFile) and int(image.tag_v2.get(_SUBFILE, 0)) & 1:
                problem = "begins with a preview, as raw files of cameras do"
                raise FileError(path, problem, "convert it to PNG or JPEG")
            yield image


@contextmanager
def _errors_named(path: str | os.PathLike[str], max_pixels: int) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(path, "is too large to open", max_pixels) from error
    except Exception as error:  # decoders raise errors of many kinds
        reason = str(error) or type(error).__name__
        raise FileError(path, f"cannot be read ({reason})", "restore or remove it") from error


def _other_kind(beginning: bytes) -> tuple[str, str]:
    """Return problem and fix of a file that Pillow does not open."""
    if beginning.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not an image", "run: git lfs pull"
    kinds = (kind for start, kind in _OTHER_KINDS.items() if re.match(start, beginning, re.S))
    known = "not an image of a known format (JPEG, JPEG 2000, PNG, BMP, GIF, TIFF, WebP, PPM)"
    return f"is {next(kinds, known)}", "convert it to PNG or JPEG with 8 bits"


def _check_pixels(path: str | os.PathLike[str], size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise _too_large(path, f"is {width} x {height} pixels", max_pixels)
    if not width * height:
        raise FileError(path, f"is {width} x {height} pixels", "pass an image with pixels")


def _too_large(path: str | os.PathLike[str], problem: str, max_pixels: int) -> FileError:
    limit = f"the limit is {max_pixels:,}"
    return FileError(path, f"{problem}, {limit}", "scale it down or cut it into tiles")
