"""One training image at a time: read, seen through a random view, with its instances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from mrcnn.config import ModelConfig
from mrcnn.data import instances
from mrcnn.data.coco import CocoDataset
from mrcnn.data.copy_paste import Picture, paste, select
from mrcnn.data.images import read_image
from mrcnn.data.sampling import LOSSES, VIEW, Key, random_numbers
from mrcnn.data.transforms import (
    Augmentation,
    augmented_part,
    random_view,
    view_instances,
    view_pixels,
    within,
)
from mrcnn.errors import UserError

OnBadImage = Literal["stop", "skip"]


@dataclass(frozen=True)
class Sample(Picture):
    """One training image, as the network sees it, with its G instances."""

    index: int  # of the image in its data set
    seed: int  # for what the losses draw, 63 bits
    notes: tuple[str, ...] = ()  # what the user should know of it


class TrainSet(Dataset[Sample]):
    """Views of the images of a data set; the item of a `Key` is the same in every process.

    Args:
        seed: with the key it fixes the view and the seed of the losses; nothing else does, so a
            resumed run sees what the interrupted one would have seen.
        on_bad_image: "skip" shows the next image of the data set that can be read in place of
            one that cannot, and says so in the notes; "stop" raises `UserError`.
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

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> Sample:
        rng = np.random.default_rng(random_numbers(VIEW, self.seed, *key))
        index, image, notes = self._read(key.image)
        picture = self._picture(index, image, rng)
        if self.augmentation.copy_paste and rng.random() < self.augmentation.copy_paste:
            other, image, more = self._read(int(rng.integers(len(self.dataset))))
            picture = self._with_instances_of(other, image, picture, rng)
            notes += more
        seed = random_numbers(LOSSES, self.seed, *key).generate_state(1, np.uint64)[0]
        return Sample(**vars(picture), index=index, seed=int(seed >> np.uint64(1)), notes=notes)

    def _picture(
        self,
        index: int,
        image: NDArray[np.uint8],
        rng: np.random.Generator,
        size: tuple[int, int] | None = None,
    ) -> Picture:
        """A random view of an image, no larger than `size`, with all instances that it shows."""
        taken = self.dataset.targets(index)
        masks, boxes = instances.select(self.dataset.masks, taken), self.dataset.boxes[taken]
        height, width = image.shape[:2]
        view = random_view(height, width, boxes, self.config, self.augmentation, rng)
        if size is not None:
            view = within(view, *size)
        masks, boxes, kept = view_instances(masks, boxes, view)
        part, view = augmented_part(image, view, self.augmentation, rng)
        pixels = view_pixels(part, view, self.config)
        return Picture(pixels, boxes, self.dataset.labels[taken[kept]], masks)

    def _with_instances_of(
        self, index: int, image: NDArray[np.uint8], below: Picture, rng: np.random.Generator
    ) -> Picture:
        """The picture with a random part of the instances of an image pasted onto it.

        Under large-scale jitter the picture grows to what is pasted, within the square; else it
        keeps its size.
        """
        height, width = below.pixels.shape[1:]
        side = self.augmentation.jitter_size
        above = self._picture(index, image, rng, (side, side) if side else (height, width))
        count = len(above.labels)
        if not count:
            return below
        chosen = rng.permutation(count)[: rng.integers(1, count + 1)]
        return paste(below, select(above, torch.from_numpy(np.sort(chosen))))

    def _read(self, wanted: int) -> tuple[int, NDArray[np.uint8], tuple[str, ...]]:
        """The wanted image, or the next that can be read; which it is, its pixels, and notes."""
        errors: list[UserError] = []
        for offset in range(len(self.dataset)):
            path = self.dataset.path(index := (wanted + offset) % len(self.dataset))
            try:
                image = read_image(path)
            except UserError as error:
                if self.on_bad_image == "stop":
                    raise
                errors.append(error)
            else:
                notes = (f"{error}. {path.name} is shown in its place" for error in errors)
                return index, image, tuple(notes)
        raise UserError(f"{self.dataset.folder}: no image can be read, as this one: {errors[0]}")
