"""Files of weights are recognized by their content, and other files named."""

import io
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch

from mrcnn import checkpoints
from mrcnn.checkpoints import load, read_pretrained
from mrcnn.checkpoints.foreign.read import read_foreign
from mrcnn.errors import UserError
from mrcnn.inference.load import load as load_predictor
from tests.helpers import tiny

STATE = {"conv1.weight": torch.ones(2, 2), "layer1.0.conv1.weight": torch.zeros(3)}


def torch_file(**options) -> bytes:
    file = io.BytesIO()
    torch.save(STATE, file, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "name", ["a.pth", "a.pth.tar", "a.ckpt", "a.bin", "a", "a.safetensors", "a.pt2"]
)
@pytest.mark.parametrize(
    "content",
    [torch_file(), torch_file(_use_new_zipfile_serialization=False), safetensors.torch.save(STATE)],
    ids=["zip", "legacy", "safetensors"],
)
def test_weights_under_any_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    found = read_foreign(tmp_path / name).state
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[key], STATE[key]) for key in STATE)
    assert read_pretrained(tmp_path / name).state.keys() == STATE.keys()


@pytest.mark.parametrize("name", ["a.pth", "model.bin", "a.pt2"])
def test_a_checkpoint_under_any_name(tmp_path, name):
    (tiny.run(tmp_path) / "last.safetensors").rename(tmp_path / name)
    assert load(tmp_path / name).config == tiny.CONFIG
    assert load_predictor(tmp_path / name).notes == []


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, "pt2")
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.pth"), io.BytesIO())
    return file.getvalue()


def array() -> bytes:
    file = io.BytesIO()
    np.savez(file, w=np.ones(3))
    return file.getvalue()


def header(text: str, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text.encode()


def entries(*offsets: list[int], names: str = "ab", size: int = 0) -> bytes:
    texts = [
        f'"{name}": {{"dtype": "F32", "shape": [1], "data_offsets": {place}}}'
        for name, place in zip(names, offsets, strict=False)
    ]
    return header(f"{{{', '.join(texts)}}}") + bytes(size)


OTHERS = {  # content, part of the message
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run git lfs pull"),
    "a login page": (b"\xef\xbb\xbf\n<!DOCTYPE html>", "is a web page, not the file; download it"),
    "an answer of an API": (b'{"error": "not found"}', "is a JSON text"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "is an HDF5 file, as of Keras"),
    "ONNX": (b"\x08\x0a\x12\x07pytorch", "is a graph of ONNX or TensorFlow"),
    "npz": (array(), "is a zip archive with arrays of numpy (.npz)"),
    "npy": (b"\x93NUMPY\x01\x00", "is a numpy array"),
    "tar": (tarred(), "is a tar archive; unpack it"),
    "zstd": (b"\x28\xb5\x2f\xfd", "is compressed by zstd; unpack it"),
    "another archive": (zipped("a/b.txt"), "is a zip archive with no weights"),
    "TorchScript": (zipped("a/data.pkl", "a/constants.pkl"), "is a TorchScript program"),
    "empty": (b"", "it is empty"),
    "cut short": (torch_file()[:-50], "it is cut short, or no zip archive"),
    "text": (b"hello", "it does not begin like any file of weights"),
    "a huge header": (header("{}", 2**40), "its header has 1,099,511,627,776 bytes, at most"),
    "a long header": (header("{}", 9), "is damaged"),
    "a deep header": (header("{" + '"a":{' * 50_000), "is damaged"),
    "a state": (
        header('{"__metadata__": {"mrcnn_state": "{}"}}'),
        "is a saved state of a training run",
    ),
    "overlapping": (entries([0, 4], [0, 4], size=4), "is damaged"),
    "negative": (entries([-4, 0]), "is damaged"),
    "beyond the end": (entries([0, 4]), "is damaged"),
    "twice": (entries([0, 4], [4, 8], names="aa", size=8), "is damaged"),
}


@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.parametrize("read", [load, read_pretrained, load_predictor])
def test_what_is_no_file_of_weights(tmp_path, case, read):
    content, message = OTHERS[case]
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(tmp_path / "a.pth")
    assert str(caught.value).startswith(f"{tmp_path / 'a.pth'}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.pt2", "model.pth", "best.safetensors"])
@pytest.mark.parametrize(
    "entry", ["m/archive_format", "m/data/aotinductor/m/a.so", "m/serialized_exported_program.json"]
)
def test_a_program_needs_trust(tmp_path, name, entry):
    (tmp_path / name).write_bytes(zipped(entry))
    with pytest.raises(UserError, match=r"can run any code on this machine; .* add --trust"):
        load_predictor(tmp_path / name)
    with pytest.raises(UserError, match="is a program with fixed weights; give its checkpoint"):
        load(tmp_path / name)


CHANGED = {
    "NaN": (lambda value: value * torch.nan, "contains NaN or infinite numbers in "),
    "int8": (lambda value: value.to(torch.int8), " holds int8; weights must be dense and of type"),
    "complex": (lambda value: value.to(torch.complex64), " holds complex64; weights must be"),
    "float8": (lambda value: value.to(torch.float8_e4m3fn), " holds float8_e4m3fn; weights must"),
    "another shape": (lambda value: value[None], "its weights do not fit the model it describes"),
}


@pytest.mark.parametrize("case", CHANGED)
@pytest.mark.parametrize("read", [read_pretrained, load_predictor])
def test_weights_that_no_model_has(tmp_path, case, read):
    change, message = CHANGED[case]
    state = tiny.model().state_dict()
    name = "box_head.layers.0.weight"
    state[name] = change(state[name])
    checkpoints.save(tmp_path / "a.safetensors", state, tiny.CONFIG, {})
    with pytest.raises(UserError) as caught:
        read(tmp_path / "a.safetensors")
    assert message in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize("case", ["NaN", "int8"])
def test_backbones_that_no_model_has(tmp_path, case):
    change, message = CHANGED[case]
    backbone = tiny.model().backbone.body
    torch.save({k: change(v) for k, v in backbone.state_dict().items()}, tmp_path / "a.pth")
    with pytest.raises(UserError) as caught:
        checkpoints.load_backbone(backbone, tmp_path / "a.pth")
    assert message in str(caught.value)


def test_weights_of_mrcnn_without_their_configuration(tmp_path):
    torch.save(tiny.model().state_dict(), tmp_path / "a.pth")
    with pytest.raises(UserError, match="without its configuration; save both with mrcnn"):
        load(tmp_path / "a.pth")


HUGE = {"fpn_channels": 8192, "box_head_width": 32768, "rpn_convs": 32, "mask_head_convs": 32}


@pytest.mark.parametrize("field", HUGE)
def test_a_huge_model_is_not_built(tmp_path, field, monkeypatch):
    state = tiny.model().state_dict()
    config = {**tiny.CONFIG.to_dict(), field: HUGE[field]}
    checkpoints.save(tmp_path / "a.safetensors", state, type(tiny.CONFIG).from_dict(config), {})
    monkeypatch.setattr("mrcnn.inference.load.build", lambda _: pytest.fail("it was built"))
    with pytest.raises(UserError, match="its weights do not fit the model it describes"):
        load_predictor(tmp_path / "a.safetensors")
