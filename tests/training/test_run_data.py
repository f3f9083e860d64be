"""Data without targets are refused or reported; changes since a run was started are named."""

import json

import pytest

from mrcnn.data.coco.read import read_coco
from mrcnn.errors import UserError
from mrcnn.training.run_data import check_classes, check_targets, data_changes, image_digests
from tests.helpers import tiny

SQUARE = [[8.0, 8.0, 32.0, 8.0, 32.0, 32.0, 8.0, 32.0]]
CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]


def records(objects="", images="ab", categories=CATEGORIES):
    """Return COCO records: `objects` has a letter per object; c cat, d dog, # crowd region."""
    return {
        "categories": categories,
        "images": [
            {"id": i, "file_name": f"{name}.png", "height": 64, "width": 64}
            for i, name in enumerate(images)
        ],
        "annotations": [
            {
                "id": i, "image_id": i % len(images), "category_id": 7 if kind == "d" else 3,
                "iscrowd": int(kind == "#"), "segmentation": SQUARE, "bbox": [8, 8, 24, 24],
            }
            for i, kind in enumerate(objects)
        ],
    }  # fmt: skip


@pytest.fixture
def read(tmp_path):
    def read(values, name="train"):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(values))
        return read_coco(path, None)

    return read


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ("", r"train\.json: the 2 images for train have no objects .* no annotations; annotate"),
        ("###", r"train\.json: .* no objects to be learned: 3 crowd regions; set iscrowd to 0"),
    ],
)
def test_there_must_be_something_to_learn(objects, message, read):
    with pytest.raises(UserError, match=message):
        check_targets({"train": read(records(objects)), "val": read(records("cd"), "val")})


@pytest.mark.parametrize(
    ("train", "val", "notes"),
    [
        ("cd", "cd", []),
        ("c#d", "cd", ["1 of 3 annotations for train are crowd regions, which are not learned"]),
        ("cc", "cd", ["no objects for train of 1 of 2 classes, not learned: dog"]),
        ("cd", "d", ["no objects for val of 1 of 2 classes, not measured: cat"]),
        ("cd", "", ["no objects to be measured: no annotations. AP cannot be measured"]),
        ("cd", "#", ["no objects to be measured: 1 crowd regions; set iscrowd to 0"]),
    ],
)
def test_what_is_not_learned_or_not_measured_is_counted(train, val, notes, read):
    got = check_targets({"train": read(records(train)), "val": read(records(val), "val")})
    assert len(got) == len(notes)
    for text, note in zip(got, notes, strict=True):
        assert note in text


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({3: "dog", 7: "cat"}, "the order .* class 0 was 'cat' (id 3), is now 'dog' (id 3)"),
        ({1: "cat", 7: "dog"}, "category ids .* class 0 was 'cat' (id 3), is now 'cat' (id 1)\n"),
        ({3: "cat", 7: "cow"}, "the names .* class 1 was 'dog' (id 7), is now 'cow' (id 7)"),
        ({3: "cat"}, "the run has 2 classes, .* have 1.* class 1 was 'dog' (id 7), is now absent"),
    ],
)
def test_other_classes_are_refused(classes, message, read, tmp_path):
    categories = [{"id": id, "name": name} for id, name in classes.items()]
    dataset = read(records(categories=categories))
    with pytest.raises(UserError) as caught:
        check_classes(tmp_path, tiny.CONFIG, dataset)
    text = " ".join(str(caught.value).splitlines())
    assert all(part.strip() in text for part in message.split(".*")), text
    check_classes(tmp_path, tiny.CONFIG, read(records("cd")))


def shifted(values):
    values["annotations"][1]["segmentation"] = [[9.0, 9.0, *SQUARE[0][2:]]]


def resized(values):
    values["images"][0]["height"] = 65


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (shifted, ["1 of 2 images are new or changed", "b.png"]),
        (resized, ["1 of 2 images are new or changed", "a.png"]),
        (lambda v: v["annotations"].pop(), ["1 of 2 images are new or changed", "b.png"]),
        (lambda v: v["annotations"][0].update(category_id=7), ["1 of 2 images", "a.png"]),
        (lambda v: v.update(records("cd", "abc")), ["1 of 3 images are new or changed", "c.png"]),
        (lambda v: v.update(records("c", "a")), ["1 of the 2 images before are gone"]),
        (lambda v: v["images"].reverse(), ["other order of images"]),
    ],
)
def test_changed_images_are_counted_and_the_first_is_named(change, parts, read):
    values = records("cd")
    before = image_digests(read(values))
    assert data_changes(read(values), before) == []
    change(values)
    (note,) = data_changes(read(values), before)
    assert all(part in note for part in parts), note
