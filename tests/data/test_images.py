"""Image files of every kind, sizes, normalising and padding."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from mrcnn.config import ModelConfig
from mrcnn.data.images import (
    MAX_PIXELS,
    network_size,
    pad_images,
    read_image,
    read_size,
    read_stored,
    to_pixels,
)
from mrcnn.errors import UserError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
@pytest.mark.parametrize("orientation", [*range(1, 9), 77])
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    path = tmp_path / f"turned.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(path, exif=exif)
    upright = np.array(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    assert upright.shape[:2] == ((7, 5) if orientation in (5, 6, 7, 8) else (5, 7))
    assert np.array_equal(read_image(path), upright)
    assert np.array_equal(read_image("any name", path.read_bytes()), upright)
    assert read_size(path) == upright.shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_uncompressed_tiff_is_turned(tmp_path, orientation):
    """Pillow maps such a file into memory, with its sides swapped."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(GREY).save(tmp_path / "a.tif", exif=exif)
    Image.fromarray(GREY).save(tmp_path / "a.png", exif=exif)
    expected = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), expected)
    stored = read_stored(tmp_path / "a.tif", expected.shape[:2])
    np.testing.assert_array_equal(stored, expected[:, :, 0])


TEXT = b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0six\0\0\0\0\0"  # as the orientation


@pytest.mark.filterwarnings("ignore")  # Pillow's, about the damage
@pytest.mark.parametrize("content", [b"II*\0\x08\0\0\0\xff\xff", b"junk", TEXT])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_damaged_exif_is_no_orientation(tmp_path, content, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RGB).save(path, exif=b"Exif\0\0" + content)
    expected = np.array(Image.open(path).convert("RGB"))
    np.testing.assert_array_equal(read_image(path), expected)
    assert read_size(path) == (5, 7)


def palette(transparency=None) -> Image.Image:
    image = Image.fromarray(GREY % 4)
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


PALETTE = (np.arange(1, 13, dtype=np.uint8) * 10).reshape(4, 3)
SPREAD = np.repeat(GREY[..., None], 3, axis=2)
WIDE = GREY.astype(np.uint16) * 256 + 255 - GREY  # high byte GREY, low byte something else
ALPHA = np.concatenate([RGB, GREY[..., None]], axis=2)
KINDS = {  # image, suffix, what is read
    "RGB": (Image.fromarray(RGB), "png", RGB),
    "grey": (Image.fromarray(GREY), "png", SPREAD),
    "bilevel": (Image.fromarray(GREY > 99), "png", (SPREAD > 99) * np.uint8(255)),
    "16-bit grey": (Image.fromarray(WIDE), "png", SPREAD),
    "16-bit grey TIFF": (Image.fromarray(WIDE), "tif", SPREAD),
    "32-bit grey within 16 bits": (Image.fromarray(WIDE.astype(np.int32)), "tif", SPREAD),
    "palette": (palette(), "png", PALETTE[GREY % 4]),
    "palette with a transparent colour": (palette(1), "png", PALETTE[GREY % 4]),
    "palette with alpha": (palette(b"\x00\x7f\xff\x10"), "png", PALETTE[GREY % 4]),
    "alpha": (Image.fromarray(ALPHA), "png", RGB),
    "grey with alpha": (Image.fromarray(ALPHA[..., 2:]), "png", np.repeat(RGB[..., 2:], 3, axis=2)),
    "CMYK without ink": (Image.new("CMYK", (7, 5)), "tif", np.full_like(RGB, 255)),
    "BMP": (Image.fromarray(RGB), "bmp", RGB),
    "WebP": (Image.fromarray(RGB), "webp", None),
    "CMYK JPEG": (Image.new("CMYK", (7, 5), (0, 0, 0, 255)), "jpg", np.zeros_like(RGB)),
    "one pixel": (Image.fromarray(RGB[:1, :1]), "png", RGB[:1, :1]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_becomes_rgb(tmp_path, kind, recwarn):
    image, suffix, expected = KINDS[kind]
    path = tmp_path / f"image.{suffix}"
    image.save(path)
    actual = read_image(path)
    assert actual.dtype == np.uint8
    assert actual.shape[:2] == read_size(path)
    if expected is not None:
        assert np.array_equal(actual, expected)
    assert not recwarn.list


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("L", (7, 5), value) for value in (10, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (read_image(tmp_path / "a.gif") == 10).all()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT\x35\xaf\x06\x1e"


def encoded(suffix: str, side: int = 200) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, suffix)
    return buffer.getvalue()


def text_bomb() -> bytes:
    """A PNG whose text chunk grows to 100 MB."""
    body = b"zTXta\0\0" + zlib.compress(bytes(100_000_000), 9)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    png = encoded("png", 8)
    return png[:33] + chunk + png[33:]


def preview() -> bytes:
    """A TIFF whose first image is marked as reduced."""
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "TIFF", tiffinfo={254: 1})
    return buffer.getvalue()


BAD_FILES = {
    "empty": (b"", "is empty"),
    "text": (b"not an image", "not an image of a known format"),
    "HTML": (b"\n<!DOCTYPE html>", "is HTML or SVG, not an image of pixels"),
    "SVG": (b"\xef\xbb\xbf<svg xmlns='http://www.w3.org/2000/svg'/>", "is HTML or SVG"),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "is HEIC or a video, which are not read"),
    "AVIF": (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1", "is AVIF, which is not read"),
    "PSD": (b"8BPS\0\1", "is PSD, which is not read"),
    "PDF": (b"%PDF-1.7", "is PDF, which is not read"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "run: git lfs pull"),
    "JPEG of 12 bits": (
        encoded("jpeg").replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c"), "more than 8 bits"),
    "TIFF of 64 bits": (
        encoded("tiff").replace(b"\x08\0\x08\0\x08\0", b"\x40\0\x40\0\x40\0"), "a TIFF of a kind"),
    "raw file of a camera": (preview(), "begins with a preview"),
    "header only": (png_header(8, 8), "cannot be read"),
    "65500 x 65500": (png_header(65500, 65500), f"limit is {MAX_PIXELS:,}"),
    "just too many pixels": (png_header(10001, 10000), f"10001 x 10000 .* limit is {MAX_PIXELS:,}"),
    "text bomb": (text_bomb(), "cannot be read"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known"),
    "JPEG cut at 30 %": (encoded("jpeg")[:3_000], "cannot be read"),
    "PNG cut at 50 %": (encoded("png")[:60_000], "cannot be read"),
    "TIFF cut": (encoded("tiff")[:9_000], "cannot be read|no image"),
    "WebP cut": (encoded("webp")[:9_000], "cannot be read|no image"),
    "PNG with a flipped byte": (
        encoded("png")[:5000] + b"\xff\xfe" + encoded("png")[5002:], "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_named(tmp_path, case):
    content, message = BAD_FILES[case]
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    for arguments in ((path,), (path, content)):
        with pytest.raises(UserError, match=message) as caught:
            read_image(*arguments)
        assert str(caught.value).startswith(f"{path}: ")


def test_high_images_are_copied_in_parts(tmp_path):
    for height in (2048, 2049, 5000):
        pixels = np.random.default_rng(height).integers(0, 256, (height, 3, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "high.png")
        np.testing.assert_array_equal(read_image(tmp_path / "high.png"), pixels)


def test_the_limit_of_pixels_is_an_argument(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", max_pixels=35), RGB)
    with pytest.raises(UserError, match="is 7 x 5 pixels, the limit is 34"):
        read_image(tmp_path / "a.png", max_pixels=34)


def test_a_missing_file_a_folder_and_a_pipe_are_named(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for name, message in (
        ("none.png", "does not exist"),
        ("", "is a folder, not a plain"),
        ("pipe.png", "is a pipe"),
    ):
        with pytest.raises(UserError, match=message):
            read_image(tmp_path / name)


def test_pixels_beyond_16_bits_are_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 70_000, np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match="from 70000 to 70000"):
        read_image(tmp_path / "a.tif")


def test_real_images_equal_pillow(shared_data):
    paths = sorted((shared_data / "coco_mini" / "images").iterdir())[:10]
    paths += sorted((shared_data / "nuclei" / "images").iterdir())[:10]
    for path in paths:
        assert np.array_equal(read_image(path), np.array(Image.open(path).convert("RGB")))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),  # 1066.67
        ((427, 640), (800, 1199)),  # 1199.06
        ((400, 1000), (533, 1333)),  # the longer side decides: 533.2
        ((800, 800), (800, 800)),
        ((1, 5000), (1, 1333)),  # never 0
        ((1600, 1201), (1066, 800)),
    ],
)
def test_the_size_for_the_network(size, expected):
    config = ModelConfig(min_size=800, max_size=1333)
    assert network_size(*size, config) == expected
    assert network_size(*size[::-1], config) == expected[::-1]


def test_a_factor_for_the_size():
    config = ModelConfig(scale=1.5)
    assert network_size(101, 200, config) == (152, 300)


def test_to_pixels_normalises_and_resizes_like_pillow():
    mean, std = (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)
    config = ModelConfig(pixel_mean=mean, pixel_std=std)
    plain = ModelConfig(pixel_mean=(0.0, 0.0, 0.0), pixel_std=(1.0, 1.0, 1.0))
    expected = (torch.tensor(RGB).permute(2, 0, 1) - torch.tensor(mean).view(3, 1, 1)) / (
        torch.tensor(std).view(3, 1, 1)
    )
    torch.testing.assert_close(to_pixels(RGB, (5, 7), config), expected)
    large = to_pixels(RGB, (10, 21), plain)
    pillow = np.array(Image.fromarray(RGB).resize((21, 10), Image.Resampling.BILINEAR))
    assert torch.equal(large, torch.tensor(pillow).permute(2, 0, 1).float())


def test_pad_images():
    images = [torch.rand(3, 33, 20), torch.rand(3, 32, 64)]
    assert pad_images(images, 1).pixels.shape == (2, 3, 33, 64)
    batch = pad_images(images, 32)
    assert batch.pixels.shape == (2, 3, 64, 64)
    assert batch.pixels.is_contiguous(memory_format=torch.channels_last)
    assert batch.sizes.tolist() == [[33, 20], [32, 64]]
    for slot, image in zip(batch.pixels, images, strict=True):
        h, w = image.shape[1:]
        assert torch.equal(slot[:, :h, :w], image)
        assert slot[:, h:].abs().sum() == 0
        assert slot[:, :, w:].abs().sum() == 0
