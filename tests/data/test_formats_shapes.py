"""Shapes, groups, file names and splits of each format."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mrcnn.data.coco.read import CocoDataset, read_splits
from mrcnn.data.coco.truth import as_coco
from mrcnn.data.formats import find_splits
from mrcnn.data.formats.label_maps import check_sharp, has_shaded_borders
from mrcnn.data.problems import RuleError
from mrcnn.errors import UserError
from tests.helpers import annotation_writers as writers

SIZE = (40, 60)


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE[::-1]).save(path)
    return path


def read(folder: Path) -> dict[str, CocoDataset]:
    return read_splits(find_splits(folder))


def masks(dataset: CocoDataset) -> list[np.ndarray]:
    content = as_coco(dataset)
    record = {"height": SIZE[0], "width": SIZE[1]}
    return [writers.bitmap(annotation, record) for annotation in content["annotations"]]


def disc(x: float, y: float, rx: float, ry: float, turn: float = 0.0) -> np.ndarray:
    """Pixels whose centres lie in an ellipse."""
    ys, xs = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    cos, sin = math.cos(turn), math.sin(turn)
    along, across = cos * (xs - x) + sin * (ys - y), cos * (ys - y) - sin * (xs - x)
    return (along / rx) ** 2 + (across / ry) ** 2 <= 1


def block(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[y1:y2, x1:x2] = True
    return mask


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


def labelme(folder: Path, *shapes: dict, **fields: object) -> CocoDataset:
    image(folder / "a.png")
    content = {"shapes": [{"label": "a", **s} for s in shapes], "imagePath": "a.png", **fields}
    writers.write_text(folder / "a.json", content)
    return read(folder)["train"]


@pytest.mark.parametrize(
    ("kind", "points", "expected"),
    [
        ("rectangle", [[50, 30], [10, 5]], block(10, 5, 50, 30)),
        ("rectangle", [[10, 5], [50, 5], [50, 30], [10, 30]], block(10, 5, 50, 30)),
        ("circle", [[30, 20], [30, 8]], disc(30, 20, 12, 12)),
        ("circle", [[55, 20], [40, 20]], disc(55, 20, 15, 15)),
        ("polygon", [[10, 5], [50, 5], [50, 30], [10, 30]], block(10, 5, 50, 30)),
    ],
    ids=["rectangle", "rectangle of four", "circle", "circle over the border", "polygon"],
)
def test_shapes_of_labelme(tmp_path, kind, points, expected):
    (mask,) = masks(labelme(tmp_path, {"shape_type": kind, "points": points}))
    assert iou(mask, expected) > 0.98


def test_shapes_of_a_group_and_label_are_one_instance(tmp_path):
    bit = writers.png_text(np.ones((3, 4), bool))
    dataset = labelme(
        tmp_path,
        {"points": [[0, 0], [5, 0], [5, 5], [0, 5]], "group_id": 1},
        {"points": [[10, 0], [15, 0], [15, 5], [10, 5]], "group_id": 1},
        {"points": [[20, 0], [25, 0], [25, 5], [20, 5]], "group_id": 1, "label": "b"},
        {"points": [[30, 0], [35, 0], [35, 5], [30, 5]], "group_id": 2},
        {"points": [[40, 0], [43, 2]], "shape_type": "mask", "mask": bit, "group_id": 2},
        {"points": [[50, 0], [55, 0], [55, 5], [50, 5]]},
    )
    expected = [
        block(0, 0, 5, 5) | block(10, 0, 15, 5),
        block(20, 0, 25, 5),
        block(30, 0, 35, 5) | block(40, 0, 44, 3),
        block(50, 0, 55, 5),
    ]
    assert dataset.class_names == ("a", "b")
    assert dataset.labels.tolist() == [0, 1, 0, 0]
    assert all(np.array_equal(*pair) for pair in zip(masks(dataset), expected, strict=True))


def test_labelme_files_apart_from_their_images(tmp_path):
    image(tmp_path / "images" / "a.png")
    image(tmp_path / "images" / "b.png")
    shape = {"label": "a", "points": [[0, 0], [5, 0], [5, 5]]}
    for name, path in (("x", "..\\images\\a.png"), ("y", "../images/b.png")):
        writers.write_text(
            tmp_path / "labels" / f"{name}.json", {"shapes": [shape], "imagePath": path}
        )
    names = [d.path(0).name for d in read(tmp_path).values()]
    assert sorted(names) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    "path", ["/home/user/old/a.png", "C:\\old\\a.png", "../images/a.png", "old/a.PNG", "a%2Epng"]
)
def test_labelme_files_from_another_machine(tmp_path, path):
    dataset = labelme(tmp_path, {"points": [[0, 0], [5, 0], [5, 5]]}, imagePath=path)
    assert dataset.path(0) == tmp_path / "a.png"
    assert f"1 image is found by the last part of the name ({path!r} is a.png)" in dataset.notes


def test_an_embedded_image_is_mentioned_where_its_file_is_missing(tmp_path):
    rule = r"z\.png.*; imageData holds it, `labelme_export_json` writes"
    with pytest.raises(UserError, match=rule):
        labelme(tmp_path, {"points": [[0, 0], [5, 0], [5, 5]]}, imagePath="z.png", imageData="/9j")


def test_other_json_files_beside_labelme_and_via_are_left_out(tmp_path):
    for folder, make in (("l", labelme), ("v", via)):
        writers.write_text(tmp_path / folder / "settings.json", {"a": 1})
        image(tmp_path / folder / "b.png")
        shape = {"points": [[0, 0], [5, 0], [5, 5]]}
        dataset = make(tmp_path / folder, shape if make is labelme else (CIRCLE, {}))
        notes = " ".join(dataset.notes)
        assert "1 other JSON file is left out: settings.json" in notes
        assert "left out (b.png" in notes or "left out: b.png" in notes


def test_note_on_images_without_a_labelme_file(tmp_path):
    image(tmp_path / "b.png")
    dataset = labelme(tmp_path, {"points": [[0, 0], [5, 0], [5, 5]]})
    assert len(dataset) == 1
    assert "1 images have no JSON file and are left out (b.png" in " ".join(dataset.notes)


def test_note_on_images_in_formats_that_are_not_read(tmp_path):
    for name in ("b.heic", "c.AVIF", "._a.jpg"):
        (tmp_path / name).write_bytes(b"no image")
    image(tmp_path / "d.png")
    (tmp_path / "d.png").rename(tmp_path / "d.heif")  # its contents can be read
    notes = " ".join(labelme(tmp_path, {"points": [[0, 0], [5, 0], [5, 5]]}).notes)
    assert "2 images in formats that are not read are left out (b.heic, c.AVIF): convert" in notes
    assert "1 images have no JSON file and are left out (d.heif" in notes


def test_the_list_of_classes_orders_them_and_keeps_empty_ones(tmp_path):
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\nz\na\n")
    dataset = labelme(tmp_path, {"points": [[0, 0], [5, 0], [5, 5]]})
    assert dataset.class_names == ("z", "a")
    assert dataset.labels.tolist() == [1]


def via(folder: Path, *regions: tuple[dict, dict], version: int = 2) -> CocoDataset:
    image(folder / "a.png")
    drawn = [{"shape_attributes": s, "region_attributes": a} for s, a in regions]
    listed = drawn if version == 2 else {str(i): region for i, region in enumerate(drawn)}
    entry = {"filename": "a.png", "size": 1, "regions": listed, "file_attributes": {}}
    writers.write_text(folder / "via_region_data.json", {"a.png1": entry})
    return read(folder)["train"]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ({"name": "rect", "x": 10, "y": 5, "width": 40, "height": 25}, block(10, 5, 50, 30)),
        ({"name": "circle", "cx": 30, "cy": 20, "r": 12}, disc(30, 20, 12, 12)),
        ({"name": "ellipse", "cx": 30, "cy": 20, "rx": 20, "ry": 9}, disc(30, 20, 20, 9)),
        (
            {"name": "ellipse", "cx": 30, "cy": 20, "rx": 18, "ry": 9, "theta": 0.5},
            disc(30, 20, 18, 9, 0.5),
        ),
        (
            {"name": "polygon", "all_points_x": [10, 50, 50, 10], "all_points_y": [5, 5, 30, 30]},
            block(10, 5, 50, 30),
        ),
    ],
    ids=["rect", "circle", "ellipse", "turned ellipse", "polygon"],
)
def test_shapes_of_via(tmp_path, version, shape, expected):
    (mask,) = masks(via(tmp_path, (shape, {"class": "a"}), version=version))
    assert iou(mask, expected) > 0.97  # the turned ellipse has 509 pixels, and 100 on its border


CIRCLE = {"name": "circle", "cx": 30, "cy": 20, "r": 12}
ATTRIBUTES = {  # of two regions, expected classes
    "none": ([{}, {}], ("object",)),
    "one": ([{"kind": "b"}, {"kind": "a"}], ("a", "b")),
    "a usual one": ([{"x": "1", "label": "b"}, {"x": "2", "label": "a"}], ("a", "b")),
    "boxes to tick": ([{"kind": {"b": True}}, {"kind": {"a": True, "b": False}}], ("a", "b")),
}


@pytest.mark.parametrize("case", ATTRIBUTES)
def test_where_via_keeps_the_class(tmp_path, case):
    attributes, names = ATTRIBUTES[case]
    dataset = via(tmp_path, *((CIRCLE, own) for own in attributes))
    assert dataset.class_names == names
    assert any("no attributes" in note for note in dataset.notes) == (case == "none")


def test_the_list_of_classes_names_the_only_one_of_via(tmp_path):
    (tmp_path / "classes.txt").write_text("balloon\n")
    assert via(tmp_path, (CIRCLE, {})).class_names == ("balloon",)


def test_train_and_val_of_the_balloons(tmp_path):
    via(tmp_path / "train", (CIRCLE, {}))
    via(tmp_path / "val", (CIRCLE, {}), (CIRCLE, {}))
    datasets = read(tmp_path)
    assert [len(d.labels) for d in datasets.values()] == [1, 2]
    assert datasets["val"].path(0) == tmp_path / "val" / "a.png"


SQUARE = "0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5\n"
YOLO = {  # content of data.yaml, folders of train and val images
    "as Ultralytics": (
        "path: ../datasets/x\ntrain: images/train\nval: images/val\nnames:\n  0: a\n",
        ("images/train", "images/val"),
    ),
    "as Roboflow": (
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 1\nnames: ['a']",
        ("train/images", "valid/images"),
    ),
    "by folders alone": ("names: [a]", ("images/train", "images/val")),
    "lists of files": ("train: a.txt\nval: b.txt\nnames: [a]", ("images/x", "images/y")),
    "a folder of another machine": (
        "path: /home/me/x\ntrain: /home/me/x/images/train\nval: C:\\x\\images\\val\nnames: [a]",
        ("images/train", "images/val"),
    ),
    "lists of another machine": (
        "path: ./\ntrain: train.txt\nval: val.txt\nnames: [a]", ("images/x", "images/y")
    ),
    "below a path": (
        "path: d\ntrain: images/x\nval: images/y\nnames: [a]", ("d/images/x", "d/images/y")
    ),
}  # fmt: skip


YAML = {  # contents of the file, names
    "a list": ("names:\n- a\n- b c\nnc: 2", ["a", "b c"]),
    "in brackets": ("names: ['a, b', \"c\",\n  d#1]  # x\n", ["a, b", "c", "d#1"]),
    "numbered": ("names:\n  0: a\n  1: traffic light  # x\n", ["a", "traffic light"]),
    "values that are not texts in YAML": ("names: [yes, null, 1.0]", ["yes", "null", "1.0"]),
    "of Windows": ("---\r\nnames: [a, b]\r\nnc: 2\r\n", ["a", "b"]),
}  # fmt: skip


@pytest.mark.parametrize("case", YAML)
def test_yaml_names(tmp_path, case):
    text, names = YAML[case]
    image(tmp_path / "images" / "a.png")
    writers.write_text(tmp_path / "labels" / "a.txt", SQUARE)
    (tmp_path / "data.yaml").write_bytes(text.encode())
    assert [*read(tmp_path)["train"].class_names] == names


@pytest.mark.parametrize("text", ["", "- a", "a: &x [1]\nb: *x", "a: 1\n---\nb: 2", "\t@"])
def test_yaml_of_other_programs_is_ignored(tmp_path, text):
    image(tmp_path / "images" / "a.png")
    writers.write_text(tmp_path / "labels" / "a.txt", SQUARE)
    writers.write_text(tmp_path / "data.yaml", "names: [a]")
    (tmp_path / "compose.yaml").write_text(text)
    assert read(tmp_path)["train"].class_names == ("a",)


@pytest.mark.parametrize("case", YOLO)
def test_layouts_of_yolo(tmp_path, case):
    text, folders = YOLO[case]
    for folder, names in zip(folders, ("ab", "c"), strict=True):
        for name in names:
            image(tmp_path / folder / f"{name}.png")
            labels = "labels".join(f"{folder}/{name}".rsplit("images", 1))
            writers.write_text(tmp_path / f"{labels}.txt", SQUARE)
    writers.write_text(tmp_path / "data.yaml", text)
    writers.write_text(tmp_path / "a.txt", "./images/x/a.png\nimages/x/b.png\n")
    writers.write_text(tmp_path / "b.txt", "images/y/c.png")
    writers.write_text(tmp_path / "train.txt", "data/images/x/a.png\nC:\\y\\images\\x\\b.png\n")
    writers.write_text(tmp_path / "val.txt", "/home/me/images/y/c.png")
    datasets = read(tmp_path)
    assert [len(d) for d in datasets.values()] == [2, 1]
    assert datasets["train"].boxes[0].tolist() == pytest.approx([6, 4, 30, 20])


@pytest.mark.parametrize("text", ["path: ./\ntrain: train.txt\n", "train: images/train\n"])
def test_a_yolo_set_without_validation_is_divided(tmp_path, text):
    """As CVAT exports one subset."""
    for i in range(6):
        folder = "other" if i == 5 else "train"
        image(tmp_path / "images" / folder / f"{i}.png")
        writers.write_text(tmp_path / "labels" / folder / f"{i}.txt", SQUARE)
    writers.write_text(tmp_path / "data.yaml", f"{text}names: [a]")
    names = "".join(f"images/train/{i}.png\n" for i in range(5))
    writers.write_text(tmp_path / "train.txt", names)
    datasets = read(tmp_path)
    assert [len(dataset) for dataset in datasets.values()] == [4, 1]
    notes = " ".join(datasets["val"].notes)
    assert "4 images for training and 1 for validation are drawn" in notes
    assert "1 image is neither for training nor for validation" in notes


def test_a_yolo_set_of_validation_alone(tmp_path):
    image(tmp_path / "images" / "val" / "a.png")
    writers.write_text(tmp_path / "labels" / "val" / "a.txt", SQUARE)
    writers.write_text(tmp_path / "data.yaml", "val: images/val\nnames: [a]")
    with pytest.raises(UserError, match=r"has no train annotations .*\n  add them, or list images"):
        read(tmp_path)
    assert len(read_splits(find_splits(tmp_path, ["val"]))["val"]) == 1


def test_yolo_classes_as_numpy_writes_them(tmp_path):
    image(tmp_path / "images" / "a.png")
    writers.write_text(tmp_path / "labels" / "a.txt", SQUARE.replace("0 ", "0.0 ", 1))
    writers.write_text(tmp_path / "d.yaml", "train: images\nval: images\nnames: [a]")
    assert read(tmp_path)["train"].labels.tolist() == [0]
    writers.write_text(tmp_path / "labels" / "a.txt", SQUARE.replace("0 ", "0.5 ", 1))
    with pytest.raises(UserError, match=r"begin with the number of a class, 0 to 0, got '0\.5'"):
        read(tmp_path)


def test_key_points_are_no_polygons(tmp_path):
    image(tmp_path / "images" / "a.png")
    writers.write_text(tmp_path / "labels" / "a.txt", SQUARE)
    writers.write_text(tmp_path / "d.yaml", "train: images\nnames: [a]\nkpt_shape: [2, 2]")
    with pytest.raises(UserError, match=r"d\.yaml: kpt_shape must be absent, .*; export polygons"):
        read(tmp_path)


def test_note_on_one_yolo_set_for_both_splits(tmp_path):
    image(tmp_path / "images" / "a.png")
    writers.write_text(tmp_path / "labels" / "a.txt", SQUARE)
    writers.write_text(tmp_path / "d.yaml", "train: images\nval: images\nnames: [a]")
    datasets = read(tmp_path)
    assert [len(d) for d in datasets.values()] == [1, 1]
    assert "metrics only show memorization" in datasets["val"].notes[0]


def test_note_on_yolo_images_without_labels(tmp_path):
    for name in "ab":
        image(tmp_path / "images" / f"{name}.png")
    writers.write_text(tmp_path / "labels" / "a.txt", SQUARE)
    writers.write_text(tmp_path / "labels" / "classes.txt", "a\nb\n")
    datasets = read(tmp_path)
    assert sum(len(d.labels) for d in datasets.values()) == 1
    assert datasets["train"].class_names == ("a", "b")
    assert "1 images have no text file" in " ".join(datasets["train"].notes)


@pytest.mark.parametrize("listed", [True, False])
def test_maps_of_voc_in_colours(tmp_path, listed):
    """As CVAT exports them: a list of colours and `default.txt`; or the colours of VOC."""
    image(tmp_path / "JPEGImages" / "a.jpg")
    blocks = [block(1, 1, 9, 9), block(20, 1, 30, 9), block(20, 20, 30, 30), block(40, 1, 50, 9)]
    red, green, void = (128, 0, 0), (0, 128, 0), (224, 224, 192)
    colours = [(10, 20, 30), (250, 250, 55)] if listed else [red, green]
    for kind, values in (
        ("Object", [(0, 0, 255), (1, 2, 3), (0, 128, 128), void]),
        ("Class", [colours[0], colours[1], colours[0], void]),
    ):
        pixels = np.zeros((*SIZE, 3), np.uint8)
        for mask, value in zip(blocks, values, strict=True):
            pixels[mask] = value
        writers.save_values(pixels, tmp_path / f"Segmentation{kind}" / "a.png")
    if listed:
        text = "# label:color_rgb:parts:actions\nbackground:0,0,0::\n"
        lines = [f"{n}:{r},{g},{b}::\n" for n, (r, g, b) in zip("ab", colours, strict=True)]
        writers.write_text(tmp_path / "labelmap.txt", text + "".join(lines))
        writers.write_text(tmp_path / "ImageSets" / "Segmentation" / "default.txt", "a\n")
    dataset = read(tmp_path)["train"]
    names = [dataset.class_names[label] for label in dataset.labels]
    found = sorted(zip(names, [m.tolist() for m in masks(dataset)], strict=True))
    classes = "aba" if listed else ("aeroplane", "bicycle", "aeroplane")
    expected = [(name, mask.tolist()) for name, mask in zip(classes, blocks[:3], strict=True)]
    assert found == sorted(expected)


def test_cityscapes_polygons_are_painted_in_order(tmp_path):
    names = ["leftImg8bit/train/c/a_leftImg8bit.png", "leftImg8bit/val/c/b_leftImg8bit.png"]
    for name in names:
        image(tmp_path / name)
    objects = [
        ("road", [[0, 0], [59, 0], [59, 39], [0, 39]]),
        ("car", [[0, 0], [29, 0], [29, 19], [0, 19]]),
        ("car", [[10, 5], [39, 5], [39, 24], [10, 24]]),
        ("license plate", [[11, 6], [12, 6], [12, 8]]),
        ("pole", [[20, 0], [24, 0], [24, 39], [20, 39]]),
        ("cargroup", [[50, 0], [59, 0], [59, 9], [50, 9]]),
        ("train", [[50, 30], [59, 30], [59, 39], [50, 39]]),
        ("bus", [[0, 30], [9, 30], [9, 39], [0, 39]]),
    ]
    drawn = [{"label": label, "polygon": polygon} for label, polygon in objects]
    drawn[-1]["deleted"] = 1
    content = {"imgHeight": 40, "imgWidth": 60, "objects": drawn}
    for base in ("train/c/a", "val/c/b"):
        writers.write_text(tmp_path / f"gtFine/{base}_gtFine_polygons.json", content)
    dataset = read(tmp_path)["train"]
    first, second, pole = block(0, 0, 30, 20), block(10, 5, 40, 25), block(20, 0, 25, 40)
    expected = {
        ("car", False): [first & ~second & ~pole, second & ~pole],
        ("car", True): [block(50, 0, 60, 10)],
        ("train", False): [block(50, 30, 60, 40)],
    }
    actual = {}
    for label, crowd, mask in zip(dataset.labels, dataset.crowd, masks(dataset), strict=True):
        actual.setdefault((dataset.class_names[label], bool(crowd)), []).append(mask)
    assert set(actual) == set(expected)
    for key, found in expected.items():
        assert all(np.array_equal(*pair) for pair in zip(actual[key], found, strict=True)), key
    assert dataset.category_ids == (24, 25, 26, 27, 28, 31, 32, 33)


@pytest.mark.parametrize("classes", [1203, 1230])
def test_lvis_with_all_its_classes(tmp_path, classes):
    image(tmp_path / "val2017" / "1.png")
    record = {"id": 1, "width": 60, "height": 40, "neg_category_ids": [classes],
              "file_name": "COCO_val2014_1.png", "not_exhaustive_category_ids": [3],
              "coco_url": "http://images.cocodataset.org/val2017/1.png"}  # fmt: skip
    categories = [{"id": i, "name": f"c{i}", "frequency": "rcf"[i % 3]}
                  for i in range(1, classes + 1)]  # fmt: skip
    drawn = {"id": 1, "image_id": 1, "category_id": 7, "segmentation": [[1, 1, 9, 1, 9, 9]]}
    content = {"images": [record], "annotations": [drawn], "categories": categories}
    writers.write_text(tmp_path / "annotations" / "lvis_v1_val.json", content)
    dataset = read_splits(find_splits(tmp_path, needs=["val"]))["val"]
    assert (len(dataset.class_names), dataset.labels.tolist()) == (classes, [6])
    assert dataset.path(0) == tmp_path / "val2017" / "1.png"
    assert "AP is COCO's" in dataset.notes[0]


def test_masks_of_any_mode(tmp_path):
    mask = block(10, 5, 50, 30)
    folder = tmp_path / "1"
    image(folder / "images" / "1.png")
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    modes = {mode: grey.convert(mode) for mode in ("1", "L", "RGB", "LA", "RGBA")}
    modes["I;16"] = Image.fromarray(mask.astype(np.uint16))
    modes["P"] = grey.point(lambda value: value // 255)
    modes["P"].putpalette([9, 9, 9, 9, 9, 9])
    (folder / "masks").mkdir()
    for name, picture in modes.items():
        picture.save(folder / "masks" / f"{name}.png")
    found = masks(read(tmp_path)["train"])
    assert len(found) == len(modes)
    assert all(np.array_equal(other, mask) for other in found)


def test_shaded_borders_of_masks_of_one_object(tmp_path):
    picture = Image.new("L", (4 * SIZE[1], 4 * SIZE[0]))
    ImageDraw.Draw(picture).ellipse([42, 22, 198, 118], fill=255)
    image(tmp_path / "1" / "images" / "1.png")
    writers.save_values(
        np.array(picture.resize(SIZE[::-1], Image.Resampling.BILINEAR)),
        tmp_path / "1" / "masks" / "a.png",
    )
    dataset = read(tmp_path)["train"]
    (mask,) = masks(dataset)
    assert iou(mask, disc(30, 17.5, 19.6, 12.1)) > 0.97
    assert "1 masks have shaded borders (1/masks/a.png, …)" in " ".join(dataset.notes)


def test_note_on_inverted_masks(tmp_path):
    for name in "ab":
        image(tmp_path / name / "images" / f"{name}.png")
        writers.save_values(~block(10, 5, 50, 30), tmp_path / name / "masks" / "x.png")
    notes = " ".join(read(tmp_path)["train"].notes)
    assert "2 of 2 masks hold all corners of their image (a/masks/x.png, …)" in notes


@pytest.mark.parametrize("mode", ["RGB", "LA", "RGBA"])
def test_numbers_in_all_channels_are_labels(tmp_path, mode):
    values = (block(1, 1, 9, 9) + 2 * block(20, 20, 30, 30)).astype(np.uint8)
    image(tmp_path / "images" / "a.png")
    (tmp_path / "masks").mkdir()
    Image.fromarray(values).convert(mode).save(tmp_path / "masks" / "a.png")
    assert len(masks(read(tmp_path)["train"])) == 2


def test_sharp_labels_are_not_taken_for_shaded_ones():
    """Hundreds of small objects that lie on each other; the same resized, and one as JPEG."""
    rng = np.random.default_rng(0)
    picture = Image.new("L", (160, 120))
    for number in range(1, 251):
        x, y, rx, ry = (int(v) for v in rng.integers((0, 0, 1, 1), (160, 120, 15, 15)))
        ImageDraw.Draw(picture).ellipse([x - rx, y - ry, x + rx, y + ry], fill=number)
    check_sharp(np.array(picture), "a")
    for size in ((80, 60), (130, 90), (320, 240)):
        check_sharp(np.array(picture.resize(size, Image.Resampling.NEAREST)), "a")
        with pytest.raises(RuleError):
            check_sharp(np.array(picture.resize(size, Image.Resampling.BILINEAR)), "a")
    one = Image.fromarray(disc(30, 20, 25, 15).astype(np.uint8) * 255)
    file = io.BytesIO()
    one.save(file, "JPEG", quality=95)
    assert has_shaded_borders(np.array(Image.open(file)))
    assert not has_shaded_borders(np.array(one))


def test_note_on_numbers_that_may_be_grey_levels(tmp_path):
    values = (60 * block(1, 1, 9, 9) + 120 * block(20, 20, 30, 30)).astype(np.uint8)
    image(tmp_path / "images" / "a.png")
    writers.save_values(values, tmp_path / "masks" / "a.png")
    dataset = read(tmp_path)["train"]
    assert len(masks(dataset)) == 2
    assert "1 masks have numbers far from 1, 2, … (masks/a.png, …)" in " ".join(dataset.notes)


def test_note_on_masks_that_number_one_object(tmp_path):
    for name, count in (("a", 1), ("b", 0)):
        image(tmp_path / "images" / f"{name}.png")
        values = (count * block(1, 1, 9, 9)).astype(np.uint8)
        writers.save_values(values, tmp_path / "masks" / f"{name}.png")
    assert "no mask numbers more than one object" in " ".join(read(tmp_path)["train"].notes)


def test_a_sample_without_masks_needs_their_folder(tmp_path):
    for name in "abc":
        image(tmp_path / name / "images" / f"{name}.png")
    writers.save_values(block(1, 1, 5, 5), tmp_path / "a" / "masks" / "x.png")
    (tmp_path / "b" / "masks").mkdir()
    datasets = read(tmp_path)
    names = {d.path(i).name for d in datasets.values() for i in range(len(d))}
    assert names == {"a.png", "b.png"}
    assert "1 images have no folder of masks and are left out (c/" in datasets["val"].notes[1]


def test_data_sets_of_coco_are_found_before_others(tmp_path):
    labelme(tmp_path, {"points": [[0, 0], [5, 0], [5, 5]]})
    (tmp_path / "images").mkdir()
    for name in ("train", "val"):
        (tmp_path / f"{name}.json").write_text(json.dumps({}))
    assert find_splits(tmp_path)["train"].records is None
