"""Broken COCO files: each is refused with the file, record, field, value and fix."""

import copy
import functools
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from mrcnn.data.coco.read import CocoDataset, read_coco
from mrcnn.data.problems import ALIKE, SHOWN, DatasetError
from mrcnn.errors import UserError
from mrcnn.evaluation.truth import GroundTruth
from mrcnn.ops import instance_masks, rle

NAN, INF = float("nan"), float("inf")


def sound() -> dict:
    """Two images of 8 x 6 pixels, polygons, runs as text and as list, a crowd region."""
    square = [1, 1, 5, 1, 5, 4, 1, 4]
    runs = {"size": [6, 8], "counts": [7, 4, 37]}
    text = {"size": [6, 8], "counts": "74U1"}
    return {
        "images": [
            {"id": 1, "file_name": "a.png", "width": 8, "height": 6},
            {"id": 2, "file_name": "sub/b.png", "width": 8, "height": 6},
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": [
            {"id": 10, "image_id": 1, "category_id": 3, "segmentation": [square],
             "bbox": [1, 1, 4, 3], "area": 12, "iscrowd": 0},
            {"id": 11, "image_id": 1, "category_id": 7, "segmentation": text},
            {"id": 12, "image_id": 2, "category_id": 7, "segmentation": runs, "iscrowd": 1},
        ],
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        Image.new("RGB", (8, 6)).save(tmp_path / "images" / name)
    return tmp_path


def read(folder: Path, content: object) -> CocoDataset:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / "train.json").write_bytes(text)
    return read_coco(folder / "train.json", folder / "images")


def test_the_valid_data_set_is_read(folder):
    dataset = read(folder, sound())
    assert len(dataset) == 2
    assert dataset.boxes.tolist() == [[1, 1, 5, 4], [1, 1, 2, 5], [1, 1, 2, 5]]


def test_points_a_little_outside_and_missing_boxes_are_tolerated(folder):
    content = sound()
    polygon([-1, -1, 16, -1, 16, 12, -1, 12])(content)
    for key in ("bbox", "area", "iscrowd"):
        without("annotations", key)(content)
    assert read(folder, content).boxes[0].tolist() == [0, 0, 8, 6]


UNREADABLE = {  # content of the file, what the message says
    "empty": (b"", ["is empty (0 bytes)"]),
    "truncated": (json.dumps(sound()).encode()[:300], ["is not JSON", "line 1, column"]),
    "cut inside a value": (b'{"images": ', ["Expecting value", "cut short?"]),
    "not JSON": (b"<xml/>", ["is not JSON", "line 1, column 1"]),
    "two documents": (b"{}\n{}", ["Extra data", "line 2, column 1"]),
    "trailing comma": (b'{"images": [],}', ["is not JSON", "column"]),
    "Latin-1": ('{"name": "café"}'.encode("latin-1"), ["byte 13 (0xe9) is not UTF-8"]),
    "UTF-16": (json.dumps(sound()).encode("utf-16"), ["byte 0 (0xff) is not UTF-8"]),
    "nested 100,000 deep": (b"[" * 100_000 + b"]" * 100_000, ["nested too deeply"]),
    "number of 100,000 digits": (b'{"images": ' + b"9" * 100_000 + b"}", ["number", "digits"]),
    "a list": (b"[]", ["the file must hold a JSON object, got []", "COCO"]),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_unreadable_json(folder, case):
    content, parts = UNREADABLE[case]
    with pytest.raises(UserError) as caught:
        read(folder, content)
    for part in [str(folder / "train.json"), *parts]:
        assert part in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_byte_order_mark_is_tolerated(folder):
    assert len(read(folder, b"\xef\xbb\xbf" + json.dumps(sound()).encode())) == 2


def test_missing_file_and_folders(folder):
    for annotations, images, part in (
        ("none.json", "images", "none.json: does not exist"),
        ("images", "images", "images: is a folder, not a plain file"),
        ("train.json", "pictures", "pictures: no such folder of images"),
    ):
        (folder / "train.json").write_text(json.dumps(sound()))
        with pytest.raises(UserError) as caught:
            read_coco(folder / annotations, folder / images)
        assert part in str(caught.value)


def first(table: str, **changes: object) -> Callable[[dict], None]:
    """Change the first record of a table."""
    return lambda content: content[table][0].update(changes)


image, annotation, category = (
    functools.partial(first, table) for table in ("images", "annotations", "categories")
)


def without(table: str, key: str):
    return lambda content: content[table][0].pop(key)


def polygon(*rings):
    return annotation(segmentation=[*rings])


def runs(counts, size=(6, 8)):
    return annotation(segmentation={"size": [*size], "counts": counts})


IMAGE, ANNOTATION = "images[0] (id 1): ", "annotations[0] (id 10): "
RECORDS = {  # what is done to the sound data set, what the message says
    "no images": (lambda c: c.pop("images"), ["images must be a list, got 'no such key'"]),
    "no annotations": (lambda c: c.pop("annotations"), ["hold masks of objects, got 'images only"]),
    "no categories": (lambda c: c.pop("categories"), ["categories must be a list"]),
    "images is an object": (lambda c: c.update(images={}), ["images must be a list, got {}"]),
    "images is empty": (lambda c: c.update(images=[]), ["images must hold at least one object"]),
    "categories is empty": (lambda c: c.update(categories=[]), ["categories must hold"]),
    "an image is a text": (
        lambda c: c["images"].append("x.png"), ["images[2] must be an object, got 'x.png'"]),
    "an annotation is null": (
        lambda c: c["annotations"].append(None), ["annotations[3] must be an object, got None"]),
    "image without id": (without("images", "id"), ["images[0] (id None): id must", "got None"]),
    "image id a name": (image(id="1a"), ["images[0] (id '1a'): id must", "got '1a'"]),
    "image id negative": (image(id=-1), ["id must be a whole number from 0 to 2^63 - 1, got -1"]),
    "image id a fraction": (image(id=1.5), ["images[0] (id 1.5): id must", "got 1.5"]),
    "image id true": (image(id=True), ["images[0] (id True): id must", "got True"]),
    "image id beyond 64 bits": (image(id=2**63), ["id must be a whole number", str(2**63)]),
    "image id twice": (image(id=2), ["images[1] (id 2): id must be unique", "[0] (id 2) has it"]),
    "image without width": (without("images", "width"), [IMAGE + "width must", "got None"]),
    "image height 0": (image(height=0), [IMAGE + "height must be a whole number > 0, got 0"]),
    "image width true": (image(width=True), [IMAGE + "width must", "got True"]),
    "image of 10^12 pixels": (image(width=10**6, height=10**6), ["must be at most", "10000"]),
    "image size not the file's": (
        image(width=9), [IMAGE + "size must be the 8 x 6 of", "a.png, got '9 x 6'"]),
    "image size turned": (image(width=6, height=8), ["got '6 x 8'", "EXIF orientation"]),
    "image without file_name": (without("images", "file_name"), [IMAGE + "file_name must"]),
    "file_name empty": (image(file_name=""), [IMAGE + "file_name must be a non-empty", "got ''"]),
    "file missing": (image(file_name="z.png"), [IMAGE + "file_name: ", "z.png: does not exist"]),
    "file a folder": (image(file_name="sub"), [IMAGE + "file_name: ", "sub: is a folder"]),
    "file no image": (image(file_name="c.png"), ["c.png: is not an image of a known format"]),
    "file empty": (image(file_name="e.png"), [IMAGE + "file_name: ", "e.png: is empty"]),
    "file name too long": (image(file_name="z" * 5000), [IMAGE + "file_name must have at most"]),
    "category without name": (without("categories", "name"), ["categories[0] (id 3): name must"]),
    "category name blank": (category(name=" "), ["categories[0] (id 3): name must", "got ' '"]),
    "category id twice": (category(id=7), ["categories[1] (id 7): id must be unique"]),
    "category name twice": (category(name="dog"), ["categories[1] (id 7): name must be unique"]),
    "annotation without id": (without("annotations", "id"), ["annotations[0] (id None): id must"]),
    "annotation id twice": (
        annotation(id=11), ["annotations[1] (id 11): id must be unique", "[0] (id 11) has it"]),
    "annotation without image_id": (
        without("annotations", "image_id"), [ANNOTATION + "image_id must", "got None"]),
    "image_id unknown": (annotation(image_id=99), [ANNOTATION + "image_id must", "got 99"]),
    "category_id unknown": (
        annotation(category_id=4), [ANNOTATION + "category_id must", "got 4"]),
    "category_id a list": (annotation(category_id=[3]), [ANNOTATION + "category_id", "got [3]"]),
    "iscrowd 2": (annotation(iscrowd=2), [ANNOTATION + "iscrowd must be 0 or 1, got 2"]),
    "bbox a number": (annotation(bbox=3), [ANNOTATION + "bbox must be four", "got 3"]),
    "bbox of names": (annotation(bbox=["a", 1, 2, 2]), [ANNOTATION + "bbox must be four"]),
    "area a name": (annotation(area="big"), [ANNOTATION + "area must be a number", "got 'big'"]),
    "area huge": (annotation(area=10**400), [ANNOTATION + "area must be a number", "got 1000"]),
    "area NaN": (annotation(area=NAN), [ANNOTATION + "area must be a number >= 0, got nan"]),
    "area true": (annotation(area=True), [ANNOTATION + "area must be a number >= 0, got True"]),
    "bbox of three": (annotation(bbox=[1, 2, 3]), [ANNOTATION + "bbox", "got [1, 2, 3]"]),
    "bbox NaN": (annotation(bbox=[NAN, 1, 2, 2]), [ANNOTATION + "bbox", "[nan, 1, 2, 2]"]),
    "bbox without area": (
        annotation(bbox=[1, 1, 0, 2]), [ANNOTATION + "bbox must have a width and height > 0"]),
    "bbox outside": (
        annotation(bbox=[8, 1, 2, 2]), [ANNOTATION + "bbox must be inside its image of 8 x 6"]),
    "bbox huge": (annotation(bbox=[1, 1, 10**400, 2]), [ANNOTATION + "bbox must"]),
    "no segmentation": (
        without("annotations", "segmentation"), [ANNOTATION + "segmentation must", "got None"]),
    "segmentation empty": (polygon(), [ANNOTATION + "segmentation must", "got []", "draw"]),
    "polygon empty": (polygon([]), [ANNOTATION + "segmentation must", "got [[]]", "draw"]),
    "segmentation an empty object": (
        annotation(segmentation={}), [ANNOTATION + "segmentation.size must be [6, 8]", "got None"]),
    "polygon of two points": (polygon([1, 1, 2, 2]), ["at least 3 points, got '4 numbers'"]),
    "polygon not nested": (annotation(segmentation=[1, 1, 2, 2]),
        [ANNOTATION + "segmentation[0] must be a list of numbers, got 1 (and 3 more in it)"]),
    "polygon of names": (polygon([1, 1, "b", 2, 1, 2]), ["segmentation[0]", "got 'b'"]),
    "polygon of fractions": (
        polygon([0.1, 0.1, 0.7, 0.1, 0.7, 0.8]), ["segmentation[0] must be in pixels", "multiply"]),
    "polygon that lost a number": (
        polygon([1, 1, 4, 1, 4, 4], [1, 1, 4, 1, 4, 4, 1]), ["segmentation[1]", "'7 numbers'"]),
    "polygon with an integer past floats": (
        polygon([1, 1, 10**400, 2, 1, 2]), ["segmentation[0] must hold numbers only, got 1000"]),
    "polygon with NaN": (
        polygon([1, 1, 4, 1, 4, 4], [1, 1, NAN, 2, 1, 2]), ["segmentation[1]", "[nan, 2.0]"]),
    "polygon at 1e9": (polygon([1, 1, 1e9, 2, 1, 2]), ["image of 8 x 6", "[1000000000.0, 2.0]"]),
    "polygon past twice its image": (
        polygon([1, 1, 16.1, 2, 1, 2]), ["segmentation[0]", "got [16.1, 2.0]"]),
    "polygon outside": (polygon([9, 1, 12, 1, 12, 4]), [ANNOTATION + "segmentation must enclose"]),
    "polygon a line": (polygon([1, 1, 3, 1, 5, 1]), [ANNOTATION + "segmentation must enclose"]),
    "runs without size": (
        annotation(segmentation={"counts": [48]}), ["segmentation.size must be [6, 8]", "None"]),
    "runs of a turned size": (runs([48], (8, 6)), ["must be [6, 8]", "[8, 6]; it is [width, he"]),
    "runs of another size": (runs([48], (9, 6)), ["segmentation.size must be [6, 8]", "[9, 6]"]),
    "runs without counts": (annotation(segmentation={"size": [6, 8]}), ["segmentation.counts"]),
    "runs too short": (runs([7, 4]), ["segmentation.counts must", "48, got 11", "got [7, 4]"]),
    "runs too long": (runs([7, 4, 38]), ["segmentation.counts must", "got more", "[7, 4, 38]"]),
    "runs negative": (runs([-1, 49]), ["run 0 must not be negative, got -1"]),
    "runs past 64 bits": (runs([2**64]), ["segmentation.counts must", str(2**64)]),
    "runs without foreground": (runs([48]), [ANNOTATION + "segmentation must enclose"]),
    "text too short": (runs("74"), ["segmentation.counts must", "got 11", "'74'"]),
    "text cut inside a run": (runs("74U"), ["ends in the middle of a run", "'74U'"]),
    "text with bad characters": (runs("7 4"), ["character 1 must be one of", "'7 4'"]),
    "text of another mask": (runs("o" * 100), ["run 0 is too large", "encode the mask again"]),
}  # fmt: skip


@pytest.mark.parametrize("case", RECORDS)
def test_bad_record(folder, case):
    change, parts = RECORDS[case]
    content = sound()
    change(content)
    (folder / "images" / "c.png").write_text("no image")
    (folder / "images" / "e.png").touch()
    with pytest.raises(DatasetError) as caught:
        read(folder, content)
    for part in [f"{folder / 'train.json'}: ", *parts, "; "]:
        assert part in str(caught.value)
    assert len(str(caught.value)) < 2000


ESCAPES = [
    "../a.png", "sub/../../a.png", "..", "sub/..", "/etc/passwd", "//host/share/a.png",
    "\\\\host\\share\\a.png", "..\\a.png", "sub\\..\\..\\a.png", "C:\\a.png", "c:a.png", "C:/a.png",
    "http://example.org/a.png", "https://example.org/a.png", "file:///etc/passwd",
    "s3://bucket/a.png", "a.png\0.jpg", "\0", "a\n.png", "\ud800.png", "link.png", "linked/a.png",
    "loop.png", ".", "/",
]  # fmt: skip


@pytest.mark.parametrize("name", ESCAPES, ids=ascii)
def test_a_file_name_stays_in_its_folder(folder, name):
    images = folder / "images"
    Image.new("RGB", (8, 6)).save(folder / "a.png")
    os.symlink(folder / "a.png", images / "link.png")
    os.symlink(folder, images / "linked")
    os.symlink(images / "loop.png", images / "loop.png")
    content = sound()
    image(file_name=name)(content)
    if name.endswith("a.png") and name not in ("c:a.png", "linked/a.png"):
        assert read(folder, content).path(0) == images / "a.png"  # the last part of the name
        return
    with pytest.raises(DatasetError) as caught:
        read(folder, content)
    assert f"{folder / 'train.json'}: 1 problem\n  {IMAGE}file_name" in str(caught.value)
    str(caught.value).encode()  # can be printed


def test_links_inside_the_folder_and_a_linked_folder_are_fine(folder):
    os.symlink(folder / "images" / "a.png", folder / "images" / "link.png")
    os.symlink(folder / "images", folder / "pictures")
    content = sound()
    image(file_name="link.png")(content)
    (folder / "train.json").write_text(json.dumps(content))
    assert len(read_coco(folder / "train.json", folder / "pictures")) == 2


def test_all_problems_are_reported_at_once(folder):
    content = sound()
    image(width=-1)(content)
    content["images"][1]["file_name"] = "none.png"
    category(name=None)(content)
    annotation(category_id=99, bbox=[0, 0, 0, 0])(content)
    content["annotations"][2]["segmentation"]["counts"] = [1]
    with pytest.raises(DatasetError) as caught:
        read(folder, content)
    for part in (
        "train.json: 5 problems",
        "categories[0] (id 3): name",
        "images[0] (id 1): width",
        "images[1] (id 2): file_name",
        "annotations[0] (id 10): category_id",
        "annotations[2] (id 12): segmentation.counts",
    ):
        assert part in str(caught.value)


def test_a_long_list_is_cut_in_the_message_only(folder):
    content = sound()
    content["annotations"] = [
        content["annotations"][0] | {"id": i, "segmentation": [[NAN] * 6]} for i in range(1, 1001)
    ]
    with pytest.raises(DatasetError) as caught:
        read(folder, content)
    assert len(caught.value.problems) == 1000
    assert len(str(caught.value).splitlines()) == ALIKE + 3
    assert f"and {1000 - ALIKE} more like it\n  `mrcnn check-data DIR" in str(caught.value)
    assert caught.value.problems[-1].label == "annotations[999] (id 1000)"


def test_problems_of_many_kinds_are_cut_too(folder):
    content = sound()
    content["annotations"] = [
        content["annotations"][0] | {"id": i, "iscrowd": 2 + i, "bbox": [i], "area": -i}
        for i in range(1, 9)
    ]
    with pytest.raises(DatasetError) as caught:
        read(folder, content)
    assert len(caught.value.problems) == 24
    assert len(str(caught.value).splitlines()) == 3 * (ALIKE + 1) + 2 < SHOWN


READ = {  # what is done to the sound data set, and the notes
    "ids as text": (
        annotation(id="10", image_id=" 1", category_id="3"),
        ["annotations.id (1): text is read as a whole number",
         "annotations.image_id (1): text is read as a whole number",
         "annotations.category_id (1): text is read as a whole number"]),
    "ids and sizes with decimal points": (
        lambda c: (image(id=1.0, width=8.0, height="6.0")(c), category(id=3.0)(c)),
        ["images.id (1): whole numbers with a decimal point are read as whole numbers",
         "images.width (1): whole numbers with a decimal point are read as whole numbers",
         "images.height (1): text is read as a whole number",
         "categories.id (1): whole numbers with a decimal point are read as whole numbers"]),
    "null for what is optional": (
        annotation(iscrowd=None, area=None, bbox=None),
        ["annotations.iscrowd (1): null is read as 0",
         "annotations.area (1): null is left out, and computed from the mask",
         "annotations.bbox (1): empty boxes are left out, and taken from the mask"]),
    "numbers as text": (
        annotation(iscrowd=False, area="12", bbox=["1", "1", "4", "3"]),
        ["annotations.iscrowd (1): true and false are read as 1 and 0",
         "annotations.area (1): text is read as a number",
         "annotations.bbox (1): text is read as numbers"]),
    "an empty box": (
        annotation(bbox=[]),
        ["annotations.bbox (1): empty boxes are left out, and taken from the mask"]),
    "a flat polygon": (
        annotation(segmentation=[1, 1, 5, 1, 5, 4, 1, 4]),
        ["annotations.segmentation (1): flat lists are read as one polygon each"]),
    "a polygon of points": (
        annotation(segmentation=[[1, 1], [5, 1], [5, 4], [1, 4]]),
        ["annotations.segmentation (1): lists of points [x, y] are read as one polygon each"]),
    "polygons of points": (
        polygon([[1, 1], [5, 1], [5, 4], [1, 4]]),
        ["annotations.segmentation (1): polygons of texts or points [x, y] are read as lists of "
         "numbers"]),
    "a polygon of texts": (
        polygon(["1", "1", "5.0", "1", "5", "4", "1", "4"]),
        ["annotations.segmentation (1): polygons of texts or points [x, y] are read as lists of "
         "numbers"]),
    "a stray point and line": (
        polygon([1, 1, 5, 1, 5, 4, 1, 4], [2, 2, 7, 6], [], [3, 3]),
        ["annotations.segmentation (1): polygons of fewer than 3 points are left out beside others "
         "of the object"]),
    "RLE in a list": (
        annotation(segmentation=[{"size": [6, 8], "counts": [7, 3, 3, 3, 3, 3, 3, 3, 20]}]),
        ["annotations.segmentation (1): RLE in a list is taken out of it"]),
    "RLE as Python bytes": (
        runs("b'73300000a0'"),
        ["annotations.segmentation (1): RLE written as b'…' is read without the b"]),
    "RLE of floats": (
        runs([7.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 20.0]),
        ["annotations.segmentation (1): counts of RLE are read as whole numbers"]),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_other_spellings_are_read(folder, case):
    change, notes = READ[case]
    content = sound()
    change(content)
    dataset = read(folder, content)
    assert [*dataset.notes] == notes
    assert dataset.boxes.tolist() == [[1, 1, 5, 4], [1, 1, 2, 5], [1, 1, 2, 5]]
    assert (dataset.image_ids.tolist(), dataset.labels.tolist()) == ([1, 2], [0, 1, 1])
    truth = GroundTruth.of_dataset(dataset)  # reads the file again
    expected = {"id": 10, "image_id": 1, "category_id": 3, "area": 12, "iscrowd": 0}
    record = truth.drawn[0]
    assert {key: record[key] for key in expected} == expected
    assert (*record["bbox"],) == (1, 1, 4, 3)
    assert rle.area(record["segmentation"]) == 12


def test_a_few_empty_masks_among_many_are_left_out(folder):
    """As in COCO itself, whose files have some."""
    content = sound()
    line = {"segmentation": [[2, 2, 4, 2, 4, 2, 2, 2]], "bbox": [2, 2, 2, 0], "area": 0}
    content["annotations"] = [content["annotations"][0] | {"id": i} for i in range(1, 201)]
    content["annotations"][7] |= line
    dataset = read(folder, content)
    assert dataset.annotation_ids.tolist() == [1, 2, 3, 4, 5, 6, 7, *range(9, 201)]
    assert dataset.notes == (
        "annotations with empty masks are left out (1): annotations[7] (id 8)",
    )
    for record in content["annotations"][8:10]:
        record |= line
    with pytest.raises(DatasetError, match="enclose some of the image") as caught:
        read(folder, content)
    assert len(caught.value.problems) == 6  # masks and boxes


def test_an_outline_of_any_length_is_refused_before_it_is_drawn(folder, monkeypatch):
    monkeypatch.setattr("mrcnn.data.coco.annotations.MAX_OUTLINE", 1000)
    content = sound()
    square = content["annotations"][0]["segmentation"][0]
    polygon(square, [0, 0, 8, 6] * 49)(content)
    assert read(folder, content).boxes[0].tolist() == [1, 1, 5, 4]
    polygon(square, [0, 0, 8, 6] * 51)(content)
    drawn = []
    boxes = instance_masks.mask_boxes
    monkeypatch.setattr(instance_masks, "mask_boxes", lambda m: (drawn.append(len(m)), boxes(m))[1])
    with pytest.raises(DatasetError, match=r"at most 1,000 pixels, got '1,0\d\d pixels'"):
        read(folder, content)
    assert drawn == [2]


OTHER_TASKS = {
    "panoptic": {"images": [], "annotations": [{"segments_info": [], "image_id": 1}]},
    "captions": {"images": [], "annotations": [{"caption": "a cat", "id": 1, "image_id": 1}]},
    "keypoints": {"images": [], "annotations": [{"keypoints": [1, 1, 2], "id": 1}]},
    "images only": {"images": [{"id": 1}], "categories": []},
}


@pytest.mark.parametrize("task", OTHER_TASKS)
def test_files_of_other_tasks_are_named(folder, task):
    with pytest.raises(DatasetError, match=f"hold masks of objects, got '{task}.*instances_val"):
        read(folder, OTHER_TASKS[task])


def test_detections_in_place_of_annotations(folder):
    with pytest.raises(DatasetError, match="a list holds detections"):
        read(folder, [{"image_id": 1, "category_id": 3, "bbox": [1, 1, 2, 2], "score": 0.5}])


STRANGE = [
    None, True, 0, -1, 2**31, 2**63, 10**400, 1.5, 1e308, NAN, INF, -INF, "", "a", "\0", "\ud800",
    [], {}, [[]], [{}], {"size": [6, 8]}, {"counts": ""}, [1, 2, 3, 4], [1, 2, 3, 4, 5, 6], "../x",
]  # fmt: skip


def paths_in(value: object, path: tuple = ()) -> list[tuple]:
    """Paths of everything inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, item in inner:
        found.append((*path, key))
        if isinstance(item, (dict, list)):
            found += paths_in(item, (*path, key))
    return found


def mutate(content: dict, rng: random.Random) -> bytes:
    """One to three values lost, repeated, misspelt or replaced; now and then a broken byte."""
    for _ in range(rng.randint(1, 3)):
        if not (found := paths_in(content)):
            break
        *path, key = rng.choice(found)
        parent = content
        for step in path:
            parent = parent[step]
        kind, value = rng.random(), parent[key]
        if kind < 0.2:
            del parent[key]
        elif kind < 0.3 and isinstance(parent, list):
            parent.insert(key, copy.deepcopy(value))
        elif kind < 0.5 and isinstance(value, str) and value:
            at = rng.randrange(len(value))
            parent[key] = value[:at] + rng.choice("\0/0@Popé€") + value[at + rng.randint(0, 1) :]
        else:
            parent[key] = copy.deepcopy(rng.choice(STRANGE))
    raw = bytearray(json.dumps(content).encode())
    if rng.random() < 0.1:
        raw[rng.randrange(len(raw))] = rng.randrange(256)
    return bytes(raw)


def check_mutations(file: Path, content: str, read: Callable[[], object], seeds: range) -> None:
    """Read a file after random changes. Each is read or refused, soon."""
    outcomes = Counter()
    for seed in seeds:
        file.write_bytes(mutate(json.loads(content), random.Random(seed)))
        began = time.process_time()
        try:
            read()
            outcomes["read"] += 1
        except UserError as error:
            assert str(file.parent) in str(error)  # noqa: PT017  either outcome is right
            outcomes["refused"] += 1
        assert time.process_time() - began < 2, seed
    assert min(outcomes["read"], outcomes["refused"]) > len(seeds) / 100


@pytest.mark.parametrize(
    "seeds", [range(400), pytest.param(range(400, 10_400), marks=pytest.mark.slow)]
)
def test_random_changes_are_read_or_refused(folder, seeds):
    def check_boxes() -> None:
        boxes = read_coco(folder / "train.json", folder / "images").boxes
        assert torch.isfinite(boxes).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()

    check_mutations(folder / "train.json", json.dumps(sound()), check_boxes, seeds)
