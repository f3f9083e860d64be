"""Pickles of numpy arrays, as Detectron and Detectron2 save weights, read without running anything.

A pickle is a program: its opcodes name functions of any module and call them. Here a name stands
for one of the few functions below, which build plain values, or the file is refused; and before
anything is built, the opcodes are looked through for what no file of weights has.
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

# Of one file. A Mask R-CNN with the state of its optimizer has about 50,000.
MAX_STEPS = 1_000_000

_NUMBERS = tuple(np.dtype(code).str[1:] for code in ("f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8 ?".split()))
_REFUSED = {
    "DUP",  # which no writer uses, and which nests values beyond all bounds
    # Objects by other ways than a name and a call, and data outside of the file.
    *("INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"),
    *("PERSID", "BINPERSID", "NEXT_BUFFER", "READONLY_BUFFER"),
}
_MEMO = {"PUT", "BINPUT", "LONG_BINPUT"}


class RefusedError(Exception):
    """Says what is wrong with a file, as the words after its name."""


class Array:
    """A numpy array as the file describes it."""

    def __init__(
        self, dtype: Any, shape: Any, data: Any, order: str = "C", axes: Any = None
    ) -> None:
        self.dtype, self.shape, self.data = dtype, shape, data
        self.order, self.axes = order, axes

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, fortran, self.data = _short(state)
        self.order = "F" if fortran else "C"

    def tensor(self) -> Tensor:
        """A copy in the memory order C.

        Raises:
            RefusedError: if it holds no numbers, or not as many as its shape says.
        """
        if not isinstance(self.dtype, DType) or self.dtype.code not in _NUMBERS:
            raise RefusedError("is no array of numbers")
        data = self.data.encode("latin1") if isinstance(self.data, str) else self.data
        data = bytes(data) if isinstance(data, bytearray) else data
        shape = self.shape
        whole = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
        dtype = np.dtype(self.dtype.order + self.dtype.code)
        if not whole or not isinstance(data, bytes) or len(shape) > 16:
            raise RefusedError("is a damaged array")
        if math.prod(shape) * dtype.itemsize != len(data):
            raise RefusedError(f"has {len(data)} bytes, not those of shape {shape}")
        values: Any = np.ndarray(shape, dtype, data, order="F" if self.order == "F" else "C")
        if self.axes is not None:
            values = values.transpose(self.axes)
        return torch.from_numpy(np.array(values, dtype.newbyteorder("="), order="C"))


class DType:
    """Of a numpy array, as the file describes it."""

    def __init__(self, code: Any) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        _, self.order, subdtype, names, *_ = _short(state)
        if self.order not in ("<", ">", "=", "|") or subdtype is not None or names is not None:
            self.code = None


def _short(state: Any) -> Any:
    """A state; a long one, set again and again, would take for ever."""
    if not isinstance(state, tuple) or len(state) > 16:
        raise RefusedError("is damaged: it has an array that numpy would not write")
    return state


def unpickle(data: bytes) -> Any:
    """Read one pickle.

    Returns:
        Plain values and `Array`.
    Raises:
        RefusedError: if it asks for more than plain values and arrays.
        Exception: of any kind, if it is damaged.
    """
    for step, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        far = opcode.name in _MEMO and isinstance(argument, int) and argument > MAX_STEPS
        if step > MAX_STEPS or far:
            raise RefusedError("has more parts than the weights of any model; nothing was run")
        if opcode.name in _REFUSED:
            raise _runs_code(opcode.name)
    return _Reader(data).load()


class _Reader(pickle.Unpickler):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self.names = _builders(most_bytes=2 * len(data))

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}".replace("__builtin__.", "builtins.", 1)
        full = full.replace("numpy.core.", "numpy._core.", 1)  # the name before numpy 2
        if full not in self.names:
            raise _runs_code(full)
        return self.names[full]


def _builders(most_bytes: int) -> dict[str, Any]:
    """What each name of a pickle stands for; made anew for each, since a pickle may set attributes.

    Args:
        most_bytes: that text may be made into, so that a small file cannot fill the memory.
    """
    left = [most_bytes]

    def encode(text: str, encoding: str = "latin1") -> bytes:  # bytes, in older protocols
        left[0] -= len(text)
        if left[0] < 0 or encoding not in ("latin1", "latin-1"):
            raise _runs_code("_codecs.encode")
        return text.encode("latin1")

    def ndarray() -> None: ...  # nothing can be made of it but by `reconstruct`

    def reconstruct(kind: Any, shape: Any, code: Any) -> Array:
        if kind is not ndarray or shape != (0,):  # as numpy writes it, whatever the array
            raise RefusedError("is damaged: it has an array that numpy would not write")
        return Array(None, (), None)

    def from_buffer(data: Any, dtype: Any, shape: Any, order: str, axes: Any = None) -> Array:
        return Array(dtype, shape, data, order, axes)

    def dtype(code: Any, align: bool = False, copy: bool = True) -> DType:
        return DType(code)

    def scalar(kind: Any, data: Any) -> Array:
        return Array(kind, (), data)

    def ordered(pairs: Any = ()) -> dict[Any, Any]:
        return dict(pairs)

    builders: dict[str, Callable[..., Any]] = {
        "collections.OrderedDict": ordered,
        "_codecs.encode": encode,
        "builtins.bytes": lambda: b"",
        "numpy.dtype": dtype,
        "numpy.ndarray": ndarray,
        "numpy._core.multiarray._reconstruct": reconstruct,
        "numpy._core.multiarray.scalar": scalar,
        "numpy._core.numeric._frombuffer": from_buffer,
    }
    return builders


def _runs_code(name: str) -> RefusedError:
    shown = name[:80] if name.isprintable() else ascii(name[:80])
    return RefusedError(
        f"is no plain state dict: it holds objects that would run code ({shown}); nothing was run; "
        "have its weights saved alone, by torch.save(model.state_dict(), path)"
    )
