"""Broken data sets of every format: each is refused with file, field, value and fix."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from mrcnn.data.coco.read import CocoDataset, read_splits
from mrcnn.data.formats import find_splits
from mrcnn.data.formats.folder import list_files
from mrcnn.errors import UserError
from tests.data.test_malformed_data import ESCAPES, check_mutations
from tests.helpers import annotation_writers as writers
from tests.helpers.broken_annotations import LABELME, NAN, VIA, VIA_FILE, YOLO, put, shape
from tests.helpers.broken_label_maps import CITYSCAPES, INDEXED, LVIS, LVIS_FILE, MASK_FILES, VOC


def sound(source: Path) -> dict:
    """Two images of 8 x 6 pixels, one in a folder, with two instances each that do not overlap."""
    names = ["a.png", "sub/b.png"]
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(source / name)
    left, right = [1, 1, 4, 1, 4, 4, 1, 4], [5, 1, 7, 1, 7, 5, 5, 5]
    return {
        "images": [{"id": i, "file_name": name, "width": 8, "height": 6}
                   for i, name in enumerate(names, start=1)],
        "categories": [{"id": 24, "name": "person"}, {"id": 26, "name": "car"}],
        "annotations": [
            {"id": 2 * i + k, "image_id": i, "category_id": 24 + 2 * k, "segmentation": [ring]}
            for i in (1, 2) for k, ring in enumerate((left, right))
        ],
    }  # fmt: skip


WRITERS = {
    "labelme": writers.labelme,
    "via 1": writers.via_1,
    "via 2": writers.via_2,
    "yolo": writers.yolo,
    "voc": writers.voc,
    "cityscapes": writers.cityscapes,
    "lvis": writers.lvis,
    "mask files": writers.mask_files,
    "indexed masks": writers.indexed_masks,
}


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str], Path]:
    def write(name: str) -> Path:
        folder = tmp_path / "data"
        shutil.rmtree(folder, ignore_errors=True)
        WRITERS[name](folder, sound(tmp_path / "source"), tmp_path / "source")
        return folder

    return write


def read(folder: Path) -> dict[str, CocoDataset]:
    return read_splits(find_splits(folder))


def outcome(folder: Path) -> tuple[str, list[Path]]:
    """The message of an error, or the images."""
    try:
        datasets = read(folder).values()
    except UserError as error:
        return str(error), []
    return "", [dataset.path(i) for dataset in datasets for i in range(len(dataset))]


@pytest.mark.parametrize("name", WRITERS)
def test_the_sound_data_sets_are_read(make, name):
    read(make(name))


CASES = {
    (name, case): edit_and_parts
    for name, cases in (
        ("labelme", LABELME), ("via 1", VIA), ("yolo", YOLO), ("voc", VOC),
        ("cityscapes", CITYSCAPES), ("lvis", LVIS), ("mask files", MASK_FILES),
        ("indexed masks", INDEXED),
    )
    for case, edit_and_parts in cases.items()
}  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=" - ".join)
def test_broken_data(make, case):
    edit, parts = CASES[case]
    folder = make(case[0])
    edit(folder)
    with pytest.raises(UserError) as caught:
        read(folder)
    for part in [str(folder), "; ", *parts]:
        assert part in str(caught.value)
    assert len(str(caught.value)) < 2500
    str(caught.value).encode()  # can be printed


NAMED = {
    "labelme": ("a.json", "imagePath"),
    "via 1": (VIA_FILE, 0, "filename"),
    "via 2": ("via_project.json", "_via_img_metadata", 0, "filename"),
}


@pytest.mark.parametrize("name", ESCAPES, ids=ascii)
@pytest.mark.parametrize("kind", NAMED)
def test_a_file_name_stays_in_the_folder(make, kind, name):
    folder = make(kind)
    Image.new("RGB", (8, 6)).save(folder.parent / "a.png")
    if name.startswith(("link", "loop")):
        os.symlink(folder.parent / "a.png", folder / "link.png")
        os.symlink(folder.parent, folder / "linked")
        os.symlink(folder / "loop.png", folder / "loop.png")
    file, *path = NAMED[kind]
    put(file, name, *path)(folder)
    error, files = outcome(folder)
    if files:  # one in the folder has the last part of the name
        assert name.endswith("a.png")
        assert folder / "a.png" in files
        assert all(file.resolve().is_relative_to(folder.resolve()) for file in files)
    elif not name.startswith("link"):
        assert any(file in line and path[-1] in line for line in error.splitlines())
    error.encode()


def test_all_problems_are_reported_at_once(make):
    folder = make("labelme")
    shape([[NAN, 1]], "points")(folder)
    put("sub/b.json", 9, "imageHeight")(folder)
    put("sub/b.json", "line", "shapes", 1, "shape_type")(folder)
    with pytest.raises(UserError) as caught:
        read(folder)
    for part in (f"{folder}: 3 problems", "a.json: shapes[0]", "sub/b.json: imageHeight",
                 "sub/b.json: shapes[1].shape_type"):  # fmt: skip
        assert part in str(caught.value)


def test_folders_without_data(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UserError, match="holds no data set; known formats are"):
        read(tmp_path)
    (tmp_path / "x.json").write_text('{"shapes": [], "imagePath": "a.png"}')
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="looks like labelme, but holds no labelled objects"):
        read(tmp_path)
    os.symlink(tmp_path, tmp_path / "again")
    (tmp_path / "x.json").unlink()
    with pytest.raises(UserError, match="links are not followed: again"):
        read(tmp_path)


def test_a_pipe_does_not_hang(make):
    folder = make("labelme")
    os.mkfifo(folder / "pipe.json")
    read(folder)
    put("a.json", "pipe.json", "imagePath")(folder)
    with pytest.raises(UserError, match=r"pipe\.json: is a pipe"):
        read(folder)


def test_a_name_that_cannot_be_printed(make):
    folder = make("labelme")
    (folder / os.fsdecode(b"\xff.json")).write_text("{}")
    with pytest.raises(UserError, match=r"'\\udcff\.json' has a name that cannot be printed"):
        read(folder)


def test_huge_files_are_not_read(make):
    folder = make("yolo")
    with (folder / "labels" / "a.txt").open("wb") as file:
        file.truncate(2**31)  # takes no room
    with pytest.raises(UserError, match=r"a\.txt: has 2,147,483,648 bytes, at most"):
        read(folder)


def test_samples_of_json_keep_only_keys(tmp_path):
    (tmp_path / "a.json").write_text('{"a": {"b": [1]}, "c": [{"d": 1}], "e": "text"}')
    contents, _ = list_files(tmp_path).json_samples
    assert contents == [{"a": {"b": None}, "c": None, "e": None}]


def test_a_file_that_may_not_be_read(make, monkeypatch):
    folder = make("labelme")
    stat = os.stat

    def refuse(path, *args, **kwargs):
        if os.fspath(path) == str(folder / "a.json"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return stat(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(UserError, match=r"a\.json: cannot be read \(Permission denied\)"):
        read(folder)


@pytest.mark.parametrize(
    "seeds", [range(100), pytest.param(range(100, 3_500), marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    ("name", "file"), [("labelme", "a.json"), ("via 1", VIA_FILE), ("lvis", LVIS_FILE)]
)
def test_random_changes_are_read_or_refused(make, name, file, seeds):
    folder = make(name)
    content = (folder / file).read_text()
    check_mutations(folder / file, content, lambda: read(folder), seeds)
