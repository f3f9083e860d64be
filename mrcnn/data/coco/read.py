"""COCO annotation files as flat tensors, checked.

N images, I instances (crowd regions included), C classes. Boxes are xyxy in file pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrcnn.data.coco.annotations import mask_bounds, read_annotations
from mrcnn.data.coco.tables import CocoRecords, ids, read_categories, read_images
from mrcnn.data.formats import Split
from mrcnn.data.formats.coco_files import read_records
from mrcnn.data.problems import Problems, listed
from mrcnn.errors import UserError
from mrcnn.ops import instance_masks
from mrcnn.ops.instance_masks import InstanceMasks


@dataclass(frozen=True)
class CocoDataset:
    """Images of one split and their instances.

    All large fields are flat tensors, so that loader workers share them, forked or spawned. The
    instances of image i are `start[i] : start[i + 1]`. Images without instances are kept. Crowd
    regions are kept too, marked in `crowd`; they are not training targets.
    """

    annotations: Path  # a COCO file, or the folder of a data set in another format
    folder: Path  # of the images
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]  # in the file, aligned with class_names
    notes: tuple[str, ...]  # decisions of the reader that the user should know
    image_ids: Tensor  # (N,) int64
    sizes: Tensor  # (N, 2) int64 (height, width), upright
    names: Tensor  # (B,) uint8, UTF-8 of all file names
    name_start: Tensor  # (N + 1,) int64 into `names`
    start: Tensor  # (N + 1,) int64 into the instances
    annotation_ids: Tensor  # (I,) int64
    boxes: Tensor  # (I, 4) float32, tight around the mask
    labels: Tensor  # (I,) int64 in [0, C)
    crowd: Tensor  # (I,) bool
    masks: InstanceMasks  # I instances

    def __len__(self) -> int:
        return len(self.image_ids)

    def path(self, index: int) -> Path:
        """Return the file of image `index`."""
        name = self.names[self.name_start[index] : self.name_start[index + 1]]
        return self.folder / bytes(name.numpy()).decode()

    def file_names(self) -> list[bytes]:
        """Return the file names of all images, in UTF-8."""
        names, start = self.names.numpy().tobytes(), self.name_start.tolist()
        return [names[first:end] for first, end in pairwise(start)]

    def targets(self, index: int) -> Tensor:
        """Return the (G,) int64 rows of the instances of image `index` without crowd regions."""
        first, last = int(self.start[index]), int(self.start[index + 1])
        return first + torch.nonzero(~self.crowd[first:last]).squeeze(1)

    def subset(self, index: Sequence[int]) -> CocoDataset:
        """Return the images at the positions `index`, in that order, with their instances."""
        images = torch.tensor(index, dtype=torch.int64)
        rows, start = instance_masks.take(self.start, images)
        characters, name_start = instance_masks.take(self.name_start, images)
        return replace(
            self,
            image_ids=self.image_ids[images],
            sizes=self.sizes[images],
            names=self.names[characters],
            name_start=name_start,
            start=start,
            annotation_ids=self.annotation_ids[rows],
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            crowd=self.crowd[rows],
            masks=instance_masks.select(self.masks, rows),
        )


def read_coco(
    annotations: Path,
    images: Path | None,
    class_names: Sequence[str] = (),
    category_ids: Sequence[int] = (),
    records: CocoRecords | None = None,
    parsed: Any = None,
    keep_all: bool = False,
) -> CocoDataset:
    """Read and check an annotation file, and the headers of all its images.

    Classes are the categories in ascending order of their ids. Boxes are taken from the masks;
    a `bbox` is checked but not used.

    Args:
        annotations: The COCO file.
        images: Folder that `file_name` is relative to. None reads no image files.
        class_names: Classes of an existing model. Categories are matched to them by name.
        category_ids: Category ids of that model, for its classes that the file does not have.
        records: Replaces the contents of the file.
        parsed: JSON value of the file, if it was read before.
        keep_all: Make a problem of an empty mask, even if it is one of few among many.

    Raises:
        DatasetError: Lists all that is wrong in the records and their images.
        UserError: If the file cannot be read or is not JSON.

    Example:
        >>> dataset = read_coco(Path("birds/train.json"), Path("birds/images"))  # doctest: +SKIP
        >>> dataset.boxes[dataset.targets(0)]  # (G, 4), of the first image  # doctest: +SKIP
    """
    problems = Problems(annotations)
    if records is None:
        records = read_records(annotations, problems, parsed, images)
    used = ids(records.annotations.records, "category_id")
    classes = read_categories(records.categories, used, class_names, category_ids, problems)
    table = read_images(records.images, images, problems)
    if not (len(records.images) and len(records.categories)):  # no annotation could be right
        problems.raise_any()
    flat = read_annotations(records.annotations, table, classes, problems)
    masks = flat.masks(table)
    boxes, empty = mask_bounds(masks, records.annotations, problems, keep_all)
    problems.drop("annotations", empty)
    problems.raise_any()

    kept = torch.ones(len(masks), dtype=torch.bool)
    kept[empty] = False
    rows = torch.nonzero(kept).squeeze(1)
    image = torch.tensor(flat.image, dtype=torch.int64)[rows]
    order = rows[torch.argsort(image, stable=True)]
    start = torch.zeros(len(table.ids) + 1, dtype=torch.int64)
    torch.cumsum(torch.bincount(image, minlength=len(table.ids)), 0, out=start[1:])
    names = [name.encode() for name in table.names]
    return CocoDataset(
        annotations=annotations,
        folder=annotations.parent if images is None else images,
        class_names=classes.names,
        category_ids=classes.ids,
        notes=(*records.notes, *classes.notes, *_left_out(empty, records)),
        image_ids=torch.tensor(table.ids, dtype=torch.int64),
        sizes=torch.tensor(table.sizes, dtype=torch.int64).view(-1, 2),
        names=torch.from_numpy(np.frombuffer(b"".join(names), np.uint8).copy()),
        name_start=torch.tensor(np.cumsum([0, *map(len, names)])),
        start=start,
        annotation_ids=torch.tensor(flat.id, dtype=torch.int64)[order],
        boxes=boxes[order].float(),
        labels=torch.tensor(flat.label, dtype=torch.int64)[order],
        crowd=torch.tensor(flat.crowd, dtype=torch.bool)[order],
        masks=instance_masks.select(masks, order),
    )


def _left_out(empty: Sequence[int], records: CocoRecords) -> list[str]:
    """Return a note on annotations with empty masks, or none."""
    names = listed([records.annotations.labels[i] for i in empty])
    return [f"annotations with empty masks are left out ({len(empty):,}): {names}"] * bool(empty)


def read_splits(
    splits: dict[str, Split], class_names: Sequence[str] = (), category_ids: Sequence[int] = ()
) -> dict[str, CocoDataset]:
    """Read and check several annotation files, as `find_splits` returns them.

    All use the classes of the first, or of a model as for `read_coco`.

    Raises:
        UserError: Lists what is wrong in all the files.
    """
    datasets: dict[str, CocoDataset] = {}
    errors: list[str] = []
    for name, split in splits.items():
        try:
            dataset = read_coco(
                split.annotations, split.images, class_names, category_ids, split.records
            )
        except UserError as error:
            errors.append(str(error))
            continue
        datasets[name] = replace(dataset, notes=(*split.notes, *dataset.notes))
        if not class_names:
            class_names, category_ids = dataset.class_names, dataset.category_ids
    if errors:
        raise UserError("\n".join(dict.fromkeys(errors)))
    return datasets
