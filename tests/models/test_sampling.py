"""What the losses draw: limited, without replacement, uniform, and by seed the same everywhere."""

import pytest
import torch

from mrcnn.models.sampling import draw_samples, random_keys


def test_draws_are_limited_and_without_replacement():
    torch.manual_seed(0)
    role = torch.zeros(3, 100, dtype=torch.int8)
    role[0, :40] = 1  # more positives than wanted
    role[1, :5] = 1  # fewer
    role[2] = -1
    role[2, :7] = 0  # too few of anything
    index, drawn = draw_samples(role, 20, 0.25)
    assert (drawn == 1).sum(1).tolist() == [5, 5, 0]
    assert (drawn == 0).sum(1).tolist() == [15, 15, 7]
    for n in range(3):
        used = index[n][drawn[n] >= 0]
        assert len(used.unique()) == len(used)
        assert (role[n][used] == drawn[n][drawn[n] >= 0]).all()
        assert drawn[n].tolist() == sorted(drawn[n].tolist(), reverse=True)  # positives first
    assert index.shape == (3, 20)


@pytest.mark.parametrize("seeds", [None, torch.arange(2000), torch.arange(2000) << 40])
def test_draws_are_uniform(seeds):
    torch.manual_seed(0)
    role = torch.zeros(2000, 10, dtype=torch.int8)
    index, _ = draw_samples(role, 5, 0.5, seeds)
    share = torch.bincount(index.flatten(), minlength=10) / 2000
    # Binomial: the standard deviation of each share is sqrt(0.25 / 2000).
    assert (share - 0.5).abs().max() < 5 * (0.25 / 2000) ** 0.5


def test_seeded_draws_depend_on_their_image_alone():
    role = (torch.rand(4, 500) < 0.3).to(torch.int8)
    seeds = torch.tensor([3, 2**62 + 1, 3, 0])
    index, drawn = draw_samples(role, 64, 0.5, seeds)
    for n in range(4):
        alone = draw_samples(role[n : n + 1], 64, 0.5, seeds[n : n + 1])
        assert torch.equal(alone[0][0], index[n])
        assert torch.equal(alone[1][0], drawn[n])
    state = torch.get_rng_state()
    draw_samples(role, 64, 0.5, seeds)
    assert torch.equal(torch.get_rng_state(), state)


def test_keys_look_random():
    """Each bound is five standard deviations of the statistic for independent uniform numbers."""
    seeds = torch.tensor([0, 1, 2, 2**32, 2**62 + 7, 123456789])
    keys = random_keys(100_000, seeds, stream=0)
    assert keys.min() >= 0
    assert keys.max() < 1
    centred = (keys.double() - 0.5) * 12**0.5  # variance 1
    bound = 5 / 100_000**0.5
    assert centred.mean(1).abs().max() < bound
    for lag in (1, 2, 3, 15, 64, 256):  # of neighbours
        assert (centred[:, lag:] * centred[:, :-lag]).mean(1).abs().max() < bound
    for i in range(len(seeds)):  # of images
        for j in range(i):
            assert (centred[i] * centred[j]).mean().abs() < bound
    other = (random_keys(100_000, seeds, stream=1).double() - 0.5) * 12**0.5
    assert (centred * other).mean(1).abs().max() < bound
    share = torch.stack([torch.histc(row, 100, 0, 1) for row in keys]) / 100_000
    assert (share - 0.01).abs().max() < 5 * (0.01 * 0.99 / 100_000) ** 0.5
