"""Arrays and tensors as files of weights describe them, before their numbers are read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

_NUMBERS = {  # as numpy's pickles call them
    "f2": np.float16,
    "f4": np.float32,
    "f8": np.float64,
    "i1": np.int8,
    "i2": np.int16,
    "i4": np.int32,
    "i8": np.int64,
    "u1": np.uint8,
    "u2": np.uint16,
    "u4": np.uint32,
    "u8": np.uint64,
    "b1": np.bool_,
}


class RefusedError(Exception):
    """Says what is wrong with a file, as the words after its name."""


@dataclass
class DType:
    """Of a numpy array, as the file describes it."""

    code: Any
    order: Any = "="


@dataclass
class Array:
    """A numpy array, as the file describes it."""

    dtype: Any = None
    shape: Any = ()
    order: str = "C"
    axes: Any = None
    data: Any = b""

    def tensor(self) -> Tensor:
        """A copy in the memory order C.

        Raises:
            RefusedError: if it holds no numbers, or not as many as its shape says.
        """
        code, order = getattr(self.dtype, "code", None), getattr(self.dtype, "order", None)
        if not isinstance(code, str) or code not in _NUMBERS or order not in ("<", ">", "=", "|"):
            raise RefusedError(f"is no array of numbers but of {clip(code)}")
        data = self.data.encode("latin1") if isinstance(self.data, str) else self.data
        dtype = np.dtype(_NUMBERS[code]).newbyteorder(order)
        if not is_shape(self.shape) or not isinstance(data, bytes):
            raise RefusedError("is a damaged array")
        if math.prod(self.shape) * dtype.itemsize != len(data):
            raise RefusedError(f"has {len(data)} bytes, not those of shape {clip(self.shape)}")
        values: Any = np.ndarray(self.shape, dtype, data, order="F" if self.order == "F" else "C")
        if self.axes is not None:
            values = values.transpose(self.axes)
        return torch.from_numpy(np.array(values, dtype.newbyteorder("="), order="C"))


@dataclass(frozen=True)
class Storage:
    """Numbers that lie in a file of PyTorch beside its pickle."""

    key: str
    dtype: torch.dtype
    numel: int


@dataclass(frozen=True)
class View:
    """A tensor of a file of PyTorch: where its numbers are in a storage."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def tensor(self, numbers: Tensor) -> Tensor:
        """The tensor, given all numbers of its storage.

        Raises:
            RefusedError: if it reaches beyond them, or repeats them.
        """
        last = self.offset + sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True))
        count = math.prod(self.size)
        if count > len(numbers) or (count and last >= len(numbers)):
            raise RefusedError(f"has shape {clip(self.size)}, but {len(numbers)} numbers")
        return numbers.as_strided(self.size, self.stride, self.offset)


def is_shape(values: Any) -> bool:
    """Whether it is a tuple of sizes (or strides) that PyTorch can have."""
    return (
        isinstance(values, tuple)
        and len(values) <= 16
        and all(type(n) is int and 0 <= n < 2**48 for n in values)
    )


def clip(value: Any) -> str:
    """A value of a file for a message, on one line, whatever it is."""
    if is_shape(value):
        return str(value)
    if not isinstance(value, str):
        return kind(value)
    return value[:80] if value[:80].isprintable() else ascii(value[:80])


def kind(value: Any) -> str:
    """What a value of `unpickle` is, for a message."""
    known = {Array: "an array", View: "a tensor", Storage: "a storage", dict: "a dict"}
    known |= {list: "a list", tuple: "a tuple", bytes: "bytes", str: "text", type(None): "None"}
    known |= {int: "a number", float: "a number", bool: "a truth value"}
    return known.get(type(value), "an object")


def misleading(what: str) -> RefusedError:
    return RefusedError(
        f"is damaged, or made to mislead: it has {what}; nothing was run; "
        "copy it again, or take another"
    )
