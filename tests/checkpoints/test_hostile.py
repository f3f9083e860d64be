"""Hostile and damaged files of weights: one message, nothing run, little memory."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from mrcnn.checkpoints.foreign.read import read_foreign
from mrcnn.errors import UserError
from tests.helpers.hostile_files import CANARY, HOSTILE, RUNNING, SOUND, SOUND_LEGACY, SOUND_ZIP

MEMORY = 100 * 2**20  # that reading a small file may take at most


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(path: Path) -> str:
    """The message that a file is refused with, after checks of what all messages must be."""
    with pytest.raises(UserError) as caught:
        read_foreign(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert message.isprintable()
    assert len(message) < len(str(path)) + 400
    assert not (path.parent / CANARY).exists()
    return message


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_and_damaged_files(in_folder, case):
    path = in_folder / "weights.pth"
    path.write_bytes(HOSTILE[case])
    size = len(HOSTILE[case])
    tracemalloc.start()
    try:
        message = refusal(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MEMORY + 8 * size, message


NAMELESS = ("BUILD", "ndarray", "a number")  # attacks without a name that is refused


@pytest.mark.parametrize("case", [case for case in RUNNING if not case.startswith(NAMELESS)])
def test_the_attacks_are_named(in_folder, case):
    (in_folder / "a.pkl").write_bytes(RUNNING[case])
    assert "nothing was run" in refusal(in_folder / "a.pkl")


MESSAGES = {  # what the message says of some
    "os.system": "objects that would run code (posix.system); nothing was run; ask for a file",
    "a whole model": "would run code (torch.nn.modules.linear.Linear)",
    "a web page": "is a web page, not the file; download it again; the server",
    "a pointer of git-lfs": "is a pointer of git-lfs, not the file; run git lfs pull",
    "gzip": "is compressed by gzip; unpack it, and name",
    "nothing": "is damaged (it is empty); copy it again",
    "no stop": "is damaged (pickle exhausted before seeing STOP); copy it again",
    "8 GB of bytes": "is damaged (expected 8589934592 bytes in a bytes8, but only 2 remain)",
    "millions of dicts": "has more parts than the weights of any model; nothing was run",
    "too few bytes": "its 'w' has 4 bytes, which do not fit the shape (4,)",
    "strings": "its 'w' is not an array of numbers",
    "number for a name": "does not hold a state dict (names and tensors) but Array as a value",
    "TorchScript": "is a TorchScript program; save its weights alone",
    "a zip bomb": "is a compressed archive",
    "a zip with code": "holds objects that would run code; nothing was run; save it with",
}


@pytest.mark.parametrize("case", MESSAGES)
def test_messages(in_folder, case):
    (in_folder / "a.pkl").write_bytes(HOSTILE[case])
    assert MESSAGES[case] in refusal(in_folder / "a.pkl")


def test_what_is_no_file(tmp_path):
    (tmp_path / "folder.pth").mkdir()
    assert "is a folder, not a plain file" in refusal(tmp_path / "folder.pth")
    assert "does not exist; give a file of weights" in refusal(tmp_path / "nowhere.pth")
    os.mkfifo(tmp_path / "pipe.pth")
    assert "is a pipe, not a plain file" in refusal(tmp_path / "pipe.pth")
    (tmp_path / "broken.pth").symlink_to(tmp_path / "nothing")
    assert "does not exist" in refusal(tmp_path / "broken.pth")
    assert "cannot be read (File name too long)" in refusal(tmp_path / f"{'a' * 300}.pth")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    (tmp_path / "a.pth").write_bytes(SOUND)
    (tmp_path / "a.pth").chmod(0)
    assert "cannot be read (Permission denied)" in refusal(tmp_path / "a.pth")


@pytest.mark.parametrize("whole", [SOUND, SOUND_ZIP, SOUND_LEGACY], ids=["pickle", "zip", "legacy"])
def test_changed_bytes(in_folder, whole):
    """Whatever three bytes become: weights, or one message."""
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(500):
        changed = bytearray(whole)
        for place in random.integers(0, len(whole), 3):
            changed[place] = random.integers(0, 256)
        (in_folder / "a.pth").write_bytes(changed)
        try:
            read_foreign(in_folder / "a.pth")
        except UserError:
            refused += 1
    assert refused > 250
    assert not (in_folder / CANARY).exists()
