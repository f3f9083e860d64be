"""Which image comes when: a function of the seed, the step and the data set, and of nothing else.

N images; B images a batch.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mrcnn.data.coco import CocoDataset

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

VIEW, LOSSES, ORDER, MIX = range(4)  # what random numbers are for; each has its own

_BITS = 32  # repeats are counted in units of 2^-32, so that their sums over epochs are exact


class Key(NamedTuple):
    """One sample of a run."""

    epoch: int
    image: int  # its position in the data set
    repeat: int = 0  # how often the epoch gave a place to this image before


def random_numbers(purpose: int, *key: int) -> np.random.SeedSequence:
    """The start of random numbers that depend on `purpose` and `key` (whole numbers >= 0) alone."""
    return np.random.SeedSequence(key, spawn_key=(purpose,))


def orientations(dataset: CocoDataset) -> Ints:
    """(N,): 0 for images at least as wide as high, 1 for the others."""
    higher: Ints = (dataset.sizes[:, 0] > dataset.sizes[:, 1]).long().numpy()
    return higher


def image_repeats(dataset: CocoDataset, threshold: float) -> Floats:
    """(N,): how often an image comes in an epoch, on average, so that rare classes are seen more.

    A class that a part f of the images shows asks for sqrt(threshold / f), at least 1; an image
    comes as often as the rarest of its classes asks for (Gupta et al., LVIS, 2019).
    Crowd regions do not count.
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
    """What the batches of steps `first_step` up to `steps` show.

    Every epoch shows every image once, in an order that follows from (seed, epoch). All batches
    are full: what an epoch leaves over comes first in the next. The cost of starting does not
    depend on `first_step`.

    Args:
        images: N of the data set, at least 1.
        groups: (N,); a batch holds images of one group, and what is left over of a group waits for
            the next batch of that group.
        repeats: (N,), at least 1 each; an epoch shows image i repeats[i] times on average, rounded
            down or up in a way that follows from (seed, epoch).
    """
    groups = np.zeros(images, np.int64) if groups is None else groups
    repeats = np.ones(images) if repeats is None else repeats
    rows = [
        _Row(np.flatnonzero(groups == group), repeats[groups == group], seed, int(group))
        for group in np.unique(groups)
    ]

    def batches_before(epoch: int) -> list[int]:
        """Of each group; a batch belongs to the epoch of its last image."""
        return [row.start(epoch) // batch_size for row in rows]

    # An epoch shows at least one image, so this many epochs are enough.
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
                yield [rows[row].key(place) for place in range(first, first + batch_size)]
            numbers[row] += 1
            step += 1
        epoch += 1


class _Row:
    """The images of one group, epoch after epoch, in one endless row of places.

    An image takes `repeats` units of a line on which the epochs lie end to end, and has a place
    for every whole number in its stretch: as many as its repeats, rounded down or up. How many
    places come before an epoch is known without drawing any.
    """

    def __init__(self, images: Ints, repeats: Floats, seed: int, group: int) -> None:
        self.images, self.seed, self.group = images, seed, group
        self.units = np.rint(repeats * 2.0**_BITS).astype(np.int64)
        self.total = int(self.units.sum())  # of an epoch
        start = np.random.default_rng(random_numbers(ORDER, seed, group))
        self.phase = int(start.integers(2**_BITS))  # where on the line the first epoch begins
        self.drawn = -1  # the epoch whose images are these
        self.shown = self.repeated = np.zeros(0, np.int64)

    def start(self, epoch: int) -> int:
        """The first place of an epoch."""
        return (epoch * self.total + self.phase) >> _BITS

    def key(self, place: int) -> Key:
        """What stands at a place."""
        epoch = (((place + 1) << _BITS) - 1 - self.phase) // self.total  # the last to start by then
        if epoch != self.drawn:
            self._draw(epoch)
        at = place - self.start(epoch)
        return Key(epoch, int(self.shown[at]), int(self.repeated[at]))

    def _draw(self, epoch: int) -> None:
        rng = np.random.default_rng(random_numbers(ORDER, self.seed, self.group, 1 + epoch))
        order = rng.permutation(len(self.images))
        begin = (epoch * self.total + self.phase) % 2**_BITS
        counts = np.diff((begin + np.cumsum(self.units[order])) >> _BITS, prepend=0)
        before = np.repeat(np.cumsum(counts) - counts, counts)
        mixed = rng.permutation(len(before))  # places of one image lie side by side until here
        self.shown = np.repeat(self.images[order], counts)[mixed]
        self.repeated = (np.arange(len(before)) - before)[mixed]
        self.drawn = epoch
