"""Weights as PyTorch, Detectron2 and others save them, read without running what the file holds.

A file is what its first bytes say, whatever its name ends with: a zip archive of `torch.save`, the
format that `torch.save` had before 1.6, or one pickle of numpy arrays.
"""

from __future__ import annotations

import io
import itertools
import os
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from mrcnn.checkpoints.pickles import Source, unpickle
from mrcnn.checkpoints.stored import Array, RefusedError, Storage, View, clip, kind
from mrcnn.errors import UserError

SUFFIXES = (".pt", ".pth", ".pkl", ".pickle")

# Where a checkpoint of training has its weights, in the order of preference.
_WRAPPERS = ("model", "state_dict", "model_state_dict", "model_state")
_FACTS = ("meta", "__author__", "matching_heuristics")
_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of torch.save before 1.6
_OTHERS = {  # first bytes of what is often found under the name of a checkpoint
    b"version https://git-lfs": "is a pointer of git-lfs, not the file; fetch it by git lfs pull",
    b"\x1f\x8b": "is compressed by gzip; unpack it first",
    b"<": "is a web page, not the file; download it again",
}


@dataclass(frozen=True)
class Foreign:
    """What a file of another program holds."""

    path: Path
    state: dict[str, Tensor]
    facts: dict[str, Any]  # plain values beside the weights: those of `_FACTS` that are there


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The names and tensors of `read_foreign`."""
    return read_foreign(path).state


def read_foreign(path: Path) -> Foreign:
    """Read a state dict, or the one in a checkpoint of training; no code in the file is run.

    Names lose the prefix of DataParallel; numpy arrays become tensors of their dtype.

    Raises:
        UserError: if the file is missing, damaged, asks for more than weights, or has none.
    """
    try:
        if not path.is_file():  # a pipe would be waited for
            wrong = "is no file" if path.exists() else "does not exist"
            raise RefusedError(f"{wrong}; name a file of weights ({', '.join(SUFFIXES)})")
        with path.open("rb") as file:
            content, read_storage = _open(file, os.fstat(file.fileno()).st_size)
            state = {name: _tensor(name, value, read_storage) for name, value in _weights(content)}
    except RefusedError as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{path}: cannot be read ({reason}); check its name and mode") from error
    except Exception as error:  # damaged bytes fail anywhere in the readers of pickle and zip
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: is damaged ({clip(reason)}); copy it again") from error
    facts = {key: _plain(content[key]) for key in _FACTS if key in content}
    return Foreign(path, state, facts)


_ReadStorage = Callable[[Storage], Tensor]


def _open(file: IO[bytes], size: int) -> tuple[Any, _ReadStorage]:
    """What the pickle of a file holds, and how to read the numbers of its storages."""
    head = file.read(64)
    file.seek(0)
    if not head:
        raise RefusedError("is empty; copy it again")
    if head.startswith(b"PK\x03\x04"):
        return _open_archive(file, size)
    for start, what in _OTHERS.items():
        if head.lstrip().startswith(start):
            raise RefusedError(what)
    source = Source(file, size)
    content = unpickle(source)
    if not (isinstance(content, int) and content == _MAGIC):
        return content, _no_storage
    return _open_legacy(file, source)


def _open_archive(file: IO[bytes], size: int) -> tuple[Any, _ReadStorage]:
    archive = zipfile.ZipFile(file)
    entries = {entry.filename: entry for entry in archive.infolist()}
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise RefusedError("is a zip archive, but none that torch.save writes; unpack it first")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in entries:
        raise RefusedError(
            "is a TorchScript program; give its weights alone, saved by "
            "torch.save(torch.jit.load(path).state_dict(), other)"
        )
    if sum(entry.file_size for entry in archive.infolist()) > size:
        raise RefusedError("is a compressed archive, torch.save writes plain ones; save it anew")
    if f"{folder}byteorder" in entries and archive.read(f"{folder}byteorder") != b"little":
        raise RefusedError("was written on a big-endian machine; save it anew on another")
    content = archive.read(pickles[0])
    known: dict[str, Tensor] = {}

    def read_storage(storage: Storage) -> Tensor:
        if storage.key not in known:
            data = archive.read(f"{folder}data/{storage.key}")
            known[storage.key] = _numbers(data, storage)
        return known[storage.key]

    return unpickle(Source(io.BytesIO(content), len(content)), {}), read_storage


def _open_legacy(file: IO[bytes], source: Source) -> tuple[Any, _ReadStorage]:
    storages: dict[str, Storage] = {}
    unpickle(source)  # the version of the format
    machine = unpickle(source)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise RefusedError("was written on a big-endian machine, or is damaged; save it anew")
    content = unpickle(source, storages)
    keys = unpickle(source)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise RefusedError("is damaged: it does not say where its tensors are; copy it again")
    if len(set(keys)) != len(keys) or set(keys) != set(storages):
        raise RefusedError(
            "is damaged: its tensors are not those that its pickle names; copy it again"
        )
    positions = {}
    for key in keys:
        (count,) = struct.unpack("<q", source.read(8))
        if count != storages[key].numel:
            raise RefusedError(
                "is damaged: its tensors are not of the sizes that its pickle names; copy it again"
            )
        positions[key] = file.tell()
        source.skip(count * storages[key].dtype.itemsize)
    known: dict[str, Tensor] = {}

    def read_storage(storage: Storage) -> Tensor:
        if storage.key not in known:
            file.seek(positions[storage.key])
            data = file.read(storage.numel * storage.dtype.itemsize)
            known[storage.key] = _numbers(data, storage)
        return known[storage.key]

    return content, read_storage


def _no_storage(storage: Storage) -> Tensor:
    raise RefusedError("is damaged: it has no numbers beside its pickle; copy it again")


def _numbers(data: bytes, storage: Storage) -> Tensor:
    """(numel,) of the storage's dtype."""
    if len(data) != storage.numel * storage.dtype.itemsize:
        raise RefusedError(
            f"has {len(data)} bytes where {storage.numel} numbers of {storage.dtype} should be"
        )
    if not data:
        return torch.empty(0, dtype=storage.dtype)
    return torch.frombuffer(bytearray(data), dtype=storage.dtype)


def _weights(content: Any) -> list[tuple[str, Any]]:
    """Names and values of what should be tensors."""
    state = content
    if isinstance(content, dict):
        if isinstance(content.get("blobs"), dict):  # of Detectron, with the state of its solver
            state = {k: v for k, v in content["blobs"].items() if not str(k).endswith("_momentum")}
        else:
            wrapped = [content[name] for name in _WRAPPERS if isinstance(content.get(name), dict)]
            state = wrapped[0] if wrapped else content
    if not isinstance(state, dict):
        raise RefusedError(
            f"holds no state dict (names and tensors) but {kind(state)}; "
            "save it with torch.save(model.state_dict(), path)"
        )
    named: dict[str, Any] = {}
    for name, value in state.items():
        if name == "weight_order":  # of Detectron: names of layers
            continue
        if not isinstance(name, str) or not isinstance(value, (Array, View)):
            raise RefusedError(
                f"holds no state dict (names and tensors) but {kind(value)} named {clip(name)}; "
                "save it with torch.save(model.state_dict(), path)"
            )
        short = name.removeprefix("module.")
        if short in named:
            raise RefusedError(f"holds {clip(short)} twice, once as {clip(name)}; save it anew")
        named[short] = value
    return list(named.items())


def _tensor(name: str, value: Array | View, read_storage: _ReadStorage) -> Tensor:
    try:
        if isinstance(value, Array):
            return value.tensor()
        return value.tensor(read_storage(value.storage))
    except RefusedError as error:
        raise RefusedError(
            f"its {clip(name)} {error}; copy the file again, or take another"
        ) from None


def _plain(value: Any) -> Any:
    """A copy of plain values, up to some depth and number; None in the place of all others."""
    count = itertools.count()

    def copied(value: Any, depth: int) -> Any:
        if next(count) > 100_000 or depth == 0:
            return None
        if value is None or isinstance(value, (str, int, float)):
            return value
        if isinstance(value, (list, tuple)):
            return type(value)(copied(item, depth - 1) for item in value)
        if isinstance(value, dict):
            return {key: copied(item, depth - 1) for key, item in value.items()}
        return None

    return copied(value, 8)
