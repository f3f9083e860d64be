"""Splits of a folder: found in its files, or drawn."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from mrcnn.data.coco.read import read_splits
from mrcnn.data.formats import find_splits
from mrcnn.data.formats.split import DrawOptions
from mrcnn.errors import UserError
from tests.helpers import annotation_writers as writers


def make(folder: Path, *names: str) -> Path:
    """Empty files, and folders where a name ends in a slash."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(exist_ok=True) if name.endswith("/") else path.touch()
    return folder


LAYOUTS = {  # files, expected (train annotations, train images, val annotations, val images)
    "plain": (
        ["train.json", "val.json", "images/", "train/_annotations.coco.json"],
        ("train.json", "images", "val.json", "images"),
    ),
    "COCO": (
        ["annotations/instances_train2017.json", "annotations/instances_val2017.json",
         "annotations/captions_val2017.json", "train2017/", "val2017/"],
        ("annotations/instances_train2017.json", "train2017",
         "annotations/instances_val2017.json", "val2017"),
    ),
    "COCO below images": (
        ["annotations/instances_train.json", "annotations/instances_val.json", "images/train/",
         "images/val/"],
        ("annotations/instances_train.json", "images/train",
         "annotations/instances_val.json", "images/val"),
    ),
    "COCO in one folder": (
        ["annotations/instances_train.json", "annotations/instances_val.json", "images/"],
        ("annotations/instances_train.json", "images", "annotations/instances_val.json", "images"),
    ),
    "Roboflow": (
        [f"{name}/_annotations.coco.json" for name in ("train", "valid", "test")],
        ("train/_annotations.coco.json", "train", "valid/_annotations.coco.json", "valid"),
    ),
    "one set": (
        ["annotations.json", "images/"],
        ("annotations.json", "images", "annotations.json", "images"),
    ),
    "CVAT's one set": (
        ["annotations/instances_default.json", "images/a.jpg"],
        ("annotations/instances_default.json", "images") * 2,
    ),
    "CVAT's one set, by subset": (
        ["annotations/instances_default.json", "images/default/"],
        ("annotations/instances_default.json", "images/default") * 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path, layout):
    names, expected = LAYOUTS[layout]
    splits = find_splits(make(tmp_path, *names))
    train, val = splits["train"], splits["val"]
    actual = (train.annotations, train.images, val.annotations, val.images)
    assert actual == tuple(tmp_path / part for part in expected)
    assert bool(train.note) == ("one set" in layout)


def test_one_split_is_enough_where_no_more_is_needed(tmp_path):
    make(tmp_path, "val.json", "images/")
    assert list(find_splits(tmp_path, needs=["val"])) == ["val"]
    with pytest.raises(UserError, match=r"has no train annotations \(found val: .*val.json\)"):
        find_splits(tmp_path)


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        ([], ["holds no data set", "train.json", "instances_train", "found: an empty folder"]),
        (["a.txt", "photos/"], ["holds no data set", "found: a.txt, photos"]),
        (["train.json", "val.json"], ["train.json exists, but not its images", "images"]),
        (
            ["annotations/instances_train2014.json", "annotations/instances_train2017.json"],
            ["several files for train", "instances_train2014.json, instances_train2017.json"],
        ),
    ],
    ids=["empty", "something else", "no images", "two years"],
)
def test_messages_about_what_is_missing(tmp_path, names, parts):
    make(tmp_path, *names)
    with pytest.raises(UserError) as caught:
        find_splits(tmp_path)
    for part in [f"--data {tmp_path}", *parts]:
        assert part in str(caught.value)


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match="none: does not exist"):
        find_splits(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: is a file, not a folder"):
        find_splits(tmp_path / "file")


def test_real_folders(shared_data):
    assert find_splits(shared_data / "nuclei")["val"].annotations.name == "val.json"
    assert find_splits(shared_data / "coco_mini")["train"].note


def draw(folder: Path, options: DrawOptions) -> dict[str, set[str]]:
    datasets = read_splits(find_splits(folder, options=options))
    return {name: {d.path(i).name for i in range(len(d))} for name, d in datasets.items()}


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    """Four images each of five patients."""
    shape = {"label": "a", "points": [[0, 0], [5, 0], [5, 5]]}
    for number in range(20):
        name = f"p{number // 4}_{number}"
        Image.new("RGB", (60, 40)).save(tmp_path / f"{name}.png")
        content = {"shapes": [shape], "imagePath": f"{name}.png"}
        writers.write_text(tmp_path / f"{name}.json", content)
    return tmp_path


def test_the_draw_depends_on_the_seed_and_keeps_groups_together(patients):
    one, again, other = (draw(patients, DrawOptions(0.25, seed)) for seed in (0, 0, 1))
    assert one == again != other
    assert (len(one["train"]), len(one["val"])) == (15, 5)
    grouped = draw(patients, DrawOptions(0.2, 0, r"^(p\d+)_"))
    groups = {name: {file.split("_")[0] for file in files} for name, files in grouped.items()}
    assert (len(groups["train"]), len(groups["val"])) == (4, 1)
    assert not groups["train"] & groups["val"]


def test_note_on_the_draw(patients):
    notes = read_splits(find_splits(patients))["train"].notes
    assert "16 images for training and 4 for validation are drawn with seed 0" in notes[0]


def test_a_new_image_keeps_the_draw_of_others(patients):
    before = draw(patients, DrawOptions(0.2, 0))
    Image.new("RGB", (60, 40)).save(patients / "new.png")
    writers.write_text(patients / "new.json", {"shapes": [], "imagePath": "new.png"})
    after = draw(patients, DrawOptions(0.2, 0))
    assert len(before["val"] - after["val"]) <= 1


def test_a_group_must_match_all_names(patients):
    with pytest.raises(UserError, match=r"--group 'p\[0-3\]': must match the name of every image"):
        draw(patients, DrawOptions(0.2, 0, "p[0-3]"))


def test_ids_are_the_same_in_every_draw(patients):
    found = []
    for seed in (0, 1):
        datasets = read_splits(find_splits(patients, options=DrawOptions(0.2, seed)))
        found.append({d.path(i).name: int(d.image_ids[i]) for d in datasets.values()
                      for i in range(len(d))})  # fmt: skip
        assert torch.cat([d.annotation_ids for d in datasets.values()]).unique().numel() == 20
    assert found[0] == found[1]
