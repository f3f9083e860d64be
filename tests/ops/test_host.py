"""Codecs and bounds of masks in C++, judged by pycocotools, bitmaps and clipped triangles."""

import json
import resource

import numpy as np
import pytest
import torch  # noqa: F401  brings the libraries that the module links to
from pycocotools import mask as judge

from mrcnn.ops import library

host = library.load("mrcnn_host")


def random_mask(rng: np.random.Generator) -> np.ndarray:
    """Blobs, noise, all, nothing: (h, w) uint8 in column order, as pycocotools wants it."""
    height, width = rng.integers(1, 60, 2)
    mask = rng.random((height, width)) < rng.choice([0, 0.02, 0.5, 0.98, 1])
    if rng.random() < 0.5:
        y, x = rng.integers(0, height), rng.integers(0, width)
        mask[y : y + rng.integers(1, 40), x : x + rng.integers(1, 40)] ^= True
    return np.asfortranarray(mask.astype(np.uint8))


def decode(counts: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width) bool, by writing the runs out."""
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T


def test_rle_text_equals_pycocotools_on_random_masks():
    rng = np.random.default_rng(0)
    for _ in range(500):
        mask = random_mask(rng)
        text = judge.encode(mask)["counts"]
        counts = host.rle_from_string(text.decode(), *mask.shape)
        assert counts.dtype == np.int32
        assert np.array_equal(decode(counts, *mask.shape), mask)
        assert host.rle_to_string(counts) == text.decode()


def test_rle_text_of_long_runs_equals_pycocotools():
    for counts in ([0, 2**30], [2**30 - 7, 7], [1, 2**29, 2**29 - 1], [1, 1, 1, 2**24 - 3]):
        height, width = 2, sum(counts) // 2
        text = judge.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        assert host.rle_to_string(np.array(counts)) == text["counts"].decode()
        assert host.rle_from_string(text["counts"], height, width).tolist() == counts


def test_rle_texts_of_many_masks_are_those_of_each():
    rng = np.random.default_rng(2)
    masks = [random_mask(rng) for _ in range(50)]
    texts = [judge.encode(mask)["counts"].decode() for mask in masks]
    runs = [host.rle_from_string(t, *mask.shape) for t, mask in zip(texts, masks, strict=True)]
    starts = np.cumsum([0, *map(len, runs)])
    assert host.rle_to_strings(np.concatenate(runs), starts) == texts
    assert host.rle_to_strings(np.zeros(0, np.int32), np.zeros(1, np.int64)) == []


BAD_RUNS = {
    "negative count": (np.array([3, -1], np.int32), np.array([0, 2]), ValueError, "negative"),
    "int64 counts": (np.array([3, 2**31]), np.array([0, 2]), TypeError, "incompatible"),
    "falling starts": (np.array([3], np.int32), np.array([0, 2, 1]), ValueError, "must rise from"),
    "short starts": (np.array([3], np.int32), np.array([0]), ValueError, "from 0 to 1"),
    "no starts": (np.array([3], np.int32), np.zeros(0, np.int64), ValueError, "from 0 to 1"),
}


@pytest.mark.parametrize("case", BAD_RUNS)
def test_bad_runs_of_many_masks_are_refused(case):
    counts, starts, error, message = BAD_RUNS[case]
    with pytest.raises(error, match=message):
        host.rle_to_strings(counts, starts)


def test_real_rle_round_trips_and_boxes_equal_pycocotools(shared_data):
    content = json.loads((shared_data / "nuclei" / "val.json").read_text())
    assert len(content["annotations"]) == 5849
    for annotation in content["annotations"]:
        rle = annotation["segmentation"]
        counts = host.rle_from_string(rle["counts"], *rle["size"])
        assert host.rle_to_string(counts) == rle["counts"]
        assert counts[1::2].sum() == judge.area(rle)
        x, y, w, h = judge.toBbox(rle)
        assert host.rle_box(counts, *rle["size"]) == (x, y, x + w, y + h)


BAD_TEXTS = {
    "empty": ("", 3, 4, "must sum to height \\* width = 12, got 0"),
    "too short": ("5", 3, 4, "must sum to height \\* width = 12, got 5"),
    "too long": ("<2", 3, 4, "got more by run 1 of 2"),
    "ends inside a run": ("P", 3, 4, "ends in the middle"),
    "character below": ("1/", 3, 4, "character 1 .* got code 47"),
    "character above": ("p", 3, 4, "character 0 .* got code 112"),
    "NUL": ("1\0", 3, 4, "character 1 .* got code 0"),
    "not ASCII": ("é", 3, 4, "character 0"),
    "endless run": ("P" * 40, 3, 4, "run 0 is too large"),
    "negative run": ("O", 3, 4, "run 0 must lie in .* got -1"),
    "huge run": ("oooooo?", 3, 4, "run 0 must lie in"),
    "negative size": ("<", -3, -4, "must not be negative"),
    "size beyond 2^31": ("<", 2**20, 2**20, "at most 2\\^31"),
}


@pytest.mark.parametrize("case", BAD_TEXTS)
def test_bad_rle_text_is_refused(case):
    text, height, width, message = BAD_TEXTS[case]
    with pytest.raises(ValueError, match=message):
        host.rle_from_string(text, height, width)


def test_bad_counts_are_refused():
    for counts, message in (([-1, 13], "run 0 must not be negative"), ([2**62] * 3, "got more")):
        with pytest.raises(ValueError, match=message):
            host.rle_from_counts(np.array(counts), 3, 4)
    with pytest.raises(ValueError, match="must lie in"):
        host.rle_to_string(np.array([2**31]))


def test_random_text_decodes_to_a_full_mask_or_is_refused():
    rng = np.random.default_rng(1)
    accepted = 0
    for _ in range(20_000):
        text = "".join(chr(c) for c in rng.integers(47, 113, rng.integers(0, 8)))
        height, width = (int(side) for side in rng.integers(0, 9, 2))
        try:
            counts = host.rle_from_string(text, height, width)
        except ValueError:
            continue
        accepted += 1
        assert counts.min(initial=0) >= 0
        assert counts.sum() == height * width
    assert accepted > 50


def bounds(mask: np.ndarray) -> list[float]:
    """xyxy of a bitmap, right and bottom exclusive; zeros when empty."""
    ys, xs = np.nonzero(mask)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if len(xs) else [0, 0, 0, 0]


def boxes_of(windows, *, counts=(), rings=(), frame=(50, 60)):
    """mask_boxes of instances that each have one list of counts, or one ring."""
    of_counts, of_rings = len(counts) > 0, len(rings) > 0
    instances = len(windows)
    return host.mask_boxes(
        np.concatenate([np.zeros((0, 2)), *rings]),
        np.cumsum([0, *map(len, rings)]),
        np.arange(instances + 1) * of_rings,
        np.concatenate([np.zeros(0, np.int32), *counts]),
        np.cumsum([0, *map(len, counts)]) if of_counts else np.zeros(instances + 1, int),
        np.broadcast_to(frame, (instances, 2)),
        np.array(windows, float),
    )


def test_boxes_of_runs_in_windows_equal_bitmaps():
    rng = np.random.default_rng(2)
    for _ in range(500):
        mask = random_mask(rng)
        height, width = mask.shape
        counts = host.rle_from_string(judge.encode(mask)["counts"], height, width)
        x1, x2 = np.sort(rng.integers(-2, width + 3, 2))
        y1, y2 = np.sort(rng.integers(-2, height + 3, 2))
        shown = np.zeros_like(mask)
        shown[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] = 1
        actual = boxes_of([[x1, y1, x2, y2]], counts=[counts], frame=mask.shape)
        assert actual.tolist() == [bounds(mask & shown)]


def clipped(polygon: np.ndarray, window: tuple[float, float, float, float]) -> np.ndarray:
    """A convex polygon cut to a window, one border after the other (Sutherland-Hodgman)."""
    for axis, sign, limit in (
        (0, 1, window[0]),
        (0, -1, -window[2]),
        (1, 1, window[1]),
        (1, -1, -window[3]),
    ):
        out = []
        for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            da, db = sign * a[axis] - limit, sign * b[axis] - limit
            if da >= 0:
                out.append(a)
            if da * db < 0:
                out.append(a + (b - a) * da / (da - db))
        polygon = np.array(out).reshape(-1, 2)
    return polygon


def test_boxes_of_rings_in_windows_equal_clipped_triangles():
    """A ring that is star-shaped around a point is the union of its triangles with that point.

    Spikes are cut by the box of the whole ring.
    """
    rng = np.random.default_rng(3)
    cut = 0
    for _ in range(2000):
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(5, 30)))
        if np.diff(angles, append=angles[0] + 2 * np.pi).max() > 3:
            continue  # the centre may lie outside
        centre = rng.uniform(0, 60, 2)
        reach = rng.uniform(1, 30, (len(angles), 1))
        ring = centre + reach * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        (x1, x2), (y1, y2) = np.sort(rng.uniform(0, 60, (2, 2)))
        parts = [
            clipped(np.array([centre, a, b]), (x1, y1, x2, y2))
            for a, b in zip(ring, np.roll(ring, -1, axis=0), strict=True)
        ]
        points = np.concatenate(parts)
        expected = np.array([*points.min(0), *points.max(0)] if len(points) else [0, 0, 0, 0])
        whole = boxes_of([[-100, -100, 200, 200]], rings=[ring], frame=(100, 100))[0]
        cut += not np.allclose(whole, [*ring.min(0), *ring.max(0)])
        expected = np.array([*np.maximum(expected, whole)[:2], *np.minimum(expected, whole)[2:]])
        if (expected[2:] <= expected[:2]).any():
            expected[:] = 0
        actual = boxes_of([[x1, y1, x2, y2]], rings=[ring], frame=(100, 100))
        np.testing.assert_allclose(actual[0], expected, rtol=0, atol=1e-9)
    assert cut < 500  # most rings have no spikes


U_SHAPE = [[-9, 0], [20, 0], [20, 2], [-5, 2], [-5, 28], [20, 28], [20, 30], [-9, 30]]
SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10]]
RINGS = {  # ring, window, bounds
    "window inside the ring": (SQUARE, [2, 3, 4, 5], [2, 3, 4, 5]),
    "ring equal to the window": (SQUARE, [0, 0, 10, 10], [0, 0, 10, 10]),
    "ring covers half the window": (SQUARE, [0, 5, 10, 15], [0, 5, 10, 10]),
    "ring beside the window": (SQUARE, [10, 0, 20, 10], [0, 0, 0, 0]),
    "ring far away": (SQUARE, [30, 30, 40, 40], [0, 0, 0, 0]),
    "corner only": (SQUARE, [9, 9, 20, 20], [9, 9, 10, 10]),
    "no part of the arms": (U_SHAPE, [0, 5, 20, 25], [0, 0, 0, 0]),
    "one arm": (U_SHAPE, [0, 1, 20, 25], [0, 1, 20, 2]),
    "fractions stay exact": (
        [[1.1, 2.2], [3.3, 2.2], [2.2, 4.4]],
        [0, 0, 9, 9],
        [1.1, 2.2, 3.3, 4.4],
    ),
    "line": ([[1, 1], [5, 1], [3, 1]], [0, 0, 9, 9], [0, 0, 0, 0]),
}


@pytest.mark.parametrize("case", RINGS)
def test_named_rings(case):
    ring, window, expected = RINGS[case]
    for turned in (ring, ring[::-1]):
        assert boxes_of([window], rings=[np.array(turned, float)]).tolist() == [expected]


def test_wrong_offsets_are_refused():
    arguments = [
        np.zeros((3, 2)),
        [0, 3],
        [0, 1],
        np.zeros(0, np.int32),
        [0, 0],
        np.array([[9, 9]]),
        np.zeros((1, 4)),
    ]
    host.mask_boxes(*arguments)
    for position, value, name in (
        (1, [0, 4], "ring_start"),
        (1, [0, 2], "ring_start"),
        (2, [0, 2], "instance_ring"),
        (2, [1, 1], "instance_ring"),
        (4, [0, 5], "instance_count"),
        (4, [0], "instance_count"),
        (6, np.zeros((2, 4)), "windows"),
    ):
        wrong = [*arguments]
        wrong[position] = value
        with pytest.raises(ValueError, match=name):
            host.mask_boxes(*wrong)


def test_polygons_are_drawn_as_by_coco():
    """Fractions and whole numbers, in and out of the image, with crossings, spikes and dots."""
    rng = np.random.default_rng(4)
    for _ in range(2000):
        height, width = rng.integers(1, 200, 2).tolist()
        rings = []
        for _ in range(rng.integers(1, 4)):
            spread = rng.choice([0.01, 0.3, 1, 3])
            ring = rng.uniform(0, 1, (rng.integers(3, 12), 2)) * spread + rng.uniform(-0.5, 1, 2)
            ring *= (width, height)
            rings.append(ring.round() if rng.random() < 0.3 else ring)
        expected = judge.merge(
            judge.frPyObjects([r.ravel().tolist() for r in rings], height, width)
        )
        starts = np.cumsum([0, *map(len, rings)])
        edges = host.polygon_edges(np.concatenate(rings), starts, height, width)
        actual = np.zeros(height * width + 1, np.uint8)
        actual[edges] = 1
        actual = (actual.cumsum()[:-1] % 2).reshape(width, height).T
        np.testing.assert_array_equal(actual, judge.decode(expected))


def test_a_long_outline_takes_no_more_memory_than_the_image():
    """COCO's own routine takes 40 bytes per pixel of the outline, and overflows at 2^31 / 5."""
    ring = np.array([[0, 0], [300, 300]] * 50_000 + [[0, 300]], float)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    edges = host.polygon_edges(ring, [0, len(ring)], 300, 300)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB
    assert len(edges) == 600
