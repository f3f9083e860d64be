"""Images and objects that the readers of all formats return, and their COCO records."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrcnn.data.coco.tables import CocoRecords
from mrcnn.data.image_files import Size, read_sizes
from mrcnn.data.problems import Problem, Problems, listed

_THREADS = 8  # decoding of masks releases the GIL


@dataclass(frozen=True)
class ObjectRecord:
    """One instance."""

    label: str  # how messages name it: a file, and a field of it
    class_name: str
    segmentation: Any  # as in COCO: a list of rings, or RLE
    crowd: bool = False


@dataclass(frozen=True)
class ImageRecord:
    """An image file and its instances."""

    name: str  # of the file, below the folder of the data
    label: str  # how messages name it
    size: Size
    objects: list[ObjectRecord]


@dataclass
class ParsedFolder:
    """Contents of a folder in another format than COCO."""

    classes: dict[int, str]  # category id -> name
    images: list[ImageRecord] = field(default_factory=list)
    lists: dict[str, set[str]] = field(default_factory=dict)  # "train", "val" -> image names
    notes: list[str] = field(default_factory=list)  # decisions that the user should know


def numbered(names: Collection[str]) -> dict[int, str]:
    """Return category ids 1, 2, … in the order of `names`."""
    return dict(enumerate(names, start=1))


def left_out(files: Sequence[str], what: str) -> list[str]:
    """Return a note on files that are left out, or none."""
    if not files:
        return []
    count = f"1 {what} is" if len(files) == 1 else f"{len(files)} {what}s are"
    return [f"{count} left out: {listed(files)}"]


def read_images(
    root: Path,
    labels: Mapping[str, str],
    read_objects: Callable[[str, Size, Problems], list[ObjectRecord]],
    problems: Problems,
    field: str = "",
) -> list[ImageRecord]:
    """Read the headers of images in the resolved folder `root`, and their objects in threads.

    `labels` are the names of the images, and how messages name them, with `field` where the file is
    the problem. `read_objects(name, size, problems)` adds what is wrong, or raises it.
    """
    of_files = {name: f"{label}{field}" for name, label in labels.items()}
    sizes, images = read_sizes(root, of_files, problems), []

    def task(name: str) -> tuple[ImageRecord, list[Problem]]:
        own, objects = Problems(problems.file), list[ObjectRecord]()
        with own.collect():
            objects = read_objects(name, sizes[name], own)
        return ImageRecord(name, labels[name], sizes[name], objects), own.items

    with ThreadPoolExecutor(_THREADS) as pool:
        for image, items in pool.map(task, sizes):
            images.append(image)
            problems.items += items
    return images


def as_coco_records(parsed: ParsedFolder, chosen: Collection[int]) -> CocoRecords:
    """Return the images at the positions `chosen`. Ids count all images and objects from 1."""
    id_of = {name: id for id, name in parsed.classes.items()}
    records = CocoRecords(notes=tuple(parsed.notes))
    for id, name in parsed.classes.items():
        records.categories.add({"id": id, "name": name}, f"class {name!r:.60} (id {id})")
    chosen, objects_before = set(chosen), 0
    for position, image in enumerate(parsed.images):
        if position in chosen:
            height, width = image.size
            record = {
                "id": position + 1, "file_name": image.name, "height": height, "width": width,
            }  # fmt: skip
            records.images.add(record, image.label)
            for id, instance in enumerate(image.objects, start=objects_before + 1):
                record = {
                    "id": id,
                    "image_id": position + 1,
                    "category_id": id_of[instance.class_name],
                    "segmentation": instance.segmentation,
                    "iscrowd": int(instance.crowd),
                }
                records.annotations.add(record, instance.label)
        objects_before += len(image.objects)
    return records
