"""Tiles of large images: windows, merged detections, and `predict(tiles=…)`."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mrcnn
from mrcnn.errors import UserError
from mrcnn.inference.inputs import InputImage
from mrcnn.inference.predictor import Predictor
from mrcnn.inference.results import Result
from mrcnn.inference.tiles import merge_tiles, tile_windows
from mrcnn.ops import rle
from tests.helpers import predicting, tiny


@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(1, 1), (100, 100), (101, 40), (350, 799), (1000, 1)])
def test_windows_cover_the_image(shape, overlap):
    """Tiles have one size, cover every pixel, and neighbours share the requested overlap."""
    seen = np.zeros(shape, int)
    tiles = tile_windows(*shape, 100, overlap)
    for x1, y1, x2, y2 in tiles:
        assert (y2 - y1, x2 - x1) == (min(100, shape[0]), min(100, shape[1]))
        seen[y1:y2, x1:x2] += 1
    assert seen.min() == 1
    for axis in (0, 1):
        starts = sorted({tile[axis] for tile in tiles})
        assert all(b - a <= 100 - 100 * overlap for a, b in itertools.pairwise(starts))
    if overlap == 0 and shape[0] % 100 == shape[1] % 100 == 0:
        assert seen.max() == 1


def result(image: np.ndarray, masks: list, scores, labels, with_masks: bool = True) -> Result:
    """Return a result with the tight boxes of the masks."""
    boxes = [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] for ys, xs in map(np.nonzero, masks)]
    return Result(
        image=image,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(scores, np.float32),
        labels=np.array(labels, np.int64),
        rles=[rle.encode(mask) for mask in masks] if with_masks else [],
        class_names=("cat", "dog"),
        category_ids=(3, 7),
    )


def objects(seed: int, height: int = 400, width: int = 500) -> list[np.ndarray]:
    """Return ellipses that do not overlap, from a few pixels to larger than the image."""
    rng = np.random.default_rng(seed)
    free, found = np.ones((height, width), bool), []
    ys, xs = np.mgrid[:height, :width] + 0.5
    for _ in range(60):
        a, b = np.exp(rng.uniform(np.log(2), np.log([250, 60])))
        angle, (cx, cy) = rng.uniform(0, np.pi), rng.uniform(0, (width, height))
        u = (xs - cx) * np.cos(angle) + (ys - cy) * np.sin(angle)
        v = (ys - cy) * np.cos(angle) - (xs - cx) * np.sin(angle)
        mask = (u / a) ** 2 + (v / b) ** 2 < 1
        if mask.sum() > 4 and not (mask & ~free).any():
            found.append(mask)
            free &= ~mask
    return found


def seen_in(tiles, masks, labels, image, damage=lambda part, _: part, with_masks=True) -> list:
    """Return the results of a perfect detector in each tile, in random order."""
    rng = np.random.default_rng(1)
    found = []
    for tile in tiles:
        x1, y1, x2, y2 = tile
        parts = [(damage(m[y1:y2, x1:x2], tile), k) for m, k in zip(masks, labels, strict=True)]
        parts = [part for part in parts if part[0].any()]
        rng.shuffle(parts)
        scores = np.sort(rng.uniform(0.5, 1, len(parts)))[::-1]
        pixels = image[y1:y2, x1:x2]
        cut, kinds = [part[0] for part in parts], [part[1] for part in parts]
        found.append(result(pixels, cut, scores, kinds, with_masks))
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("size", "overlap"), [(120, 0.25), (90, 0.4), (1000, 0.25)])
def test_perfect_parts_are_joined(seed, size, overlap):
    """Perfect masks of parts give every object once, exact to the pixel."""
    masks = objects(seed)
    assert len(masks) > 15
    image = np.zeros((*masks[0].shape, 3), np.uint8)
    labels = [i % 2 for i in range(len(masks))]
    tiles = tile_windows(*image.shape[:2], size, overlap)
    together = merge_tiles(
        InputImage(image, Path("a.png")), tiles, seen_in(tiles, masks, labels, image)
    )
    expected = {(rle.encode(m)["counts"], k) for m, k in zip(masks, labels, strict=True)}
    got = [(m["counts"], int(k)) for m, k in zip(together.rles, together.labels, strict=True)]
    assert len(got) == len(masks)
    assert set(got) == expected
    assert (np.diff(together.scores) <= 0).all()
    tight = result(image, [rle.decode(m) for m in together.rles], [], [])
    np.testing.assert_array_equal(together.boxes, tight.boxes)
    assert together.image is image
    assert together.path == Path("a.png")


@pytest.mark.parametrize("seed", range(4))
def test_poor_masks_at_tile_borders(seed):
    """Masks that lack 3 pixels at each border of a tile are merged without losses or doubles."""
    masks = [m for m in objects(seed) if m.sum() > 400]
    image = np.zeros((*masks[0].shape, 3), np.uint8)
    height, width = image.shape[:2]

    def damage(part, tile):
        x1, y1, x2, y2 = tile
        kept = part.copy()
        kept[:, : 3 * (x1 > 0)] = kept[: 3 * (y1 > 0)] = False
        if x2 < width:
            kept[:, -3:] = False
        if y2 < height:
            kept[-3:] = False
        # Slivers are not detected at all.
        return kept if kept.sum() > 100 else np.zeros_like(kept)

    tiles = tile_windows(height, width, 120, 0.25)
    labels = [0] * len(masks)
    together = merge_tiles(InputImage(image), tiles, seen_in(tiles, masks, labels, image, damage))
    assert len(together) == len(masks)
    overlaps = rle.iou(together.rles, [rle.encode(mask) for mask in masks])
    assert (overlaps.max(axis=0) > 0.9).all()
    assert sorted(overlaps.argmax(axis=1)) == list(range(len(masks)))


def test_cut_objects_of_another_class_are_dropped():
    """A cut object may get another class, as half a disc looks like a triangle."""
    rng = np.random.default_rng(0)
    masks = []
    for y, x in itertools.product(range(0, 380, 30), range(0, 480, 30)):
        mask = np.zeros((400, 500), bool)
        side = rng.integers(4, 20)
        mask[y : y + side, x : x + side] = True
        masks.append(mask)
    image = np.zeros((400, 500, 3), np.uint8)
    tiles = tile_windows(400, 500, 100, 0.4)
    found = []
    for x1, y1, x2, y2 in tiles:
        parts = [mask[y1:y2, x1:x2] for mask in masks]
        kinds = [int(p.sum() < m.sum()) for p, m in zip(parts, masks, strict=True)]
        parts, kinds = zip(
            *[(p, k) for p, k in zip(parts, kinds, strict=True) if p.any()], strict=True
        )
        found.append(result(image[y1:y2, x1:x2], parts, np.linspace(1, 0.5, len(parts)), kinds))
    assert any(1 in tile.labels for tile in found)
    together = merge_tiles(InputImage(image), tiles, found)
    assert set(together.labels) == {0}
    assert {m["counts"] for m in together.rles} == {rle.encode(mask)["counts"] for mask in masks}
    assert len(together) == len(masks)


def test_boxes_replace_missing_masks():
    mask = np.zeros((300, 300), bool)
    mask[20:40, 10:290] = True
    image = np.zeros((300, 300, 3), np.uint8)
    tiles = tile_windows(300, 300, 120, 0.25)
    together = merge_tiles(
        InputImage(image), tiles, seen_in(tiles, [mask], [1], image, with_masks=False)
    )
    assert together.boxes.tolist() == [[10, 20, 290, 40]]
    assert together.rles == []


def test_neighbours_stay_apart():
    """Two classes at one place, and two objects that touch at a tile border, stay separate."""
    masks = [np.zeros((100, 180), bool) for _ in range(4)]
    masks[0][20:40, 85:95] = masks[1][20:40, 85:95] = True
    masks[2][60:90, 60:90] = masks[3][60:90, 90:120] = True
    labels, image = [0, 1, 0, 0], np.zeros((100, 180, 3), np.uint8)
    tiles = tile_windows(100, 180, 100, 0.1)
    together = merge_tiles(InputImage(image), tiles, seen_in(tiles, masks, labels, image))
    assert sorted(map(tuple, together.boxes.tolist())) == [
        (60, 60, 90, 90), (85, 20, 95, 40), (85, 20, 95, 40), (90, 60, 120, 90)
    ]  # fmt: skip


def test_nothing_found():
    image = np.zeros((100, 180, 3), np.uint8)
    tiles = tile_windows(100, 180, 100, 0.1)
    together = merge_tiles(InputImage(image), tiles, seen_in(tiles, [], [], image))
    assert len(together) == 0
    assert together.boxes.shape == (0, 4)


def shifted_parts(model: Predictor, image: np.ndarray, size: int) -> set:
    """Return the objects of each tile of an image, predicted as a single image."""
    found = set()
    for x1, y1, x2, y2 in tile_windows(*image.shape[:2], size, 0):
        part = model.predict(image[y1:y2, x1:x2].copy(), 0)
        for box, mask, label in zip(part.boxes, part.rles, part.labels, strict=True):
            whole = rle.shift(mask, x1, y1, *image.shape[:2])
            place = (box + np.array([x1, y1, x1, y1])).astype(np.float32).round(2)
            found.add((*place.tolist(), int(label), whole["counts"]))
    return found


def entries(found: Result) -> set:
    places = found.boxes.round(2).tolist()
    return {
        (*box, int(label), mask["counts"])
        for box, label, mask in zip(places, found.labels, found.rles, strict=True)
    }


def test_tiles_without_overlap_equal_single_images(weights):
    image = tiny.noise(128, 192)
    model = mrcnn.load(weights)
    found = model.predict(image, 0, tiles=64, tile_overlap=0, batch_size=1)
    assert len(found) == 6 * 20
    assert entries(found) == shifted_parts(model, image, 64)
    assert np.shares_memory(found.image, image)
    small = model.predict(image, 0, tiles=500)
    assert entries(small) == entries(model.predict(image, 0))


@pytest.mark.parametrize("options", [{"tiles": 31}, {"tiles": 32, "tile_overlap": 1}])
def test_wrong_tiles(tmp_path, options):
    model = Predictor(tiny.model(), tiny.CONFIG)
    with pytest.raises(UserError, match=r"tiles must be at least 32 and tile_overlap in \[0, 1\)"):
        model.predict(np.zeros((9, 9, 3), np.uint8), **options)


def test_a_broken_file_among_tiled_ones(tmp_path):
    (tmp_path / "empty.png").touch()
    model = Predictor(tiny.model(), tiny.CONFIG)
    (failed,) = model.try_stream([tmp_path / "empty.png"], tiles=64)
    assert isinstance(failed.error, UserError)


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [0, 0.25])
def test_an_image_of_12000_x_12000(weights, tmp_path, overlap):
    """Memory stays below 2 GB; tiles without overlap give the objects of single images."""
    coarse = Image.fromarray(tiny.noise(400, 400))
    image = coarse.resize((12000, 12000), Image.Resampling.NEAREST)
    image.save(tmp_path / "large.png", compress_level=1)
    words = [tmp_path / "large.png", "--tiles", 1000, "--tile-overlap", overlap]
    assert predicting.peak_memory(weights, tmp_path / "out", *words) < 2e9
    with Image.open(tmp_path / "out" / "large.jpg") as overlay:
        assert overlay.size == (4096, 4096)
    if overlap == 0:
        annotations = predicting.read(tmp_path / "out")["annotations"]
        expected = shifted_parts(mrcnn.load(weights), np.asarray(image), 1000)
        assert len(annotations) == len(expected) == 144 * 20
        counts = {annotation["segmentation"]["counts"] for annotation in annotations}
        assert counts == {entry[-1] for entry in expected}
