"""Faults of data sets, each planted in an image or annotation of its own, and what is to be found.

`plant` damages a copy of real data; every fault names the findings that it must bring about.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import annotation_writers as writers
import numpy as np
from PIL import Image
from pycocotools import mask as rle_codec

Record = dict


class Planted(NamedTuple):
    """A finding that must be there."""

    kind: str
    text: str  # in its words
    image: int | None = None
    annotation: int | None = None
    split: str = "train"


class Copy:
    """A copy of the images with train.json and val.json, on its way to be damaged."""

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


def runs(annotation: Record, image: Record) -> Record:
    mask = rle_codec.frPyObjects(annotation["segmentation"], image["height"], image["width"])
    merged = rle_codec.merge(mask)
    return {**merged, "counts": merged["counts"].decode()}


# Files of images


def truncated(copy: Copy) -> list[Planted]:
    image = copy.image()
    data = copy.path(image).read_bytes()
    copy.put(image, data[: len(data) // 2])
    return [Planted("unreadable image", "truncated", image["id"])]


def floating_point(copy: Copy) -> list[Planted]:
    image = copy.image()
    copy.save(image, copy.picture(image).convert("F"), ".tif")
    return [Planted("unreadable image", "holds floating-point pixels", image["id"])]


def empty(copy: Copy) -> list[Planted]:
    image = copy.image()
    copy.put(image, b"")
    return [Planted("images.file_name", "is empty (0 bytes)", image["id"])]


def missing(copy: Copy) -> list[Planted]:
    image = copy.image()
    copy.path(image).unlink()
    return [Planted("images.file_name", "does not exist", image["id"])]


def no_picture(copy: Copy) -> list[Planted]:
    image = copy.image()
    copy.put(image, b"<html>404</html>")
    return [Planted("images.file_name", "is no image of a known format", image["id"])]


def linked_out(copy: Copy) -> list[Planted]:
    image = copy.image()
    outside = copy.folder.parent / "outside.jpg"
    outside.write_bytes(copy.path(image).read_bytes())
    copy.path(image).unlink()
    os.symlink(outside, copy.path(image))
    return [Planted("images.file_name", "must not be a link out of", image["id"])]


def lying(copy: Copy) -> list[Planted]:
    image = copy.image()
    assert image["width"] != image["height"]
    exif = Image.Exif()
    exif[0x0112] = 6
    copy.save(image, copy.picture(image), exif=exif)
    return [Planted("images.size", "EXIF orientation or the record is turned", image["id"])]


def upside_down(copy: Copy) -> list[Planted]:
    image = copy.image()
    exif = Image.Exif()
    exif[0x0112] = 3
    copy.save(image, copy.picture(image).rotate(180), exif=exif, quality=95)
    return [Planted("EXIF orientation", "got 'EXIF orientation 3'", image["id"])]


def resized(copy: Copy) -> list[Planted]:
    image = copy.image()
    copy.save(image, copy.picture(image).resize((300, 200)))
    return [Planted("images.size", "must be the 300 x 200 of", image["id"])]


def sixteen_bits(copy: Copy) -> list[Planted]:
    image = copy.image()
    grey = np.asarray(copy.picture(image).convert("L")).astype(np.uint16) * 16
    copy.save(image, Image.fromarray(grey), ".png")
    return [Planted("16 bits", "16 bits, values 0 to", image["id"])]


def transparent(copy: Copy) -> list[Planted]:
    image = copy.image()
    picture = copy.picture(image)
    picture.putalpha(Image.new("L", picture.size, 128))
    copy.save(image, picture, ".png")
    return [Planted("transparency", "got 'transparent pixels (RGBA)'", image["id"])]


def animated(copy: Copy) -> list[Planted]:
    image = copy.image()
    picture = copy.picture(image)
    copy.save(image, picture, ".gif", save_all=True, append_images=[picture.rotate(90)])
    return [Planted("several pictures in a file", "got '2 pictures in one file'", image["id"])]


def for_print(copy: Copy) -> list[Planted]:
    image = copy.image()
    copy.save(image, copy.picture(image).convert("CMYK"))
    return [Planted("colours of print", "got 'CMYK'", image["id"])]


def misnamed(copy: Copy) -> list[Planted]:
    image = copy.image()
    copy.save(image, copy.picture(image), ".jpg", format="PNG")
    return [Planted("wrong suffix", "got '.jpg of a PNG file'", image["id"])]


def black(copy: Copy) -> list[Planted]:
    image = copy.image()
    copy.save(image, Image.new("RGB", copy.picture(image).size))
    return [Planted("blank image", "must show something", image["id"])]


def thumbnail(copy: Copy) -> list[Planted]:
    image = copy.image()
    copy.save(image, copy.picture(image).resize((20, 20)), ".png")
    image.update(width=20, height=20)
    for i, a in enumerate(copy.annotations(image)):
        a.update(segmentation=square(i, 1, 8), bbox=[i, 1, 8, 8], area=64)
        a.update(iscrowd=0)
    return [Planted("tiny image", "got '20 x 20'", image["id"])]


def same_bytes(copy: Copy) -> list[Planted]:
    image = copy.image()
    twin = copy.twin(image, "same_bytes.jpg")
    copy.path(twin).write_bytes(copy.path(image).read_bytes())
    return [Planted("picture twice", "got 'the bytes of another'", twin["id"])]


def same_pixels(copy: Copy) -> list[Planted]:
    image = copy.image()
    twin = copy.twin(image, "same_pixels.png")
    copy.picture(image).save(copy.path(twin))
    return [Planted("picture twice", "got 'the pixels of another'", twin["id"])]


def leak(copy: Copy) -> list[Planted]:
    image = copy.image()
    other = {**image, "file_name": "validated.png"}
    copy.picture(image).save(copy.path(other))
    copy.val["images"].append(other)
    copy.val["annotations"] += [{**a, "category_id": 1} for a in copy.annotations(image)]
    return [
        Planted("image in both splits", "got 'the pixels of an image that validates'", image["id"])
    ]


def names_alike(copy: Copy) -> list[Planted]:
    images = [copy.image(), copy.image()]
    for image, name in zip(images, ("Photo.jpg", "photo.jpg"), strict=True):
        path = copy.path(image)
        image["file_name"] = name
        path.rename(copy.path(image))
    return [Planted("file names alike", "got 'photo.jpg'", images[1]["id"])]


def unlisted(copy: Copy) -> list[Planted]:
    Image.new("L", (9, 9)).save(copy.folder / "images" / "stray.png")
    return [Planted("files without a record", "got '1 that are in none: stray.png'", split="")]


# Records of images


def no_width(copy: Copy) -> list[Planted]:
    image = copy.image()
    del image["width"]
    return [Planted("images.width", "must be a whole number > 0, got None", image["id"])]


def negative_height(copy: Copy) -> list[Planted]:
    image = copy.image()
    image["height"] = -5
    return [Planted("images.height", "must be a whole number > 0, got -5", image["id"])]


def same_id(copy: Copy) -> list[Planted]:
    image, other = copy.image(), copy.image()
    for a in copy.annotations(other):
        a["image_id"] = image["id"]
    other["id"] = image["id"]
    return [Planted("images.id", f"must be unique, got {image['id']}", image["id"])]


def named_twice(copy: Copy) -> list[Planted]:
    image = copy.image()
    twin = {**image, "id": image["id"] + 10**7}
    copy.train["images"].append(twin)
    for a in copy.annotations(image)[1:]:
        a["image_id"] = twin["id"]
    return [Planted("images.file_name", "must be that of no other image", twin["id"])]


def outside(copy: Copy) -> list[Planted]:
    image = copy.image()
    path = copy.path(image)
    image["file_name"] = f"../{path.name}"
    path.unlink()
    return [Planted("images.file_name", "without '..', got '../0", image["id"])]


def without_objects(copy: Copy) -> list[Planted]:
    image = copy.image()
    drawn = copy.annotations(image)
    copy.train["annotations"] = [a for a in copy.train["annotations"] if a not in drawn]
    # Their classes stay in use.
    other = copy.image()
    for i, a in enumerate(drawn):
        ring = square(3 * i, 3 * i, 12)
        copy.added(a, image_id=other["id"], segmentation=ring, bbox=[3 * i, 3 * i, 12, 12],
                   area=144, iscrowd=0)  # fmt: skip
    return [Planted("image without objects", "must have objects", image["id"])]


def crowds_only(copy: Copy) -> list[Planted]:
    image = copy.image()
    for a in copy.annotations(image):
        if isinstance(a["segmentation"], list):
            a["segmentation"] = runs(a, image)
        a["iscrowd"] = 1
    return [Planted("image of crowds", "must have objects that are no crowd", image["id"])]


# Annotations

GONE = object()  # in place of a value


def of_annotation(kind: str, text: str, **changes: object) -> Callable[[Copy], list[Planted]]:
    """One annotation with other fields; a function makes a value of the annotation."""

    def plant_it(copy: Copy) -> list[Planted]:
        a = copy.annotation()
        image = a["image_id"]
        a.update({k: v(a) if callable(v) else v for k, v in changes.items()})
        for key in [key for key, value in a.items() if value is GONE]:
            del a[key]
        if "image_id" in changes:
            image = a["image_id"]
        return [Planted(kind, text, image, a["id"])]

    return plant_it


def shifted(a: Record, by: float) -> list[list[float]]:
    return [[value + by for value in ring] for ring in a["segmentation"]]


def annotation_id(copy: Copy) -> list[Planted]:
    first, second = copy.annotation(), copy.annotation()
    position = {a["id"]: i for i, a in enumerate(copy.train["annotations"])}
    later = max(first, second, key=lambda a: position[a["id"]])
    first["id"] = second["id"] = min(first["id"], second["id"])
    return [Planted("annotations.id", "must be unique", later["image_id"], later["id"])]


def box_of_another(a: Record) -> list[float]:
    x, y, width, height = a["bbox"]
    return [x, y, width / 3, height / 3]


def loose_box(a: Record) -> list[float]:
    x, y, width, height = a["bbox"]
    return [x, y, width * 0.8, height * 0.9]


def off_image(copy: Copy) -> list[Planted]:
    a = copy.annotation()
    ring = [-20, 5, 60, 5, 60, 60, -20, 60]
    new = copy.added(a, segmentation=[ring], bbox=[0, 5, 60, 55], area=3300)
    return [Planted("points off the image", "got [-20.0, 5.0]", a["image_id"], new["id"])]


def whole_image(copy: Copy) -> list[Planted]:
    a = copy.annotation()
    image = next(i for i in copy.train["images"] if i["id"] == a["image_id"])
    width, height = image["width"], image["height"]
    ring = [0, 0, width, 0, width, height, 0, height]
    new = copy.added(a, segmentation=[ring], bbox=[0, 0, width, height], area=width * height)
    return [Planted("mask of the whole image", "got 'all of it'", image["id"], new["id"])]


def drawn_twice(copy: Copy) -> list[Planted]:
    a = copy.annotation()
    new = copy.added(a)
    return [Planted("mask drawn twice", f"(id {a['id']}) has it too", a["image_id"], new["id"])]


def two_classes(copy: Copy) -> list[Planted]:
    a = copy.annotation()
    new = copy.added(a, category_id=2 if a["category_id"] != 2 else 3)
    return [Planted("mask of two classes", "same mask as another class", a["image_id"], new["id"])]


def nearly_twice(copy: Copy) -> list[Planted]:
    a = copy.annotation()
    x, y = 20.0, 20.0
    first = copy.added(a, segmentation=square(x, y, 60), bbox=[x, y, 60, 60], area=3600)
    second = {**first, "id": first["id"] + 10**12, "segmentation": square(x + 1, y, 60),
              "bbox": [x + 1, y, 60, 60]}  # fmt: skip
    copy.train["annotations"].append(second)
    return [Planted("mask nearly drawn twice", "got 'IoU 0.97 with", a["image_id"], second["id"])]


def text_record(copy: Copy) -> list[Planted]:
    copy.train["annotations"].append("an annotation")
    return [Planted("file", "must be an object, got 'an annotation'")]


# Categories


def blank_name(copy: Copy) -> list[Planted]:
    for content in (copy.train, copy.val):
        content["categories"] = [
            {**c, "name": " "} if c["id"] == 44 else c for c in content["categories"]
        ]
    return [
        Planted("categories.name", "(id 44) must be a non-empty text", split=split)
        for split in ("train", "val")
    ]


def same_name(copy: Copy) -> list[Planted]:
    copy.train["categories"] = [*copy.train["categories"], {"id": 95, "name": "person"}]
    return [Planted("categories.name", "(id 95) must be unique, got 'person'")]


def classes_alike(copy: Copy) -> list[Planted]:
    a = copy.annotation()
    a["category_id"] = 96
    copy.train["categories"] = [*copy.train["categories"], {"id": 96, "name": "Traffic-Light"}]
    return [
        Planted("class names alike", "got 'Traffic-Light'", split=""),
        Planted("class without instances", "class 'Traffic-Light' must be in val", split=""),
    ]


def blanks_around(copy: Copy) -> list[Planted]:
    for content in (copy.train, copy.val):
        content["categories"] = [
            {**c, "name": " car"} if c["id"] == 3 else c for c in content["categories"]
        ]
    return [Planted("blanks in a class name", "got ' car'", split="")]


def unused_class(copy: Copy) -> list[Planted]:
    copy.train["categories"] = [*copy.train["categories"], {"id": 97, "name": "unicorn"}]
    return [
        Planted("class without instances", f"class 'unicorn' must be in {split}", split="")
        for split in ("train", "val")
    ]


def class_of_val_alone(copy: Copy) -> list[Planted]:
    copy.val["categories"] = [*copy.val["categories"], {"id": 98, "name": "tram"}]
    drawn = [a for a in copy.val["annotations"] if a["category_id"] == 1]
    drawn[0]["category_id"] = 98
    return [Planted("categories.name", "must be a class of the model, got 'tram'", split="val")]


WITHOUT_MASK = "must be a list of polygons or a run-length object, got None"
FAULTS = {
    fault.__name__: fault
    for fault in (
        truncated, floating_point, empty, missing, no_picture, linked_out, lying, upside_down,
        resized, sixteen_bits, transparent, animated, for_print, misnamed, black, thumbnail,
        same_bytes, same_pixels, leak, names_alike, unlisted, no_width, negative_height, same_id,
        named_twice, outside, without_objects, crowds_only, annotation_id, off_image, whole_image,
        drawn_twice, two_classes, nearly_twice, blank_name, same_name, classes_alike,
        blanks_around, unused_class, class_of_val_alone,
    )
} | {
    "unknown image": of_annotation(
        "annotations.image_id", "must be the id of an image, got 5", image_id=5),
    "unknown category": of_annotation(
        "annotations.category_id", "must be the id of a category, got 12", category_id=12),
    "crowd 2": of_annotation("annotations.iscrowd", "must be 0 or 1, got 2", iscrowd=2),
    "box of three": of_annotation("annotations.bbox", "must be four finite", bbox=[1, 2, 3]),
    "box of another": of_annotation(
        "box of something else", "bbox must be that of its mask", bbox=box_of_another),
    "loose box": of_annotation("loose box", "bbox must be tight around its mask", bbox=loose_box),
    "area of text": of_annotation("area that is no number", "area must be a number", area="12"),
    "area of another": of_annotation("area of something else", "got 12; correct it", area=12),
    "no mask": of_annotation("annotations.segmentation", WITHOUT_MASK, segmentation=None),
    "two points": of_annotation(
        "annotations.segmentation", "at least 3 points", segmentation=[[1, 1, 9, 9]]),
    "NaN": of_annotation(
        "annotations.segmentation", "got [nan, 5.0]", segmentation=[[1, 1, float("nan"), 5, 9, 9]]),
    "polygon outside": of_annotation(
        "annotations.segmentation", "enclose some of the image", segmentation=square(-50, 5, 20)),
    "a line": of_annotation(
        "annotations.segmentation", "enclose some", segmentation=[[1, 1, 9, 1, 17, 1]]),
    "runs of another image": of_annotation(
        "annotations.segmentation", "the [height, width] of the image, got [9, 9]",
        segmentation={"size": [9, 9], "counts": [0, 81]}),
    "a ring that is a line": of_annotation(
        "ring without area", "got '3 points on a line",
        segmentation=lambda a: [*a["segmentation"], [1, 1, 9, 9, 17, 17]],
        bbox=GONE),
    "no pixel": of_annotation(
        "mask without a pixel", "must cover the centre of a pixel",
        segmentation=square(10.6, 10.6, 0.3), bbox=[10.6, 10.6, 0.3, 0.3], area=0.09),
    "a diagonal": of_annotation(
        "mask without a pixel", "must cover the centre of a pixel",
        segmentation=[[1, 1, 9, 9, 17, 17]], bbox=GONE, area=GONE),
    "one pixel": of_annotation(
        "mask of few pixels", "got '1 pixels'",
        segmentation=square(10, 10, 1), bbox=[10, 10, 1, 1], area=1),
    "crowd as a polygon": of_annotation("crowd as a polygon", "iscrowd must be 0", iscrowd=1),
    "a text among annotations": text_record,
}  # fmt: skip


def plant(copy: Copy) -> dict[str, list[Planted]]:
    """Damage a copy in every way; what must be found of each."""
    planted = {name: fault(copy) for name, fault in FAULTS.items()}
    copy.write()
    return planted
