"""One image with its objects as the checks see them: the file, decoded, and the masks, measured."""

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

from mrcnn.data.checking.records import Reading
from mrcnn.data.coco_truth import as_coco
from mrcnn.data.images import read_image
from mrcnn.data.subset import subset
from mrcnn.errors import UserError
from mrcnn.rle import from_segmentation

_ORIENTATION = 0x0112  # in EXIF


@dataclass(frozen=True)
class File:
    """What decoding an image file told."""

    error: str = ""  # why it cannot be read; then nothing else is known
    format: str = ""  # as Pillow calls it
    mode: str = ""  # of Pillow: "RGB", "L", "I;16", …
    orientation: int = 1  # of EXIF
    frames: int = 1
    values: tuple[int, int] = (0, 255)  # least and largest, of grey with 16 bits
    is_transparent: bool = False  # in some pixel
    is_blank: bool = False  # all pixels alike
    content: bytes = b""  # digest of the bytes of the file
    pixels: bytes = b""  # digest of its upright RGB pixels


@dataclass(frozen=True)
class Object:
    """An instance; its mask measured in pixels of the file."""

    place: str  # what messages call its record
    id: int
    label: int
    crowd: bool
    segmentation: Any  # rings or run lengths
    mask: dict[str, Any]  # run lengths, compressed
    area: float  # pixels of the mask
    box: NDArray[np.float64]  # (4,) xyxy, tight around the mask
    record: Mapping[str, Any]  # as the file has it

    @property
    def stated_box(self) -> NDArray[np.float64]:
        """(4,) xyxy as the record has it; that of the mask where it has none."""
        if "bbox" not in self.record:
            return self.box
        x, y, width, height = self.record["bbox"]
        return np.array([x, y, x + width, y + height], np.float64)


@dataclass(frozen=True)
class Sample:
    """An image of a split with its objects."""

    place: str  # what messages call its record
    id: int
    path: Path
    size: tuple[int, int]  # (height, width), upright
    file: File
    objects: list[Object]
    is_annotated: bool  # whether any record names the image, also one that the reader refused


class Samples:
    """The images of a split that could be read, by position."""

    def __init__(self, reading: Reading) -> None:
        if reading.dataset is None:
            raise ValueError("Samples: reading must have a dataset, got None")
        self.dataset = reading.dataset
        content = reading.content
        self.annotated = reading.annotated
        self.image_places = dict(
            zip((r["id"] for r in content.images), content.images_called, strict=True)
        )
        self.records = {
            record["id"]: (record, place)
            for record, place in zip(content.annotations, content.annotations_called, strict=True)
        }
        self.label_of = {id: label for label, id in enumerate(self.dataset.category_ids)}

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int) -> Sample:
        """Decode an image, and measure its masks."""
        content = as_coco(subset(self.dataset, [index]))
        image = content["images"][0]
        size = (image["height"], image["width"])
        path = self.dataset.path(index)
        return Sample(
            place=self.image_places[image["id"]],
            id=image["id"],
            path=path,
            size=size,
            file=read_file(path),
            objects=[self._object(annotation, size) for annotation in content["annotations"]],
            is_annotated=image["id"] in self.annotated,
        )

    def find(self, id: int) -> Sample | None:
        """The sample of an image id; None if it was left out."""
        at = (self.dataset.image_ids == id).nonzero().flatten().tolist()
        return self.read(at[0]) if at else None

    def _object(self, annotation: dict[str, Any], size: tuple[int, int]) -> Object:
        record, place = self.records[annotation["id"]]
        x, y, width, height = annotation["bbox"]
        return Object(
            place=place,
            id=annotation["id"],
            label=self.label_of[annotation["category_id"]],
            crowd=bool(annotation["iscrowd"]),
            segmentation=annotation["segmentation"],
            mask=from_segmentation(annotation["segmentation"], *size),
            area=annotation["area"],
            box=np.array([x, y, x + width, y + height], np.float64),
            record=record,
        )


def read_file(path: Path) -> File:
    """Decode an image file, and note how it is stored."""
    try:
        data = path.read_bytes()
        pixels = read_image(path, data)
    except UserError as error:
        return File(error=str(error))
    except OSError as error:
        return File(error=f"{path}: cannot be read ({error.strerror}); restore or remove it")
    with Image.open(io.BytesIO(data)) as image:
        is_wide = image.mode.startswith("I")
        has_alpha = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
        return File(
            format=image.format or "",
            mode=image.mode,
            orientation=int(image.getexif().get(_ORIENTATION, 1)),
            frames=_frames(image),
            values=_range(image) if is_wide else (0, 255),
            is_transparent=has_alpha and _range(image.convert("RGBA").getchannel("A"))[0] < 255,
            is_blank=bool((pixels == pixels[:1, :1]).all()),
            content=_digest(data),
            pixels=_digest(pixels.data, repr(pixels.shape)),
        )


def _digest(data: bytes | memoryview, key: str = "") -> bytes:
    return hashlib.blake2b(data, key=key.encode(), digest_size=16).digest()


def _frames(image: Image.Image) -> int:
    """Pictures in a file; 1 for cameras' JPEG, whose others are previews."""
    if image.format == "MPO":
        return 1
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # decoders fail on damaged files with errors of many kinds
        return 2  # at least: the first is sound, and something follows


def _range(image: Image.Image) -> tuple[int, int]:
    array = np.asarray(image)
    return int(array.min()), int(array.max())
