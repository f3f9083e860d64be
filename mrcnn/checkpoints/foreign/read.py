"""A reader for the weight files of PyTorch, Detectron2 and others that never runs code from them.

Files of `torch.save` are read by PyTorch with `weights_only`, and pickles of numpy arrays by
`pickles.unpickle`.
"""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from mrcnn.checkpoints.foreign.pickles import MAX_OPCODES, Array, RefusedError, unpickle
from mrcnn.checkpoints.foreign.unwrap import find_state, not_a_state_dict, unwrap_names
from mrcnn.checkpoints.kinds import kind_of
from mrcnn.errors import UserError
from mrcnn.io.plain_files import MAX_WEIGHTS_BYTES, read_plain
from mrcnn.io.tensors import DamagedError

_FACTS = ("meta", "__author__", "matching_heuristics")


class ForeignFile(NamedTuple):
    """The contents of a file of another program."""

    state: dict[str, Tensor]
    facts: dict[str, Any]  # plain values beside the weights, under the keys `_FACTS`
    notes: list[str]  # what was chosen, removed and left out


class _Ignored:
    """A substitute for an object that weights do not need, such as settings of a training."""

    def __init__(self, *_: Any) -> None: ...
    def __setstate__(self, _: Any) -> None: ...


def read_foreign(path: Path) -> ForeignFile:
    """Read a state dict, or the one inside a training checkpoint.

    Names lose what wrappers added; see `unwrap_names`. Numpy arrays become tensors with the same
    dtype.

    Raises:
        UserError: if the file is missing, damaged, needs more than weights, or has no weights.
    """
    try:
        content = _content(path)
        found, notes = find_state(path, content)
        state, removed = unwrap_names(_tensors(found))
    except (RefusedError, DamagedError) as error:
        problem = f"is damaged ({_one_line(error)}); copy it again"
        raise UserError(
            f"{path}: {problem if isinstance(error, DamagedError) else error}"
        ) from None
    except UserError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"{path}: cannot be read ({reason}); check its name and permissions"
        ) from error
    except Exception as error:  # damage can fail in any part of the readers of pickle and zip
        raise UserError(f"{path}: is damaged ({_one_line(error)}); copy it again") from error
    facts = {key: content[key] for key in _FACTS if key in content}
    return ForeignFile(state, facts, [f"{path}: {note}" for note in (*notes, *removed)])


def _content(path: Path) -> Any:
    kind = kind_of(path)
    if kind == "program":
        raise RefusedError("is a program with fixed weights; give its checkpoint")
    if kind in ("checkpoint", "safetensors"):
        return safetensors.torch.load(read_plain(path, MAX_WEIGHTS_BYTES))
    if kind == "pickle":
        return unpickle(read_plain(path, MAX_WEIGHTS_BYTES))
    ignored: list[Any] = [(_stand_in(name), name) for name in sorted(_names(path))]
    try:
        # A file, since PyTorch would take the suffix of a path for its content.
        with torch.serialization.safe_globals(ignored), path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise RefusedError(
            "is not a plain state dict: it is damaged, or holds objects that would run code; "
            "nothing was run; save it with torch.save(model.state_dict(), path)"
        ) from error


def _stand_in(name: str) -> type:
    """Return a class of this name, which messages show; what the name means is not imported."""
    # PyTorch sets the items of dictionaries of its own only, not of subclasses.
    is_dict = name.lower().endswith("dict")
    methods: dict[str, Any] = {"__new__": lambda *_: OrderedDict()} if is_dict else {}
    return type(name, (_Ignored,), methods)


def _names(path: Path) -> set[str]:
    """Return the names of classes and functions in the pickles of a file of `torch.save`."""
    names: set[str] = set()
    with path.open("rb") as file:
        if file.read(2) == b"PK":
            archive = zipfile.ZipFile(file)
            pickles = [archive.open(n) for n in archive.namelist() if n.endswith("/data.pkl")]
        else:
            file.seek(0)
            pickles = [file] * 4  # a number, a version, the system, the content
        for source in pickles:
            for step, (opcode, argument, _) in enumerate(pickletools.genops(source)):
                if step > MAX_OPCODES:
                    raise RefusedError("has more parts than the weights of any model")
                if opcode.name == "GLOBAL":
                    module, _, name = str(argument).partition(" ")
                    # Names of Python 2, which protocol 2 stores.
                    module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
                    names.add(f"{module}.{name}")
    return names


def _tensors(state: Any) -> dict[str, Tensor]:
    """Return the tensors of a state dict by name."""
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        if isinstance(name, str) and (name.endswith("_momentum") or name == "weight_order"):
            continue  # from Detectron's solver
        if not isinstance(name, str) or not isinstance(value, Array | Tensor):
            shown = name[:80] if isinstance(name, str) and name.isprintable() else "a value"
            raise not_a_state_dict(f"{type(value).__name__[:80]} as {shown}")
        try:
            tensors[name] = value.tensor() if isinstance(value, Array) else value.detach()
        except RefusedError as error:
            raise RefusedError(f"its {name[:80]!r} {error}; copy the file again") from None
        if not _is_dense(tensors[name]):
            raise RefusedError(f"its {name[:80]!r} is not a dense tensor; save it as one")
    return tensors


def _is_dense(tensor: Tensor) -> bool:
    """Return whether the storage has as many values as the tensor, as weights do."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _one_line(error: Exception) -> str:
    text = (str(error) or type(error).__name__).splitlines()[0][:200]
    return text if text.isprintable() else ascii(text)
