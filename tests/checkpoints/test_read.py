"""Weight files of every protocol and generation of pickles, numpy and PyTorch."""

import argparse
import pickle
import struct
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from mrcnn.checkpoints.foreign.read import read_foreign
from tests.helpers.hostile_files import (
    SHAPE_0,
    SHAPE_1,
    SHAPE_4,
    call,
    legacy,
    name,
    tensor,
    weights,
)

NUMPY_DTYPES = "f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8 ?".split()
ARRAYS = {dtype: (np.arange(12).reshape(3, 4) % 5).astype(dtype) for dtype in NUMPY_DTYPES} | {
    "columns": np.asfortranarray(np.arange(6, dtype="f4").reshape(2, 3)),
    "permuted": np.arange(24, dtype="f4").reshape(2, 3, 4).transpose(2, 0, 1),
    "every other": np.arange(10, dtype="f4")[::2],
    "big-endian": np.arange(6, dtype=">f4"),
    "scalar": np.float32(2.5),
    "counter": np.int64(7),
    "no axes": np.array(2.5),
    "empty": np.zeros((0, 4), "f4"),
    "special": np.array([np.nan, np.inf, -np.inf, -0.0], "f4"),
    "read only": np.frombuffer(b"\0\0\x80?", "f4"),
}


def same(found: dict[str, torch.Tensor], wanted: dict[str, object]) -> None:
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        array = np.asarray(value)
        native = array.astype(array.dtype.newbyteorder("="))
        assert found[key].numpy().dtype == native.dtype
        np.testing.assert_array_equal(found[key].numpy(), native, strict=True)


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_all_protocols(tmp_path, protocol):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(ARRAYS, protocol=protocol))
    same(read_foreign(tmp_path / "a.pkl").state, ARRAYS)


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_as_numpy_1_writes_them(tmp_path, protocol):
    content = pickle.dumps(ARRAYS, protocol=protocol)
    if protocol < 4:  # names are lines, which have no length before them
        content = content.replace(b"numpy._core.", b"numpy.core.")
    else:
        old = content.replace(b"\x16numpy._core.multiarray", b"\x15numpy.core.multiarray")
        old = old.replace(b"\x13numpy._core.numeric", b"\x12numpy.core.numeric")
        short = len(content) - len(old)  # in the one frame, whose length is told
        frame = struct.unpack("<Q", old[3:11])[0] - short
        content = old[:3] + struct.pack("<Q", frame) + old[11:]
    assert b"numpy.core.multiarray" in content
    assert b"_core" not in content
    (tmp_path / "a.pkl").write_bytes(content)
    same(read_foreign(tmp_path / "a.pkl").state, ARRAYS)


def test_arrays_as_python_2_writes_them(tmp_path):
    """Its bytes and its text are one type, SHORT_BINSTRING, also for the numbers of an array."""
    numbers = np.array([1.5, -2.0], "f4").tobytes()
    dtype = call("numpy", "dtype", b"U\x02f4", b"K\x00", b"K\x01") + b"(K\x03U\x01<NNNtb"
    data = b"U" + bytes([len(numbers)]) + numbers
    empty = call(
        "numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), SHAPE_0, b"U\x01b"
    )
    value = empty + b"(K\x01K\x02\x85" + dtype + b"\x89" + data + b"tb"
    blobs = b"}(U\x07conv1_wq\x01" + value + b"U\x10conv1_w_momentumh\x01U\x0cweight_order]u"
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02}(U\x05blobs" + blobs + b"U\x03cfgU\x01au.")
    same(read_foreign(tmp_path / "a.pkl").state, {"conv1_w": np.array([1.5, -2.0], "f4")})


def test_a_checkpoint_of_detectron2(tmp_path):
    content = {"model": ARRAYS, "__author__": "a", "matching_heuristics": True, "other": [1]}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    found = read_foreign(tmp_path / "a.pkl")
    same(found.state, ARRAYS)
    assert found.facts == {"__author__": "a", "matching_heuristics": True}


DTYPES = "float16 bfloat16 float32 float64 int8 int16 int32 int64 uint8 bool".split()
TENSORS = {
    **{dtype: torch.arange(6).view(2, 3).to(getattr(torch, dtype)) for dtype in DTYPES},
    "parameter": torch.nn.Parameter(torch.ones(3)),
    "part": torch.arange(24.0).view(2, 3, 4)[1, :, 1:3],
    "channels last": torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last),
    "scalar": torch.tensor(4),
    "empty": torch.zeros(0, 3),
    "special": torch.tensor([torch.nan, torch.inf, -0.0]),
}
TENSORS["same storage"] = TENSORS["part"].T


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "wrapper", [None, "model", "state_dict", "model_state_dict", "model_state"]
)
def test_checkpoints_of_pytorch(tmp_path, new, wrapper):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
    state = OrderedDict((f"module.{name}", value) for name, value in TENSORS.items())
    state._metadata = {"": {"version": 1}}
    beside = {
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": schedule.state_dict(),
        "args": argparse.Namespace(lr=0.1, out=Path("a"), names=["a"]),
        "counts": Counter("aab"),
        "set": {1, 2},
        "size": torch.Size((1, 2)),
        "device": torch.device("cuda:0"),
        "dtype": torch.float32,
        "rng": np.arange(3),
        "best": np.float64(0.5),
        "epoch": 3,
        "meta": {"CLASSES": ("a", "b"), "config": "model = dict()", "seed": None, "rng": None},
    }
    content = state if wrapper is None else {wrapper: state, **beside}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    found = read_foreign(tmp_path / "a.pth")
    assert found.state.keys() == TENSORS.keys()
    for key, value in TENSORS.items():
        assert found.state[key].dtype == value.dtype
        torch.testing.assert_close(found.state[key], value.data, rtol=0, atol=0, equal_nan=True)
    if wrapper is not None:
        assert found.facts == {"meta": beside["meta"]}


def test_parameters_that_have_a_state(tmp_path):
    """A call with the tensor, then a state (requires_grad and the like), which is not kept."""
    value = tensor(SHAPE_4, SHAPE_1)[: -len(b"\x89}tR")] + b"tR"
    value = value.replace(b"_rebuild_tensor_v2", b"_rebuild_tensor")
    value = name("torch.nn.parameter", "Parameter") + value + b"\x85R(\x88\x89Ntb"
    numbers = struct.pack("<q4f", 4, 1, 2, 3, 4)
    (tmp_path / "a.pth").write_bytes(legacy(weights(value), numbers=numbers))
    assert read_foreign(tmp_path / "a.pth").state["w"].tolist() == [1, 2, 3, 4]
