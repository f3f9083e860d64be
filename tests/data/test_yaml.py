"""Class names in the YAML files of YOLO data, as tools write them."""

from pathlib import Path

import pytest
from PIL import Image

from mrcnn.data.coco.read import read_splits
from mrcnn.data.formats import find_splits

NAMES = {  # contents of the file, names
    "a list in brackets": ("names: ['a b', \"c\", d, e-f]", ["a b", "c", "d", "e-f"]),
    "over several lines": ("names: ['a',\n  'b',  # the second\n]\n", ["a", "b"]),
    "a list": ("names:\n- a\n- b c\nnc: 2", ["a", "b c"]),
    "an indented list": ("names:\n    - 'it''s'\n    - \"\\u00e9\"\n", ["it's", "é"]),
    "numbered": ("names:\n  0: a\n  1: traffic light  # x\n", ["a", "traffic light"]),
    "numbered in brackets": ("names: {0: a, 1: 'b: c'}", ["a", "b: c"]),
    "values that are no texts in YAML": ("names: [yes, null, 1.0, 2020-01-01]",
                                         ["yes", "null", "1.0", "2020-01-01"]),
    "with a comma in quotes": ("names: ['a, b', c]", ["a, b", "c"]),
    "with a hash": ("names: [a#1, 'b # c']  # d", ["a#1", "b # c"]),
    "after code": ("download: |\n  import os\n  x = {'names': [1]}\n\nnames: [a]", ["a"]),
    "after deeper values": ("roboflow:\n  a:\n    - b: {c: d}\nnames: [a]", ["a"]),
    "of Windows": ("---\r\nnames: [a, b]\r\nnc: 2\r\n", ["a", "b"]),
}  # fmt: skip


@pytest.mark.parametrize("case", NAMES)
def test_names(tmp_path: Path, case: str):
    text, names = NAMES[case]
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "images" / "a.png")
    (tmp_path / "labels" / "a.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5")
    (tmp_path / "data.yaml").write_bytes(text.encode())
    assert [*read_splits(find_splits(tmp_path))["train"].class_names] == names
