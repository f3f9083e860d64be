"""A reader for pickles of numpy arrays, as Detectron and Detectron2 save weights.

A pickle is a program: its opcodes name functions of any module and call them. This reader replaces
the few names that arrays need with functions that build plain values, and refuses all others
(https://docs.python.org/3/library/pickle.html#restricting-globals). Before anything is built, the
opcodes are scanned for those that no file of weights contains.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAX_OPCODES = 1_000_000  # per file; a Mask R-CNN with its optimizer state has about 50,000

_DTYPES = tuple(np.dtype(code).str[1:] for code in "f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8 ?".split())
_REFUSED = {
    "DUP",  # no writer uses it, and it nests values without bounds
    # Objects built without a name and a call, and data outside the file.
    *("INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"),
    *("PERSID", "BINPERSID", "NEXT_BUFFER", "READONLY_BUFFER"),
}
_MEMO = {"PUT", "BINPUT", "LONG_BINPUT"}
_NOT_FROM_NUMPY = "is damaged: it holds an array that numpy would not write"


class RefusedError(Exception):
    """The reason why a file is refused, as the words after its name."""


class DType:
    """A numpy dtype as the file describes it."""

    def __init__(self, code: Any, align: bool = False, copy: bool = True) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        _, self.order, subdtype, names, *_ = _check_length(state)
        if self.order not in ("<", ">", "=", "|") or subdtype is not None or names is not None:
            self.code = None


class Array:
    """A numpy array as the file describes it."""

    def __init__(
        self, data: Any, dtype: Any, shape: Any, order: str = "C", axes: Any = None
    ) -> None:
        self.data, self.dtype, self.shape, self.order, self.axes = data, dtype, shape, order, axes

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, fortran, self.data = _check_length(state)
        self.order = "F" if fortran else "C"

    def tensor(self) -> Tensor:
        """Return a row-major copy.

        Raises:
            RefusedError: if the array does not hold numbers, or not as many as its shape requires.
        """
        if not isinstance(self.dtype, DType) or self.dtype.code not in _DTYPES:
            raise RefusedError("is not an array of numbers")
        data, shape = self.data, self.shape
        if isinstance(data, str | bytearray):
            data = data.encode("latin1") if isinstance(data, str) else bytes(data)
        sizes = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
        if not sizes or not isinstance(data, bytes) or len(shape) > 16:
            raise RefusedError("is a damaged array")
        dtype = np.dtype(self.dtype.order + self.dtype.code)
        if math.prod(shape) * dtype.itemsize != len(data):
            raise RefusedError(f"has {len(data)} bytes, which do not fit the shape {shape}")
        values: Any = np.ndarray(shape, dtype, data, order="F" if self.order == "F" else "C")
        if self.axes is not None:
            values = values.transpose(self.axes)
        return torch.from_numpy(np.array(values, dtype.newbyteorder("="), order="C"))


def unpickle(data: bytes) -> Any:
    """Read a pickle without running code from it.

    Returns:
        Plain values and `Array`.

    Raises:
        RefusedError: if it needs more than plain values and arrays.
        Exception: of any type, if it is damaged.
    """
    for step, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        large_memo = opcode.name in _MEMO and isinstance(argument, int) and argument > MAX_OPCODES
        if step > MAX_OPCODES or large_memo:
            raise RefusedError("has more parts than the weights of any model; nothing was run")
        if opcode.name in _REFUSED:
            raise _runs_code(opcode.name)
    return _Reader(data).load()


class _Reader(pickle.Unpickler):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self.unencoded = 2 * len(data)  # bytes, so that a small file cannot fill the memory

        def ndarray() -> None: ...  # an argument of `reconstruct` only

        def reconstruct(kind: Any, shape: Any, code: Any) -> Array:
            if kind is not ndarray or shape != (0,):  # as numpy writes it for every array
                raise RefusedError(_NOT_FROM_NUMPY)
            return Array(None, None, ())

        # Functions defined per file, because a pickle may set attributes of what it finds.
        self.allowed: dict[str, Callable[..., Any]] = {
            "collections.OrderedDict": lambda pairs=(): dict(pairs),
            "builtins.bytes": lambda: b"",
            "_codecs.encode": lambda text, encoding="latin1": self.encode(text, encoding),
            "numpy.dtype": lambda *arguments: DType(*arguments),
            "numpy.ndarray": ndarray,
            "numpy._core.multiarray._reconstruct": reconstruct,
            "numpy._core.multiarray.scalar": lambda dtype, data: Array(data, dtype, ()),
            "numpy._core.numeric._frombuffer": lambda *arguments: Array(*arguments),
        }

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}".replace("__builtin__.", "builtins.", 1)
        full = full.replace("numpy.core.", "numpy._core.", 1)  # the name before numpy 2
        if full not in self.allowed:
            raise _runs_code(full)
        return self.allowed[full]

    def encode(self, text: str, encoding: str) -> bytes:
        """Return the bytes that protocols before 3 store as text."""
        self.unencoded -= len(text)
        if self.unencoded < 0 or encoding not in ("latin1", "latin-1"):
            raise _runs_code("_codecs.encode")
        return text.encode("latin1")


def _check_length(state: Any) -> Any:
    """Refuse a long state, which would take forever if it is set again and again."""
    if not isinstance(state, tuple) or len(state) > 16:
        raise RefusedError(_NOT_FROM_NUMPY)
    return state


def _runs_code(name: str) -> RefusedError:
    shown = name[:80] if name.isprintable() else ascii(name[:80])
    return RefusedError(
        f"is not a plain state dict: it holds objects that would run code ({shown}); nothing was "
        "run; ask for a file with the weights alone: torch.save(model.state_dict(), path)"
    )
