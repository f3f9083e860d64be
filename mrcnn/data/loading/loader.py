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
from torch import Tensor
from torch.utils.data import Dataset

from mrcnn.config import ModelConfig
from mrcnn.data.augment.transforms import Augmentation, view_pixels, whole_view
from mrcnn.data.coco.read import CocoDataset
from mrcnn.data.images import pad_images, read_image
from mrcnn.data.loading.batch_order import Key, batch_keys, image_repeats, orientations
from mrcnn.data.loading.train_set import OnBadImage, TrainImage, TrainSet
from mrcnn.data.loading.workers import batches as make_batches
from mrcnn.ops import instance_masks
from mrcnn.structures import ImageBatch, Targets

SLOT_MULTIPLE = 16  # divides G, to limit the number of different shapes


class TrainBatch(NamedTuple):
    """A training batch; image n is image `indices[n]` of the data set."""

    images: ImageBatch
    targets: Targets
    indices: list[int]
    notes: Sequence[str] = ()  # for the user, about its images


class EvalBatch(NamedTuple):
    """A batch of whole images; image n is image `indices[n]` of the data set."""

    images: ImageBatch
    indices: list[int]
    targets: Targets | None = None


def collate(views: list[TrainImage], size_multiple: int, side: int = 1) -> TrainBatch:
    """Pad images to one size, and instances to G slots, a multiple of 16 and at least 16.

    Args:
        views: N images with their instances.
        size_multiple: divides height and width.
        side: minimum of height and width.
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
    return TrainBatch(
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
) -> Iterator[TrainBatch]:
    """Yield the batches of steps `first_step` up to `steps`; each depends on (seed, step) alone.

    The images of a step are split, in order, into world * accumulate equal micro-batches. Process
    `rank` gets `accumulate` consecutive ones. Hence all processes together see the same images,
    whatever their number.

    Args:
        dataset: images and annotations.
        config: configuration of the model.
        augmentation: random changes of the images.
        batch_size: images per step, in all processes together.
        steps: of the whole run.
        first_step: where a resumed run starts.
        seed: of the order and the augmentation.
        workers: processes that read images; 0 reads them in this process.
        rank: of this training process.
        world: number of training processes.
        accumulate: micro-batches of this process per step.
        group_by_orientation: the images of a step are all wide or all high, which saves padding.
        repeat_threshold: images of classes that are in a smaller fraction of the images are
            repeated within an epoch, see `image_repeats`.
        on_bad_image: as for `TrainSet`.

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
        batch[i * size : (i + 1) * size]
        for batch in batches
        for i in range(rank * accumulate, (rank + 1) * accumulate)
    )
    side = augmentation.jitter_size or 1
    join = partial(collate, size_multiple=config.size_multiple, side=side)
    return make_batches(
        TrainSet(dataset, config, augmentation, seed, on_bad_image), keys, join, workers
    )


def eval_loader(
    dataset: CocoDataset,
    config: ModelConfig,
    *,
    with_targets: bool = False,
    batch_size: int = 1,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[EvalBatch]:
    """Yield all images whole, in order, at the size of the model; the last batch may be smaller.

    Args:
        dataset: images and annotations.
        config: configuration of the model.
        with_targets: add targets, for a validation loss. Their seeds depend only on the position of
            an image in the data set.
        batch_size: images per batch.
        workers: processes that read images; 0 reads them in this process.
        rank: of this process, which gets every `world`-th image. Neighbouring images are often
            alike, and thus all processes have about the same work.
        world: number of processes.

    Raises:
        ValueError: if `rank` is out of range.
        UserError: while iterating, if an image cannot be read, or a worker process dies.
    """
    _check_rank("eval_loader", rank, world)
    share = range(rank, len(dataset), world)
    batches = (share[first : first + batch_size] for first in range(0, len(share), batch_size))
    keys = ([Key(0, index) for index in batch] for batch in batches)
    if not with_targets:
        stack = partial(_stack, size_multiple=config.size_multiple)
        return make_batches(_WholeImages(dataset, config), keys, stack, workers)
    views = TrainSet(dataset, config, Augmentation(horizontal_flip=False), seed=0)
    join = partial(collate, size_multiple=config.size_multiple)
    labelled = make_batches(views, keys, join, workers)
    return (EvalBatch(batch.images, batch.indices, batch.targets) for batch in labelled)


def _check_rank(name: str, rank: int, world: int) -> None:
    if not 0 <= rank < world:
        raise ValueError(f"{name}: rank must be in [0, {world}), got {rank}")


class _WholeImages(Dataset[tuple[Tensor, int]]):
    """Pixels of whole images, and their position in the data set."""

    def __init__(self, dataset: CocoDataset, config: ModelConfig) -> None:
        self.dataset, self.config = dataset, config

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        image = read_image(self.dataset.path(key.image))
        view = whole_view(image.shape[0], image.shape[1], self.config)
        return view_pixels(image, view, self.config), key.image


def _stack(items: list[tuple[Tensor, int]], size_multiple: int) -> EvalBatch:
    images = pad_images([pixels for pixels, _ in items], size_multiple)
    return EvalBatch(images, [index for _, index in items])
