"""Faults of data sets, each planted in another image or annotation, and their findings.

`plant` damages a copy of real data; every fault names the findings that it must bring about.
"""

from collections.abc import Callable

from tests.helpers import annotation_writers as writers
from tests.helpers.damaged_copy import Copy, Planted, Record, square
from tests.helpers.planted_image_faults import IMAGE_FAULTS

# Records of images


def no_width(copy: Copy) -> list[Planted]:
    image = copy.image()
    del image["width"]
    return [Planted("images.width", "must be a whole number > 0, got None", image["id"])]


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
            a["segmentation"] = writers.runs(writers.bitmap(a, image))
        a["iscrowd"] = 1
    return [Planted("image of crowds", "must have objects that are not crowd", image["id"])]


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
        Planted("categories.name", "(id 44): name must be a non-empty text", split=split)
        for split in ("train", "val")
    ]


def same_name(copy: Copy) -> list[Planted]:
    copy.train["categories"] = [*copy.train["categories"], {"id": 95, "name": "bus"}]
    return [Planted("categories.name", "(id 95): name must be unique, got 'bus'")]


def classes_alike(copy: Copy) -> list[Planted]:
    a = copy.annotation()
    a["category_id"] = 96
    copy.train["categories"] = [*copy.train["categories"], {"id": 96, "name": "Traffic-Light"}]
    return [
        Planted("similar class names", "got 'Traffic-Light'", split=""),
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


WITHOUT_MASK = "must be a list of polygons or an RLE object, got None"
FAULTS = IMAGE_FAULTS | {
    fault.__name__: fault
    for fault in (
        no_width, without_objects, same_id, named_twice, crowds_only,
        annotation_id, off_image, whole_image, drawn_twice, two_classes, nearly_twice, blank_name,
        same_name, classes_alike, blanks_around, unused_class, class_of_val_alone,
    )
} | {
    "unknown image": of_annotation(
        "annotations.image_id", "must be the id of an image, got 5", image_id=5),
    "unknown category": of_annotation(
        "annotations.category_id", "must be the id of a category, got 12", category_id=12),
    "box of three": of_annotation("annotations.bbox", "must be four finite", bbox=[1, 2, 3]),
    "box of another": of_annotation(
        "box of something else", "bbox must be that of its mask", bbox=box_of_another),
    "loose box": of_annotation("loose box", "bbox must be tight around its mask", bbox=loose_box),
    "area of text": of_annotation("annotations.area", "area must be a number", area="twelve"),
    "area of another": of_annotation("area of something else", "got 12; correct it", area=12),
    "no mask": of_annotation("annotations.segmentation", WITHOUT_MASK, segmentation=None),
    "NaN": of_annotation(
        "annotations.segmentation", "got [nan, 5.0]", segmentation=[[1, 1, float("nan"), 5, 9, 9]]),
    "a ring that is a line": of_annotation(
        "ring without area", "got '3 points on a line",
        segmentation=lambda a: [*a["segmentation"], [1, 1, 9, 9, 17, 17]],
        bbox=GONE),
    "no pixel": of_annotation(
        "mask without a pixel", "must cover the centre of a pixel",
        segmentation=square(10.6, 10.6, 0.3), bbox=[10.6, 10.6, 0.3, 0.3], area=0.09),
    "a diagonal": of_annotation(
        "annotations.segmentation", "must enclose some of the image, got 'an empty mask'",
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
