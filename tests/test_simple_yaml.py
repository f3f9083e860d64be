"""The YAML of data sets: what tools write is read, all else refused with its line."""

from pathlib import Path

import pytest

from mrcnn.data.readers.simple_yaml import read_yaml
from mrcnn.errors import UserError

NAMES = {  # what stands in the file, names
    "a list in brackets": ("names: ['a b', \"c\", d, e-f]", ["a b", "c", "d", "e-f"]),
    "over several lines": ("names: ['a',\n  'b',  # the second\n]\n", ["a", "b"]),
    "a list": ("names:\n- a\n- b c\nnc: 2", ["a", "b c"]),
    "an indented list": ("names:\n    - 'it''s'\n    - \"\\u00e9\"\n", ["it's", "é"]),
    "numbered": ("names:\n  0: a\n  1: traffic light  # x\n", {"0": "a", "1": "traffic light"}),
    "numbered in brackets": ("names: {0: a, 1: 'b: c'}", {"0": "a", "1": "b: c"}),
    "with a comma in quotes": ("names: ['a, b', c]", ["a, b", "c"]),
    "with a hash": ("names: [a#1, 'b # c']  # d", ["a#1", "b # c"]),
    "with an apostrophe": ("names:\n  - dog's\n  - b", ["dog's", "b"]),
    "a text": ("names: ünï", "ünï"),
    "empty": ("names:\n", ""),
    "an empty list": ("names: []", []),
    "after code": ("download: |\n  import os\n  x = {'names': [1]}\n\nnames: [a]", ["a"]),
    "after deeper things": ("roboflow:\n  a:\n    - b: {c: d}\nnames: [a]", ["a"]),
    "of Windows": ("---\r\nnames: [a, b]\r\nnc: 2\r\n", ["a", "b"]),
}  # fmt: skip


@pytest.mark.parametrize("case", NAMES)
def test_names(case):
    text, names = NAMES[case]
    assert read_yaml(text, Path("d.yaml"), ("names",)) == {"names": names}


WRONG = {
    "an open bracket": ("a: 1\nnames: [a, b", r"line 2: names must be .*its \[ is not closed"),
    "a list of lists": ("names: [[a], b]", "line 1: names must be"),
    "an anchor": ("names: &x a", "line 1: names must be"),
    "a block": ("names: |\n  a", "line 1: names must be"),
    "a list and a mapping": ("names:\n- a\nb", "line 1: names must be"),
    "an open quote": ("names: 'a", "line 1: names must be"),
    "an open double quote": ('names: ["a, b]', "line 1: names must be"),
    "a wrong escape": (r'names: "\q"', "line 1: names must be"),
    "twice": ("names: a\nnames: b", "line 2: 'names' is there twice"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_read(case):
    text, message = WRONG[case]
    with pytest.raises(UserError, match=rf"d\.yaml: {message}"):
        read_yaml(text, Path("d.yaml"), ("names",))


def test_long_texts_are_judged_quickly():
    for text in ("'" * 50_001, '"' * 50_001, "[" * 100_000, " " * 50_000 + "[", "a" + " " * 50_000):
        with pytest.raises(UserError) as caught:
            read_yaml(f"names: [{text}", Path("d.yaml"), ("names",))
        assert len(str(caught.value)) < 400
