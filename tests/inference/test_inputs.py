"""Images of every kind: equal contents give equal pixels, or equal refusals."""

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from mrcnn.config import ModelConfig
from mrcnn.data.images import MAX_PIXELS, read_image
from mrcnn.errors import UserError
from mrcnn.inference.inputs import is_image, read_inputs

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
SPREAD = np.repeat(GREY[..., None], 3, axis=2)
WIDE = GREY.astype(np.uint16) * 256 + 255 - GREY  # high byte GREY, low byte something else


CONFIG = ModelConfig()


def read(image, tile=None) -> np.ndarray:
    (outcome,) = read_inputs([image], CONFIG, tile=tile)
    if outcome.error:
        raise outcome.error
    assert outcome.pixels.dtype == np.uint8
    return outcome.pixels


def refusal(image) -> str:
    """The message of the refusal, without the name of the image."""
    with pytest.raises(UserError) as caught:
        read(image)
    return str(caught.value).partition(": ")[2]


def frozen(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


ALPHA = np.concatenate([RGB, GREY[..., None]], axis=2)
FIRST = np.ascontiguousarray(RGB.transpose(2, 0, 1))  # channels first
ARRAYS = {
    "uint8": (RGB, RGB),
    "grey": (GREY, SPREAD),
    "grey, one channel": (GREY[..., None], SPREAD),
    "grey, channel first": (GREY[None], SPREAD),
    "grey and alpha": (np.stack([GREY, 255 - GREY], axis=2), SPREAD),
    "RGBA": (ALPHA, RGB),
    "RGBA, channels first": (ALPHA.transpose(2, 0, 1), RGB),
    "channels first": (FIRST, RGB),
    "read-only": (frozen(RGB), RGB),
    "BGR turned": (RGB[..., ::-1].copy()[..., ::-1], RGB),
    "negative strides": (RGB[::-1, ::-1].copy()[::-1, ::-1], RGB),
    "every second pixel": (np.repeat(np.repeat(RGB, 2, 0), 2, 1)[::2, ::2], RGB),
    "Fortran order": (np.asfortranarray(RGB), RGB),
    "bool": (GREY > 99, (SPREAD > 99) * np.uint8(255)),
    "uint16": (WIDE, SPREAD),
    "uint16, big-endian": (WIDE.astype(">u2"), SPREAD),
    "uint16 RGB": (RGB.astype(np.uint16) * 257, RGB),
    "int32": (WIDE.astype(np.int32), SPREAD),
    "int64, zero": (np.zeros((5, 7), np.int64), np.zeros_like(RGB)),
    **{f"{d}": (RGB.astype(d) / d(255), RGB) for d in (np.float16, np.float32, np.float64)},
    "float32, big-endian": ((RGB / 255).astype(">f4"), RGB),
    "float grey": (GREY / 255, SPREAD),
    "one pixel": (RGB[:1, :1], RGB[:1, :1]),
    "three rows and columns": (RGB[:3, :3], RGB[:3, :3]),
}  # fmt: skip


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays(kind):
    array, expected = ARRAYS[kind]
    before = array.copy()
    np.testing.assert_array_equal(read(array), expected)
    np.testing.assert_array_equal(array, before)


TENSORS = {
    "uint8": (torch.from_numpy(FIRST), RGB),
    "channels last in memory": (torch.from_numpy(RGB).permute(2, 0, 1), RGB),
    "channels last": (torch.from_numpy(RGB), RGB),
    "grey": (torch.from_numpy(GREY), SPREAD),
    "grey, one channel": (torch.from_numpy(GREY)[None], SPREAD),
    "RGBA": (torch.from_numpy(ALPHA).permute(2, 0, 1), RGB),
    "bool": (torch.from_numpy(GREY > 99), (SPREAD > 99) * np.uint8(255)),
    "uint16": (torch.from_numpy(WIDE), SPREAD),
    "float32": (torch.from_numpy(FIRST) / 255, RGB),
    "float64": (torch.from_numpy(FIRST).double() / 255, RGB),
    "half": (torch.from_numpy(FIRST).half() / 255, RGB),
    "bfloat16": ((torch.from_numpy(FIRST) > 99).bfloat16(), (RGB > 99) * np.uint8(255)),
    "with gradient": ((torch.from_numpy(FIRST) / 255).requires_grad_(), RGB),
    "3 x 3, channels first": (torch.from_numpy(FIRST)[:, :3, :3], RGB[:3, :3]),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors(kind):
    tensor, expected = TENSORS[kind]
    np.testing.assert_array_equal(read(tensor), expected)


def palette(mode: str) -> Image.Image:
    image = Image.fromarray(GREY % 4)
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    return image if mode == "P" else image.convert(mode)


PIL_IMAGES = {  # mode: image, format of a file that keeps it
    "1": (Image.fromarray(GREY > 99), "PNG"),
    "L": (Image.fromarray(GREY), "PNG"),
    "LA": (Image.fromarray(np.stack([GREY, 255 - GREY], axis=2)), "PNG"),
    "P": (palette("P"), "PNG"),
    "PA": (palette("PA"), None),
    "RGB": (Image.fromarray(RGB), "PNG"),
    "RGBA": (Image.fromarray(ALPHA), "PNG"),
    "RGBX": (Image.fromarray(RGB).convert("RGBX"), None),
    "CMYK": (Image.fromarray(RGB).convert("CMYK"), "TIFF"),
    "YCbCr": (Image.fromarray(RGB).convert("YCbCr"), None),
    "HSV": (Image.fromarray(RGB).convert("HSV"), None),
    "I": (Image.fromarray(WIDE.astype(np.int32)), "TIFF"),
    "I;16": (Image.fromarray(WIDE), "PNG"),
    "I;16B": (Image.frombytes("I;16B", (7, 5), WIDE.astype(">u2").tobytes()), "TIFF"),
    "F": (Image.fromarray((GREY / 255).astype(np.float32)), "TIFF"),
}


@pytest.mark.parametrize("mode", PIL_IMAGES)
@pytest.mark.parametrize("orientation", [1, 6])
def test_pil_images_files_bytes_and_open_files(tmp_path, mode, orientation):
    image, suffix = PIL_IMAGES[mode]
    assert image.mode == mode
    if mode in ("I", "I;16", "I;16B", "F"):
        expected = SPREAD
    else:
        expected = np.array((palette("P") if mode == "PA" else image).convert("RGB"))
    np.testing.assert_array_equal(read(image), expected)
    if suffix is None:
        return
    path = tmp_path / f"image.{suffix.lower()}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)
    expected = np.rot90(expected, -1) if orientation == 6 else expected
    data = path.read_bytes()
    buffer = io.BytesIO(data)
    buffer.read()  # an open file is read from its beginning
    with path.open("rb") as file, Image.open(path) as opened:
        loaded = Image.open(io.BytesIO(data)).copy()
        for kind in (path, str(path), data, bytearray(data), memoryview(data), buffer, file,
                     opened, loaded):  # fmt: skip
            assert is_image(kind)
            np.testing.assert_array_equal(read(kind), expected)
    assert not is_image([path])


def saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "TIFF")
    return buffer.getvalue()


REFUSED = {
    "floats to 255": (GREY.astype(np.float32), "pass or save image / 255"),
    "floats to 65535": (WIDE.astype(np.float32), "pass or save image / 65535"),
    "floats around 0": (np.float32([[-2, 2]]), "pass or save ((image + 2) / 4).clip(0, 1)"),
    "floats with many digits": (np.float32([[1.2345678e6, 9.8765432e6]]), ").clip(0, 1)"),
    "floats slightly beyond 1": (np.float32([[0, 1.01]]), "pass or save image.clip(0, 1)"),
    "NaN": (np.float32([[0, np.nan]]), "pass or save np.nan_to_num(image"),
    "infinity": (np.float32([[0, np.inf]]), "pass or save np.nan_to_num(image"),
    "8 bits in 32": (GREY.astype(np.int32), "pass or save image / 255"),
    "1 bit in 32": (np.int32([[0, 1]]), "pass or save image > 0"),
    "17 bits": (np.int32([[0, 70_000]]), "pass or save ((image - 0) / 70000).clip(0, 1)"),
    "negative": (np.int32([[-1000, 3000]]), "((image + 1000) / 4000).clip(0, 1)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_same_refusal_with_the_line_to_write(tmp_path, case):
    array, line = REFUSED[case]
    (tmp_path / "a.tif").write_bytes(saved(array))
    message = refusal(array)
    assert line in message
    kinds = (Image.fromarray(array), tmp_path / "a.tif", saved(array), io.BytesIO(saved(array)))
    for kind in (torch.from_numpy(array), *kinds):
        assert refusal(kind) == message
    with pytest.raises(UserError, match=re.escape(message)):  # as training reads it
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("case", REFUSED)
def test_the_stated_line_is_accepted(case):
    array, _ = REFUSED[case]
    line = refusal(array).partition("pass or save ")[2]
    for module, image in ((np, array), (torch, torch.from_numpy(array))):
        assert read(eval(line, {"np": module, "image": image})).shape == (*array.shape, 3)


def test_the_stated_line_gives_the_image():
    for wide in (GREY.astype(np.int64), GREY.astype(np.float32)):
        assert "pass or save image / 255" in refusal(wide)
        np.testing.assert_array_equal(read(wide / 255), SPREAD)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((0, 4, 3), np.uint8), "got (0, 4, 3); pass an image with pixels"),
        (torch.zeros(3, 0, 4), "got (3, 0, 4); pass an image with pixels"),
        (np.zeros((2, 5, 7, 3), np.uint8), "pass a list of images: list(images)"),
        (np.zeros((6, 5, 7), np.uint8), "got (6, 5, 7); pass image[:, :, :3]"),
        (np.zeros(7, np.uint8), "got (7,); pass image.reshape(h, w, c)"),
        (np.zeros((5, 7), complex), "holds values of complex128; pass image.astype('uint8')"),
        (np.full((5, 7), None), "holds values of object; pass"),
        (torch.zeros(3, 4, 4).to_sparse(), "is a tensor that NumPy cannot hold"),
        (torch.zeros(3, 4, 4, device="meta"), "is a tensor that NumPy cannot hold"),
        (Image.new("RGB", (0, 5)), "is 0 x 5 pixels; pass an image with pixels"),
        (b"", "is empty (0 bytes)"),
        (b"<!DOCTYPE html><html>", "is HTML or SVG, not an image of pixels"),
        (np.broadcast_to(np.uint8(0), (10_001, 10_000)), f"the limit is {MAX_PIXELS:,}"),
    ],
)
def test_refused_values(image, message):
    assert message in refusal(image)


def test_a_truncated_file_is_refused_however_it_is_passed(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (99, 99, 3), dtype=np.uint8)).save(buffer, "JPEG")
    data = buffer.getvalue()[:2000]
    (tmp_path / "a.jpg").write_bytes(data)
    messages = {refusal(kind) for kind in (tmp_path / "a.jpg", data, io.BytesIO(data))}
    messages.add(refusal(Image.open(io.BytesIO(data))))
    assert len(messages) == 1
    assert "cannot be read (" in messages.pop()


def test_a_format_that_is_not_read_is_refused_however_it_is_passed():
    """Pillow starts another program to decode some formats."""
    Image.fromarray(RGB).save(buffer := io.BytesIO(), "TGA")
    assert "is not an image of a known format" in refusal(buffer)
    image = Image.open(buffer)
    assert refusal(image) == (
        "is a file in the format TGA, which is not read; pass image.convert('RGB')"
    )
    np.testing.assert_array_equal(read(image.convert("RGB")), RGB)


def test_a_jpeg_of_several_images_gives_the_first():
    buffer = io.BytesIO()
    others = [Image.fromarray(255 - RGB)]
    Image.fromarray(RGB).save(buffer, "MPO", save_all=True, append_images=others)
    assert Image.open(buffer).format == "MPO"
    np.testing.assert_array_equal(read(Image.open(buffer)), read(buffer))


def test_an_image_is_named_by_its_position():
    outcomes = list(read_inputs([RGB, np.float32([[0, 255]])], CONFIG))
    assert str(outcomes[1].error).startswith("image 2: holds floats from 0 to 255")


def test_values_that_are_no_image():
    for value in (7, None, io.StringIO("text")):
        with pytest.raises(TypeError, match=r"a file open in mode 'rb', got (int|NoneType|str)"):
            list(read_inputs([value], CONFIG))


def test_an_array_for_tiles_may_be_larger_and_is_not_copied():
    large = np.broadcast_to(np.uint8(0), (20_000, 10_000, 3))
    assert read(large, tile=999).strides == (0, 0, 0)
