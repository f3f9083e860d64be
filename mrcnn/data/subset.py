"""Some images of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from mrcnn.data import instances
from mrcnn.data.coco import CocoDataset


def subset(dataset: CocoDataset, index: Sequence[int]) -> CocoDataset:
    """The images at the positions `index`, in that order, with their instances."""
    images = torch.tensor(index, dtype=torch.int64)
    rows, start = _ranges(dataset.start, images)
    characters, name_start = _ranges(dataset.name_start, images)
    return replace(
        dataset,
        image_ids=dataset.image_ids[images],
        sizes=dataset.sizes[images],
        names=dataset.names[characters],
        name_start=name_start,
        start=start,
        annotation_ids=dataset.annotation_ids[rows],
        boxes=dataset.boxes[rows],
        labels=dataset.labels[rows],
        crowd=dataset.crowd[rows],
        masks=instances.select(dataset.masks, rows),
    )


def _ranges(start: torch.Tensor, groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of the items of `groups`, and where each group starts among them."""
    ranges = [torch.arange(int(start[g]), int(start[g + 1])) for g in groups]
    lengths = torch.tensor([0, *map(len, ranges)])
    return torch.cat([*ranges, torch.zeros(0, dtype=torch.int64)]), lengths.cumsum(0)
