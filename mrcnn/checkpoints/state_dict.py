"""Weights as PyTorch, Detectron2 and others save them, read without running what the file holds.

A file is what its first bytes say, whatever its name ends with: one of `torch.save`, which PyTorch
reads with `weights_only`, or a pickle of numpy arrays.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrcnn.checkpoints.pickles import Array, RefusedError, unpickle
from mrcnn.errors import UserError

SUFFIXES = (".pt", ".pth", ".pkl", ".pickle")

# Where a checkpoint of training has its weights, in the order of preference.
_WRAPPERS = ("model", "state_dict", "model_state_dict", "model_state", "blobs")
_FACTS = ("meta", "__author__", "matching_heuristics")
_ZIP, _LEGACY = b"PK\x03\x04", pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)  # of torch.save
_OTHERS = {  # first bytes of what is often found under the name of a checkpoint
    b"version https://git-lfs": "is a pointer of git-lfs, not the file; fetch it by git lfs pull",
    b"\x1f\x8b": "is compressed by gzip; unpack it first",
    b"<": "is a web page, not the file; download it again",
}
# What training scripts leave beside the weights. PyTorch makes an `_Ignored` in its place.
_BESIDE = """argparse.Namespace builtins.set collections.Counter collections.defaultdict
    mmengine.logging.history_buffer.HistoryBuffer numpy.dtype numpy.ndarray
    numpy._core.multiarray._reconstruct numpy._core.multiarray.scalar
    numpy.core.multiarray._reconstruct numpy.core.multiarray.scalar
    pathlib.Path pathlib.PosixPath pathlib.WindowsPath""".split()


@dataclass(frozen=True)
class Foreign:
    """What a file of another program holds."""

    path: Path
    state: dict[str, Tensor]
    facts: dict[str, Any]  # plain values beside the weights: those of `_FACTS` that are there


class _Ignored:
    """In the place of an object that weights do not need."""

    def __init__(self, *_: Any) -> None: ...
    def __setstate__(self, _: Any) -> None: ...
    def __setitem__(self, *_: Any) -> None: ...


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
        content = _content(path)
        state = _weights(content)
    except RefusedError as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{path}: cannot be read ({reason}); check its name and mode") from error
    except Exception as error:  # damaged bytes fail anywhere in the readers of pickle and zip
        raise UserError(f"{path}: is damaged ({_one_line(error)}); copy it again") from error
    facts = {key: content[key] for key in _FACTS if key in content}
    return Foreign(path, state, facts)


def _content(path: Path) -> Any:
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise RefusedError("is empty; copy it again")
    for start, what in _OTHERS.items():
        if head.lstrip().startswith(start):
            raise RefusedError(what)
    if not head.startswith((_ZIP, _LEGACY[:-1])):
        return unpickle(path.read_bytes())
    if head.startswith(_ZIP):
        _check_archive(path)
    try:
        with torch.serialization.safe_globals([(_Ignored, name) for name in _BESIDE]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise RefusedError(
            "is no plain state dict: it is damaged, or holds objects that would run code; nothing "
            "was run; save it with torch.save(model.state_dict(), path)"
        ) from error


def _check_archive(path: Path) -> None:
    """A small archive may unpack to a huge one; those of `torch.save` are as large as the file."""
    names = zipfile.ZipFile(path).infolist()
    if any(entry.filename.endswith("/constants.pkl") for entry in names):
        raise RefusedError(
            "is a TorchScript program; give its weights alone, saved by "
            "torch.save(torch.jit.load(path).state_dict(), other)"
        )
    if sum(entry.file_size for entry in names) > path.stat().st_size:
        raise RefusedError("is a compressed archive, torch.save writes plain ones; save it anew")


def _weights(content: Any) -> dict[str, Tensor]:
    """The tensors of a state dict, or of the one in a checkpoint, by name."""
    state = content
    if isinstance(content, Mapping):
        wrapped = [content[name] for name in _WRAPPERS if isinstance(content.get(name), Mapping)]
        state = wrapped[0] if wrapped else content
    if not isinstance(state, Mapping):
        raise RefusedError(_no_state_dict(f"{type(state).__name__}"))
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        if isinstance(name, str) and (name.endswith("_momentum") or name == "weight_order"):
            continue  # of Detectron's solver
        if not isinstance(name, str) or not isinstance(value, Array | Tensor):
            shown = name[:80] if isinstance(name, str) and name.isprintable() else "a value"
            raise RefusedError(_no_state_dict(f"{type(value).__name__} as {shown}"))
        short = name.removeprefix("module.")
        if short in tensors:
            raise RefusedError(f"holds {short[:80]!r} twice; save it anew")
        try:
            tensors[short] = value.tensor() if isinstance(value, Array) else value.detach()
        except RefusedError as error:
            raise RefusedError(f"its {short[:80]!r} {error}; copy the file again") from None
        if not _is_dense(tensors[short]):
            raise RefusedError(f"its {short[:80]!r} is no dense tensor; save it as one")
    return tensors


def _is_dense(tensor: Tensor) -> bool:
    """Whether every value has a number of its own, as weights do."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _no_state_dict(what: str) -> str:
    return (
        f"holds no state dict (names and tensors) but {what}; "
        "save it with torch.save(model.state_dict(), path)"
    )


def _one_line(error: Exception) -> str:
    text = (str(error) or type(error).__name__).splitlines()[0][:200]
    return text if text.isprintable() else ascii(text)
