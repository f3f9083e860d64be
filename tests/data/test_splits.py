"""Splits of a folder: found in its files, or drawn."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from mrcnn.cli import app
from mrcnn.data.coco.read import read_splits
from mrcnn.data.formats import find_splits
from mrcnn.data.formats.split import DrawOptions
from mrcnn.data.synthetic import write_shapes
from mrcnn.errors import UserError
from mrcnn.evaluation.truth import read_truth
from mrcnn.report import _validation_data
from tests.data.test_malformed_data import check_mutations
from tests.helpers import annotation_writers as writers
from tests.helpers import short_runs, tiny

SQUARE = [1, 1, 9, 1, 9, 9, 1, 9]


@pytest.mark.parametrize("command", ["check-data", "convert-data", "evaluate", "train"])
def test_images_of_a_coco_file_elsewhere(tmp_path, capsys, command):
    """The flag --images names their folder."""
    write_shapes(tmp_path / "disk/data", train=5, val=1, size=64)
    file = tmp_path / "tool/exported/labels.json"
    file.parent.mkdir(parents=True)
    (tmp_path / "disk/data/train.json").rename(file)
    words = {
        "check-data": [str(file), "--workers", "0"],
        "convert-data": [str(file), str(tmp_path / "out")],
        "evaluate": ["--data", str(file), "--device", "cpu"],
        "train": ["--data", str(file), "--out", str(tmp_path / "run"), *short_runs.FLAGS],
    }[command]
    if command == "evaluate":
        classes = [(c["id"], c["name"]) for c in json.loads(file.read_text())["categories"]]
        ids, names = zip(*classes, strict=True)
        config = dataclasses.replace(tiny.CONFIG, class_names=names, category_ids=ids)
        words += ["--weights", str(tiny.run(tmp_path / "weights", config))]
    if command == "train":
        words += ["--steps", "1", "--eval-every", "0"]
    assert app.main([command, *words]) == 2
    assert app.main([command, *words, "--images", str(tmp_path / "disk/data/images")]) == 0


def coco(*images: str) -> dict:
    """Content of a COCO file with an object in each image."""
    return {
        "images": [{"id": i, "file_name": name, "width": 20, "height": 10}
                   for i, name in enumerate(images, start=1)],
        "annotations": [{"id": i, "image_id": i, "category_id": 1, "segmentation": [SQUARE]}
                        for i in range(1, len(images) + 1)],
        "categories": [{"id": 1, "name": "cell"}],
    }  # fmt: skip


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10)).save(path)


def make(folder: Path, *names: str) -> Path:
    """COCO files of two images, empty other files, and folders where a name ends in a slash."""
    names = tuple(f"{name}x.jpg" if name.endswith("/") else name for name in names)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".json"):
            writers.write_text(path, coco("a.jpg", "b.jpg"))
        else:
            path.touch()
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
    assert any("1 for validation are drawn" in n for n in train.notes) == ("one set" in layout)


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
            [
                "several files for train: annotations/instances_train2014.json, annotations/insta",
                "--data",
            ],
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
    with pytest.raises(UserError, match="file: is not a COCO file; name the folder"):
        find_splits(tmp_path / "file")


def test_real_folders(shared_data):
    assert find_splits(shared_data / "nuclei")["val"].annotations.name == "val.json"
    assert "are drawn with seed 0" in find_splits(shared_data / "coco_mini")["train"].notes[0]


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


FILES = {  # files with their images' folder, what is taken of them for train and val, what is left
    "CVAT's subsets": (
        {"annotations/instances_Train.json": "images/Train",
         "annotations/instances_Validation.json": "images/Validation",
         "annotations/instances_Test.json": "images/Test"},
        ["instances_Train.json", "instances_Validation.json"], "1 annotation file is left out: "),
    "CVAT's subsets without validation": (
        {"annotations/instances_TRAIN.json": "images/TRAIN",
         "annotations/instances_Test.json": "images/Test",
         "annotations/instances_default.json": "images/default"},
        ["instances_TRAIN.json"] * 2, "2 annotation files are left out: annotations/instances_Te"),
    "training alone": ({"train.json": "images"}, ["train.json"] * 2, None),
    "Label Studio": ({"result.json": "images"}, ["result.json"] * 2, None),
    "FiftyOne": ({"labels.json": "data"}, ["labels.json"] * 2, None),
    "FiftyOne by split": (
        {"train/labels.json": "train/data", "validation/labels.json": "validation/data"},
        ["train/labels.json", "validation/labels.json"], None),
    "images beside it": ({"my cells.json": "."}, ["my cells.json"] * 2, None),
    "Roboflow with folders of images": (
        {"train/_annotations.coco.json": "train/images", "valid/_annotations.coco.json":
         "valid/images", "test/_annotations.coco.json": "test/images"},
        ["train/_annotations.coco.json", "valid/_annotations.coco.json"], "is left out: test/"),
    "an empty folder of images": ({"a.json": "photos"}, ["a.json"] * 2, None),
    "an old folder": (
        {"annotations.json": "images", "train_old/all.json": "images"}, ["annotations.json"] * 2,
        "1 annotation file is left out: train_old/all.json"),
    "annotations beside images": ({"labels/cells.json": "images"}, ["labels/cells.json"] * 2, None),
    "a folder for annotations": ({"coco/all.json": "images"}, ["coco/all.json"] * 2, None),
    "usual and other names": (
        {"annotations.json": "images", "backup.json": "images"}, ["annotations.json"] * 2,
        "1 annotation file is left out: backup.json"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_coco_files_by_content(tmp_path, case):
    files, expected, left = FILES[case]
    for file, folder in files.items():
        names = [f"{Path(file).stem}{i}.jpg" for i in range(5)]
        writers.write_text(tmp_path / file, coco(*names))
        for name in names:
            image(tmp_path / folder / name)
    writers.write_text(tmp_path / "settings.json", {"images": 3})
    if case.startswith("an empty"):
        (tmp_path / "images").mkdir()
    datasets = read_splits(find_splits(tmp_path))
    taken = [dataset.annotations.relative_to(tmp_path).as_posix() for dataset in datasets.values()]
    assert all(path.endswith(name) for path, name in zip(taken, expected, strict=True))
    notes = " ".join(datasets["val"].notes)
    assert (left or "") in notes
    assert ("annotation file" in notes) == (left is not None)
    assert "1 other JSON file is left out: settings.json" in notes
    sizes = [len(dataset) for dataset in datasets.values()]
    assert sizes == ([4, 1] if expected[0] == expected[1] else [5, 5])
    assert ("4 images for training and 1 for validation" in notes) == (sizes == [4, 1])


def test_several_files_that_are_no_splits_are_named(tmp_path):
    for name in ("a", "b"):
        writers.write_text(tmp_path / f"{name}.json", coco(f"{name}0.jpg", f"{name}1.jpg"))
        image(tmp_path / "images" / f"{name}0.jpg")
        image(tmp_path / "images" / f"{name}1.jpg")
    with pytest.raises(UserError, match=r"several files that name no split: a\.json, b\.json;"):
        find_splits(tmp_path)
    datasets = read_splits(find_splits(tmp_path / "b.json"))
    assert sorted(d.path(0).name for d in datasets.values()) == ["b0.jpg", "b1.jpg"]


def test_a_divided_file_is_evaluated_on_the_drawn_images(tmp_path):
    names = [f"{i}.jpg" for i in range(10)]
    content = coco(*names)
    content["annotations"][0]["area"] = 12345.0
    writers.write_text(tmp_path / "annotations.json", content)
    for name in names:
        image(tmp_path / "images" / name)
    datasets = read_splits(find_splits(tmp_path))
    drawn = {name: set(dataset.image_ids.tolist()) for name, dataset in datasets.items()}
    assert drawn["train"] | drawn["val"] == {*range(1, 11)}
    assert not drawn["train"] & drawn["val"]
    again, truth = read_truth(tmp_path)
    assert set(again.image_ids.tolist()) == set(truth.image_ids) == drawn["val"]
    areas = read_truth(tmp_path, split="train")[1].records["annotations"]
    assert 12345.0 in [a["area"] for a in areas + truth.records["annotations"]]


def test_the_report_of_a_divided_file_has_the_same_images(tmp_path):
    """`config.json` names the file twice, and the images that it was divided with."""
    folder = tmp_path / "elsewhere"
    names = [f"{i}.jpg" for i in range(5)]
    writers.write_text(tmp_path / "labels" / "cells.json", coco(*names))
    for name in names:
        image(folder / name)
    file = {"annotations": str(tmp_path / "labels" / "cells.json"), "images": str(folder)}
    config = {"data": {"train": file, "val": file}}
    split = _validation_data(tmp_path / "config.json", config)
    drawn = find_splits(Path(file["annotations"]), images=folder)["val"]
    assert split.records.images.records == drawn.records.images.records
    assert len(split.records.images) == 1
    config["data"]["train"] = {**file, "annotations": "train.json"}
    assert _validation_data(tmp_path / "config.json", config).records is None


def test_an_annotation_without_image_is_not_lost(tmp_path):
    content = coco("a.jpg", "b.jpg")
    content["annotations"][1]["image_id"] = 9
    writers.write_text(tmp_path / "annotations.json", content)
    for name in "ab":
        image(tmp_path / "images" / f"{name}.jpg")
    with pytest.raises(UserError, match=r"annotations\[1\] \(id 2\): image_id must be the id of"):
        read_splits(find_splits(tmp_path))


NAMES = {  # in the annotations, file in images/
    "backslashes": ("images\\a.jpg", "a.jpg"),
    "beside the file": ("images/a.jpg", "a.jpg"),
    "another machine": ("../../label-studio/data/media/upload/1/ab12cd34-a.jpg", "ab12cd34-a.jpg"),
    "a prefix": ("upload/1/ab12cd34-a.jpg", "a.jpg"),
    "an absolute path": ("/home/me/photos/a.jpg", "a.jpg"),
    "a path of Windows": ("C:\\photos\\a.jpg", "a.jpg"),
    "an address": ("https://host/photos/a%20b.jpg?size=3", "a b.jpg"),
    "percent signs": ("a%20b.jpg", "a b.jpg"),
    "another Unicode form": ("Gr\u00f6\u00dfe.jpg", "Gro\u0308\u00dfe.jpg"),
    "another suffix": ("a.JPG", "a.jpg"),
    "a folder": ("a.jpg", "deep/er/a.jpg"),
    "the folder of the split": ("a.jpg", "annotations/a.jpg"),
    "the same folder": ("/x/two/a.jpg", "two/a.jpg"),
}


@pytest.mark.parametrize("case", NAMES)
def test_images_are_found_by_the_last_part_of_their_name(tmp_path, case):
    name, file = NAMES[case]
    writers.write_text(tmp_path / "annotations.json", coco(name, "b.jpg"))
    image(tmp_path / "images" / file)
    image(tmp_path / "images" / "b.jpg")
    image(tmp_path / "images" / "__MACOSX" / "a.jpg")
    (tmp_path / "images" / "._a.jpg").write_bytes(b"\0")
    if case.startswith("the "):
        image(tmp_path / "images" / "one" / "a.jpg")
    datasets = read_splits(find_splits(tmp_path))
    files = {d.path(i) for d in datasets.values() for i in range(len(d))}
    assert files == {tmp_path / "images" / file, tmp_path / "images" / "b.jpg"}
    notes = " ".join(datasets["val"].notes)
    assert ("found by the last part" in notes) == (case != "the folder of the split")


MISNAMED = [("x/a.jpg", "y/a.jpg"), ("x/a.jpg", "a.jpg"), ("x/c.jpg", "a.j")]


@pytest.mark.parametrize("names", MISNAMED, ids=" ".join)
def test_names_that_no_single_file_has_are_refused(tmp_path, names):
    writers.write_text(tmp_path / "annotations.json", coco(*names))
    image(tmp_path / "images" / "a.jpg")
    for folder in ("one", "two"):
        image(tmp_path / "images" / folder / "c.jpg")
    with pytest.raises(UserError, match=r"file_name: .* does not exist"):
        read_splits(find_splits(tmp_path))


def test_images_of_a_test_folder_are_not_drawn(patients):
    (patients / "Test").mkdir()
    for path in sorted(patients.glob("p0_*")):
        path.rename(patients / "Test" / path.name)
    datasets = read_splits(find_splits(patients))
    assert sum(map(len, datasets.values())) == 16
    assert "4 images are neither for training nor for validation" in " ".join(datasets["val"].notes)


def test_a_folder_in_a_folder(tmp_path):
    """As some archives are unpacked."""
    inner = tmp_path / "outer" / "project"
    writers.write_text(inner / "annotations" / "instances_default.json", coco("a.jpg", "b.jpg"))
    for name in "ab":
        image(inner / "images" / f"{name}.jpg")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / ".DS_Store").touch()
    assert [len(dataset) for dataset in read_splits(find_splits(tmp_path)).values()] == [1, 1]


def test_a_file_finds_its_images(tmp_path):
    for folder in ("annotations", "labels", "."):
        writers.write_text(tmp_path / folder / "x.json", coco("a.jpg", "b.jpg"))
    for name in "ab":
        image(tmp_path / "images" / f"{name}.jpg")
    for folder in ("annotations", "labels", "."):
        splits = find_splits(tmp_path / folder / "x.json")
        assert splits["val"].images == tmp_path / "images"
        assert [len(dataset) for dataset in read_splits(splits).values()] == [1, 1]


def test_messages_say_what_to_do(tmp_path):
    make(tmp_path, "val.json", "images/", "test.json")
    rule = rf"let one file be divided: --data {tmp_path}/val.json(.|\n)*left out: test.json"
    with pytest.raises(UserError, match=rule):
        find_splits(tmp_path)
    (tmp_path / "val.json").unlink()
    with pytest.raises(UserError, match=r"found: images, test.json\n  1 annotation file is left o"):
        find_splits(tmp_path)
    make(tmp_path, "data.zip")
    with pytest.raises(UserError, match=r"is not a COCO file; unpack it, and name its folder"):
        find_splits(tmp_path / "data.zip")


def test_note_on_another_format_in_the_same_folder(patients):
    image(patients / "images" / "y.png")
    writers.write_text(patients / "labels" / "y.txt", "0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    writers.write_text(patients / "data.yaml", "names: [a]")
    notes = read_splits(find_splits(patients))["train"].notes
    assert f"{patients}: is read as YOLO; annotations of labelme are left out" in notes


def test_random_changes_of_a_single_file_are_read_or_refused(tmp_path):
    make(tmp_path, "images/")
    for name in ("a", "b"):
        image(tmp_path / "images" / f"{name}.jpg")
    content = json.dumps(coco("a.jpg", "x/b.jpg"))
    file = tmp_path / "annotations.json"
    check_mutations(file, content, lambda: read_splits(find_splits(tmp_path)), range(60))


def test_names_that_cannot_be_encoded_are_refused(tmp_path):
    make(tmp_path, "images/")
    writers.write_text(tmp_path / "annotations.json", coco("\ud800.jpg", "b.jpg"))
    with pytest.raises(UserError, match="file_name must hold printable characters only"):
        read_splits(find_splits(tmp_path))
