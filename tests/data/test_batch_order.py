"""Order of images: none is lost, and a run can start at any step."""

import time
from collections import Counter

import numpy as np
import pytest
import torch

from mrcnn.data.loading.batch_order import Key, batch_keys, image_repeats

GROUPS = np.array([0] * 20 + [1] * 7 + [2])
REPEATS = np.array([1.0, 1.0, 1.25, 2.5, 3.0] + [1.0] * 22 + [1.7])


def keys(first: int, last: int, batch_size: int = 3, seed: int = 1, **options) -> list[list[Key]]:
    return list(batch_keys(28, batch_size, seed, first, last, **options))


def test_every_epoch_shows_every_image_once():
    shown = [key for batch in batch_keys(7, 3, seed=1, first_step=0, steps=14) for key in batch]
    assert len(shown) == 42
    for epoch in range(6):
        part = shown[7 * epoch : 7 * epoch + 7]
        assert sorted(part) == [(epoch, image, 0) for image in range(7)]
    assert [key.image for key in shown[:7]] != [key.image for key in shown[7:14]]


OPTIONS = {
    "plain": {},
    "groups": {"groups": GROUPS},
    "repeats": {"repeats": REPEATS},
    "groups and repeats": {"groups": GROUPS, "repeats": REPEATS},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("batch_size", [1, 3, 16, 40])
def test_a_run_can_start_at_any_step(name, batch_size):
    whole = keys(0, 40, batch_size, **OPTIONS[name])
    assert len(whole) == 40
    assert all(len(batch) == batch_size for batch in whole)
    for first in (1, 7, 8, 9, 39):
        assert keys(first, 40, batch_size, **OPTIONS[name]) == whole[first:]
    assert keys(40, 40, batch_size, **OPTIONS[name]) == []
    assert keys(0, 40, batch_size, seed=2, **OPTIONS[name]) != whole


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_groups_show_every_image_and_remainders_come_first(batch_size):
    batches = keys(0, 400, batch_size, groups=GROUPS)
    assert all(len({int(GROUPS[key.image]) for key in batch}) == 1 for batch in batches)
    for group in range(3):
        members = np.flatnonzero(group == GROUPS).tolist()
        row = [key for batch in batches for key in batch if key.image in members]
        for epoch in range(len(row) // len(members)):
            part = row[epoch * len(members) : (epoch + 1) * len(members)]
            assert sorted(part) == [(epoch, image, 0) for image in members]
    # After the batches of some epochs no group waits with a whole batch.
    for epochs in (1, 2, 5):
        sizes = [sum(group == GROUPS) * epochs // batch_size for group in range(3)]
        first = Counter(int(GROUPS[batch[0].image]) for batch in batches[: sum(sizes)])
        assert [first[group] for group in range(3)] == sizes


def test_groups_are_mixed():
    first = [int(GROUPS[batch[0].image]) for batch in keys(0, 28, 1, groups=GROUPS)]
    assert sorted(first) == GROUPS.tolist() != first


@pytest.mark.parametrize("options", [{}, {"groups": GROUPS}])
def test_repeats_are_kept_every_epoch_up_to_rounding_and_exactly_in_the_long_run(options):
    epochs = 400
    steps = int(REPEATS.sum() * epochs) + 10
    shown = [key for batch in keys(0, steps, 1, repeats=REPEATS, **options) for key in batch]
    shown = [key for key in shown if key.epoch < epochs]
    assert len(set(shown)) == len(shown)  # every repeat has a number, and so a view, of its own
    counts = np.zeros((epochs, 28))
    np.add.at(counts, ([key.epoch for key in shown], [key.image for key in shown]), 1)
    assert (counts >= np.floor(REPEATS)).all()
    assert (counts <= np.ceil(REPEATS)).all()
    # Rounded by a coin each epoch, means would lie within 5 standard deviations of at most 0.5.
    assert np.abs(counts.mean(0) - REPEATS).max() < 5 * 0.5 / epochs**0.5


def test_repeats_follow_the_rarest_class_of_an_image():
    """Class 0 is in all 8 images, class 1 in two, class 2 in one, and as a crowd in another."""
    rows = [[0], [0, 1, 1], [0], [0, 2], [0, 1], [0], [0], [0, 2]]

    class Labelled:
        class_names = ("a", "b", "c", "nowhere")
        start = torch.tensor(np.cumsum([0, *map(len, rows)]))
        labels = torch.tensor([label for row in rows for label in row])
        crowd = torch.tensor([False] * 12 + [True])

        def __len__(self) -> int:
            return 8

    dataset = Labelled()
    repeats = image_repeats(dataset, threshold=0.5)
    assert np.allclose(repeats, [1, 2**0.5, 1, 2, 2**0.5, 1, 1, 1])
    assert (image_repeats(dataset, threshold=0.0) == 1).all()


def test_a_late_step_of_a_long_run_starts_at_once():
    groups, repeats = np.arange(100_000) % 2, np.full(100_000, 1.3)
    begin = time.perf_counter()
    next(batch_keys(100_000, 16, 0, 10**9, 10**9 + 1, groups=groups, repeats=repeats))
    next(batch_keys(1, 16, 0, 10**9, 10**9 + 1))
    assert time.perf_counter() - begin < 1
