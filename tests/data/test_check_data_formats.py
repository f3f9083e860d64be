"""`mrcnn check-data` on data of every format, sound and malformed."""

import json
import time
from pathlib import Path

import pytest
from PIL import Image

from mrcnn.cli import app
from tests.data import test_malformed_data as coco_cases
from tests.data.test_check_data import findings_of
from tests.data.test_formats_malformed import CASES, WRITERS, sound


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_is_checked_and_copied(tmp_path, name):
    content = sound(tmp_path / "source")
    for i, image in enumerate(content["images"]):
        picture = Image.new("RGB", (8, 6), (i, 0, 0))
        picture.putpixel((0, 0), (255, 255, 255))
        picture.save(tmp_path / "source" / image["file_name"])
    WRITERS[name](tmp_path / "data", content, tmp_path / "source")
    assert app.main(["check-data", str(tmp_path / "data"), "--fix", str(tmp_path / "clean")]) == 0
    for folder in ("data", "clean"):
        kinds = {f.kind for f in findings_of(tmp_path / folder)}
        assert kinds <= {"tiny image", "class without instances", "gaps in category ids"}


def refused(folder: Path, capsys, parts: list[str]) -> None:
    begun = time.perf_counter()
    code = app.main(["check-data", str(folder), "--show", "50"])
    output = capsys.readouterr()
    assert code in (1, 2)
    assert time.perf_counter() - begun < 2
    for part in parts:
        assert part in output.out + output.err
    assert (output.err != "") == (code == 2)
    if code == 1:
        assert "0 errors" not in output.out


@pytest.mark.parametrize("case", CASES, ids=" - ".join)
def test_broken_data_of_every_format(tmp_path, capsys, case):
    edit, parts = CASES[case]
    folder = tmp_path / "data"
    WRITERS[case[0]](folder, sound(tmp_path / "source"), tmp_path / "source")
    edit(folder)
    refused(folder, capsys, parts)


@pytest.mark.parametrize("case", coco_cases.UNREADABLE | coco_cases.RECORDS)
def test_broken_coco_files(tmp_path, capsys, case):
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        Image.new("RGB", (8, 6)).save(tmp_path / "images" / name)
    (tmp_path / "images" / "c.png").write_text("no image")
    (tmp_path / "images" / "e.png").touch()
    if case in coco_cases.UNREADABLE:
        content, parts = coco_cases.UNREADABLE[case]
    else:
        change, parts = coco_cases.RECORDS[case]
        records = coco_cases.sound()
        change(records)
        content = json.dumps(records).encode()
    (tmp_path / "train.json").write_bytes(content)
    refused(tmp_path, capsys, parts)
