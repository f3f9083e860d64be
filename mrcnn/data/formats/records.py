"""Images and objects that the readers of all formats return, and their COCO records."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from mrcnn.data.coco.tables import CocoRecords
from mrcnn.data.image_files import Size
from mrcnn.data.problems import Problem, Problems

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
    splits: tuple[str, ...] = ()  # "train" and "val", where the format lists them


@dataclass
class ParsedFolder:
    """Contents of a folder in another format than COCO."""

    classes: dict[int, str]  # category id -> name
    images: list[ImageRecord] = field(default_factory=list)
    has_lists: bool = False  # the format lists the splits; an image in no list is left out
    notes: list[str] = field(default_factory=list)  # decisions that the user should know


def numbered(names: Collection[str]) -> dict[int, str]:
    """Return category ids 1, 2, … in the order of `names`."""
    return dict(enumerate(names, start=1))


def read_in_threads(
    read: Callable[[str, Problems], list[ObjectRecord]], names: Iterable[str], problems: Problems
) -> Iterator[list[ObjectRecord]]:
    """Yield `read(name, problems)` for every name, in order. Several threads read."""

    def task(name: str) -> tuple[list[ObjectRecord], list[Problem]]:
        of_name = Problems(problems.file)
        return read(name, of_name), of_name.items

    with ThreadPoolExecutor(_THREADS) as pool:
        for objects, items in pool.map(task, names):
            problems.items += items
            yield objects


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
