"""Random run lengths and polygons, sound and broken, and what our code must make of them.

What is sound gives the bits of pycocotools; what is broken is refused. pycocotools is never given
what is broken, since it reads and writes beyond its memory then.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco

from mrcnn.ops import library
from mrcnn.ops.mask_targets import mask_targets
from tests.helpers.masks import masks_of
from tests.ops.test_host import decode, random_mask
from tests.ops.test_mask_targets import draw_by_coco, random_rings

host = library.load("mrcnn_host")

Rng = np.random.Generator
BROKEN = (np.nan, np.inf, -np.inf, 1e300, -1e300, 1e30, 1e9, -1e9, 5e-324, -0.0)
WHOLE = (-1, 0, 1, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, -(2**63))
SECONDS = 2.0  # of processor time that an input may take


def chance(rng: Rng, probability: float) -> bool:
    return bool(rng.random() < probability)


def pick(rng: Rng, options: tuple[Any, ...]) -> Any:
    return options[rng.integers(len(options))]


def random_size(rng: Rng, size: tuple[int, int]) -> tuple[int, int]:
    """Mostly the given one."""
    return (pick(rng, (*WHOLE, 5)), pick(rng, (*WHOLE, 5))) if chance(rng, 0.1) else size


def is_frame(height: int, width: int) -> bool:
    return height >= 0 and width >= 0 and height * width < 2**31


def broken_text(rng: Rng, text: bytes) -> bytes:
    """Cut, with lost, repeated and other characters."""
    changed = bytearray(text)
    for _ in range(rng.integers(1, 4)):
        at, kind = int(rng.integers(len(changed) + 1)), rng.integers(5)
        if kind == 0:
            del changed[at:]
        elif kind == 1:
            del changed[at : at + 1]
        elif kind == 2:
            changed[at:at] = changed[at : at + int(rng.integers(1, 9))]
        elif kind == 3:
            changed[at : at + 1] = bytes([rng.integers(256)])
        else:
            changed[at:at] = b"P" * int(rng.integers(1, 12)) + b"0"
    return bytes(changed)


def runs_of(text: bytes, height: int, width: int) -> tuple[list[int], int] | None:
    """The runs of a text and the most characters of one; None where they fill no such image."""
    if not is_frame(height, width):
        return None
    runs: list[int] = []
    at = longest = 0
    while at < len(text):
        value = groups = 0
        more = 32
        while more:
            if at == len(text) or groups == 7 or not 48 <= text[at] <= 111:
                return None
            code = text[at] - 48
            value |= (code & 31) << 5 * groups
            more, at, groups = code & 32, at + 1, groups + 1
        if code & 16:
            value -= 1 << 5 * groups
        value += runs[-2] if len(runs) > 2 else 0
        if not 0 <= value <= height * width:
            return None
        runs.append(value)
        longest = max(longest, groups)
    return (runs, longest) if sum(runs) == height * width else None


def text_of(runs: list[int]) -> str:
    """As pycocotools writes runs, of whatever image.

    It has room for 6 characters a run, with the end of the text: longer ones are written here.
    """
    if max(runs, default=0) < 2**24:  # 5 characters each
        return coco.frPyObjects({"size": [1, 1], "counts": runs}, 1, 1)["counts"].decode()
    text = ""
    for i, run in enumerate(runs):
        value = run - (runs[i - 2] if i > 2 else 0)
        while not -16 <= value < 16:
            text += chr(48 + (value & 31) + 32)
            value >>= 5
        text += chr(48 + (value & 31))
    return text


def check_text(rng: Rng) -> bool:
    mask = random_mask(rng)
    sound_text = coco.encode(mask)["counts"]
    text = sound_text if chance(rng, 0.3) else broken_text(rng, sound_text)
    height, width = random_size(rng, mask.shape)
    expected = runs_of(text, height, width)
    try:
        counts = host.rle_from_string(text, height, width)
    except ValueError:
        assert expected is None
        return False
    assert expected is not None
    runs, longest = expected
    assert counts.tolist() == runs
    assert host.rle_to_string(counts) == text_of(runs)
    rle = {"size": [height, width], "counts": text}
    if height * width and longest < 7:  # from there on its shifts overflow
        assert np.array_equal(decode(counts, height, width), coco.decode(rle))
    if text == sound_text and (height, width) == mask.shape:
        x, y, w, h = coco.toBbox(rle)
        assert host.rle_box(counts, height, width) == (x, y, x + w, y + h)
    return True


def check_counts(rng: Rng) -> bool:
    mask = random_mask(rng)
    height, width = random_size(rng, mask.shape)
    found = runs_of(coco.encode(mask)["counts"], *mask.shape)
    assert found is not None
    counts = found[0]
    if chance(rng, 0.5):
        at = rng.integers(len(counts))
        counts[at : at + rng.integers(2)] = [pick(rng, WHOLE)] * int(rng.integers(2))
    sound = is_frame(height, width) and min(counts, default=0) >= 0
    sound = sound and sum(counts) == height * width
    try:
        runs = host.rle_from_counts(np.array(counts, np.int64), height, width)
    except ValueError:
        assert not sound
        return False
    assert sound
    assert runs.tolist() == counts
    assert host.rle_to_string(runs) == text_of(counts)
    return True


def check_many(rng: Rng) -> bool:
    lengths = rng.integers(0, 9, rng.integers(0, 6))
    counts = rng.integers(0, pick(rng, (3, 100, 2**31)), lengths.sum(), dtype=np.int64)
    starts = np.cumsum([0, *lengths])
    if chance(rng, 0.3):
        starts[rng.integers(len(starts))] = pick(rng, WHOLE)
    if chance(rng, 0.1) and len(counts):
        counts[rng.integers(len(counts))] = pick(rng, (-1, -(2**31)))
    sound = starts[0] == 0 and starts[-1] == len(counts) and min(counts, default=0) >= 0
    sound = sound and all(a <= b for a, b in pairwise(starts))
    try:
        texts = host.rle_to_strings(counts.astype(np.int32), starts)
    except ValueError:
        assert not sound
        return False
    assert sound
    parts = [counts[a:b].tolist() for a, b in pairwise(starts)]
    assert texts == [text_of(part) for part in parts]
    return True


def damaged(rng: Rng, rings: list[np.ndarray]) -> list[np.ndarray]:
    """Mostly the same; else with fewer corners, or corners nowhere."""
    kind = rng.random()
    if kind < 0.1:
        return [ring[: rng.integers(3)] for ring in rings]
    for ring in rings if kind < 0.4 else []:
        hit = rng.random(ring.shape) < pick(rng, (0.02, 0.5))
        ring[hit] = rng.choice(BROKEN, hit.sum())
    return rings


def check_bounds(rng: Rng) -> bool:
    """Answers lie in their window, broken offsets are refused."""
    rings = damaged(rng, random_rings(rng))
    window = rng.uniform(-50, 350, 4) if chance(rng, 0.9) else rng.choice(BROKEN, 4)
    corners = np.concatenate([np.zeros((0, 2)), *rings])
    offsets = [np.cumsum([0, *map(len, rings)]), np.array([0, len(rings)]), np.array([0, 0])]
    if broken := chance(rng, 0.3):
        part = offsets[rng.integers(3)]
        at = int(pick(rng, (0, len(part) - 1)))
        value = pick(rng, WHOLE)
        broken = value != part[at]
        part[at] = value
    ring_start, instance_ring, instance_count = offsets
    frame = np.array([[300, 300]])
    try:
        box = host.mask_boxes(
            corners, ring_start, instance_ring, np.zeros(0, np.int32), instance_count, frame,
            window[None],
        )[0]  # fmt: skip
    except ValueError:
        assert broken
        return False
    assert not broken
    if np.isfinite(corners).all() and np.isfinite(window).all() and box.any():
        assert (box[:2] >= window[:2]).all()
        assert (box[2:] <= window[2:]).all()
        assert (box[:2] < box[2:]).all()
    return True


def check_drawing(rng: Rng) -> bool:
    """Polygons whose corners lie so far out that COCO's integers overflow have no drawing."""
    rings, size = random_rings(rng), int(pick(rng, (1, 7, 14, 28, 56, 65, 112, 128)))
    corners = np.concatenate(rings)
    spread = rng.normal(0, 0.3, 4) * np.tile(np.ptp(corners, axis=0), 2)
    box = torch.tensor(np.concatenate([corners.min(0), corners.max(0)]) + spread).float()
    box[2:] = torch.maximum(box[2:], box[:2] + 0.01)
    rings = damaged(rng, rings)
    drawn = mask_targets(masks_of([rings]), box[None], torch.tensor([0]), size)[0]
    assert ((drawn == 0) | (drawn == 1)).all()
    low, extent = box[:2].double().numpy(), (box[2:] - box[:2]).double().clamp(min=0.1).numpy()
    places = [5 * (ring - low) * size / extent for ring in rings]
    if not all(len(ring) > 2 and (np.abs(place) < 1e5).all() for ring, place in
               zip(rings, places, strict=True)):  # fmt: skip
        return False
    assert torch.equal(drawn, draw_by_coco(rings, box, size))
    return True


KINDS: dict[str, Callable[[Rng], bool]] = {
    "texts": check_text,
    "counts": check_counts,
    "many texts": check_many,
    "bounds": check_bounds,
    "drawings": check_drawing,
}


def check_inputs(seeds: range) -> Counter[tuple[str, bool]]:
    """Check one input of each kind per seed.

    Returns:
        How many of each kind were sound, and how many were not.
    """
    found: Counter[tuple[str, bool]] = Counter()
    for seed in seeds:
        for kind, check in KINDS.items():
            began = time.process_time()
            try:
                found[kind, check(np.random.default_rng(seed))] += 1
            except AssertionError as error:
                raise AssertionError(f"{kind}, seed {seed}: {error}") from error
            seconds = time.process_time() - began
            assert seconds < SECONDS, f"{kind}, seed {seed}: took {seconds:.1f} s"
    return found
