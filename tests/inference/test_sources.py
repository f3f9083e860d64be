"""Files of folders and patterns: which are taken, and which are named as left out."""

import io
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrcnn.data.image_files import OTHER_SUFFIXES, SUFFIXES
from mrcnn.data.images import read_image
from mrcnn.errors import UserError
from mrcnn.inference.sources import find_images
from mrcnn.inference.video import SUFFIXES as VIDEO_SUFFIXES

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 8, 3), dtype=np.uint8))
FORMATS = {  # of suffixes that differ from Pillow's name
    **dict.fromkeys((".jpg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"), "JPEG2000"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), "PPM"),
    ".tif": "TIFF",
    ".apng": "PNG",
}


def encoded(name: str) -> bytes:
    buffer = io.BytesIO()
    IMAGE.save(buffer, name, **({"no_jp2": True} if name == "j2k" else {}))
    return buffer.getvalue()


def found(folder: Path, **options) -> tuple[list[str], list[str]]:
    """Names of the files, and the notes without the name of the folder."""
    result = find_images([folder], **options)
    notes = [note.partition(f"{folder}: left out ")[2] for note in result.notes]
    return [source.path.name for source in result.sources], notes


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_suffix_is_taken_if_its_file_is_read(tmp_path, suffix):
    path = tmp_path / f"a{suffix.upper()}"
    path.write_bytes(encoded(FORMATS.get(suffix, suffix[1:])))
    assert found(tmp_path) == ([path.name], [])
    assert read_image(path).shape == (9, 8, 3)


def test_what_is_left_out_is_named(tmp_path):
    for name in ("a.jpg", "b.heic", "c.avif", "d.MP4", "._a.jpg", ".b.jpg", "Thumbs.db", "e.txt",
                 "plain", "__MACOSX/a.jpg", "more/f.jpg", "g.jpg/readme"):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no image")
    others = "2 images in formats that are not read (b.heic, c.avif)"
    video = "1 videos, which must be named (d.MP4)"
    subfolders = "2 subfolders, without --recursive (g.jpg, more)"
    assert found(tmp_path) == (["a.jpg"], [f"{others}; {video}; {subfolders}"])
    assert found(tmp_path, recursive=True) == (["a.jpg", "f.jpg"], [f"{others}; {video}"])
    result = find_images([tmp_path / "[a-c].*"])
    assert [source.path.name for source in result.sources] == ["a.jpg"]
    assert result.notes == [f"{tmp_path / '[a-c].*'}: left out {others}"]
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(UserError, match=re.escape(f"left out {others}; {video}")):
        find_images([tmp_path])


def test_contents_decide_for_other_suffixes_and_for_none(tmp_path):
    """Phones send JPEG files that are named .heic."""
    for name, format_ in (("a.heic", "JPEG"), ("b", "PNG"), ("c.ico", "GIF"), ("d.webp2", "WEBP")):
        (tmp_path / name).write_bytes(encoded(format_))
    (tmp_path / "e.dng").write_bytes(encoded("TIFF"))  # as raw files begin
    os.mkfifo(tmp_path / "pipe")  # has no writer
    assert found(tmp_path) == (
        ["a.heic", "b", "c.ico"],
        ["1 images in formats that are not read (e.dng)"],
    )


def test_folders_that_are_not_searched_are_named(tmp_path, monkeypatch):
    for name in ("in/a.png", "in/locked/b.png", "elsewhere/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        IMAGE.save(tmp_path / name)
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked")
    note = "1 links to folders, to be named (link); 1 folders that may not be read (locked)"
    assert found(tmp_path / "in", recursive=True)[1] == [note]


def test_long_lists_are_cut(tmp_path):
    for name in "abcdefg":
        (tmp_path / f"{name}.heic").touch()
    IMAGE.save(tmp_path / "h.png")
    (note,) = found(tmp_path)[1]
    assert note == (
        "7 images in formats that are not read (a.heic, b.heic, c.heic, d.heic, e.heic, …)"
    )


def test_each_suffix_has_one_meaning():
    suffixes = [*SUFFIXES, *OTHER_SUFFIXES, *VIDEO_SUFFIXES]
    assert len(set(suffixes)) == len(suffixes)
    assert all(re.fullmatch(r"\.[a-z0-9]+", suffix) for suffix in suffixes)
