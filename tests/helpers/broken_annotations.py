"""How annotations of labelme, VIA and YOLO break: what is done to sound data, what is said."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.helpers import annotation_writers as writers

NAN = float("nan")
HUGE = 10**400

Edit = Callable[[Path], object]


def text(file: str, content: str | bytes) -> Edit:
    """A file with this content."""
    raw = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / file).write_bytes(raw)


def gone(file: str) -> Edit:
    return lambda folder: (folder / file).unlink()


def change(file: str, edit: Callable[[dict], object]) -> Edit:
    """A JSON file after an edit in place."""

    def apply(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        edit(content)
        (folder / file).write_text(json.dumps(content))

    return apply


def put(file: str, value: object, *path: object) -> Edit:
    """A value inside a JSON file replaced."""

    def edit(content: dict) -> None:
        for key in path[:-1]:
            content = content[key] if not isinstance(content, dict) else at(content, key)
        content[list(content)[path[-1]] if isinstance(path[-1], int) and isinstance(content, dict)
                else path[-1]] = value  # fmt: skip

    return change(file, edit)


def at(content: dict, key: object) -> object:
    """A value by its key, or by position."""
    return content[key] if key in content else list(content.values())[key]


def pixels(file: str, values: object, dtype: type = np.uint8) -> Edit:
    """A file of these pixels; a list of values fills the first ones of 8 x 6."""

    def apply(folder: Path) -> None:
        array = np.zeros((6, 8), dtype)
        if isinstance(values, np.ndarray):
            array = values
        else:
            array.flat[: len(values)] = values
        Image.fromarray(array).save(folder / file)

    return apply


def link_out(file: str) -> Edit:
    """A file that is a link to one outside of the data."""

    def apply(folder: Path) -> None:
        outside = folder.parent / "outside"
        shutil.copy(folder / file, outside)
        (folder / file).unlink()
        os.symlink(outside, folder / file)

    return apply


def shape(value: object, *path: object) -> Edit:
    return put("a.json", value, "shapes", 0, *path)


def of_labelme(value: object, key: str) -> Edit:
    return put("a.json", value, key)


POINTS = "a.json: shapes[0].points"
MASK = {"label": "a", "shape_type": "mask", "points": [[1, 1], [3, 3]]}
LABELME = {
    "broken JSON": (text("a.json", '{"shapes": ['), ["a.json: is not JSON", "cut short?"]),
    "a file of something else": (text("z.json", "[]"), ["z.json: must hold a JSON object"]),
    "Latin-1": (text("a.json", b'{"a": "\xe9"}'), ["a.json: byte 7 (0xe9) is not UTF-8"]),
    "no image path": (of_labelme(None, "imagePath"), ["a.json: imagePath must be a non-empty tex"]),
    "an image that is not there": (
        of_labelme("z.png", "imagePath"), ["a.json: imagePath: ", "z.png: does not exist"]),
    "an image of two files": (
        put("sub/b.json", "../a.png", "imagePath"), ["sub/b.json: imagePath must be that of no"]),
    "another height": (of_labelme(7, "imageHeight"), ["a.json: imageHeight must be 6", "got 7"]),
    "no shapes": (of_labelme(None, "shapes"), ["a.json: shapes must be a list, got None"]),
    "a shape of text": (put("a.json", "x", "shapes", 0), ["a.json: shapes[0] must be an object"]),
    "no label": (shape("", "label"), ["a.json: shapes[0].label must be a non-empty text, got ''"]),
    "a group of text": (shape("x", "group_id"), ["shapes[0].group_id must be a whole", "got 'x'"]),
    "an unhashable kind": (shape([], "shape_type"), ["shapes[0].shape_type must", "got []"]),
    "points of text": (shape("x", "points"), [f"{POINTS} must be a list of points, got 'x'"]),
    "two points": (shape([[1, 1], [2, 2]], "points"), [f"{POINTS} must hold at least 3", "2 poin"]),
    "a point of text": (shape([["1", 1]], "points"), [f"{POINTS}[0] must be x and y", "['1', 1]"]),
    "NaN": (shape([[NAN, 1]], "points"), [f"{POINTS}[0] must be x and y in or near", "[nan, 1]"]),
    "a point far away": (shape([[1, 99]], "points"), [f"{POINTS}[0]", "8 x 6, got [1, 99]"]),
    "a polygon without area": (
        shape([[1, 1], [2, 1], [3, 1]], "points"),
        ["a.json: shapes[0]: segmentation must enclose some of the image"]),
    "a circle of three points": (
        change("a.json", lambda c: c["shapes"][0].update(shape_type="circle")),
        [f"{POINTS} must hold the two points of a circle, got '4 points'"]),
    "a circle of no size": (
        change("a.json", lambda c: c["shapes"][0].update(
            shape_type="circle", points=[[2, 2], [2, 2]])), ["shapes[0]: segmentation must enclo"]),
    "a mask without mask": (
        put("a.json", MASK, "shapes", 0), ["shapes[0].mask must be a PNG in base64", "None"]),
    "a mask that is no PNG": (
        put("a.json", MASK | {"mask": "aGFsbG8="}, "shapes", 0), ["mask must be a PNG in base64"]),
    "a mask over the border": (
        put("a.json", MASK | {"mask": writers.png_text(np.ones((6, 8)))}, "shapes", 0),
        ["shapes[0].mask must be inside its image of 8 x 6, got '8 x 6 pixels at x 1, y 1'"]),
    "a mask of nothing": (
        put("a.json", MASK | {"mask": writers.png_text(np.zeros((2, 2)))}, "shapes", 0),
        ["shapes[0].mask must hold some foreground"]),
    "a class that is not listed": (
        text("labels.txt", "cat\n"), ["a.json: shapes[0].label must be a listed class, got 'per"]),
    "a class listed twice": (text("labels.txt", "a\na\n"), ["labels.txt: holds 'a' twice"]),
    "an empty list of classes": (text("labels.txt", "\n"), ["labels.txt: holds no class"]),
}  # fmt: skip


VIA_FILE = "via_region_data.json"


def region(value: object, *path: object) -> Edit:
    return put(VIA_FILE, value, 0, "regions", "0", *path)


def drawn(**values: object) -> Edit:
    return region(values, "shape_attributes")


ENTRY = "via_region_data.json: 'a.png"
REGION = ".regions[0]"
VIA = {
    "broken JSON": (text(VIA_FILE, "{"), [f"{VIA_FILE}: is not JSON"]),
    "an entry of text": (put(VIA_FILE, "x", 1), [f"{VIA_FILE}: 'sub/b.png", "must be an object"]),
    "metadata of text": (
        put(VIA_FILE, "x", "_via_img_metadata"), ["'_via_img_metadata' must be an object"]),
    "no file name": (put(VIA_FILE, None, 0, "filename"), [ENTRY, ".filename must be a non-empty"]),
    "an image that is not there": (
        put(VIA_FILE, "z.png", 0, "filename"), [ENTRY, ".filename: ", "z.png: does not exist"]),
    "an image twice": (put(VIA_FILE, "a.png", 1, "filename"), [".filename must be unique"]),
    "regions of text": (put(VIA_FILE, "x", 0, "regions"), [ENTRY, ".regions must be a list or"]),
    "a region of text": (region("x"), [ENTRY, f"{REGION}.shape_attributes must be an object"]),
    "attributes of text": (
        region("x", "region_attributes"), [f"{REGION}.region_attributes must be an object"]),
    "no class": (region({}, "region_attributes"), ["region_attributes.class must be one class"]),
    "a class of two ticks": (
        region({"class": {"a": True, "b": True}}, "region_attributes"),
        ["region_attributes.class must be one class, got ['a', 'b']"]),
    "two attributes": (
        change(VIA_FILE, lambda c: [r.update(region_attributes={"x": "1", "y": "2"}) for e in
               c.values() for r in e["regions"].values()]),
        ["region_attributes must hold the class in an attribute named class or", "['x', 'y']"]),
    "a point": (drawn(name="point", cx=1, cy=1), [".shape_attributes.name must be one of polygon"]),
    "an unhashable name": (drawn(name=[]), [f"{REGION}.shape_attributes.name must", "got []"]),
    "lists of two lengths": (
        drawn(name="polygon", all_points_x=[1, 2, 3], all_points_y=[1, 2]),
        ["all_points_x, all_points_y must be two lists of the same length", "(3, 2)"]),
    "two points": (
        drawn(name="polygon", all_points_x=[1, 2], all_points_y=[1, 2]), ["at least 3, got (2, 2"]),
    "a point of text": (
        drawn(name="polygon", all_points_x=[1, "2", 3], all_points_y=[1, 2, 3]),
        ["all_points_y[1] must be x and y in or near the image of 8 x 6, got ['2', 2]"]),
    "a point far away": (
        drawn(name="polygon", all_points_x=[1, 99, 3], all_points_y=[1, 2, 3]), ["got [99, 2]"]),
    "no radius": (drawn(name="circle", cx=1, cy=1), [".r must be a finite number, got None"]),
    "a negative radius": (
        drawn(name="circle", cx=1, cy=1, r=-1), [".r must be more than 0 and at most 16, got -1"]),
    "a huge radius": (drawn(name="ellipse", cx=1, cy=1, rx=1, ry=1e99), [".ry must be more than"]),
    "a rectangle of no width": (
        drawn(name="rect", x=1, y=1, width=0, height=1), [".width must be more than 0"]),
    "a rectangle outside": (
        drawn(name="rect", x=9, y=1, width=1, height=1), [f"{REGION}: segmentation must enclose"]),
}  # fmt: skip

LINE = "0 0.1 0.1 0.5 0.1 0.5 0.5"
AT = "labels/a.txt: line 1"


def label(line: str) -> Edit:
    return text("labels/a.txt", line)


def settings(content: str) -> Edit:
    return text("data.yaml", content)


YOLO = {
    "a box": (label("0 0.5 0.5 0.1 0.1"), [f"{AT} must hold x and y of at least 3", "'a box'"]),
    "an even number": (label(LINE + " 1"), [f"{AT} must hold a class, and x and y", "8 numbers"]),
    "a class alone": (label("0"), [f"{AT} must hold a class, and x and y of", "'1 numbers'"]),
    "an unknown class": (label("2" + LINE[1:]), [f"{AT} must begin with the number", "'2'"]),
    "a class of many digits": (label("9" * 5000 + LINE[1:]), [f"{AT} must begin with"]),
    "pixels": (label("0 10 10 50 10 50 50"), [f"{AT}: number 2 must hold", "'10'", "divide"]),
    "NaN": (label("0 nan 0.1 0.5 0.1 0.5 0.5"), [f"{AT}: number 2 must hold", "'nan'"]),
    "a polygon without area": (
        label("0 0.1 0.1 0.5 0.1 0.6 0.1"), [f"{AT}: segmentation must enclose some of the image"]),
    "Latin-1": (text("labels/a.txt", b"\xe9"), ["a.txt: byte 0 (0xe9) is not UTF-8"]),
    "labels of no image": (
        text("labels/z.txt", LINE), ["labels/z.txt must belong to an image of its name"]),
    "labels of two images": (
        lambda f: shutil.copy(f / "images/a.png", f / "images/a.jpg"),
        ["images/a.png must not share labels/a.txt with another image"]),
    "an image that is no image": (text("images/a.png", "x"), ["images/a.png: ", "is not an im"]),
    "no names": (gone("data.yaml"), ["names must be given", "write data.yaml"]),
    "names of text": (settings("names: a"), ["data.yaml: names must be a list of texts, got 'a'"]),
    "a name twice": (settings("names: [a, a]"), ["data.yaml: names must be unique, got 'a'"]),
    "names numbered from 1": (
        settings("names:\n  1: a\n  2: b"), ["data.yaml: names must be numbered 0, 1, …, got ['1"]),
    "another count": (settings("names: [a, b]\nnc: 3"), ["data.yaml: nc must be 2", "got '3'"]),
    "an alias": (settings("names: &x [a]\nval: *x"), ["data.yaml: line 2: holds an alias; write"]),
    "names of an alias bomb": (
        settings("".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]\n"
                         for i in range(9)) + "names: *a8"),
        ["data.yaml: line 2: holds an alias"]),
    "a list in place of keys": (settings("- names: a"), ["data.yaml: must hold keys such as"]),
    "a list of lists": (settings("names: [[a], b]"), ["data.yaml: names must be a list of texts"]),
    "a path that is a list": (
        settings("names: [a, b]\npath: [x]"), ["data.yaml: path must be a text, got ['x']"]),
    "a split that is a mapping": (
        settings("names: [a, b]\ntrain: {a: b}"), ["train must be a text or a list of texts"]),
    "names twice": (settings("names: a\nnames: b"), ["line 2: is not YAML (the key 'nam"]),
    "an open quote": (settings("names: 'a"), ["data.yaml: line 1: is not YAML ("]),
    "NUL": (settings("names: [a\0]"), ["data.yaml: is not YAML (", "; write"]),
    "two documents": (settings("names: [a]\n---\nb: c"), ["is not YAML ("]),
    "deep nesting": (settings("names: " + "[" * 500), ["is nested deeper than 20 levels"]),
    "a huge file": (settings("names:" + "#" * 2**21), ["data.yaml: has 2,097,158 characters"]),
    "two files of names": (text("b.yaml", "names: [a]"), ["names must be in one YAML file, got ["]),
    "images out of the folder": (
        settings("train: ../../x\nnames: [a, b]"), ["data.yaml: train must stay inside the folde"]),
    "images in no folder": (
        settings("train: images/x\nnames: [a, b]"), ["data.yaml: train must hold images, got 'im"]),
    "an image in both splits": (
        settings("train: images\nval: images/sub\nnames: [a, b]"),
        ["data.yaml: val must share no images with train, or all, got 'images/sub/b.png'"]),
    "a list with other images": (
        lambda f: (text("t.txt", "images/z.png\n../a")(f),
                   settings("train: t.txt\nnames: [a, b]")(f)),
        ["t.txt: line 1 must be an image below images/", "t.txt: line 2 must stay inside"]),
}  # fmt: skip
