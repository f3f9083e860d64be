"""Images to pixels in C++: as Pillow, OpenCV (its rule in NumPy) and PyTorch; hostile calls."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mrcnn.config import ModelConfig
from mrcnn.data.images import (
    empty_batch,
    network_size,
    read_image,
    to_pixels,
    unpadded_views,
    write_view,
)
from mrcnn.ops import library

host = library.load("mrcnn_host")

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
UNIT = 2.0**-24  # half the distance between 1 and the next float32
GUARD = 7.5  # around what may be written; no pixel has this value


def by_pillow(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The width first; in one call the order depends on Pillow's version."""
    wide = Image.fromarray(image).resize((size[1], image.shape[0]), Image.Resampling.BILINEAR)
    return np.array(wide.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def by_pillow_rule(
    image: NDArray[np.uint8], size: tuple[int, int], width_first: bool = True
) -> NDArray[np.uint8]:
    """Pillow's BILINEAR of 8 bits, written down in NumPy: no code of an installed Pillow.

    Pillow before version 13, with which Detectron2's weights were trained, always resizes the width
    first, and rounds to 8 bits before it resizes the height.
    """

    def resized(cells: NDArray[np.uint8], pixels: int) -> NDArray[np.uint8]:
        """Resize axis 0."""
        if len(cells) == pixels:
            return cells
        scale = len(cells) / pixels
        reach = max(scale, 1.0)
        out = np.empty((pixels, *cells.shape[1:]), np.uint8)
        for x in range(pixels):
            center = (x + 0.5) * scale
            first = max(int(center - reach + 0.5), 0)
            last = min(int(center + reach + 0.5), len(cells))
            distances = np.abs((np.arange(first, last) - center + 0.5) * (1 / reach))
            weights = np.where(distances < 1, 1 - distances, 0)
            total = 0.0
            for weight in weights:  # in this order; NumPy sums pairs
                total += weight
            units = (0.5 + weights / total * 2**22).astype(np.int64)
            sums = np.tensordot(units, cells[first:last].astype(np.int64), 1) + 2**21
            out[x] = np.clip(sums >> 22, 0, 255)
        return out

    def by_width(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return resized(image.swapaxes(0, 1), size[1]).swapaxes(0, 1)

    if width_first:
        return resized(by_width(image), size[0])
    return by_width(resized(image, size[0]))


def by_opencv(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """OpenCV's INTER_LINEAR of 8 bits, written down in NumPy."""

    def taps(cells: int, pixels: int):
        """Cells left and right of each pixel's centre, and their weights; both (2, pixels)."""
        at = ((np.arange(pixels) + 0.5) * (1 / (pixels / cells)) - 0.5).astype(np.float32)
        low = np.floor(at)
        weights = np.rint(np.stack([1 - (at - low), at - low]) * 2048).astype(np.int32)
        return np.stack([low, low + 1]).astype(np.int64).clip(0, cells - 1), weights

    (left, right), weights = taps(image.shape[1], size[1])
    left_weight, right_weight = weights[:, :, None]
    wide = image.astype(np.int32)
    wide = (wide[:, left] * left_weight + wide[:, right] * right_weight) >> 4
    (top, bottom), weights = taps(image.shape[0], size[0])
    top_weight, bottom_weight = weights[:, :, None, None]
    sums = ((wide[top] * top_weight) >> 16) + ((wide[bottom] * bottom_weight) >> 16)
    return ((sums + 2) >> 2).astype(np.uint8)


def normalised(image: NDArray[np.uint8]) -> Tensor:
    return (torch.from_numpy(image).float() - torch.tensor(MEAN)) / torch.tensor(STD)


def expected(image: NDArray[np.uint8], size: tuple[int, int], resize_filter: str) -> Tensor:
    """(height, width, 3) float32, by libraries and NumPy."""
    if resize_filter == "pillow":
        return normalised(by_pillow(image, size))
    if resize_filter == "opencv":
        return normalised(by_opencv(image, size))
    pixels = normalised(image).permute(2, 0, 1)[None]
    return F.interpolate(pixels, size, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)


def tolerance(image: NDArray[np.uint8], resize_filter: str) -> float:
    """How far a result may be from `expected`: not at all, but for the filter that is not rounded.

    PyTorch sums the four products of a pixel in an order, and fuses them with additions, as its
    number of threads and the machine have it. A position, at most `cells`, may come out 3 units
    apart (a product and a sum rounded, or both at once), by which the value moves along a slope of
    at most twice the largest value; a weight is off by a unit, and a value goes through at most 12
    roundings on either side.
    """
    if resize_filter != "float":
        return 0.0
    largest = float(normalised(image).abs().max())
    return UNIT * largest * (2 * 3 * sum(image.shape[:2]) + 2 * 12)


def written(image, size, resize_filter, *, window=None, mirror_x=False, mirror_y=False) -> Tensor:
    window = window or (0, 0, image.shape[1], image.shape[0])
    out = np.empty((*size, 3), np.float32)
    host.write_pixels(image, window, mirror_x, mirror_y, resize_filter, MEAN, STD, out)
    return torch.from_numpy(out)


def random_image(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Noise, or black and white, where sums reach their ends."""
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return image if rng.random() < 0.5 else np.where(image < 128, 0, 255).astype(np.uint8)


def random_side(rng: np.random.Generator) -> int:
    return int(rng.integers(1, rng.choice([2, 4, 30, 120])))


@pytest.mark.parametrize("resize_filter", ["pillow", "opencv", "float"])
def test_any_size_becomes_any_other(resize_filter):
    rng = np.random.default_rng(0)
    for _ in range(2000):
        height, width, *size = (random_side(rng) for _ in range(4))
        image = random_image(rng, height, width)
        found = written(image, tuple(size), resize_filter)
        difference = (found - expected(image, tuple(size), resize_filter)).abs().max()
        assert difference <= tolerance(image, resize_filter), (height, width, size)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((3001, 250), (1333, 111)),  # Pillow 13 resizes the height of such an image first
        ((250, 3001), (111, 1333)),
        ((400, 30), (50, 90)),
        ((30, 400), (90, 50)),
        ((97, 53), (97, 20)),
        ((97, 53), (20, 53)),
        ((13, 11), (40, 7)),
    ],
)
def test_the_width_is_resized_first_whatever_pillow_is_installed(shape, size):
    image = random_image(np.random.default_rng(4), *shape)
    found = written(image, size, "pillow")
    assert torch.equal(found, normalised(by_pillow_rule(image, size)))
    if shape[0] != size[0] and shape[1] != size[1]:
        assert not torch.equal(found, normalised(by_pillow_rule(image, size, width_first=False)))
    np.testing.assert_array_equal(by_pillow(image, size), by_pillow_rule(image, size))


@pytest.mark.parametrize("resize_filter", ["pillow", "opencv", "float"])
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((3000, 2), (1, 3)),
        ((2, 3000), (3, 1)),
        ((1, 1), (700, 900)),
        ((1999, 1501), (7, 3)),
        ((5, 3), (997, 1009)),
        ((1, 5_000_000), (1, 1)),  # weights from 0.6 to 1.1 units, which sum to 1.2 when rounded
    ],
)
def test_large_factors(shape, size, resize_filter):
    rng = np.random.default_rng(1)
    for image in (random_image(rng, *shape), np.full((*shape, 3), 255, np.uint8)):
        found = written(image, size, resize_filter)
        difference = (found - expected(image, size, resize_filter)).abs().max()
        assert difference <= tolerance(image, resize_filter)


@pytest.mark.parametrize("numerics", ["detectron2", "mmdetection", "torchvision"])
def test_real_pictures_at_the_size_of_the_network(shared_data, numerics):
    config = ModelConfig(numerics=numerics)
    resize_filter = {"detectron2": "pillow", "mmdetection": "opencv"}.get(numerics, "float")
    record = json.loads((shared_data / "coco_mini" / "annotations.json").read_text())
    for entry in record["images"][:6]:
        image = read_image(shared_data / "coco_mini" / "images" / entry["file_name"])
        size = network_size(*image.shape[:2], config)
        found = to_pixels(image, size, config).permute(1, 2, 0)
        difference = (found - expected(image, size, resize_filter)).abs().max()
        assert difference <= tolerance(image, resize_filter)
        if numerics == "detectron2":  # in one call, as there
            whole = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)
            assert torch.equal(found, normalised(np.array(whole)))


@pytest.mark.parametrize("resize_filter", ["pillow", "opencv", "float"])
def test_values_are_normalised_as_by_division(resize_filter):
    image = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(16, 16, 3)
    assert torch.equal(written(image, (16, 16), resize_filter), normalised(image))


@pytest.mark.parametrize("resize_filter", ["pillow", "opencv", "float"])
def test_windows_and_mirrors_are_slices(resize_filter):
    rng = np.random.default_rng(2)
    image = random_image(rng, 50, 70)
    for turned in (image, image[::-1], image[:, ::-1, ::-1], image[::2, ::3], image[:, :1]):
        height, width = turned.shape[:2]
        x1, x2 = width // 3, width - width // 4
        y1, y2 = height // 4, height - height // 3
        plain = written(turned[y1:y2, x1:x2].copy(), (33, 41), resize_filter)
        for mirror_x in (False, True):
            for mirror_y in (False, True):
                axes = [axis for axis, mirror in ((0, mirror_y), (1, mirror_x)) if mirror]
                found = written(
                    turned,
                    (33, 41),
                    resize_filter,
                    window=(x1, y1, x2, y2),
                    mirror_x=mirror_x,
                    mirror_y=mirror_y,
                )
                assert torch.equal(found, plain.flip(axes))


def test_views_are_written_into_their_slots_of_a_batch():
    rng = np.random.default_rng(3)
    config = ModelConfig()
    sizes = [(40, 50), (37, 64), (1, 1)]
    image = random_image(rng, 30, 30)
    batch = empty_batch(sizes, 32)
    assert batch.pixels.shape == (3, 3, 64, 64)
    assert batch.pixels.is_contiguous(memory_format=torch.channels_last)
    assert batch.sizes.tolist() == [[40, 50], [37, 64], [1, 1]]
    for slot in unpadded_views(batch):
        write_view(image, (5, 6, 25, 30), slot, config, mirror_x=True)
    for pixels, size in zip(batch.pixels, sizes, strict=True):
        wanted = to_pixels(image[6:30, 5:25], size, config).flip(2)
        assert torch.equal(pixels[:, : size[0], : size[1]], wanted)
        assert pixels.count_nonzero() == wanted.count_nonzero()


def call(**changes):
    """A sound call of `write_pixels`, with changes."""
    arguments = {
        "image": np.zeros((9, 8, 3), np.uint8),
        "window": (0, 0, 8, 9),
        "mirror_x": False,
        "mirror_y": False,
        "filter": "pillow",
        "mean": MEAN,
        "std": STD,
        "out": np.zeros((5, 6, 3), np.float32),
    }
    return host.write_pixels(**(arguments | changes))


READ_ONLY = np.zeros((5, 6, 3), np.float32)
READ_ONLY.flags.writeable = False
BAD_CALLS = {
    "signed image": ({"image": np.zeros((9, 8, 3), np.int8)}, "image must be of uint8, got int8"),
    "grey image": ({"image": np.zeros((9, 8), np.uint8)}, r"image must .* got \(9, 8\)"),
    "four channels": ({"image": np.zeros((9, 8, 4), np.uint8)}, r"image must .* got \(9, 8, 4\)"),
    "no rows": ({"image": np.zeros((0, 8, 3), np.uint8)}, r"image must .* got \(0, 8, 3\)"),
    "endless image": (
        {"image": np.broadcast_to(np.uint8(0), (2**28, 4, 3))},
        "image must have shape .* sides from 1 to 2\\^27",
    ),
    "window on the left": ({"window": (-1, 0, 8, 9)}, r"window must .* \(9, 8, 3\), got \[-1, 0"),
    "window on the right": ({"window": (0, 0, 9, 9)}, "window must"),
    "window below": ({"window": (0, 0, 8, 10)}, "window must"),
    "window above": ({"window": (0, -(2**62), 8, 9)}, "window must"),
    "empty window": ({"window": (3, 0, 3, 9)}, "window must hold a pixel"),
    "window turned over": ({"window": (0, 9, 8, 0)}, "window must"),
    "unknown filter": ({"filter": "cubic"}, "filter must be pillow, opencv or float, got cubic"),
    "double out": ({"out": np.zeros((5, 6, 3))}, "out must be of float32, got float64"),
    "swapped bytes": ({"out": np.zeros((5, 6, 3), ">f4")}, "out must be of float32"),
    "empty out": ({"out": np.zeros((5, 0, 3), np.float32)}, r"out must .* got \(5, 0, 3\)"),
    "channels first": (
        {"out": np.zeros((3, 5, 6), np.float32).transpose(1, 2, 0)},
        "out must hold the channels of a row side by side, got strides",
    ),
    "columns apart": ({"out": np.zeros((5, 12, 3), np.float32)[:, ::2]}, "out must hold"),
    "columns reversed": ({"out": np.zeros((5, 6, 3), np.float32)[:, ::-1]}, "out must hold"),
    "between floats": (
        {"out": np.zeros(361, np.uint8)[1:].view(np.float32).reshape(5, 6, 3)},
        "out must hold",
    ),
    "read-only out": ({"out": READ_ONLY}, "out must be writeable"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls_are_refused(case):
    changes, message = BAD_CALLS[case]
    with pytest.raises(ValueError, match=f"^write_pixels: {message}"):
        call(**changes)


def test_bad_slots_are_refused():
    for out in (torch.zeros(3, 4), torch.zeros(4, 5, 3), torch.zeros(3, 4, 5)):
        with pytest.raises(ValueError, match=r"^write_pixels: out must"):
            write_view(np.zeros((9, 8, 3), np.uint8), (0, 0, 8, 9), out, ModelConfig())


def judge_random_call(seed: int) -> bool:
    """A call with strides, windows and slots at random; whether it was a sound one.

    The answer must be right, an unsound call refused, and nothing written outside of the slot.
    """
    rng = np.random.default_rng(seed)
    image = random_image(rng, random_side(rng), random_side(rng))
    steps = [slice(None, None, int(step)) for step in rng.choice([1, 1, 2, -1, -3], 2)]
    image = image[(*steps, slice(None, None, int(rng.choice([1, -1]))))]
    if rng.random() < 0.1:
        image = np.broadcast_to(image[:1], image.shape)
    height, width = image.shape[:2]
    (x1, x2), (y1, y2) = (np.sort(rng.integers(0, n + 1, 2)).tolist() for n in (width, height))
    if rng.random() < 0.1:
        x1, x2 = x1 + int(rng.integers(-3, 4)), x2 + int(rng.integers(-3, 4))
    sound = 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
    size = random_side(rng), random_side(rng)
    margin = [int(n) for n in rng.integers(0, 5, 4)]
    room = np.full((size[0] + margin[0] + margin[1], size[1] + margin[2] + margin[3], 3), GUARD)
    room = room.astype(np.float32)[:: rng.choice([1, -1])]
    out = room[margin[0] : margin[0] + size[0], margin[2] : margin[2] + size[1]]
    resize_filter = str(rng.choice(["pillow", "opencv", "float"]))
    mirror_x, mirror_y = bool(rng.integers(2)), bool(rng.integers(2))
    arguments = ((x1, y1, x2, y2), mirror_x, mirror_y, resize_filter, MEAN, STD, out)
    if not sound:
        with pytest.raises(ValueError, match="window"):
            host.write_pixels(image, *arguments)
        assert (room == GUARD).all()
        return False
    host.write_pixels(image, *arguments)
    part = np.array(image[y1:y2, x1:x2], order="C")
    wanted = expected(part, size, resize_filter)
    wanted = wanted.flip([axis for axis, mirror in enumerate((mirror_y, mirror_x)) if mirror])
    difference = np.abs(out - wanted.numpy()).max()
    assert difference <= tolerance(part, resize_filter), (seed, difference)
    out[:] = GUARD
    assert (room == GUARD).all()
    return True


def test_random_calls():
    assert sum(judge_random_call(seed) for seed in range(1000)) > 400
