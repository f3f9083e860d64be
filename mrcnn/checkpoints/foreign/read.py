"""A reader for the weight files of PyTorch, Detectron2 and others that never runs code from them.

The first bytes of a file decide how it is read, not its name. Files of `torch.save` are read by
PyTorch with `weights_only`, and pickles of numpy arrays by `pickles.unpickle`.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrcnn.checkpoints.foreign.pickles import Array, RefusedError, unpickle
from mrcnn.errors import UserError
from mrcnn.io.plain_files import MAX_WEIGHTS_BYTES, check_plain

SUFFIXES = (".pt", ".pth", ".pkl", ".pickle")

# Keys under which training checkpoints store their weights, in order of preference.
_WRAPPERS = ("model", "state_dict", "model_state_dict", "model_state", "blobs")
_FACTS = ("meta", "__author__", "matching_heuristics")
_ZIP, _LEGACY = b"PK\x03\x04", pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)  # of torch.save
_OTHER_FILES = {  # first bytes of files that are often mistaken for a checkpoint
    b"version https://git-lfs": "is a pointer of git-lfs, not the file; fetch it with git lfs pull",
    b"\x1f\x8b": "is compressed by gzip; unpack it first",
    b"<": "is a web page, not the file; download it again",
}
# Objects that training scripts store beside the weights. PyTorch builds an `_Ignored` instead.
_IGNORED_CLASSES = """argparse.Namespace builtins.set collections.Counter collections.defaultdict
    mmengine.logging.history_buffer.HistoryBuffer numpy.dtype numpy.ndarray
    numpy._core.multiarray._reconstruct numpy._core.multiarray.scalar
    numpy.core.multiarray._reconstruct numpy.core.multiarray.scalar
    pathlib.Path pathlib.PosixPath pathlib.WindowsPath""".split()


class ForeignFile(NamedTuple):
    """The contents of a file of another program."""

    state: dict[str, Tensor]
    facts: dict[str, Any]  # plain values beside the weights, under the keys `_FACTS`


class _Ignored:
    """A substitute for an object that weights do not need."""

    def __init__(self, *_: Any) -> None: ...
    def __setstate__(self, _: Any) -> None: ...
    def __setitem__(self, *_: Any) -> None: ...


def read_foreign(path: Path) -> ForeignFile:
    """Read a state dict, or the one inside a training checkpoint.

    Names lose the prefix of DataParallel. Numpy arrays become tensors with the same dtype.

    Raises:
        UserError: if the file is missing, damaged, needs more than weights, or has no weights.
    """
    try:
        check_plain(path, MAX_WEIGHTS_BYTES, f"give a file of weights ({', '.join(SUFFIXES)})")
        content = _content(path)
        state = _weights(content)
    except RefusedError as error:
        raise UserError(f"{path}: {error}") from None
    except UserError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"{path}: cannot be read ({reason}); check its name and permissions"
        ) from error
    except Exception as error:  # damage can fail in any part of the readers of pickle and zip
        raise UserError(f"{path}: is damaged ({_one_line(error)}); copy it again") from error
    return ForeignFile(state, {key: content[key] for key in _FACTS if key in content})


def _content(path: Path) -> Any:
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise RefusedError("is empty; copy it again")
    for start, problem in _OTHER_FILES.items():
        if head.lstrip().startswith(start):
            raise RefusedError(problem)
    if not head.startswith((_ZIP, _LEGACY[:-1])):
        return unpickle(path.read_bytes())
    if head.startswith(_ZIP):
        _check_archive(path)
    try:
        with torch.serialization.safe_globals([(_Ignored, name) for name in _IGNORED_CLASSES]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise RefusedError(
            "is not a plain state dict: it is damaged, or holds objects that would run code; "
            "nothing was run; save it with torch.save(model.state_dict(), path)"
        ) from error


def _check_archive(path: Path) -> None:
    """Refuse compressed archives, which may expand to a huge size; torch.save does not compress."""
    entries = zipfile.ZipFile(path).infolist()
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise RefusedError(
            "is a TorchScript program; save its weights alone with "
            "torch.save(torch.jit.load(path).state_dict(), other)"
        )
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise RefusedError("is a compressed archive, unlike those of torch.save; save it again")


def _weights(content: Any) -> dict[str, Tensor]:
    """Return the tensors of a state dict, or of the one in a training checkpoint, by name."""
    state = content
    if isinstance(content, Mapping):
        wrapped = [content[name] for name in _WRAPPERS if isinstance(content.get(name), Mapping)]
        state = wrapped[0] if wrapped else content
    if not isinstance(state, Mapping):
        raise _not_a_state_dict(type(state).__name__)
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        if isinstance(name, str) and (name.endswith("_momentum") or name == "weight_order"):
            continue  # from Detectron's solver
        if not isinstance(name, str) or not isinstance(value, Array | Tensor):
            shown = name[:80] if isinstance(name, str) and name.isprintable() else "a value"
            raise _not_a_state_dict(f"{type(value).__name__} as {shown}")
        short = name.removeprefix("module.")
        if short in tensors:
            raise RefusedError(f"holds {short[:80]!r} twice; save it again")
        try:
            tensors[short] = value.tensor() if isinstance(value, Array) else value.detach()
        except RefusedError as error:
            raise RefusedError(f"its {short[:80]!r} {error}; copy the file again") from None
        if not _is_dense(tensors[short]):
            raise RefusedError(f"its {short[:80]!r} is not a dense tensor; save it as one")
    return tensors


def _is_dense(tensor: Tensor) -> bool:
    """Return whether the storage has as many values as the tensor, as weights do."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _not_a_state_dict(content: str) -> RefusedError:
    return RefusedError(
        f"does not hold a state dict (names and tensors) but {content}; "
        "save it with torch.save(model.state_dict(), path)"
    )


def _one_line(error: Exception) -> str:
    text = (str(error) or type(error).__name__).splitlines()[0][:200]
    return text if text.isprintable() else ascii(text)
