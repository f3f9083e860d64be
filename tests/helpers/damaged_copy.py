"""A copy of real data to damage, and the findings that must follow."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from tests.helpers import annotation_writers as writers

Record = dict


class Planted(NamedTuple):
    """A finding that must be there."""

    kind: str
    text: str  # in its words
    image: int | None = None
    annotation: int | None = None
    split: str = "train"


class Copy:
    """A copy of the images, with train.json and val.json."""

    def __init__(self, source: Path, folder: Path) -> None:
        content = json.loads((source / "annotations.json").read_text())
        self.folder = folder
        for image in content["images"]:
            writers.place_image(source / "images" / image["file_name"], self.path(image))
        self.train, self.val = (
            {
                "images": images,
                "annotations": [a for a in content["annotations"] if a["image_id"] in ids],
                "categories": content["categories"],
            }
            for images in (content["images"][:120], content["images"][120:])
            for ids in [{image["id"] for image in images}]
        )
        self._free = iter(self.sound_images())

    def path(self, image: Record) -> Path:
        return self.folder / "images" / image["file_name"]

    def sound_images(self) -> Iterator[tuple[Record, Record]]:
        """Images of several objects, each with one that has a polygon of some size."""
        for image in list(self.train["images"]):
            drawn = self.annotations(image)
            large = [
                a
                for a in drawn
                if not a["iscrowd"] and len(a["segmentation"]) == 1 and a["area"] > 600
                if isinstance(a["segmentation"], list)
                if a["area"] < 0.6 * image["width"] * image["height"]
            ]
            if len(drawn) >= 2 and large:
                yield image, large[0]

    def annotations(self, image: Record) -> list[Record]:
        return [a for a in self.train["annotations"] if a["image_id"] == image["id"]]

    def image(self) -> Record:
        return next(self._free)[0]

    def annotation(self) -> Record:
        return next(self._free)[1]

    def picture(self, image: Record) -> Image.Image:
        with Image.open(self.path(image)) as picture:
            return picture.convert("RGB")

    def save(self, image: Record, picture: Image.Image, suffix: str = ".jpg", **options) -> None:
        """Put another file in place of the image's, under a name with this suffix."""
        self.path(image).unlink()  # it may be a link to the source
        image["file_name"] = str(Path(image["file_name"]).with_suffix(suffix))
        picture.save(self.path(image), **options)

    def put(self, image: Record, data: bytes) -> None:
        self.path(image).unlink()
        self.path(image).write_bytes(data)

    def twin(self, image: Record, name: str) -> Record:
        """Another record of the picture with its own id, without a file; objects are the same."""
        new = {**image, "id": image["id"] + 10**6, "file_name": name}
        self.train["images"].append(new)
        for a in self.annotations(image):
            self.train["annotations"].append({**a, "id": a["id"] + 10**13, "image_id": new["id"]})
        return new

    def added(self, annotation: Record, **changes: object) -> Record:
        """Another annotation beside one."""
        new = {**annotation, "id": annotation["id"] + 10**14, **changes}
        self.train["annotations"].append(new)
        return new

    def write(self) -> None:
        for name, content in (("train", self.train), ("val", self.val)):
            (self.folder / f"{name}.json").write_text(json.dumps(content))


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]
