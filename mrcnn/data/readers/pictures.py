"""A data set of any format: pictures and the objects drawn on them, and these as COCO records."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

Record = dict[str, Any]


@dataclass(frozen=True)
class Object:
    """One instance."""

    place: str  # what messages call it: a file, and a field of it
    name: str  # of its class
    segmentation: Any  # as in COCO: a list of rings, or run lengths
    crowd: bool = False


@dataclass(frozen=True)
class Picture:
    """An image file and its instances."""

    name: str  # of the file, below the folder of the data
    place: str  # what messages call it
    size: tuple[int, int]  # (height, width), upright
    objects: list[Object]
    splits: tuple[str, ...] = ()  # "train" and "val", where the format says so


@dataclass
class Pictures:
    """All that a folder holds."""

    classes: dict[int, str]  # category id -> name
    pictures: list[Picture] = field(default_factory=list)
    listed: bool = False  # whether the format lists the splits; a picture of no list is left out
    notes: list[str] = field(default_factory=list)  # what was decided and the user should know


@dataclass(frozen=True)
class Content:
    """COCO records, not yet checked, and what messages call each of them."""

    images: list[Record]
    annotations: list[Record]
    categories: list[Record]
    images_called: list[str] = field(default_factory=list)
    annotations_called: list[str] = field(default_factory=list)
    notes: tuple[str, ...] = ()


def numbered(names: Collection[str]) -> dict[int, str]:
    """Category ids 1, 2, … in the order of `names`."""
    return dict(enumerate(names, start=1))


def as_records(found: Pictures, chosen: Collection[int]) -> Content:
    """The pictures at the positions `chosen`; ids count all pictures and objects from 1."""
    id_of = {name: id for id, name in found.classes.items()}
    content = Content(
        images=[],
        annotations=[],
        categories=[{"id": id, "name": name} for id, name in found.classes.items()],
        notes=tuple(found.notes),
    )
    kept, drawn = set(chosen), 0
    for position, picture in enumerate(found.pictures):
        if position in kept:
            height, width = picture.size
            content.images.append(
                {"id": position + 1, "file_name": picture.name, "height": height, "width": width}
            )
            content.images_called.append(picture.place)
            for number, drawing in enumerate(picture.objects, start=drawn + 1):
                content.annotations.append(
                    {
                        "id": number,
                        "image_id": position + 1,
                        "category_id": id_of[drawing.name],
                        "segmentation": drawing.segmentation,
                        "iscrowd": int(drawing.crowd),
                    }
                )
                content.annotations_called.append(drawing.place)
        drawn += len(picture.objects)
    return content
