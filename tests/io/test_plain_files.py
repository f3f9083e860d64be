"""Plain files: what else a path may lead to is refused at once."""

import os
import socket
from pathlib import Path

import pytest

from mrcnn.checkpoints import load
from mrcnn.checkpoints.foreign.read import read_foreign
from mrcnn.data.checks.decoded import decode_file
from mrcnn.errors import FileError, UserError
from mrcnn.evaluation.cityscapes import read_instance_ids
from mrcnn.evaluation.truth import read_image_ids
from mrcnn.inference.load import load as load_predictor
from mrcnn.inference.video import VideoReader
from mrcnn.io.json_files import read_json
from mrcnn.io.plain_files import MAX_BYTES, check_plain, open_plain, read_plain
from mrcnn.training.options import read_file


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)  # a path has at most 107 bytes


def make_sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 * MAX_BYTES)  # which is also more than a checkpoint may have


KINDS = {
    "a pipe": (os.mkfifo, "is a pipe, not a plain file; save its content in a file"),
    "a socket": (make_socket, "is a socket, not a plain file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "is a device, not a plain file"),
    "a folder": (Path.mkdir, "is a folder, not a plain file; name a file"),
    "a huge file": (make_sparse, "bytes, at most "),
    "a link to itself": (lambda path: path.symlink_to(path.name), "cannot be read (Too many lev"),
    "nothing": (lambda path: None, "does not exist; "),
    "a path below a file": (lambda path: path.parent.write_text(""), "cannot be read (Not a direc"),
}
READERS = {
    "JSON": (read_json, "a.json"),
    "configuration": (read_file, "a.toml"),
    "image ids": (read_image_ids, "ids"),
    "weights of others": (read_foreign, "a.pth"),
    "checkpoint": (load, "a.safetensors"),
    "program": (load_predictor, "a.pt2"),
    "instance ids": (lambda path: read_instance_ids(path, (4, 4)), "a.png"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_a_plain_file_is_refused(kind, tmp_path, monkeypatch):
    make, message = KINDS[kind]
    path = tmp_path / "folder" / "file"
    if kind != "a path below a file":
        path.parent.mkdir()
        monkeypatch.chdir(path.parent)
    make(path)
    for refuse in (check_plain, open_plain, read_plain):
        with pytest.raises(FileError) as caught:
            refuse(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert message in str(caught.value)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["a pipe", "a device", "a huge file"])
def test_every_reader_refuses_it(reader, kind, tmp_path):
    make, message = KINDS[kind]
    read, name = READERS[reader]
    make(tmp_path / name)
    with pytest.raises(UserError) as caught:
        read(tmp_path / name)
    assert f"{tmp_path / name}: " in str(caught.value)
    assert message in str(caught.value)


def test_an_image_or_a_video_that_is_a_pipe(tmp_path, monkeypatch):
    monkeypatch.setattr("mrcnn.inference.video._opencv", lambda: None)
    os.mkfifo(tmp_path / "a")
    error = decode_file(tmp_path / "a").error
    assert "is a pipe" in str(error)
    with pytest.raises(FileError, match="is a pipe"):
        VideoReader(tmp_path / "a")


def test_plain_files_are_read(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    (tmp_path / "link").symlink_to(path)
    assert read_plain(path, max_bytes=3) == read_plain(tmp_path / "link") == b"abc"
    with pytest.raises(FileError, match="has 3 bytes, at most 2 are read"):
        read_plain(path, max_bytes=2)


def test_a_file_of_the_system_without_a_size():
    with pytest.raises(FileError, match="is longer than its size, 0 bytes; name a copy"):
        read_plain(Path("/proc/self/status"))


def test_a_pipe_that_replaces_the_file_meanwhile(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_text("")
    stat = Path.stat

    def stat_then_replace(self, **options):
        status = stat(self, **options)
        path.unlink()
        os.mkfifo(path)
        return status

    monkeypatch.setattr(Path, "stat", stat_then_replace)
    with pytest.raises(FileError, match="is a pipe"):
        open_plain(path)
