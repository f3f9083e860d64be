"""Problems of data: the records, and the sentences made of them."""

import pickle
from pathlib import Path

import pytest

from mrcnn.data.problems import DatasetError, Problems
from mrcnn.errors import FileError


def test_a_problem_keeps_its_record_and_becomes_a_sentence():
    problems = Problems(Path("train.json"))
    add = problems.of_record("annotations", 3, "annotations[3] (id 7)")
    add("segmentation", "be a list of numbers", None, "remove it", "[1]")
    problems.add("a.json: shapes", "be a list", 5, "save the file again")
    problems.add_error(FileError("a.png", "does not exist", "add it"), "a.json: imagePath")
    problems.add_error(FileError("b.txt", "is empty", "restore it"))
    first = problems.items[0]
    assert (first.table, first.index, first.field, first.part) == (
        "annotations", 3, "segmentation", "[1]")  # fmt: skip
    with pytest.raises(DatasetError) as caught:
        problems.raise_any()
    assert str(caught.value).splitlines() == [
        "train.json: 4 problems",
        "  annotations[3] (id 7): segmentation[1] must be a list of numbers, got None; remove it",
        "  a.json: shapes must be a list, got 5; save the file again",
        "  a.json: imagePath: a.png: does not exist; add it",
        "  b.txt: is empty; restore it",
        "  `mrcnn check-data DIR --fix COPY` repairs or removes these in a copy",
    ]
    assert caught.value.problems == problems.items


def test_a_file_error_survives_the_way_out_of_a_worker():
    error = pickle.loads(pickle.dumps(FileError(Path("a.png"), "is empty", "restore it")))
    assert (str(error), error.path) == ("a.png: is empty; restore it", "a.png")
