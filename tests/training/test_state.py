"""The state of a run is restored exactly, and damage is reported."""

import json
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from mrcnn import checkpoints
from mrcnn.errors import UserError
from mrcnn.training import state as states
from mrcnn.training.state import TrainingState, load_state, save_state
from tests.helpers import tiny

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


def test_states_are_restored_bit_identically(tmp_path):
    saved = TrainingState(12, tensors(), {"best": 0.25, "none": None, "names": ["é", "b"]})
    assert save_state(tmp_path, saved) == file_of(tmp_path, 12)
    loaded, notes = load_state(tmp_path)
    assert (loaded.step, loaded.values, notes) == (12, saved.values, [])
    assert loaded.tensors.keys() == saved.tensors.keys()
    for name, tensor in saved.tensors.items():
        found = loaded.tensors[name]
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape), name
        assert bits(found) == bits(tensor), name
        assert found.data_ptr() % 16 == 0, name  # kernels take the same path as before


def test_views_are_saved_as_their_values(tmp_path):
    wide = torch.arange(24.0).view(4, 6)
    save_state(tmp_path, TrainingState(1, {"part": wide[:, :2], "row": wide[0].expand(3, 6)}, {}))
    found = load_state(tmp_path)[0].tensors
    assert torch.equal(found["part"], wide[:, :2])
    assert torch.equal(found["row"], wide[0].expand(3, 6))


def test_moments_get_the_memory_format_of_their_parameters():
    model = torch.nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
    steps = []
    for _ in range(2):
        optimizer = torch.optim.AdamW(model.parameters())
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        steps.append(SimpleNamespace(model=model, optimizer=optimizer, scaler=scaler, ema=None))
        steps[-1].device = torch.device("cpu")
    model(torch.rand(1, 4, 6, 6)).sum().backward()
    steps[0].optimizer.step()
    state = states.snapshot(steps[0], 1, {})
    row_major = {name: value.contiguous() for name, value in state.tensors.items()}
    states.restore(steps[1], TrainingState(1, row_major, state.values), Path())
    for parameter, moments in steps[0].optimizer.state.items():
        for kind, value in moments.items():
            restored = steps[1].optimizer.state[parameter][kind]
            assert torch.equal(restored, value)
            assert restored.stride() == value.stride()


def test_other_programs_read_the_tensors(tmp_path):
    found = load_file(save_state(tmp_path, TrainingState(12, tensors(), {})))
    for name, tensor in tensors().items():
        assert name == "model.volume" or bits(found[name]) == bits(tensor), name  # drawn again


def test_the_last_two_states_and_every_nth_are_kept(tmp_path):
    for step in range(10, 90, 10):
        save_state(tmp_path, small(step), keep_every=30)
    assert sorted(states._state_files(tmp_path)) == [30, 60, 70, 80]
    assert load_state(tmp_path)[0].step == 80


def test_states_of_later_steps_are_removed(tmp_path):
    for step in (10, 20, 30):
        save_state(tmp_path, small(step))
    save_state(tmp_path, small(25), keep_every=30)
    assert sorted(states._state_files(tmp_path)) == [20, 25]


# Damage


def bits_to_flip(content: bytes, some: int | None) -> list[int]:
    """Return all bits of the header, or `some` and those of the sha256; and some of the data."""
    data, name = 8 * (8 + int.from_bytes(content[:8], "little")), 8 * content.index(b"sha256")
    draw = random.Random(0).sample
    header = range(data) if some is None else [*draw(range(data), some), *range(name, name + 96)]
    return [*header, *draw(range(data, 8 * len(content)), 200)]


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@EVERY
def test_a_flipped_bit_is_reported(tmp_path, some):
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
def test_a_flipped_bit_in_a_checkpoint_is_reported(tmp_path, some):
    file = tmp_path / "best.safetensors"
    checkpoints.save(file, {"w": torch.rand(32, 9)}, tiny.CONFIG, {"step": 3})
    content = file.read_bytes()
    for bit in bits_to_flip(content, some):
        file.write_bytes(flipped(content, bit))
        with pytest.raises(UserError) as caught:
            checkpoints.load(file)
        assert str(file) in str(caught.value), bit
        assert any(
            words in str(caught.value)
            for words in ("copy it again", "does not hold a known detector")
        )


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
@pytest.mark.parametrize("part", ["model.w", "ema.w"])
def test_a_state_that_is_not_finite_is_damaged(tmp_path, number, part):
    save_state(tmp_path, small(1))
    file = save_state(tmp_path, TrainingState(2, {part: torch.tensor([1.0, number])}, {}))
    state, notes = load_state(tmp_path)
    assert state.step == 1
    assert notes[0].startswith(f"{file} is damaged (NaN or infinite numbers in {part})")


def test_a_file_cut_anywhere_or_grown_is_reported(tmp_path):
    file = save_state(tmp_path, TrainingState(1, {"w": torch.rand(8, 9)}, {}))
    content = file.read_bytes()
    for end in range(len(content)):
        file.write_bytes(content[:end])
        with pytest.raises(UserError, match="is damaged"):
            load_state(tmp_path)
    file.write_bytes(content + b"\0")
    with pytest.raises(UserError, match="is damaged"):
        load_state(tmp_path)


def test_a_damaged_state_is_skipped(tmp_path):
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
    assert sorted(states._state_files(tmp_path)) == [100, 150]
    assert load_state(tmp_path)[1] == []


def test_a_state_that_does_not_fit_the_memory_is_not_skipped(tmp_path, monkeypatch):
    for step in (100, 200):
        save_state(tmp_path, small(step))

    def load(content):
        raise MemoryError

    monkeypatch.setattr("safetensors.torch.load", load)
    with pytest.raises(MemoryError):
        load_state(tmp_path)


def test_if_all_are_damaged_all_are_named(tmp_path):
    for step in (100, 200):
        save_state(tmp_path, small(step)).write_bytes(b"junk")
    with pytest.raises(UserError) as caught:
        load_state(tmp_path)
    for step in (100, 200):
        assert f"{file_of(tmp_path, step)}: is damaged" in str(caught.value)


# Not a state


def test_a_newer_format_is_not_damage(tmp_path, monkeypatch):
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
    with pytest.raises(UserError, match="nowhere: does not exist; give the folder of a run"):
        load_state(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"not contain a training state \(state/\*\.safetensors\)"):
        load_state(tmp_path)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "notes.safetensors").touch()
    with pytest.raises(UserError, match="does not contain a training state"):
        load_state(tmp_path)


def test_a_file_instead_of_a_folder(tmp_path):
    file = tmp_path / "run"
    file.touch()
    with pytest.raises(UserError, match="run: is a file; give the folder of a run"):
        load_state(file)
    with pytest.raises(UserError, match=r"00000001\.safetensors: cannot be written \(Not a dir"):
        save_state(file, small(1))
    (tmp_path / "state").touch()
    with pytest.raises(UserError, match=r"state: cannot be read \(Not a directory\)"):
        load_state(tmp_path)


def test_a_state_is_not_a_checkpoint(tmp_path):
    with pytest.raises(UserError, match="is a saved state of a training run"):
        checkpoints.load(save_state(tmp_path, small(1)))


def test_checkpoints_of_older_versions_load(tmp_path):
    """They have no sha256, or one beside the text, of the tensors alone."""
    described = {"format": 1, "model": tiny.CONFIG.to_dict(), "extra": {"step": 3}}
    metadata = {"mrcnn": json.dumps(described)}
    for extra in ({}, {"format": "pt"}, {"sha256": 64 * "a"}):
        save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors", metadata | extra)
        assert checkpoints.load(tmp_path / "a.safetensors").extra == {"step": 3}


def test_states_of_older_versions_load(tmp_path):
    text = {"format": 1, "step": 7, "values": {"lr": 0.5}, "strides": {"w": [1, 2]}}
    (tmp_path / "state").mkdir()
    metadata = {"mrcnn_state": json.dumps(text), "sha256": 64 * "a"}
    save_file({"w": torch.arange(6.0).view(2, 3)}, file_of(tmp_path, 7), metadata)
    state, _ = load_state(tmp_path)
    assert (state.step, state.values) == (7, {"lr": 0.5})
    assert torch.equal(state.tensors["w"], torch.arange(6.0).view(2, 3))


def test_equal_states_give_equal_files(tmp_path):
    """Two runs can be compared by the bytes of their files."""
    first, second = (save_state(tmp_path / name, small(3)).read_bytes() for name in "ab")
    assert first == second


# Writing


def test_values_that_json_does_not_have(tmp_path):
    save_state(tmp_path, small(1))
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_state(tmp_path, TrainingState(1, {}, {"w": torch.ones(1)}))
    assert load_state(tmp_path)[0].values == {"lr": 0.1}
