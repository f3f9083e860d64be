"""Batches of images and targets: which image comes when, read by worker processes.

N images of a batch, G instance slots an image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from mrcnn.config import ModelConfig
from mrcnn.data import instances
from mrcnn.data.coco import CocoDataset
from mrcnn.data.images import pad_images, read_image
from mrcnn.data.samples import OnBadImage, Sample, TrainSet
from mrcnn.data.sampling import Key, batch_keys, image_repeats, orientations
from mrcnn.data.transforms import Augmentation, view_pixels, whole_view
from mrcnn.data.workers import batches as make_batches
from mrcnn.structures import ImageBatch, Targets

SLOT_MULTIPLE = 16  # G is a multiple of this, so that few different shapes occur


class TrainBatch(NamedTuple):
    """A training batch; `indices` say which images of the data set it shows."""

    images: ImageBatch
    targets: Targets
    indices: list[int]
    notes: Sequence[str] = ()  # what the user should know of its images


class EvalBatch(NamedTuple):
    """A batch for inference; image n came from image `indices[n]` of the data set."""

    images: ImageBatch
    indices: list[int]


def collate(samples: list[Sample], size_multiple: int, side: int = 1) -> TrainBatch:
    """Pad images to one size, and instances to G slots, a multiple of 16 and at least 16.

    Args:
        size_multiple: divides height and width.
        side: both are at least this.
    """
    counts = [len(sample.labels) for sample in samples]
    slots = max(1, -(-max(counts) // SLOT_MULTIPLE)) * SLOT_MULTIPLE
    boxes = torch.zeros(len(samples), slots, 4)
    labels = torch.full((len(samples), slots), -1)
    mask_index = torch.full((len(samples), slots), -1)
    first = 0
    for n, (sample, count) in enumerate(zip(samples, counts, strict=True)):
        boxes[n, :count] = sample.boxes
        labels[n, :count] = sample.labels
        mask_index[n, :count] = torch.arange(first, first + count)
        first += count
    masks = instances.concatenate([sample.masks for sample in samples])
    seeds = torch.tensor([sample.seed for sample in samples])
    images = pad_images([sample.pixels for sample in samples], size_multiple)
    side = -(-side // size_multiple) * size_multiple
    right, below = (max(0, side - size) for size in images.pixels.shape[:1:-1])
    if right or below:
        images = replace(images, pixels=F.pad(images.pixels, (0, right, 0, below)))
    return TrainBatch(
        images=images,
        targets=Targets(boxes, labels, mask_index, masks, seeds),
        indices=[sample.index for sample in samples],
        notes=[note for sample in samples for note in sample.notes],
    )


def train_loader(
    dataset: CocoDataset,
    config: ModelConfig,
    augmentation: Augmentation,
    *,
    batch_size: int,
    steps: int,
    first_step: int = 0,
    seed: int = 0,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    accumulate: int = 1,
    group_by_orientation: bool = False,
    repeat_threshold: float = 0.0,
    on_bad_image: OnBadImage = "stop",
) -> Iterator[TrainBatch]:
    """The batches of steps `first_step` up to `steps`, each a function of (seed, step) alone.

    The images of a step are cut, in order, into world * accumulate equal parts. Process `rank`
    takes `accumulate` of them that follow each other, and gets them one by one, so that all
    processes together see the same images however many they are.

    Args:
        batch_size: images of a step, in all processes together.
        workers: processes that read images; 0 reads them in this one.
        rank, world: which of how many training processes this is.
        accumulate: batches that this process gets for one step.
        group_by_orientation: the images of a step are all wide or all high, which saves padding.
        repeat_threshold: images of classes that a smaller part of all images shows come more than
            once an epoch, see `image_repeats`.
        on_bad_image: as for `TrainSet`.
    Raises:
        ValueError: if `batch_size` is no multiple of world * accumulate, or `rank` is none of
            `world` processes.
        UserError: while iterating, if an image cannot be read, or a worker process dies.
    """
    _check_rank("train_loader", rank, world)
    parts = world * accumulate
    if batch_size < 1 or accumulate < 1 or batch_size % parts:
        raise ValueError(
            f"train_loader: batch_size must be a multiple of {world} processes x {accumulate} "
            f"accumulated batches = {parts}, got {batch_size}"
        )
    size = batch_size // parts
    batches = batch_keys(
        len(dataset),
        batch_size,
        seed,
        first_step,
        steps,
        groups=orientations(dataset) if group_by_orientation else None,
        repeats=image_repeats(dataset, repeat_threshold),
    )
    keys = (
        batch[part * size : (part + 1) * size]
        for batch in batches
        for part in range(rank * accumulate, (rank + 1) * accumulate)
    )
    side = augmentation.jitter_size or 1
    together = partial(collate, size_multiple=config.size_multiple, side=side)
    return make_batches(
        TrainSet(dataset, config, augmentation, seed, on_bad_image), keys, together, workers
    )


def target_loader(
    dataset: CocoDataset,
    config: ModelConfig,
    *,
    batch_size: int = 1,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[TrainBatch]:
    """All images in order, whole, at the size of the model, with targets: for a validation loss.

    The seeds of the targets depend on the position of an image in the data set alone.

    Args:
        rank, world: of `world` processes, this one gets every `world`-th image, from `rank` on.
    Raises:
        ValueError: if `rank` is none of `world` processes.
        UserError: while iterating, if an image cannot be read, or a worker process dies.
    """
    shares = _share("target_loader", len(dataset), batch_size, rank, world)
    keys = ([Key(0, index) for index in indices] for indices in shares)
    items = TrainSet(dataset, config, Augmentation(horizontal_flip=False), seed=0)
    return make_batches(items, keys, partial(collate, size_multiple=config.size_multiple), workers)


def eval_loader(
    dataset: CocoDataset,
    config: ModelConfig,
    *,
    batch_size: int = 1,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[EvalBatch]:
    """All images in order, whole, at the size of the model; the last batch may be smaller.

    Args:
        rank, world: of `world` processes, this one gets every `world`-th image, from `rank` on.
    Raises:
        ValueError: if `rank` is none of `world` processes.
        UserError: while iterating, if an image cannot be read, or a worker process dies.
    """
    keys = _share("eval_loader", len(dataset), batch_size, rank, world)
    stack = partial(_stack, size_multiple=config.size_multiple)
    return make_batches(_WholeImages(dataset, config), keys, stack, workers)


def _share(name: str, images: int, batch_size: int, rank: int, world: int) -> Iterator[list[int]]:
    """Batches of every `world`-th image: neighbours, which often are alike, share the work."""
    _check_rank(name, rank, world)
    mine = range(rank, images, world)
    return (list(mine[first : first + batch_size]) for first in range(0, len(mine), batch_size))


def _check_rank(name: str, rank: int, world: int) -> None:
    if not 0 <= rank < world:
        raise ValueError(f"{name}: rank must lie in [0, {world}), got {rank}")


class _WholeImages(Dataset[tuple[Tensor, int]]):
    """Pixels of whole images, and their position in the data set."""

    def __init__(self, dataset: CocoDataset, config: ModelConfig) -> None:
        self.dataset, self.config = dataset, config

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = read_image(self.dataset.path(index))
        view = whole_view(image.shape[0], image.shape[1], self.config)
        return view_pixels(image, view, self.config), index


def _stack(items: list[tuple[Tensor, int]], size_multiple: int) -> EvalBatch:
    images = pad_images([pixels for pixels, _ in items], size_multiple)
    return EvalBatch(images, [index for _, index in items])
