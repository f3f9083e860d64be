"""Batches of images and targets for training and evaluation, read by worker processes.

N images of a batch, G instance slots per image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F

from mrcnn.config import ModelConfig
from mrcnn.data.augment.transforms import Augmentation
from mrcnn.data.coco.read import CocoDataset
from mrcnn.data.images import pad_images
from mrcnn.data.loading.batch_order import Key, batch_keys, image_repeats
from mrcnn.data.loading.train_set import OnBadImage, TrainImage, TrainSet
from mrcnn.data.loading.workers import batches
from mrcnn.ops import instance_masks
from mrcnn.structures import ImageBatch, Targets

SLOT_MULTIPLE = 16  # divides G, to limit the number of different shapes


class Batch(NamedTuple):
    """Images with their targets; image n is image `indices[n]` of the data set."""

    images: ImageBatch
    targets: Targets
    indices: list[int]
    notes: Sequence[str] = ()  # for the user, about its images


def collate(views: list[TrainImage], size_multiple: int, side: int = 1) -> Batch:
    """Pad N images to one size, and their instances to G slots, a multiple of 16 and at least 16.

    Height and width are multiples of `size_multiple`, and at least `side`.
    """
    counts = [len(view.labels) for view in views]
    slots = max(1, -(-max(counts) // SLOT_MULTIPLE)) * SLOT_MULTIPLE
    boxes = torch.zeros(len(views), slots, 4)
    labels = torch.full((len(views), slots), -1)
    mask_index = torch.full((len(views), slots), -1)
    first = 0
    for n, (view, count) in enumerate(zip(views, counts, strict=True)):
        boxes[n, :count] = view.boxes
        labels[n, :count] = view.labels
        mask_index[n, :count] = torch.arange(first, first + count)
        first += count
    masks = instance_masks.concatenate([view.masks for view in views])
    seeds = torch.tensor([view.seed for view in views])
    images = pad_images([view.pixels for view in views], size_multiple)
    side = -(-side // size_multiple) * size_multiple
    right, below = (max(0, side - size) for size in images.pixels.shape[:1:-1])
    if right or below:
        images = replace(images, pixels=F.pad(images.pixels, (0, right, 0, below)))
    return Batch(
        images=images,
        targets=Targets(boxes, labels, mask_index, masks, seeds),
        indices=[view.index for view in views],
        notes=[note for view in views for note in view.notes],
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
) -> Iterator[Batch]:
    """Yield the batches of steps `first_step` up to `steps`; each depends on (seed, step) alone.

    The `batch_size` images of a step are split, in order, into world * accumulate equal
    micro-batches. Process `rank` gets `accumulate` consecutive ones. Hence all processes together
    see the same images, whatever their number.

    `workers` processes read the images; 0 reads them in this process. With `group_by_orientation`,
    the images of a step are all wide or all high, which saves padding. For `repeat_threshold` see
    `image_repeats`, for `on_bad_image` see `TrainSet`.

    Raises:
        ValueError: if `batch_size` is not a multiple of world * accumulate, or `rank` is out of
            range.
        UserError: while iterating, if an image cannot be read, or a worker process dies.
    """
    _check_rank("train_loader", rank, world)
    micro_batches = world * accumulate
    if batch_size < 1 or accumulate < 1 or batch_size % micro_batches:
        raise ValueError(
            f"train_loader: batch_size must be a multiple of {world} processes x {accumulate} "
            f"accumulated batches = {micro_batches}, got {batch_size}"
        )
    size = batch_size // micro_batches
    is_high = dataset.sizes[:, 0] > dataset.sizes[:, 1]
    step_keys = batch_keys(
        len(dataset),
        batch_size,
        seed,
        first_step,
        steps,
        groups=is_high.long().numpy() if group_by_orientation else None,
        repeats=image_repeats(dataset, repeat_threshold),
    )
    keys = (
        of_step[i * size : (i + 1) * size]
        for of_step in step_keys
        for i in range(rank * accumulate, (rank + 1) * accumulate)
    )
    images = TrainSet(dataset, config, augmentation, seed, on_bad_image)
    side = augmentation.jitter_size or 1
    join = partial(collate, size_multiple=config.size_multiple, side=side)
    return batches(images, keys, join, workers)


def eval_loader(
    dataset: CocoDataset,
    config: ModelConfig,
    *,
    batch_size: int = 1,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """Yield all images whole, in order, at the size of the model; the last batch may be smaller.

    Process `rank` of `world` gets every `world`-th image: neighbouring images are often alike, and
    thus all processes have about the same work. The seeds of the targets, for a validation loss,
    depend only on the position of an image in the data set. For the other arguments see
    `train_loader`.

    Raises:
        ValueError: if `rank` is out of range.
        UserError: while iterating, if an image cannot be read, or a worker process dies.
    """
    _check_rank("eval_loader", rank, world)
    share = range(rank, len(dataset), world)
    starts = range(0, len(share), batch_size)
    keys = ([Key(0, image) for image in share[i : i + batch_size]] for i in starts)
    images = TrainSet(dataset, config, Augmentation(horizontal_flip=False), seed=0)
    return batches(images, keys, partial(collate, size_multiple=config.size_multiple), workers)


def _check_rank(name: str, rank: int, world: int) -> None:
    if not 0 <= rank < world:
        raise ValueError(f"{name}: rank must be in [0, {world}), got {rank}")
