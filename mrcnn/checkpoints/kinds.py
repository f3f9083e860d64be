"""Recognition of files of weights by their content; their names do not matter."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import BinaryIO, Literal

from mrcnn.errors import FileError
from mrcnn.io.plain_files import MAX_WEIGHTS_BYTES, open_plain
from mrcnn.io.tensors import DamagedError

FIELD = "mrcnn"  # of the metadata of a checkpoint
MAX_HEADER = 16_777_216  # bytes; that of a Mask R-CNN has 50 thousand

# "program" is a .pt2, "torch" a file of torch.save, "pickle" one of Detectron or Detectron2.
Kind = Literal["checkpoint", "safetensors", "program", "torch", "pickle"]

_LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)  # begins files of PyTorch before 1.6
_PICKLE = (b"\x80", b"(", b"}", b"]", b"c", b"N", b"P")  # first opcodes
_UNPACK = "unpack it, and name the file of weights inside"
_SAVE = "save the weights with torch.save(model.state_dict(), path)"
_OTHERS = {  # first bytes of files that are often mistaken for weights: what they are, and the fix
    b"version https://git-lfs": ("a pointer of git-lfs, not the file", "run git lfs pull"),
    b"<": ("a web page, not the file", "download it again; the server may want a login"),
    b"{": ("a JSON text", "name the file of weights"),
    b"\x1f\x8b": ("compressed by gzip", _UNPACK),
    b"BZh": ("compressed by bzip2", _UNPACK),
    b"\xfd7zXZ": ("compressed by xz", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", _UNPACK),
    b"7z\xbc\xaf": ("a 7z archive", _UNPACK),
    b"Rar!": ("a RAR archive", _UNPACK),
    b"\x89HDF": ("an HDF5 file, as of Keras, which is not read", "name weights of PyTorch"),
    b"\x93NUMPY": ("a numpy array", _SAVE),
    b"GGUF": ("a GGUF file, which is not read", "name weights of PyTorch"),
    b"model_checkpoint_path": ("an index of TensorFlow", "name weights of PyTorch"),
}


def kind_of(path: Path) -> Kind:
    """Return the kind of a file of weights.

    Raises:
        FileError: if it is not a plain file, or a file of another kind that is known.
        DamagedError: if it is empty, damaged or unknown.
        OSError: if it cannot be read.
    """
    with open_plain(path, MAX_WEIGHTS_BYTES, "give a file of weights") as file:
        head = file.read(512)
        if not head:
            raise DamagedError("it is empty")
        if head[8:9] == b"{":
            return _kind_of_safetensors(path, file)
        if head.startswith(b"PK"):
            return _kind_of_archive(path, file)
    if head.startswith(_LEGACY[:-1]):
        return "torch"
    for start, (what, fix) in _OTHERS.items():
        if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(start):
            raise FileError(path, f"is {what}", fix)
    if head[257:262] == b"ustar":
        raise FileError(path, "is a tar archive", _UNPACK)
    if head[:1] == b"\x08" and head[2:3] == b"\x12":  # two first fields of a protocol buffer
        fix = "name the checkpoint that it was exported from"
        raise FileError(path, "is a graph of ONNX or TensorFlow, which cannot be loaded", fix)
    if head.startswith(_PICKLE):
        return "pickle"
    raise DamagedError("it does not begin like any file of weights")


def kind_or_none(path: Path) -> Kind | None:
    """Return the kind of a file of weights, None if reading it will report an error."""
    try:
        return kind_of(path)
    except (DamagedError, FileError, OSError):
        return None


def _kind_of_safetensors(path: Path, file: BinaryIO) -> Kind:
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > min(MAX_HEADER, path.stat().st_size):
        raise DamagedError(f"its header has {length:,} bytes, at most {MAX_HEADER:,} are read")
    try:
        fields = (json.loads(file.read(length)).get("__metadata__") or {}).keys()
    except (ValueError, AttributeError, RecursionError) as error:
        raise DamagedError(f"its header cannot be read: {error}") from error
    if f"{FIELD}_state" in fields:
        raise FileError(path, "is a saved state of a training run", "name its run folder")
    return "checkpoint" if FIELD in fields else "safetensors"


def _kind_of_archive(path: Path, file: BinaryIO) -> Kind:
    try:
        with zipfile.ZipFile(file) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise DamagedError(f"it is cut short, or no zip archive: {error}") from error
    names = {name.rpartition("/")[2] for name in sizes}
    if names & {"archive_format", "serialized_exported_program.json"} or any(
        "/aotinductor/" in name for name in sizes
    ):
        return "program"
    if "constants.pkl" in names:
        raise FileError(
            path,
            "is a TorchScript program",
            "save its weights alone with torch.save(torch.jit.load(path).state_dict(), other)",
        )
    if "data.pkl" not in names:
        what = "arrays of numpy (.npz)" if any(n.endswith(".npy") for n in names) else "no weights"
        raise FileError(path, f"is a zip archive with {what}", f"unpack it, or {_SAVE}")
    if sum(sizes.values()) > path.stat().st_size:  # it may expand to a huge size
        problem = "is a compressed archive, unlike those of torch.save"
        raise FileError(path, problem, "save it again")
    return "torch"
