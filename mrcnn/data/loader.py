"""Batches of images and targets: which image comes when, read by worker processes.

N images of a batch, G instance slots an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mrcnn.config import ModelConfig
from mrcnn.data import instances
from mrcnn.data.coco import CocoDataset
from mrcnn.data.images import pad_images, read_image
from mrcnn.data.transforms import (
    Augmentation,
    random_view,
    view_instances,
    view_pixels,
    whole_view,
)
from mrcnn.errors import UserError
from mrcnn.ops.mask_targets import InstanceMasks
from mrcnn.structures import ImageBatch, Targets

SLOT_MULTIPLE = 16  # G is a multiple of this, so that few different shapes occur


@dataclass(frozen=True)
class Sample:
    """One training image, as the network sees it, with its G instances."""

    pixels: Tensor  # (3, h, w) float32 RGB, normalised
    boxes: Tensor  # (G, 4) in pixels of this image
    labels: Tensor  # (G,) int64
    masks: InstanceMasks  # G instances, transform set
    index: int  # of the image in its data set


class TrainBatch(NamedTuple):
    """A training batch; `indices` say which images of the data set it shows."""

    images: ImageBatch
    targets: Targets
    indices: list[int]


class EvalBatch(NamedTuple):
    """A batch for inference; image n came from image `indices[n]` of the data set."""

    images: ImageBatch
    indices: list[int]


class TrainSet(Dataset[Sample]):
    """Views of the images of a data set; item (epoch, index) is the same in every process.

    Args:
        seed: with epoch and index it fixes the view; nothing else does, so a resumed run sees
            what the interrupted one would have seen.
    """

    def __init__(
        self, dataset: CocoDataset, config: ModelConfig, augmentation: Augmentation, seed: int
    ) -> None:
        self.dataset, self.config = dataset, config
        self.augmentation, self.seed = augmentation, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        image = read_image(self.dataset.path(index))
        taken = self.dataset.targets(index)
        masks, boxes = instances.select(self.dataset.masks, taken), self.dataset.boxes[taken]
        view = random_view(
            image.shape[0],
            image.shape[1],
            boxes,
            self.config,
            self.augmentation,
            np.random.default_rng([self.seed, epoch, index]),
        )
        masks, boxes, kept = view_instances(masks, boxes, view)
        return Sample(
            pixels=view_pixels(image, view, self.config),
            boxes=boxes,
            labels=self.dataset.labels[taken[kept]],
            masks=masks,
            index=index,
        )


def collate(samples: list[Sample], size_multiple: int) -> TrainBatch:
    """Pad images to one size, and instances to G slots, a multiple of 16 and at least 16."""
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
    return TrainBatch(
        images=pad_images([sample.pixels for sample in samples], size_multiple),
        targets=Targets(boxes, labels, mask_index, masks),
        indices=[sample.index for sample in samples],
    )


def batch_keys(
    images: int, batch_size: int, seed: int, first_step: int, steps: int
) -> Iterator[list[tuple[int, int]]]:
    """The (epoch, image) pairs of steps `first_step` up to `steps`.

    Every epoch shows every image once, shuffled by (seed, epoch); a batch may reach into the next
    epoch, so no image is left out and all batches are full.
    """
    order, order_epoch = np.zeros(0, np.int64), -1
    for step in range(first_step, steps):
        keys = []
        for position in range(step * batch_size, (step + 1) * batch_size):
            epoch, place = divmod(position, images)
            if epoch != order_epoch:
                order, order_epoch = np.random.default_rng([seed, epoch]).permutation(images), epoch
            keys.append((epoch, int(order[place])))
        yield keys


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
) -> Iterator[TrainBatch]:
    """The batches of steps `first_step` up to `steps`, each a function of (seed, step) alone.

    Raises:
        UserError: while iterating, if an image cannot be read.
    """
    keys = batch_keys(len(dataset), batch_size, seed, first_step, steps)
    together = partial(collate, size_multiple=config.size_multiple)
    return _batches(TrainSet(dataset, config, augmentation, seed), keys, together, workers)


def eval_loader(
    dataset: CocoDataset, config: ModelConfig, *, batch_size: int = 1, workers: int = 0
) -> Iterator[EvalBatch]:
    """All images in order, whole, at the size of the model; the last batch may be smaller.

    Raises:
        UserError: while iterating, if an image cannot be read.
    """
    firsts = range(0, len(dataset), batch_size)
    keys = (list(range(first, min(first + batch_size, len(dataset)))) for first in firsts)
    stack = partial(_stack, size_multiple=config.size_multiple)
    return _batches(_WholeImages(dataset, config), keys, stack, workers)


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


class _Batches(Dataset[Any]):
    """A data set of whole batches, so that a `UserError` can travel as a value.

    Raised in a worker process it would arrive as the text of a traceback.
    """

    def __init__(self, items: Dataset[Any], collate: Callable[[list[Any]], Any]) -> None:
        self.items, self.collate = items, collate

    def __getitem__(self, keys: list[Any]) -> Any:
        try:
            return self.collate([self.items[key] for key in keys])
        except UserError as error:
            return error


def _batches(
    items: Dataset[Any],
    keys: Iterable[list[Any]],
    collate: Callable[[list[Any]], Any],
    workers: int,
) -> Iterator[Any]:
    """Collated items for each list of keys, in order."""
    for batch in DataLoader(
        _Batches(items, collate),
        sampler=keys,
        batch_size=None,
        num_workers=workers,
    ):
        if isinstance(batch, UserError):
            raise batch
        yield batch
