"""Safetensors files that detect damage.

The metadata of a file have one field, a JSON text that begins with the SHA-256 of the whole file,
computed with zeros as the digits of the SHA-256 itself. The files stay readable by every program
that reads safetensors (format: https://huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from mrcnn.io.atomic import replacing, sweep_drafts
from mrcnn.io.plain_files import MAX_WEIGHTS_BYTES, open_plain

_ZEROS = b"0" * 64


class DamagedError(Exception):
    """A file whose content is not what was written."""


class ForeignError(DamagedError):
    """A safetensors file without the requested metadata field."""


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], field: str, values: Mapping[str, Any]
) -> None:
    """Write tensors, and values as JSON in the metadata field `field`, atomically.

    Tensors are dense, of any memory format and on any device, and may share memory. This needs
    memory for two copies of the file, and for copies of tensors that are not row-major.

    Raises:
        UserError: if the file cannot be written.
    """
    text = json.dumps({"sha256": _ZEROS.decode(), **values})
    content = safetensors.torch.save(_separate(tensors), {field: text})
    digest = hashlib.sha256(content).hexdigest()
    start = content.index(_ZEROS)  # the metadata come first
    sweep_drafts(path.parent)  # first, because they take space
    with replacing(path, len(content)) as draft, draft.open("wb") as file:
        file.write(memoryview(content)[:start])
        file.write(digest.encode())
        file.write(memoryview(content)[start + len(digest) :])


def read_tensors(path: Path, field: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read and verify the tensors and values of a file.

    Files from before the SHA-256 of the whole file was stored are not verified.

    Returns:
        Row-major CPU tensors with their own memory, and the values.

    Raises:
        DamagedError: if the file is not what was written.
        ForeignError: if the file does not have the field.
        FileError: if it is not a plain file.
        OSError: if the file cannot be read.
    """
    try:
        # With a memory map, a read error would kill the process.
        with open_plain(path, MAX_WEIGHTS_BYTES) as file:
            if file.read(9)[8:] != b"{":  # checked first, because a wrong file can be huge
                raise DamagedError("it does not begin with a safetensors header")
            file.seek(0)
            content = file.read()
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise DamagedError(f"the disk cannot read it: {error.strerror}") from error
    try:
        tensors = safetensors.torch.load(content)
        end = 8 + int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8:end]).get("__metadata__") or {}
    except MemoryError:
        raise
    except Exception as error:  # damage can fail in any part of the reader
        raise DamagedError(str(error) or type(error).__name__) from error
    if field not in metadata:
        raise ForeignError(f"its metadata do not have the field '{field}'")
    try:
        values = json.loads(metadata[field])
        digest = values.pop("sha256", None)
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise DamagedError(f"its metadata cannot be read: {error}") from error
    if digest is not None:
        _verify(content, digest)
    elif not metadata.keys() <= {field, "sha256", "format"} or next(iter(values), "") != "format":
        raise DamagedError("its metadata do not have a sha256")
    return tensors, values


def not_finite(tensors: Mapping[str, Tensor]) -> str:
    """Name the tensors that contain NaN or infinite numbers; return "" if there are none."""
    names = [
        name
        for name, tensor in tensors.items()
        # PyTorch has no `isfinite` for 8 bits.
        if not tensor.is_meta
        and not (tensor if tensor.element_size() > 1 else tensor.float()).isfinite().all()
    ]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(name[:80] for name in names[:3]) + more


def _verify(content: bytes, digest: object) -> None:
    stored = str(digest).encode(errors="replace")
    start = content.find(stored)
    actual = hashlib.sha256(memoryview(content)[:start])
    actual.update(_ZEROS)
    actual.update(memoryview(content)[start + len(_ZEROS) :])
    if start < 0 or actual.hexdigest().encode() != stored:
        raise DamagedError("its content is not what was written: the sha256 differs")


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return row-major CPU tensors; safetensors does not accept tensors that share memory."""
    separate: dict[str, Tensor] = {}
    seen = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return separate
