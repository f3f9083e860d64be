"""Images with their objects as the checks read them: files decoded, masks measured."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mrcnn.data.checks.findings import CheckedSplit, Violation
from mrcnn.data.coco.truth import as_coco
from mrcnn.data.image_files import Size
from mrcnn.data.images import read_image
from mrcnn.data.pixels import orientation
from mrcnn.data.problems import Problem
from mrcnn.errors import FileError
from mrcnn.io.plain_files import read_plain
from mrcnn.ops.rle import from_segmentation


@dataclass(frozen=True)
class DecodedFile:
    """Facts about how an image file is stored."""

    error: FileError | None = None  # why it cannot be read; then nothing else is known
    format: str = ""  # Pillow's name
    mode: str = ""  # Pillow's: "RGB", "L", "I;16", …
    orientation: int = 1  # EXIF
    frames: int = 1
    values: tuple[int, int] = (0, 255)  # least and largest, of grey with 16 bits
    is_transparent: bool = False  # in some pixel
    is_blank: bool = False  # all pixels are equal
    content_digest: bytes = b""  # of the bytes of the file
    pixel_digest: bytes = b""  # of its upright RGB pixels


@dataclass(frozen=True)
class DecodedObject:
    """An instance, with its mask measured in pixels of the file."""

    place: str  # how messages name its record
    id: int
    image_id: int
    image_size: Size
    label: int
    crowd: bool
    segmentation: Any  # rings or RLE
    mask: dict[str, Any]  # RLE
    area: float  # pixels of the mask
    box: NDArray[np.float64]  # (4,) xyxy, tight around the mask
    record: Mapping[str, Any]  # as the file has it

    @property
    def stated_box(self) -> NDArray[np.float64]:
        """Return the (4,) xyxy box of the record, by default that of the mask."""
        if "bbox" not in self.record:
            return self.box
        x, y, width, height = self.record["bbox"]
        return np.array([x, y, x + width, y + height], np.float64)

    def violation(self, field: str, rule: str, value: object, fix: str) -> Violation:
        """Return a problem of a field of the record."""
        problem = Problem(self.place, rule, value, fix, "annotations", field=field)
        return Violation(problem, self.image_id, self.id)


@dataclass(frozen=True)
class DecodedImage:
    """An image of a split with its objects."""

    place: str  # how messages name its record
    id: int
    path: Path
    size: Size
    file: DecodedFile
    objects: list[DecodedObject]
    is_annotated: bool  # any record names the image, also one that the reader refused

    def violation(self, rule: str, value: object, fix: str) -> Violation:
        """Return a problem of the file."""
        return Violation(Problem(f"{self.place}: {self.path}", rule, value, fix), self.id)


class ImageDecoder:
    """Decode the images of a split that could be read."""

    def __init__(self, split: CheckedSplit) -> None:
        if split.dataset is None:
            raise ValueError("ImageDecoder: split must have a dataset, got None")
        self.dataset = split.dataset
        self.annotated = split.annotated
        images, annotations = split.records.images, split.records.annotations
        ids = (record["id"] for record in images.records)
        self.places = dict(zip(ids, images.labels, strict=True))
        self.records = {
            record["id"]: (record, label)
            for record, label in zip(annotations.records, annotations.labels, strict=True)
        }
        self.label_of = {id: label for label, id in enumerate(self.dataset.category_ids)}

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int) -> DecodedImage:
        """Decode the image at a position, and measure its masks."""
        content = as_coco(self.dataset.subset([index]))
        image = content["images"][0]
        size = (image["height"], image["width"])
        path = self.dataset.path(index)
        return DecodedImage(
            place=self.places[image["id"]],
            id=image["id"],
            path=path,
            size=size,
            file=decode_file(path),
            objects=[self._object(record, size) for record in content["annotations"]],
            is_annotated=image["id"] in self.annotated,
        )

    def find(self, id: int) -> DecodedImage | None:
        """Decode the image with an id; None if it was left out."""
        index = (self.dataset.image_ids == id).nonzero().flatten().tolist()
        return self.read(index[0]) if index else None

    def _object(self, annotation: dict[str, Any], size: Size) -> DecodedObject:
        record, place = self.records[annotation["id"]]
        x, y, width, height = annotation["bbox"]
        return DecodedObject(
            place=place,
            id=annotation["id"],
            image_id=annotation["image_id"],
            image_size=size,
            label=self.label_of[annotation["category_id"]],
            crowd=bool(annotation["iscrowd"]),
            segmentation=annotation["segmentation"],
            mask=from_segmentation(annotation["segmentation"], *size),
            area=annotation["area"],
            box=np.array([x, y, x + width, y + height], np.float64),
            record=record,
        )


def decode_file(path: Path) -> DecodedFile:
    """Decode an image file, and describe how it is stored."""
    try:
        data = read_plain(path)
        pixels = read_image(path, data)
    except FileError as error:
        return DecodedFile(error=error)
    with Image.open(io.BytesIO(data)) as image:
        is_wide = image.mode.startswith("I")
        has_alpha = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
        return DecodedFile(
            format=image.format or "",
            mode=image.mode,
            orientation=orientation(image),
            frames=_frames(image),
            values=_range(image) if is_wide else (0, 255),
            is_transparent=has_alpha and _range(image.convert("RGBA").getchannel("A"))[0] < 255,
            is_blank=bool((pixels == pixels[:1, :1]).all()),
            content_digest=_digest(data),
            pixel_digest=_digest(pixels.data, repr(pixels.shape)),
        )


def _digest(data: bytes | memoryview, key: str = "") -> bytes:
    return hashlib.blake2b(data, key=key.encode(), digest_size=16).digest()


def _frames(image: Image.Image) -> int:
    """Count the images in a file; 1 for JPEG of cameras, in which the others are previews."""
    if image.format == "MPO":
        return 1
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # decoders fail on damaged files with errors of many kinds
        return 2  # at least: the first is intact, and something follows


def _range(image: Image.Image) -> tuple[int, int]:
    array = np.asarray(image)
    return int(array.min()), int(array.max())
