"""Ground truth of an evaluation: read once, and shared by all that compares detections with it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mrcnn.config import ModelConfig
from mrcnn.data.coco.read import CocoDataset, read_coco
from mrcnn.data.coco.tables import CocoRecords
from mrcnn.data.coco.truth import Record, as_coco, filled_truth
from mrcnn.data.formats import Split, find_splits
from mrcnn.data.formats.coco_files import read_records
from mrcnn.data.formats.split import DrawOptions, split_of
from mrcnn.data.problems import Problems
from mrcnn.errors import UserError
from mrcnn.io.json_files import read_json, read_text
from mrcnn.ops.rle import from_segmentation


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Annotations that detections are compared with."""

    records: Record  # images, annotations, categories; with area, bbox and iscrowd
    source: Path  # file or folder of the annotations, for messages
    sizes: dict[int, tuple[int, int]]  # image id -> (height, width), also of images left out

    @classmethod
    def from_records(
        cls,
        records: Record,
        image_ids: Collection[int] | None = None,
        source: Path = Path("ground truth"),
    ) -> GroundTruth:
        """Fill in what is optional in the content of a COCO file.

        Args:
            records: Content of a COCO annotation file.
            image_ids: Images that count. None means all.
            source: Name of the file, for messages.
        """
        sizes = {image["id"]: (image["height"], image["width"]) for image in records["images"]}
        return cls(filled_truth(records, sizes if image_ids is None else image_ids), source, sizes)

    @classmethod
    def of_dataset(cls, dataset: CocoDataset, records: Record | None = None) -> GroundTruth:
        """Take the images of a data set from `records`, or from its annotation file, read again."""
        source = dataset.annotations
        if records is None:
            if source.is_dir():
                records = as_coco(dataset)
            else:
                records = _content(read_records(source, Problems(source)))
        classes = set(dataset.category_ids)  # without headings
        categories = [record for record in records["categories"] if record["id"] in classes]
        records = {**records, "categories": categories}
        return cls.from_records(records, set(dataset.image_ids.tolist()), source)

    @property
    def image_ids(self) -> list[int]:
        """Ids of the images that count, in the order of the file."""
        return [image["id"] for image in self.records["images"]]

    @property
    def categories(self) -> list[Record]:
        """Categories in ascending order of their ids: the order of all arrays of classes."""
        return sorted(self.records["categories"], key=lambda category: int(category["id"]))

    @cached_property
    def drawn(self) -> list[Record]:
        """Annotations with their masks as RLE; scorers would draw polygons without limits."""
        return [
            {**r, "segmentation": from_segmentation(r["segmentation"], *self.sizes[r["image_id"]])}
            for r in self.records["annotations"]
        ]


def read_truth(
    data: Path | None,
    ground_truth: Path | None = None,
    split: str = "val",
    image_ids: Collection[int] | None = None,
    model: ModelConfig | None = None,
    images: Path | None = None,
) -> tuple[CocoDataset, GroundTruth]:
    """Read the annotations of a folder, or of a file.

    Args:
        data: Folder of a data set, or a COCO file. A file that is not named after the split or
            `test` is divided, as for training.
        ground_truth: Annotation file, instead of `data`.
        split: "train" or "val" of `data`.
        image_ids: Images that count. None means all.
        model: As for `read_split`.
        images: As for `find_splits`.

    Raises:
        UserError: If the annotations are absent or wrong, or no image is left.
    """
    if (data is None) == (ground_truth is None):
        raise UserError(
            "name either --data, the folder of a data set, or --ground-truth, an annotation file"
        )
    if data is not None:
        # A file that is named after its split is scored as a whole.
        is_whole = data.is_file() and split_of(data.stem) in (split, "test")
        options = None if is_whole else DrawOptions()
        splits = find_splits(data, (split,), options, images=images)
        return read_split(splits[split], image_ids, model)
    assert ground_truth is not None
    return read_split(Split(ground_truth, ground_truth.parent), image_ids, model)


def read_split(
    split: Split, image_ids: Collection[int] | None = None, model: ModelConfig | None = None
) -> tuple[CocoDataset, GroundTruth]:
    """Read annotations once: as a data set, and as ground truth.

    Args:
        split: Annotations and images, from `find_splits`.
        image_ids: Images that count. None means all.
        model: Detector, which needs images and its own classes. Without one, the image files are
            not checked.

    Raises:
        UserError: If the annotations are absent or wrong, or no image is left.
    """
    parsed: Any = read_json(split.annotations) if split.records is None else None
    names, category_ids = (model.class_names, model.category_ids) if model else ((), ())
    folder = split.images if model else None
    dataset = read_coco(split.annotations, folder, names, category_ids, split.records, parsed)
    dataset = replace(dataset, notes=(*split.notes, *dataset.notes))
    records = parsed
    if split.annotations.is_dir():
        records = as_coco(dataset)
    elif split.records is not None:  # a part of the file
        records = _content(split.records)
    dataset = select_images(dataset, image_ids)
    return dataset, GroundTruth.of_dataset(dataset, records)


def _content(records: CocoRecords) -> Record:
    """Return the tables of a COCO file."""
    tables = ("images", "annotations", "categories")
    return {name: getattr(records, name).records for name in tables}


def select_images(dataset: CocoDataset, image_ids: Collection[int] | None) -> CocoDataset:
    """Return the images with these ids, or all, in the order of the data set.

    Raises:
        UserError: If no image is left, or an id is unknown.
    """
    if image_ids is not None:
        ids, chosen = dataset.image_ids.tolist(), set(image_ids)
        if unknown := sorted(chosen - set(ids)):
            raise UserError(
                f"{dataset.annotations}: has no image with id {unknown[0]} "
                f"({len(unknown)} of the given ids are unknown); correct the list of ids"
            )
        dataset = dataset.subset([i for i, id in enumerate(ids) if id in chosen])
    if not len(dataset):
        raise UserError(f"{dataset.annotations}: holds no images; there is nothing to evaluate")
    return dataset


def read_image_ids(file: Path | None) -> list[int] | None:
    """Read the ids of --image-ids, one per line; None without a file.

    Raises:
        UserError: If the file cannot be read, or holds something else.
    """
    if file is None:
        return None
    try:
        if not (ids := [int(line) for line in read_text(file).split()]):
            raise UserError(f"--image-ids {file}: is empty; write an id per line")
        return ids
    except UserError:
        raise
    except ValueError as error:
        wrong = str(error).partition(": ")[2]
        raise UserError(
            f"--image-ids {file}: must hold whole numbers, one per line, got {wrong:.40}"
        ) from None
