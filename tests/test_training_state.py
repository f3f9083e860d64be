"""The state of a run comes back exactly, and never wrongly: what is damaged is told."""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from mrcnn import checkpoints
from mrcnn.errors import UserError
from mrcnn.tensor_files import write_tensors
from mrcnn.training import state as states
from mrcnn.training.state import TrainingState, load_state, save_state

EVERY = pytest.mark.parametrize("some", [200, pytest.param(None, marks=pytest.mark.slow)])


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(6, 4, 3, 3, generator=generator)
    return {
        "model.conv": weights,
        "model.conv_last": weights.to(memory_format=torch.channels_last),
        "model.pointwise": weights[:, :, :1, :1].to(memory_format=torch.channels_last),
        "model.linear": weights.view(24, 9),  # shares memory
        "model.transposed": weights.view(24, 9).t(),
        "model.volume": torch.rand(2, 3, 4, 5, 6).to(memory_format=torch.channels_last_3d),
        "model.bfloat16": weights.bfloat16(),
        "model.float16": weights.half(),
        "model.float8": weights.to(torch.float8_e4m3fn),
        "optimizer.step": torch.tensor(3.0),
        "optimizer.count": torch.tensor(2**40 + 1),
        "optimizer.flags": torch.tensor([True, False, True]),
        "optimizer.infinite": torch.tensor(
            [float("nan"), float("-inf"), -0.0], dtype=torch.float64
        ),
        "random.generator": generator.get_state(),
        "none": torch.zeros(0, 4),
        "none_last": torch.zeros(0, 4, 3, 3),
        "Größe 大": torch.arange(3, dtype=torch.int16),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }


def small(step: int) -> TrainingState:
    return TrainingState(step, {"w": torch.full((2, 3), float(step))}, {"lr": 0.1 * step})


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def file_of(folder: Path, step: int) -> Path:
    return folder / "state" / f"{step:08}.safetensors"


def test_all_comes_back_bit_by_bit(tmp_path):
    saved = TrainingState(12, tensors(), {"best": 0.25, "none": None, "names": ["é", "b"]})
    assert save_state(tmp_path, saved) == file_of(tmp_path, 12)
    loaded, notes = load_state(tmp_path)
    assert (loaded.step, loaded.values, notes) == (12, saved.values, [])
    assert loaded.tensors.keys() == saved.tensors.keys()
    for name, tensor in saved.tensors.items():
        found = loaded.tensors[name]
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape), name
        assert found.stride() == tensor.stride(), name
        assert bits(found) == bits(tensor), name
        assert found.data_ptr() % 16 == 0, name  # kernels take the same path as before


def test_what_has_gaps_comes_back_without(tmp_path):
    wide = torch.arange(24.0).view(4, 6)
    save_state(tmp_path, TrainingState(1, {"part": wide[:, :2], "row": wide[0].expand(3, 6)}, {}))
    found = load_state(tmp_path)[0].tensors
    assert torch.equal(found["part"], wide[:, :2])
    assert torch.equal(found["row"], wide[0].expand(3, 6))
    assert all(tensor.is_contiguous() for tensor in found.values())


def test_other_programs_read_the_tensors(tmp_path):
    found = load_file(save_state(tmp_path, TrainingState(12, tensors(), {})))
    for name, tensor in tensors().items():
        assert name == "model.volume" or bits(found[name]) == bits(tensor), name  # drawn anew


def test_the_last_two_and_every_so_many_are_kept(tmp_path):
    for step in range(10, 90, 10):
        save_state(tmp_path, small(step), keep_every=30)
    assert sorted(states._files(tmp_path)) == [30, 60, 70, 80]
    assert load_state(tmp_path)[0].step == 80


def test_a_run_that_went_back_leaves_its_future(tmp_path):
    for step in (10, 20, 30):
        save_state(tmp_path, small(step))
    save_state(tmp_path, small(25), keep_every=30)
    assert sorted(states._files(tmp_path)) == [20, 25]


def test_sums_are_those_of_sha256sum(tmp_path):
    for step in (1, 2, 3):
        save_state(tmp_path, small(step))
        checkpoints.save(tmp_path / "best.safetensors", {}, tiny.CONFIG, {"step": step})
    lines = (tmp_path / "SHA256SUMS").read_text().splitlines()
    names = ["best.safetensors", "state/00000002.safetensors", "state/00000003.safetensors"]
    sums = [hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in names]
    assert lines == [f"{value}  {name}" for value, name in zip(sums, names, strict=True)]
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path, check=True)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe no sums", None])
def test_loading_needs_no_sums(tmp_path, content):
    save_state(tmp_path, small(1))
    sums = tmp_path / "SHA256SUMS"
    sums.unlink() if content is None else sums.write_bytes(content)
    assert load_state(tmp_path)[0].step == 1
    save_state(tmp_path, small(2))
    assert sums.read_text().endswith("  state/00000002.safetensors\n")


# Damage


def bits_to_flip(content: bytes, some: int | None) -> list[int]:
    """All of the header, or `some` drawn anew and those that lead to the sum; some of the data."""
    data, name = 8 * (8 + int.from_bytes(content[:8], "little")), 8 * content.index(b'"sha256')
    draw = random.Random(0).sample
    header = range(data) if some is None else [*draw(range(data), some), *range(name, name + 96)]
    return [*header, *draw(range(data, 8 * len(content)), 200)]


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@EVERY
def test_a_flipped_bit_is_told(tmp_path, some):
    weights = {"w": torch.rand(8, 4, 3, 3).to(memory_format=torch.channels_last)}
    file = save_state(tmp_path, TrainingState(1, weights, {"ap": 0.5, "note": "é"}))
    content = file.read_bytes()
    for bit in bits_to_flip(content, some):
        file.write_bytes(flipped(content, bit))
        with pytest.raises(UserError) as caught:
            load_state(tmp_path)
        assert f"{file}: is damaged" in str(caught.value), bit
        assert "Copy them again, or start a new run" in str(caught.value)


@EVERY
def test_a_flipped_bit_in_a_checkpoint_is_told(tmp_path, some):
    file = tmp_path / "best.safetensors"
    checkpoints.save(file, {"w": torch.rand(32, 9)}, tiny.CONFIG, {"step": 3})
    content = file.read_bytes()
    for bit in bits_to_flip(content, some):
        file.write_bytes(flipped(content, bit))
        with pytest.raises(UserError) as caught:
            checkpoints.load(file)
        assert str(file) in str(caught.value), bit
        assert "copy it again" in str(caught.value) or "no checkpoint of mrcnn" in str(caught.value)


def test_a_file_cut_anywhere_or_grown_is_told(tmp_path):
    file = save_state(tmp_path, TrainingState(1, {"w": torch.rand(8, 9)}, {}))
    content = file.read_bytes()
    for end in range(len(content)):
        file.write_bytes(content[:end])
        with pytest.raises(UserError, match="is damaged"):
            load_state(tmp_path)
    file.write_bytes(content + b"\0")
    with pytest.raises(UserError, match="is damaged"):
        load_state(tmp_path)


def test_the_state_before_a_damaged_one_is_taken(tmp_path):
    for step in (100, 200):
        save_state(tmp_path, small(step))
    damaged = file_of(tmp_path, 200)
    damaged.write_bytes(flipped(damaged.read_bytes(), -1))
    state, notes = load_state(tmp_path)
    assert state.step == 100
    assert notes == [
        f"{damaged} is damaged (its content is not what was written: the sha256 differs); "
        "went back to step 100"
    ]
    save_state(tmp_path, small(150))
    assert sorted(states._files(tmp_path)) == [100, 150]
    assert load_state(tmp_path)[1] == []


def test_if_all_are_damaged_all_are_named(tmp_path):
    for step in (100, 200):
        save_state(tmp_path, small(step)).write_bytes(b"junk")
    with pytest.raises(UserError) as caught:
        load_state(tmp_path)
    for step in (100, 200):
        assert f"{file_of(tmp_path, step)}: is damaged" in str(caught.value)


STRANGE_STRIDES = {
    "too many": [4, 2, 1],
    "far": [10**12, 1],
    "overlapping": [1, 1],
    "below": [-2, 1],
    "text": ["3", 1],
}


@pytest.mark.parametrize("case", STRANGE_STRIDES)
def test_strange_strides_are_damage(tmp_path, case):
    text = {"format": 1, "step": 1, "values": {}, "strides": {"w": STRANGE_STRIDES[case]}}
    weights = {"w": torch.ones(2, 3)}
    write_tensors(file_of(tmp_path, 1), weights, "mrcnn_state", json.dumps(text))
    with pytest.raises(UserError, match=r"00000001\.safetensors: is damaged \(its metadata"):
        load_state(tmp_path)


# What is no state


def test_a_newer_format_is_no_damage(tmp_path, monkeypatch):
    save_state(tmp_path, small(1))
    monkeypatch.setattr(states, "FORMAT", 2)
    newer = save_state(tmp_path, small(2))
    monkeypatch.undo()
    with pytest.raises(UserError) as caught:
        load_state(tmp_path)
    assert str(caught.value) == (
        f"{newer}: has format 2, this mrcnn reads up to 1; install a newer mrcnn"
    )


def test_folders_without_a_state(tmp_path):
    with pytest.raises(UserError, match="nowhere: does not exist; name the folder of a run"):
        load_state(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds no training state \(state/\*\.safetensors\)"):
        load_state(tmp_path)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "notes.safetensors").touch()
    with pytest.raises(UserError, match="holds no training state"):
        load_state(tmp_path)


def test_a_file_is_no_folder(tmp_path):
    file = tmp_path / "run"
    file.touch()
    with pytest.raises(UserError, match="run: is a file; name the folder of a run"):
        load_state(file)
    with pytest.raises(UserError, match=r"00000001\.safetensors: cannot be written \(Not a dir"):
        save_state(file, small(1))
    (tmp_path / "state").touch()
    with pytest.raises(UserError, match=r"state: cannot be read \(Not a directory\)"):
        load_state(tmp_path)


def test_a_state_is_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match="no checkpoint of mrcnn"):
        checkpoints.load(save_state(tmp_path, small(1)))


def test_checkpoints_from_before_sums_load(tmp_path):
    described = {"format": 1, "model": tiny.CONFIG.to_dict(), "extra": {"step": 3}}
    metadata = {"mrcnn": json.dumps(described)}
    for extra in ({}, {"format": "pt"}):
        save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors", metadata | extra)
        assert checkpoints.load(tmp_path / "a.safetensors").extra == {"step": 3}


# Writing


def test_values_that_are_no_json_leave_the_files(tmp_path):
    save_state(tmp_path, small(1))
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_state(tmp_path, TrainingState(1, {}, {"w": torch.ones(1)}))
    with pytest.raises(TypeError, match="z must have a real dtype, got torch"):
        save_state(tmp_path, TrainingState(1, {"z": torch.zeros(1, dtype=torch.complex64)}, {}))
    assert load_state(tmp_path)[0].values == {"lr": 0.1}


def test_room_is_looked_at_first(tmp_path, monkeypatch):
    file = save_state(tmp_path, small(1))
    room = list(os.statvfs(tmp_path))
    room[0:5] = [512, 512, 100, 2, 1]  # two blocks are free, for others than root one
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(room))
    with pytest.raises(UserError) as caught:
        save_state(tmp_path, TrainingState(2, {"w": torch.zeros(1000)}, {}))
    size = len(file.read_bytes()) - 24 + 4000
    assert f"{file_of(tmp_path, 2)}: cannot be written (it takes 4," in str(caught.value)
    assert "and 512 are free there); name another place, or make room" in str(caught.value)
    assert size // 1000 == 4
    assert os.listdir(tmp_path / "state") == [file.name]


MEMORY = """
import resource, sys, torch
from pathlib import Path
from mrcnn.training.state import TrainingState, load_state, save_state
torch.set_num_threads(1)
def used():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
last = torch.channels_last
parts = {str(i): torch.ones(256, 256, 4, 4).to(memory_format=last) for i in range(32)}  # 128 MiB
save_state(Path(sys.argv[1]), TrainingState(0, {"0": parts["0"]}, {}))
before = used()
save_state(Path(sys.argv[1]), TrainingState(1, parts, {}))
saved = used()
del parts
load_state(Path(sys.argv[1]))
print(saved - before, used() - saved)
"""


def test_saving_needs_no_second_copy(tmp_path):
    """Of 128 MiB in tensors of 4, half of which is left to the ways of the allocator."""
    command = [sys.executable, "-c", MEMORY, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    saving, loading = map(int, done.stdout.split())
    assert saving < 64
    assert loading < 64
