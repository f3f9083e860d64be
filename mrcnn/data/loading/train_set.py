"""Training images: each is read, augmented, and given with its instances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from mrcnn.config import ModelConfig
from mrcnn.data.augment.copy_paste import NetworkImage, paste, select
from mrcnn.data.augment.transforms import (
    Augmentation,
    random_view,
    view_instances,
    view_pixels,
    within,
)
from mrcnn.data.coco.read import CocoDataset
from mrcnn.data.images import check_network_size, network_size, read_image
from mrcnn.data.loading.batch_order import LOSSES, VIEW, Key, random_numbers
from mrcnn.errors import UserError
from mrcnn.ops import instance_masks

OnBadImage = Literal["stop", "skip"]


@dataclass(frozen=True)
class TrainImage(NetworkImage):
    """A training image, with its position in the data set and its seed."""

    index: int  # in the data set
    seed: int  # of random choices in the losses, 63 bits
    notes: tuple[str, ...] = ()  # for the user


def check_sizes(dataset: CocoDataset, config: ModelConfig, augmentation: Augmentation) -> None:
    """Refuse a data set with an image whose largest view does not fit in the network.

    Raises:
        UserError: names the first such image.
    """
    if augmentation.jitter_size is not None:  # the size of every view
        return
    largest = max(augmentation.min_sizes, default=None)
    zoom = augmentation.scale_range[1]
    sizes, positions = np.unique(dataset.sizes.numpy(), axis=0, return_index=True)
    for (height, width), position in zip(sizes.tolist(), positions.tolist(), strict=True):
        crop_h, crop_w = (min(side, augmentation.crop or side) for side in (height, width))
        size_h, size_w = network_size(crop_h, crop_w, config, largest)
        size = round(size_h * zoom), round(size_w * zoom)
        check_network_size(dataset.path(position), (height, width), size, config)


class TrainSet(Dataset[TrainImage]):
    """Random views of the images of a data set; the item of a `Key` is equal in every process.

    The view and the seed of the losses depend on `seed` and the key alone. Hence a resumed run sees
    the same views as an uninterrupted one. `on_bad_image` "skip" replaces an unreadable image by
    the next readable one and adds a note; "stop" raises `UserError`.
    """

    def __init__(
        self,
        dataset: CocoDataset,
        config: ModelConfig,
        augmentation: Augmentation,
        seed: int,
        on_bad_image: OnBadImage = "stop",
    ) -> None:
        self.dataset, self.config = dataset, config
        self.augmentation, self.seed = augmentation, seed
        self.on_bad_image = on_bad_image
        check_sizes(dataset, config, augmentation)

    def __getitem__(self, key: Key) -> TrainImage:
        rng = np.random.default_rng(random_numbers(VIEW, self.seed, *key))
        index, image, notes = self._read(key.image)
        view = self._view(index, image, rng)
        if self.augmentation.copy_paste and rng.random() < self.augmentation.copy_paste:
            other, image, more_notes = self._read(int(rng.integers(len(self.dataset))))
            view = self._paste_instances(other, image, view, rng)
            notes += more_notes
        seed = random_numbers(LOSSES, self.seed, *key).generate_state(1, np.uint64)[0]
        return TrainImage(**vars(view), index=index, seed=int(seed >> np.uint64(1)), notes=notes)

    def _view(
        self,
        index: int,
        image: NDArray[np.uint8],
        rng: np.random.Generator,
        size: tuple[int, int] | None = None,
    ) -> NetworkImage:
        """Draw a random view of an image, no larger than `size`, with its visible instances."""
        targets = self.dataset.targets(index)
        masks, boxes = (
            instance_masks.select(self.dataset.masks, targets),
            self.dataset.boxes[targets],
        )
        height, width = image.shape[:2]
        view = random_view(height, width, boxes, self.config, self.augmentation, rng)
        if size is not None:
            view = within(view, *size)
        path = self.dataset.path(index)
        check_network_size(path, (height, width), view.size, self.config)
        masks, boxes, kept = view_instances(masks, boxes, view)
        pixels = view_pixels(image, view, self.config, self.augmentation, rng)
        return NetworkImage(pixels, boxes, self.dataset.labels[targets[kept]], masks)

    def _paste_instances(
        self, index: int, image: NDArray[np.uint8], below: NetworkImage, rng: np.random.Generator
    ) -> NetworkImage:
        """Paste some instances of another image, drawn at random.

        Under large-scale jitter the result may grow, within the square; otherwise the size stays.
        """
        height, width = below.pixels.shape[1:]
        side = self.augmentation.jitter_size
        above = self._view(index, image, rng, (side, side) if side else (height, width))
        count = len(above.labels)
        if not count:
            return below
        chosen = rng.permutation(count)[: rng.integers(1, count + 1)]
        return paste(below, select(above, torch.from_numpy(np.sort(chosen))))

    def _read(self, first: int) -> tuple[int, NDArray[np.uint8], tuple[str, ...]]:
        """Read image `first`, or the next readable one; return its index, pixels and notes."""
        errors: list[UserError] = []
        for offset in range(len(self.dataset)):
            path = self.dataset.path(index := (first + offset) % len(self.dataset))
            try:
                image = read_image(path)
            except UserError as error:
                if self.on_bad_image == "stop":
                    raise
                errors.append(error)
            else:
                notes = (f"{error}. {path.name} is used instead" for error in errors)
                return index, image, tuple(notes)
        reason = f"none of the images can be read; the first error is: {errors[0]}"
        raise UserError(f"{self.dataset.folder}: {reason}")
