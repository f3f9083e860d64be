"""Batches: contents, completeness, and exact resuming."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mrcnn.config import ModelConfig
from mrcnn.data.augment.transforms import Augmentation
from mrcnn.data.coco.read import CocoDataset, read_coco
from mrcnn.data.images import empty_batch, read_image, to_pixels
from mrcnn.data.loading.batch_order import Key
from mrcnn.data.loading.loader import TrainSet, collate, eval_loader, train_loader
from mrcnn.errors import UserError
from mrcnn.ops import instance_masks

CONFIG = ModelConfig(scale=1.0)
AUGMENTATION = Augmentation(crop=24, scale_range=(0.8, 1.5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Seven images of 40 x 30; image i has i squares of one class and one crowd region."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    for i in range(7):
        pixels = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        content["images"].append({"id": i, "file_name": f"{i}.png", "width": 40, "height": 30})
        for k in range(i + 1):
            x, y = 5 * k, 3 * k
            content["annotations"].append({
                "id": len(content["annotations"]), "image_id": i, "category_id": 1,
                "iscrowd": int(k == i), "segmentation": [[x, y, x + 9, y, x + 9, y + 9, x, y + 9]],
            })  # fmt: skip
    (folder / "a.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def dataset(folder) -> CocoDataset:
    return read_coco(folder / "a.json", folder / "images")


def batches(dataset: CocoDataset, **options):
    options = {"batch_size": 2, "steps": 8, "seed": 5} | options
    return list(train_loader(dataset, CONFIG, AUGMENTATION, **options))


def assert_equal(a, b):
    """Two training batches, bit-identical."""
    assert a.indices == b.indices
    assert torch.equal(a.images.pixels, b.images.pixels)
    assert torch.equal(a.images.sizes, b.images.sizes)
    for name in ("boxes", "labels", "mask_index", "seeds"):
        assert torch.equal(getattr(a.targets, name), getattr(b.targets, name))
    for name in ("points", "transform", "instance_ring"):
        assert torch.equal(getattr(a.targets.masks, name), getattr(b.targets.masks, name))


def test_a_resumed_run_sees_the_same_batches(dataset):
    whole = batches(dataset)
    resumed = batches(dataset, first_step=3)
    assert len(resumed) == 5
    for a, b in zip(whole[3:], resumed, strict=True):
        assert_equal(a, b)


def test_batches_do_not_depend_on_workers(dataset):
    for a, b in zip(batches(dataset), batches(dataset, workers=2), strict=True):
        assert_equal(a, b)


def samples_of(batches) -> list[tuple]:
    """What identifies each sample, in order."""
    return [
        (index, int(seed), size.tolist(), boxes[labels >= 0].tolist())
        for batch in batches
        for index, seed, size, boxes, labels in zip(
            batch.indices,
            batch.targets.seeds,
            batch.images.sizes,
            batch.targets.boxes,
            batch.targets.labels,
            strict=True,
        )
    ]


@pytest.mark.parametrize(("world", "accumulate"), [(1, 4), (2, 1), (2, 2), (4, 1)])
def test_processes_and_micro_batches_see_the_images_of_one_batch(dataset, world, accumulate):
    whole = batches(dataset, batch_size=4, steps=3)
    options = {"batch_size": 4, "steps": 3, "world": world, "accumulate": accumulate}
    parts = [batches(dataset, rank=rank, **options) for rank in range(world)]
    for step in range(3):
        mine = slice(step * accumulate, (step + 1) * accumulate)
        assert samples_of(whole[step : step + 1]) == [
            sample for rank in parts for sample in samples_of(rank[mine])
        ]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 6, "world": 2, "accumulate": 2}, "multiple of 2 processes x 2 .* got 6"),
        ({"batch_size": 0}, "must be a multiple of 1 .*, got 0"),
        ({"accumulate": 0}, "x 0 accumulated"),
        ({"rank": 2, "world": 2}, r"rank must be in \[0, 2\), got 2"),
    ],
)
def test_wrong_batch_sizes_and_ranks_are_refused_at_once(dataset, wrong, message):
    with pytest.raises(ValueError, match=f"train_loader: .*{message}"):
        train_loader(dataset, CONFIG, AUGMENTATION, **{"batch_size": 2, "steps": 1} | wrong)


def test_seeds_follow_from_seed_epoch_and_image(dataset):
    seeds = {
        (seed, epoch, index): TrainSet(dataset, CONFIG, AUGMENTATION, seed)[Key(epoch, index)].seed
        for seed in range(3)
        for epoch in range(3)
        for index in range(7)
    }
    assert len(set(seeds.values())) == len(seeds)
    assert all(0 <= value < 2**63 for value in seeds.values())
    batch = batches(dataset, steps=1, seed=2)[0]
    assert batch.targets.seeds.tolist() == [seeds[2, 0, index] for index in batch.indices]


@pytest.mark.parametrize(("side", "padded"), [(64, 64), (50, 64)])
def test_batches_of_large_scale_jitter_have_one_shape(dataset, side, padded):
    augmentation = Augmentation(jitter_size=side)
    made = list(train_loader(dataset, CONFIG, augmentation, batch_size=1, steps=14))
    assert {tuple(batch.images.pixels.shape) for batch in made} == {(1, 3, padded, padded)}
    assert len({tuple(batch.images.sizes[0].tolist()) for batch in made}) > 5
    for batch in made:
        height, width = batch.images.sizes[0].tolist()
        assert max(height, width) <= side
        assert batch.images.pixels[:, :, height:].abs().sum() == 0
        assert batch.images.pixels[:, :, :, width:].abs().sum() == 0
        assert batch.images.pixels.is_contiguous(memory_format=torch.channels_last)


def test_views_depend_on_seed_and_epoch(dataset):
    a, b = batches(dataset, steps=4), batches(dataset, steps=4, seed=6)
    assert [x.indices for x in a] != [x.indices for x in b]
    set_a, set_b = (TrainSet(dataset, CONFIG, AUGMENTATION, seed) for seed in (5, 6))
    assert set_a[Key(0, 6)].masks.transform.tolist() != set_b[Key(0, 6)].masks.transform.tolist()
    assert set_a[Key(0, 6)].masks.transform.tolist() != set_a[Key(1, 6)].masks.transform.tolist()


def test_crowd_regions_are_not_targets_and_empty_images_stay(dataset):
    plain = TrainSet(dataset, CONFIG, Augmentation(horizontal_flip=False), seed=0)
    for i in range(7):
        sample = plain[Key(0, i)]
        assert sample.index == i
        assert len(sample.labels) == len(sample.boxes) == len(sample.masks) == i
    assert sample.boxes[2].tolist() == [10, 6, 19, 15]


def test_collate_pads_to_slots(dataset):
    plain = TrainSet(dataset, CONFIG, Augmentation(horizontal_flip=False), seed=0)
    samples = [plain[Key(0, i)] for i in (3, 0, 5)]
    images, targets, indices, _ = collate(samples, 32)
    assert indices == [3, 0, 5]
    assert images.pixels.shape == (3, 3, 32, 64)
    assert targets.boxes.shape == (3, 16, 4)
    assert (targets.labels >= 0).sum(1).tolist() == [3, 0, 5]
    assert torch.equal(targets.mask_index >= 0, targets.labels >= 0)
    assert targets.mask_index[targets.mask_index >= 0].tolist() == list(range(8))
    assert targets.boxes[targets.labels < 0].abs().sum() == 0
    assert len(targets.masks) == 8
    many = collate([plain[Key(0, 6)]] * 2 + [plain[Key(0, 3)]], 32)
    assert many.targets.boxes.shape == (3, 16, 4)


def test_slots_grow_in_steps_of_16(dataset):
    sample = TrainSet(dataset, CONFIG, Augmentation(), seed=0)[Key(0, 6)]
    for repeats, slots in ((2, 16), (3, 32), (6, 48)):
        many = replace(
            sample,
            boxes=sample.boxes.repeat(repeats, 1),
            labels=sample.labels.repeat(repeats),
            masks=instance_masks.concatenate([sample.masks] * repeats),
        )
        assert collate([many], 32).targets.boxes.shape == (1, slots, 4)


def test_eval_loader_yields_whole_images_in_order(dataset):
    shown = list(eval_loader(dataset, CONFIG, batch_size=3))
    assert [batch.indices for batch in shown] == [[0, 1, 2], [3, 4, 5], [6]]
    pixels = torch.cat([batch.images.pixels[:, :, :30, :40] for batch in shown])
    for index, _, size, boxes in samples_of(shown):
        assert size == [30, 40]
        assert boxes == dataset.boxes[dataset.targets(index)].tolist()
        expected = to_pixels(read_image(dataset.path(index)), (30, 40), CONFIG)
        assert torch.equal(pixels[index], expected)
    assert samples_of(shown) == samples_of(eval_loader(dataset, CONFIG, batch_size=2))
    assert len({seed for _, seed, *_ in samples_of(shown)}) == 7


def test_processes_share_the_images_of_an_evaluation(dataset):
    loader = partial(eval_loader, dataset, CONFIG)
    ranks = [loader(batch_size=2, rank=rank, world=3) for rank in range(3)]
    indices = [[batch.indices for batch in batches] for batches in ranks]
    assert indices == [[[0, 3], [6]], [[1, 4]], [[2, 5]]]
    assert list(loader(rank=8, world=9)) == []
    with pytest.raises(ValueError, match=r"rank must be in \[0, 2\), got 2"):
        loader(rank=2, world=2)


@pytest.fixture
def copy(folder, tmp_path) -> CocoDataset:
    """The data set again, with images that a test may damage after it is read."""
    shutil.copytree(folder, tmp_path / "copy")
    return read_coco(tmp_path / "copy" / "a.json", tmp_path / "copy" / "images")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named_without_a_traceback(copy, workers):
    path = copy.path(4)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError) as caught:
        batches(copy, workers=workers)
    assert str(caught.value).startswith(f"{path}: cannot be read (")
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_images_can_be_skipped(dataset, copy, workers):
    for index in (4, 5):
        copy.path(index).write_bytes(b"")
    skipped = batches(copy, workers=workers, on_bad_image="skip")
    for a, b in zip(batches(dataset), skipped, strict=True):
        assert b.indices == [{4: 6, 5: 6}.get(index, index) for index in a.indices]
        assert torch.equal(a.targets.seeds, b.targets.seeds)
        broken = [index for index in a.indices for index in {4: (4, 5), 5: (5,)}.get(index, ())]
        assert len(b.notes) == len(broken)
        for index, note in zip(broken, b.notes, strict=True):
            assert note.startswith(f"{copy.path(index)}: is empty (0 bytes)")
            assert note.endswith("; restore or remove it. 6.png is used instead")


def test_without_a_readable_image_none_can_be_skipped(copy):
    shutil.rmtree(copy.folder)
    with pytest.raises(UserError, match=r"images: none of the images can be read; .*not exist"):
        batches(copy, on_bad_image="skip")


def test_all_large_fields_of_a_data_set_are_tensors(dataset):
    """Worker processes share the memory of tensors, not of Python objects."""
    small = {"annotations", "folder", "class_names", "category_ids", "notes", "masks"}
    large = [value for name, value in vars(dataset).items() if name not in small]
    assert all(isinstance(value, torch.Tensor) for value in large)


@pytest.mark.parametrize(
    ("augmentation", "size"),
    [
        (Augmentation(), "64 x 32"),
        (Augmentation(scale_range=(0.1, 2.0)), "96 x 64"),
        (Augmentation(crop=20), "32 x 32"),
    ],
)
def test_an_image_too_large_for_the_network_is_named_before_the_first_step(
    dataset, augmentation, size, monkeypatch
):
    monkeypatch.setattr("mrcnn.data.images.MAX_NETWORK_PIXELS", 1000)
    message = rf"0\.png: of 40 x 30 pixels fills {size} in the network, the limit is 1,000 pixels"
    with pytest.raises(UserError, match=message):
        next(train_loader(dataset, CONFIG, augmentation, batch_size=1, steps=1))
    with pytest.raises(UserError, match=r"0\.png: of 40 x 30 pixels fills 64 x 32"):
        next(eval_loader(dataset, CONFIG))


def test_wide_and_high_images_are_not_padded_together_beyond_the_limit():
    sizes = [(100, 6_000), (6_000, 100)]
    for size in sizes:
        assert empty_batch([size], 32).pixels.numel() < 3 * 1_000_000
    with pytest.raises(UserError, match=r"a batch of 2 images is padded to 6016 x 6016 .* smaller"):
        empty_batch(sizes, 32)
