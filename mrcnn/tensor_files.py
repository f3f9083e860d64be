"""Tensors and a JSON text in one safetensors file that knows whether it is whole.

The format: https://huggingface.co/docs/safetensors, "Format". Its metadata hold one field of ours,
a JSON text, and `sha256`, in hexadecimal, over
1. `json.dumps([text, [[name, dtype, shape], …]], separators=(",", ":"))` in UTF-8, with the tensors
   by falling size of an element, then by name, and their dtypes in the words of the format;
2. the bytes of the tensors, row-major and little-endian, in the same order.
This rule holds for all formats of the text to come, so that damage can be told from novelty.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mrcnn.files import replacing, sweep_drafts

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


class DamagedError(Exception):
    """Why a file cannot be what was written."""


class ForeignError(DamagedError):
    """A safetensors file without the field that was asked for."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], field: str, text: str) -> None:
    """Write a file whole or not at all; needs memory for a copy of the largest tensor only.

    The library's own `save_file` needs a row-major copy of every tensor in memory, and leaves
    files with names of its own after a crash.

    Args:
        tensors: strided, of any memory format, on any device; may share memory.
    Raises:
        UserError: if the file cannot be written.
        TypeError: if a tensor is of a dtype that safetensors have no word for.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in _NAMES:
            raise TypeError(f"write_tensors: {name} must have a real dtype, got {tensor.dtype}")
    names = _in_order(tensors)
    stop, entries = 0, {}
    for name in names:
        tensor = tensors[name]
        start, stop = stop, stop + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, stop],
        }

    def header(sha256: str) -> bytes:
        described = {"__metadata__": {field: text, "sha256": sha256}, **entries}
        content = json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode()
        content += b" " * (-len(content) % 8)
        return len(content).to_bytes(8, "little") + content

    digest = _digest_of_names(text, tensors)
    begin = len(header(digest.hexdigest()))
    sweep_drafts(path.parent)  # first: they take room
    with replacing(path, begin + stop) as draft, draft.open("wb") as file:
        file.seek(begin)
        for name in names:
            content = _bytes(tensors[name].detach().cpu().contiguous())
            digest.update(content)
            file.write(content)
        file.seek(0)  # a file without its header is none
        file.write(header(digest.hexdigest()))


def read_tensors(path: Path, field: str) -> tuple[dict[str, Tensor], str]:
    """The tensors, row-major and in memory of their own, and the text of a file, verified.

    A file from before sums were kept, which has no metadata but the text, is taken as it is.

    Raises:
        DamagedError: if the file is not what was written.
        ForeignError: if it never had the field.
        OSError: if the system cannot read it.
    """
    # Not through the library's memory map, under which a read error kills the process.
    with path.open("rb") as file:
        try:
            # Its checks of the header are asked for only, not its tensors.
            with safe_open(path, framework="numpy") as content:
                metadata = content.metadata() or {}
                slices = {name: content.get_slice(name) for name in content.offset_keys()}
                layout = {n: (s.get_dtype(), s.get_shape()) for n, s in slices.items()}
        except SafetensorError as error:
            raise DamagedError(str(error)) from error
        if field not in metadata:
            raise ForeignError(f"its metadata have no field '{field}'")
        unknown = metadata.keys() - {field, "sha256", "format"}  # some programs add "format"
        if unknown and "sha256" not in metadata:
            raise DamagedError(f"its metadata have unknown fields {sorted(unknown)} and no sha256")
        tensors: dict[str, Tensor] = {}
        try:
            file.seek(8 + int.from_bytes(file.read(8), "little"))
            for name, (dtype, shape) in layout.items():  # they lie without gaps, in this order
                if dtype not in _DTYPES:
                    raise DamagedError(f"{name} has the unknown dtype {dtype}")
                if math.prod(max(n, 1) for n in shape) >= 2**63:  # beside a zero
                    raise DamagedError(f"{name} has the impossible shape {shape}")
                tensors[name] = torch.empty(shape, dtype=_DTYPES[dtype])
                wanted = _bytes(tensors[name])
                if file.readinto(wanted) != len(wanted):
                    raise DamagedError("it ends too early")
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            raise DamagedError(f"the disk cannot read it: {error.strerror}") from error
    if "sha256" in metadata:
        digest = _digest_of_names(metadata[field], tensors)
        for name in _in_order(tensors):
            digest.update(_bytes(tensors[name]))
        if digest.hexdigest() != metadata["sha256"]:
            raise DamagedError("its content is not what was written: the sha256 differs")
    return tensors, metadata[field]


def _in_order(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names in the order of the file; wide elements first, so that all are aligned."""
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


def _digest_of_names(text: str, tensors: Mapping[str, Tensor]) -> hashlib._Hash:
    table = [
        [name, _NAMES[tensors[name].dtype], list(tensors[name].shape)]
        for name in _in_order(tensors)
    ]
    return hashlib.sha256(json.dumps([text, table], separators=(",", ":")).encode())


def _bytes(tensor: Tensor) -> memoryview:
    """The memory of a row-major tensor on the CPU."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data
