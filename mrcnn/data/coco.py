"""COCO annotation files as flat arrays: every image, every instance, every problem.

N images, I instances (crowd regions included), C classes. Boxes are xyxy in file pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrcnn.data import instances
from mrcnn.data.coco_annotations import mask_bounds, read_annotations
from mrcnn.data.coco_tables import is_id, read_categories, read_images
from mrcnn.data.formats import Split
from mrcnn.data.problems import Problems, read_json
from mrcnn.data.readers import lvis
from mrcnn.data.readers.pictures import Content
from mrcnn.errors import UserError
from mrcnn.ops.mask_targets import InstanceMasks


@dataclass(frozen=True)
class CocoDataset:
    """The images of one split and their instances.

    Flat tensors only, so that loader workers share them whether they are forked or spawned. The
    instances of image i are `start[i] : start[i + 1]`; images without any are kept. Crowd regions
    are kept too, marked in `crowd`: they are no training targets.
    """

    annotations: Path  # a COCO file, or the folder of a data set in another format
    folder: Path  # of the images
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]  # in the file, aligned with class_names
    notes: tuple[str, ...]  # what the reader decided and the user should know
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
        """The file of image `index`."""
        name = self.names[self.name_start[index] : self.name_start[index + 1]]
        return self.folder / bytes(name.numpy()).decode()

    def targets(self, index: int) -> Tensor:
        """Positions of the instances of image `index` that are not crowd regions, (G,) int64."""
        first, last = int(self.start[index]), int(self.start[index + 1])
        return first + torch.nonzero(~self.crowd[first:last]).squeeze(1)


def read_coco(
    annotations: Path,
    images: Path | None,
    class_names: Sequence[str] = (),
    category_ids: Sequence[int] = (),
    content: Content | None = None,
    parsed: Any = None,
) -> CocoDataset:
    """Read and check an annotation file, and the headers of all its images.

    Classes are the categories in ascending order of their ids. Boxes are taken from the masks;
    a `bbox` is checked but not used.

    Args:
        images: the folder that `file_name` is relative to; None looks at no image, and takes the
            folder of the annotations for it.
        class_names: of an existing model: categories are matched to them by name.
        category_ids: of that model, used for its classes that the file does not have.
        content: records that take the place of the file's.
        parsed: JSON value of the file, if it was read before.
    Raises:
        DatasetError: listing all that is wrong in the records and their images.
        UserError: if the file cannot be read or is not JSON.
    """
    problems = Problems(annotations)
    if content is None:
        content = read_content(annotations, problems, parsed)
    image_records, annotation_records, category_records = (
        [(i, record) for i, record in enumerate(records) if isinstance(record, dict)]
        for records in (content.images, content.annotations, content.categories)
    )
    named = (record.get("category_id") for _, record in annotation_records)
    used = {category for category in named if is_id(category)}
    classes = read_categories(category_records, used, class_names, category_ids, problems)
    table = read_images(image_records, images, problems, content.images_called)
    if not (table.ids and category_records):  # no annotation could be right
        problems.raise_any()
    flat = read_annotations(
        annotation_records, table, classes, problems, content.annotations_called
    )
    masks = flat.masks(table)
    boxes = mask_bounds(masks, flat, problems)
    problems.raise_any()

    image = torch.tensor(flat.image, dtype=torch.int64)
    order = torch.argsort(image, stable=True)
    start = torch.zeros(len(table.ids) + 1, dtype=torch.int64)
    torch.cumsum(torch.bincount(image, minlength=len(table.ids)), 0, out=start[1:])
    names = [name.encode() for name in table.names]
    return CocoDataset(
        annotations=annotations,
        folder=annotations.parent if images is None else images,
        class_names=classes.names,
        category_ids=classes.ids,
        notes=(*content.notes, *classes.notes),
        image_ids=torch.tensor(table.ids, dtype=torch.int64),
        sizes=torch.tensor(table.sizes, dtype=torch.int64).view(-1, 2),
        names=torch.from_numpy(np.frombuffer(b"".join(names), np.uint8).copy()),
        name_start=torch.tensor(np.cumsum([0, *map(len, names)])),
        start=start,
        annotation_ids=torch.tensor(flat.id, dtype=torch.int64)[order],
        boxes=boxes[order].float(),
        labels=torch.tensor(flat.label, dtype=torch.int64)[order],
        crowd=torch.tensor(flat.crowd, dtype=torch.bool)[order],
        masks=instances.select(masks, order),
    )


def read_splits(
    splits: dict[str, Split], class_names: Sequence[str] = (), category_ids: Sequence[int] = ()
) -> dict[str, CocoDataset]:
    """Read and check several annotation files; the classes of the first are those of all.

    Args:
        class_names, category_ids: of an existing model, as for `read_coco`.
    Raises:
        UserError: listing what is wrong in all the files.
    """
    datasets: dict[str, CocoDataset] = {}
    errors: list[str] = []
    for name, split in splits.items():
        try:
            dataset = read_coco(
                split.annotations, split.images, class_names, category_ids, split.content
            )
        except UserError as error:
            errors.append(str(error))
            continue
        notes = (split.note, *dataset.notes) if split.note else dataset.notes
        datasets[name] = replace(dataset, notes=notes)
        if not class_names:
            class_names, category_ids = dataset.class_names, dataset.category_ids
    if errors:
        raise UserError("\n".join(dict.fromkeys(errors)))
    return datasets


def read_content(annotations: Path, problems: Problems, parsed: Any = None) -> Content:
    """The records of a COCO file; what is no record is noted.

    Raises:
        DatasetError: if the file does not hold a JSON object.
        UserError: if the file cannot be read or is not JSON.
    """
    content = read_json(annotations) if parsed is None else parsed
    if not isinstance(content, dict):
        problems.add("the file", "hold a JSON object", content, "is it a COCO annotation file?")
        problems.raise_any()
    found = Content(
        images=_records(content, "images", problems),
        annotations=_records(content, "annotations", problems),
        categories=_records(content, "categories", problems),
    )
    return lvis.adapt(found, problems)


def _records(content: dict[str, Any], key: str, problems: Problems) -> list[Any]:
    """The list under `key`; what is no object in it is a problem."""
    records = content.get(key)
    if not isinstance(records, list):
        fix = "is it a COCO annotation file?"
        problems.add(key, "be a list", records if key in content else "no such key", fix)
        return []
    if not records and key != "annotations":
        problems.add(key, "hold at least one object", records, "export the annotations again")
    for position, record in enumerate(records):
        if not isinstance(record, dict):
            problems.add(f"{key}[{position}]", "be an object", record, "correct or remove it")
    return records
