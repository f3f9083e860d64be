"""Pickles read by a machine that builds plain values and arrays, and can do nothing else.

A pickle is a program: its opcodes name functions of any module and call them. Here a name stands
for one of the builders below, or the file is refused; no opcode calls anything else; and what is
built takes no more memory than the file and `MAX_STEPS` allow. Numbers stay bytes (`Array`) or
places in the file (`View`) until they are asked for as tensors.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import torch

from mrcnn.checkpoints.stored import (
    Array,
    DType,
    RefusedError,
    Storage,
    View,
    clip,
    is_shape,
    kind,
    misleading,
)

# Opcodes of one file; each builds at most about 150 bytes beside what it reads. A Mask R-CNN
# with the state of its optimizer has about 50,000.
MAX_STEPS = 1_000_000
MAX_ARGUMENTS = 64  # the parts of a path, at most

_STORAGES = {  # as PyTorch's pickles call them
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_IGNORED = {  # what training scripts leave beside the weights; nothing of it is kept
    "argparse.Namespace",
    "builtins.frozenset",
    "builtins.object",
    "builtins.set",
    "collections.Counter",
    "collections.defaultdict",
    "mmengine.logging.history_buffer.HistoryBuffer",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "torch.device",
    *(f"torch.{dtype}" for dtype in ("float16", "bfloat16", "float32", "float64", "int64")),
    *(f"builtins.{name}" for name in ("bool", "dict", "float", "int", "list", "str", "tuple")),
}


class Ignored:
    """In the place of an object that weights do not need."""


@dataclass(frozen=True)
class _Builder:
    """What a name in a pickle may stand for, and be called with arguments."""

    build: Callable[..., Any]


@dataclass(frozen=True)
class _StorageType:
    dtype: torch.dtype


_NDARRAY = object()  # stands for numpy.ndarray; nothing can be made of it but by `_reconstruct`


def _runs_code(name: str) -> RefusedError:
    return RefusedError(
        f"is no plain state dict: it holds objects that would run code ({clip(name)}); nothing was "
        "run; have its weights saved alone, by torch.save(model.state_dict(), path)"
    )


class Source:
    """A stream whose pickles cannot ask for more bytes than it has."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self.stream = stream
        self.left = size
        self.copies = 2 * size  # of bytes that were read: older protocols decode, then store them
        self.steps = MAX_STEPS

    def read(self, count: int) -> bytes:
        if count < 0 or count > self.left:
            raise EOFError("it ends early")
        data = self.stream.read(count)
        if len(data) < count:
            raise EOFError("it ends early")
        self.left -= count
        return data

    def readline(self) -> bytes:
        line = self.stream.readline(self.left)
        self.left -= len(line)
        return line

    def skip(self, count: int) -> None:
        if not 0 <= count <= self.left:
            raise EOFError("it ends early")
        self.stream.seek(count, io.SEEK_CUR)
        self.left -= count

    def step(self, count: int = 1) -> None:
        self.steps -= count
        if self.steps < 0:
            raise misleading("more parts than the weights of any model")

    def copy(self, count: int) -> None:
        self.copies -= count
        if self.copies < 0:
            raise misleading("the same bytes over and over")


def unpickle(source: Source, storages: dict[str, Storage] | None = None) -> Any:
    """Read one pickle.

    Args:
        storages: takes those that the pickle names. None: it may name none.
    Returns:
        Plain values, `Array`, `View` and `Ignored`.
    Raises:
        RefusedError: if it asks for more than plain values and arrays.
        Exception: of any kind, if it is damaged.
    """
    return _Machine(source, storages).load()


class _Machine(pickle._Unpickler):
    """The unpickler in Python, whose opcodes can be replaced; its memo is a dict, so that an index
    in the file is no size of a table."""

    def __init__(self, source: Source, storages: dict[str, Storage] | None) -> None:
        super().__init__(source, encoding="latin1")
        self.source = source
        self.storages = storages
        self.stack: list[Any]
        self.names: dict[str, Any] = {
            "collections.OrderedDict": _Builder(self.ordered),
            "_codecs.encode": _Builder(self.encoded),
            "builtins.bytes": _Builder(lambda: b""),
            "builtins.bytearray": _Builder(self.encoded),
            "copyreg._reconstructor": _Builder(_reconstructed),
            "numpy.dtype": _Builder(lambda code, align=False, copy=True: DType(code)),
            "numpy.ndarray": _NDARRAY,
            "numpy._core.multiarray._reconstruct": _Builder(_empty_array),
            "numpy._core.multiarray.scalar": _Builder(self.scalar),
            "numpy._core.numeric._frombuffer": _Builder(self.from_buffer),
        }
        self.names |= dict.fromkeys(_IGNORED, _Builder(lambda *_: Ignored()))
        if storages is not None:
            self.names |= {
                "torch._utils._rebuild_tensor_v2": _Builder(_view),
                "torch._utils._rebuild_tensor": _Builder(_view),
                "torch._utils._rebuild_parameter": _Builder(lambda data, *_: data),
                "torch.nn.parameter.Parameter": _Builder(lambda data, *_: data),
                "torch.Size": _Builder(self.size),
            }
            for name, dtype in _STORAGES.items():
                self.names[f"torch.{name}"] = _StorageType(dtype)
                self.names[f"torch.cuda.{name}"] = _StorageType(dtype)

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        for old, new in (("__builtin__.", "builtins."), ("copy_reg.", "copyreg.")):
            full = new + full[len(old) :] if full.startswith(old) else full
        if full.startswith("numpy.core."):  # the name before numpy 2
            full = "numpy._core." + full[len("numpy.core.") :]
        if full not in self.names:
            raise _runs_code(full)
        return self.names[full]

    def persistent_load(self, pid: Any) -> Any:
        match pid:
            case ("storage", _StorageType(dtype), str(key), str(), numel) | (
                "storage",
                _StorageType(dtype),
                str(key),
                str(),
                numel,
                None,
            ) if self.storages is not None and is_shape((numel,)):
                return self.storages.setdefault(key, Storage(key, dtype, numel))
        raise misleading("data outside of the file, or of an unknown type")

    # Builders that copy bytes, or many values at once.

    def encoded(self, text: Any = b"", encoding: str = "latin1") -> bytes:
        """Bytes, as older protocols write them."""
        if isinstance(text, bytes):
            return text
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise misleading("text of an unknown encoding")
        self.source.copy(len(text))
        return text.encode("latin1")

    def ordered(self, pairs: Any = ()) -> dict[Any, Any]:
        self.source.step(len(pairs))
        return {_key(key): value for key, value in pairs}

    def size(self, values: Any = ()) -> tuple[Any, ...]:
        self.source.step(len(values))
        return tuple(values)

    def scalar(self, dtype: Any, data: Any = b"") -> Array:
        self.source.copy(len(data))
        return Array(dtype, (), "C", None, data)

    def from_buffer(self, data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> Array:
        self.source.copy(len(data))
        if axes is not None and not (is_shape(axes) and is_shape(shape)):
            raise misleading("axes that no array has")
        return Array(dtype, shape, order, axes, data)

    # Opcodes.

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Array):
            _, target.shape, target.dtype, fortran, target.data = state
            target.order = "F" if fortran else "C"
            self.source.copy(len(target.data))
        elif isinstance(target, DType):
            _, target.order, subdtype, names = state[:4]
            if subdtype is not None or names is not None:
                target.code = "records"
        elif not isinstance(target, (Ignored, View, dict)):  # their attributes are not kept
            raise _runs_code(f"attributes of {kind(target)}")

    def reduce(self) -> None:
        arguments, builder = self.stack.pop(), self.stack.pop()
        if not isinstance(builder, _Builder) or not isinstance(arguments, tuple):
            raise _runs_code(f"a call of {kind(builder)}")
        if len(arguments) > MAX_ARGUMENTS:  # they are copied at each call
            raise misleading("more arguments than a call has")
        self.stack.append(builder.build(*arguments))

    def append_item(self) -> None:
        value = self.stack.pop()
        self.extend([value])

    def append_items(self) -> None:
        self.extend(self.pop_mark())  # type: ignore[attr-defined]

    def extend(self, values: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(values)
        elif not isinstance(self.stack[-1], Ignored):
            raise misleading("items of what is no list")

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.update([key, value])

    def set_items(self) -> None:
        self.update(self.pop_mark())  # type: ignore[attr-defined]

    def update(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                self.stack[-1][_key(key)] = value
        elif not isinstance(self.stack[-1], Ignored):
            raise misleading("items of what is no dict")

    def marked_dict(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        self.stack.append({})
        self.update(items)

    def byte_array(self) -> None:
        (count,) = struct.unpack("<Q", self.read(8))  # type: ignore[attr-defined]
        self.stack.append(self.read(count))  # type: ignore[attr-defined]


def _reconstructed(cls: Any, base: Any, state: Any) -> Any:
    if isinstance(cls, _Builder):
        return cls.build()
    raise _runs_code("copyreg._reconstructor")


def _empty_array(cls: Any, shape: Any, code: Any) -> Array:
    if cls is not _NDARRAY or shape != (0,):  # as numpy writes it, whatever the array
        raise misleading("an array that numpy would not write")
    return Array()


def _view(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> View:
    if not (
        isinstance(storage, Storage)
        and is_shape((offset,))
        and is_shape(size)
        and is_shape(stride)
        and len(size) == len(stride)
    ):
        raise misleading("a tensor without a storage")
    return View(storage, offset, size, stride)


def _key(key: Any) -> Any:
    """Keys whose hash takes no time."""
    if isinstance(key, int) and key.bit_length() > 64:
        raise misleading("a huge number for a name")
    if key is not None and not isinstance(key, (str, bytes, int, float)):
        raise misleading(f"{kind(key)} for a name")
    return key


def _opcodes() -> dict[int, Callable[[Any], None]]:
    """What each opcode does; those that are not here are refused."""
    unchanged = """PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1
        BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE
        BINUNICODE8 SHORT_BINUNICODE BINBYTES BINBYTES8 SHORT_BINBYTES TUPLE EMPTY_TUPLE TUPLE1
        TUPLE2 TUPLE3 LIST EMPTY_LIST EMPTY_DICT GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT
        MEMOIZE GLOBAL STACK_GLOBAL BINPERSID"""
    steps: dict[int, Callable[[Any], None]] = {}
    for name in unchanged.split():
        code = getattr(pickle, name)[0]
        steps[code] = pickle._Unpickler.dispatch[code]
    steps |= {
        pickle.BUILD[0]: _Machine.build,
        pickle.REDUCE[0]: _Machine.reduce,
        pickle.NEWOBJ[0]: _Machine.reduce,
        pickle.APPEND[0]: _Machine.append_item,
        pickle.APPENDS[0]: _Machine.append_items,
        pickle.SETITEM[0]: _Machine.set_item,
        pickle.SETITEMS[0]: _Machine.set_items,
        pickle.DICT[0]: _Machine.marked_dict,
        pickle.BYTEARRAY8[0]: _Machine.byte_array,
    }
    return {code: _counted(steps.get(code, _unknown)) for code in range(256)}


def _counted(step: Callable[[Any], None]) -> Callable[[Any], None]:
    def run(machine: _Machine) -> None:
        machine.source.step()
        step(machine)

    return run


def _unknown(machine: _Machine) -> None:
    raise misleading("what no file of weights has")


_Machine.dispatch = _opcodes()
