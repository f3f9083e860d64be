"""Order of training images: it depends only on the seed, the step and the data set.

N images, B images per batch.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mrcnn.data.coco.read import CocoDataset

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

VIEW, LOSSES, ORDER, MIX = range(4)  # purposes of random numbers; each has its own sequence

_BITS = 32  # repeats are multiples of 2^-32, so that their sums over epochs are exact


class Key(NamedTuple):
    """Identity of one training image within a run."""

    epoch: int
    image: int  # position in the data set
    repeat: int = 0  # how often the epoch has already shown this image


def random_numbers(purpose: int, *key: int) -> np.random.SeedSequence:
    """Return a seed that depends only on `purpose` and `key` (integers >= 0)."""
    return np.random.SeedSequence(key, spawn_key=(purpose,))


def image_repeats(dataset: CocoDataset, threshold: float) -> Floats:
    """Compute the repeats per image and epoch for repeat-factor sampling, (N,).

    A class that is in a fraction f of the images has the factor max(1, sqrt(threshold / f)). An
    image has the largest factor of its classes (Gupta et al., LVIS, 2019). Crowd regions do not
    count.
    """
    images = torch.repeat_interleave(torch.arange(len(dataset)), dataset.start.diff())
    pairs = torch.stack([images, dataset.labels], dim=1)[~dataset.crowd]
    image, label = np.unique(pairs.numpy(), axis=0).T
    frequency = np.bincount(label, minlength=len(dataset.class_names)) / max(len(dataset), 1)
    repeats = np.ones(len(dataset))
    np.maximum.at(repeats, image, np.sqrt(threshold / frequency[label]))
    return repeats


def batch_keys(
    images: int,
    batch_size: int,
    seed: int,
    first_step: int,
    steps: int,
    *,
    groups: Ints | None = None,
    repeats: Floats | None = None,
) -> Iterator[list[Key]]:
    """Yield the keys of the batches of steps `first_step` up to `steps`, B keys each.

    Every epoch shows each of the N images once, in an order that depends on (seed, epoch). All
    batches are full: the remainder of an epoch comes first in the next one. The cost of starting
    does not depend on `first_step`.

    With `groups` (N,), a batch contains images of one group; the remainder of a group waits for the
    next batch of that group. With `repeats` (N,), at least 1 each, an epoch shows image i
    repeats[i] times on average, rounded down or up depending on (seed, epoch).
    """
    groups = np.zeros(images, np.int64) if groups is None else groups
    repeats = np.ones(images) if repeats is None else repeats
    rows = [
        _Row(np.flatnonzero(groups == group), repeats[groups == group], seed, int(group))
        for group in np.unique(groups)
    ]

    def batches_before(epoch: int) -> list[int]:
        """Count the batches of each group; a batch belongs to the epoch of its last image."""
        return [row.start(epoch) // batch_size for row in rows]

    # An epoch shows at least one image, so that this many epochs suffice.
    epochs = range((first_step + 1) * batch_size + 1)
    epoch = bisect_right(epochs, first_step, key=lambda e: sum(batches_before(e))) - 1
    step = sum(batches_before(epoch))
    while step < steps:
        numbers = np.array(batches_before(epoch))
        counts = np.array(batches_before(epoch + 1)) - numbers
        mix = np.random.default_rng(random_numbers(MIX, seed, epoch))
        for row in mix.permutation(np.repeat(np.arange(len(rows)), counts)).tolist():
            if first_step <= step < steps:
                first = int(numbers[row]) * batch_size
                yield [rows[row].key(position) for position in range(first, first + batch_size)]
            numbers[row] += 1
            step += 1
        epoch += 1


class _Row:
    """The images of one group, epoch after epoch, as one endless sequence of positions.

    The epochs follow each other on a number line, where an image takes an interval of length
    `repeats`. It gets a position for every integer in its interval: its repeats, rounded down or
    up. Thus the number of positions before an epoch is known without drawing any.
    """

    def __init__(self, images: Ints, repeats: Floats, seed: int, group: int) -> None:
        self.images, self.seed, self.group = images, seed, group
        self.units = np.rint(repeats * 2.0**_BITS).astype(np.int64)
        self.total = int(self.units.sum())  # per epoch
        start = np.random.default_rng(random_numbers(ORDER, seed, group))
        self.phase = int(start.integers(2**_BITS))  # start of the first epoch on the line
        self.drawn = -1  # epoch of `order` and `repeated`
        self.order = self.repeated = np.zeros(0, np.int64)

    def start(self, epoch: int) -> int:
        """Return the first position of an epoch."""
        return (epoch * self.total + self.phase) >> _BITS

    def key(self, position: int) -> Key:
        """Return the key at a position."""
        # The last epoch that starts at or before the position.
        epoch = (((position + 1) << _BITS) - 1 - self.phase) // self.total
        if epoch != self.drawn:
            self._draw(epoch)
        index = position - self.start(epoch)
        return Key(epoch, int(self.order[index]), int(self.repeated[index]))

    def _draw(self, epoch: int) -> None:
        rng = np.random.default_rng(random_numbers(ORDER, self.seed, self.group, 1 + epoch))
        order = rng.permutation(len(self.images))
        begin = (epoch * self.total + self.phase) % 2**_BITS
        counts = np.diff((begin + np.cumsum(self.units[order])) >> _BITS, prepend=0)
        before = np.repeat(np.cumsum(counts) - counts, counts)
        mixed = rng.permutation(len(before))  # until here, positions of one image are adjacent
        self.order = np.repeat(self.images[order], counts)[mixed]
        self.repeated = (np.arange(len(before)) - before)[mixed]
        self.drawn = epoch
