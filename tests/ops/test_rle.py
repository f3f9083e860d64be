"""RLE against the codec of pycocotools."""

import re
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as rle_codec

from mrcnn.ops import rle


def encode(mask: np.ndarray) -> dict:
    encoded = rle_codec.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {**encoded, "counts": encoded["counts"].decode()}


def masks() -> list[np.ndarray]:
    """Return empty and full masks, a rim, and noise of several densities and shapes."""
    plain = [np.zeros((5, 7), bool), np.ones((5, 7), bool), np.pad(np.ones((3, 5), bool), 1)]
    rng = np.random.default_rng(0)
    shapes = [(1, 1), (1, 9), (9, 1), (13, 8), (30, 41)]
    return plain + [rng.random(shape) < p for shape in shapes for p in (0.05, 0.5, 0.95)]


@pytest.mark.parametrize("mask", masks())
def test_decode_tight(mask):
    x, y, inside = rle.decode_tight(encode(mask))
    restored = np.zeros_like(mask)
    restored[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    np.testing.assert_array_equal(restored, mask)
    rows, columns = np.nonzero(mask)
    tight = (np.ptp(rows) + 1, np.ptp(columns) + 1) if mask.any() else (0, 0)
    assert inside.shape == tight
    assert rle.decode_tight(rle_codec.encode(np.asfortranarray(mask, np.uint8)))[0] == x  # bytes


@pytest.mark.parametrize("mask", masks())
@pytest.mark.parametrize("margins", [(0, 0, 0, 0), (3, 0, 0, 5), (0, 4, 2, 0), (6, 7, 8, 9)])
def test_shift(mask, margins):
    left, top, right, bottom = margins
    whole = np.pad(mask, ((top, bottom), (left, right)))
    assert rle.shift(encode(mask), left, top, *whole.shape) == encode(whole)


@pytest.mark.parametrize("corner", [(-1, 0), (0, -1), (3, 0), (0, 4)])
def test_shift_beyond_the_image(corner):
    with pytest.raises(ValueError, match="must be inside the image of 8 x 9"):
        rle.shift(encode(np.ones((5, 7), bool)), *corner, 8, 9)


def test_from_box():
    """A box contains the centres of its pixels; it is clipped to the image."""
    expected = np.zeros((6, 8), bool)
    expected[1:4, 2:5] = True
    for box in ([2, 1, 5, 4], [1.6, 0.6, 5.4, 4.4], [2.5, 1.5, 4.6, 3.6]):
        assert rle.from_box(np.array(box), 6, 8) == encode(expected)
    assert rle.from_box(np.array([-9, -9, 90, 90]), 6, 8) == encode(np.ones((6, 8)))
    for empty in ([3, 3, 3, 3], [5, 5, 2, 2], [20, 0, 30, 5]):
        assert rle.from_box(np.array(empty), 6, 8) == encode(np.zeros((6, 8)))


def filled(rings: list[np.ndarray], height: int, width: int) -> np.ndarray:
    polygons = [ring.ravel().tolist() for ring in rings]
    return rle_codec.decode(rle_codec.merge(rle_codec.frPyObjects(polygons, height, width)))


@pytest.mark.parametrize("mask", masks())
def test_polygons_restore_the_mask(mask):
    """Polygons fill holes: background without a path of touching or diagonal pixels outwards."""
    rings = rle.to_polygons(encode(mask))
    outside = np.pad(~mask, 1, constant_values=True)
    reached = np.zeros_like(outside)
    reached[0] = True
    for _ in range(outside.size):
        grown = reached.copy()
        for axis in (0, 1):
            grown |= np.roll(grown, 1, axis) | np.roll(grown, -1, axis)
        if (reached == (grown := grown & outside)).all():
            break
        reached = grown
    expected = ~reached[1:-1, 1:-1]
    if rings:
        np.testing.assert_array_equal(filled(rings, *mask.shape), expected)
    else:
        assert not mask.any()
    for ring in rings:
        assert ring.dtype == np.float32
        steps = np.roll(ring, -1, axis=0) - ring  # along one axis, then along the other
        assert ((steps == 0).sum(1) == 1).all()
        assert (ring[0] == ring[np.lexsort((ring[:, 0], ring[:, 1]))[0]]).all()
        x, y = ring.astype(float).T
        assert (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() > 0  # clockwise on the screen


def test_polygons_at_crossings():
    """Pixels that touch at a corner have separate polygons, in both directions."""
    for diagonal in (np.eye(2), np.eye(2)[::-1]):
        rings = rle.to_polygons(encode(diagonal))
        assert [len(ring) for ring in rings] == [4, 4]


@pytest.mark.parametrize("mask", masks())
def test_encode_and_decode(mask):
    encoded = encode(mask)
    assert rle.encode(mask) == encoded
    assert rle.area(encoded) == mask.sum()
    np.testing.assert_array_equal(rle.decode(encoded), mask)
    np.testing.assert_array_equal(rle.decode_all([encoded] * 2, *mask.shape), [mask, mask])
    counts = rle.parse_counts(encoded["counts"], *mask.shape)
    assert rle.compress(counts, np.array([0, len(counts)])) == [encoded["counts"]]
    segmentations = encoded, {**encoded, "counts": counts.tolist()}
    assert [rle.from_segmentation(s, *mask.shape) for s in segmentations] == [encoded] * 2
    assert rle.encode_values(3 * mask) == ({3: encoded} if mask.any() else {})


def test_set_operations():
    left, right = np.zeros((2, 4, 6), bool)
    left[:, :4], right[:, 2:] = True, True
    pair = [encode(left), encode(right)]
    assert rle.union(pair) == encode(left | right)
    assert rle.intersection(pair) == encode(left & right)
    np.testing.assert_allclose(rle.iou(pair, pair), [[1, 1 / 3], [1 / 3, 1]])
    np.testing.assert_allclose(rle.iou(pair, pair, [1, 0]), [[1, 1 / 3], [0.5, 1]])
    assert rle.iou([], pair).shape == (0, 2)
    assert rle.bounding_box(pair[1]) == (2, 0, 4, 4)


def test_no_other_file_calls_the_codecs():
    package = Path(rle.__file__).parents[len(rle.__name__.split(".")) - 2]
    assert package.name == "mrcnn"
    calls = re.compile(r"pycocotools(\.| import )mask|\b_?host\.rle_")
    callers = {path.name for path in package.rglob("*.py") if calls.search(path.read_text())}
    assert callers == {"rle.py"}
