"""Checkpoints: safetensors files that carry the configuration and class names of their model."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from mrcnn.checkpoints.download import fetch
from mrcnn.checkpoints.foreign import to_ours
from mrcnn.checkpoints.state_dict import SUFFIXES, read_foreign
from mrcnn.config import ModelConfig
from mrcnn.errors import UserError, check_format
from mrcnn.files import update_sums
from mrcnn.models import PUBLISHED
from mrcnn.tensor_files import DamagedError, ForeignError, read_tensors, write_tensors

FORMAT = 1  # of the metadata; a reader refuses higher numbers
_FIELD = "mrcnn"
_REST = "source/"  # before the names of `Checkpoint.rest`
PROGRAM = ".pt2"  # suffix of the programs of `mrcnn export`, which are no checkpoints
NAMES = ("best.safetensors", "last.safetensors")  # in a run folder, in the order of preference


class Checkpoint(NamedTuple):
    """What a checkpoint holds."""

    state: dict[str, Tensor]
    config: ModelConfig
    extra: dict[str, Any]  # step, metrics and the like; plain values
    rest: dict[str, Tensor]  # what a file of another framework held besides: see `foreign`


def save(
    path: Path,
    state: Mapping[str, Tensor],
    config: ModelConfig,
    extra: Mapping[str, Any],
    rest: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint atomically: a crash leaves the file before or the new one, whole.

    The sum of a file of a run (`NAMES`) goes into SHA256SUMS beside it.

    Args:
        state: as of `Module.state_dict`, on any device.
        extra: values for JSON.
        rest: as of `Checkpoint`.
    Raises:
        UserError: if the file cannot be written.
    """
    described = {"format": FORMAT, "model": config.to_dict(), "extra": dict(extra)}
    tensors = {**state, **{_REST + name: value for name, value in (rest or {}).items()}}
    in_run = path.name in NAMES
    if in_run:
        update_sums(path.parent, gone=[path])
    write_tensors(path, tensors, _FIELD, json.dumps(described))
    if in_run:
        update_sums(path.parent, [path])


def find(path: Path) -> Path:
    """The checkpoint file that `path` means: itself; the best, else the last, of a run folder; or
    a published one by its name in `mrcnn.models.PUBLISHED`, which is downloaded once.

    Raises:
        UserError: if there is none, or it cannot be downloaded.
    """
    name = path.as_posix()
    if not path.exists() and name.split("/")[0] in {key.split("/")[0] for key in PUBLISHED}:
        return fetch(name)
    if path.is_dir():
        for name in NAMES:
            if (path / name).is_file():
                return path / name
        raise UserError(f"{path}: holds no checkpoint ({' or '.join(NAMES)}); name a run folder")
    if not path.exists():
        raise UserError(
            f"{path}: does not exist; name a checkpoint file, a run folder, "
            "or a published checkpoint (mrcnn.models.PUBLISHED)"
        )
    return path


def load(path: str | os.PathLike[str], *, bgr: bool | None = None, **assumed: Any) -> Checkpoint:
    """Read a checkpoint file, that of a run folder (`find`), or a detector of another framework
    (.pt, .pth, .pkl), whose `extra["notes"]` then say what was recognised and assumed.

    Args:
        bgr: whether the pixels of another framework's model are blue, green, red.
        assumed: fields of `ModelConfig` in place of those of the file; None keeps the file's.
    Raises:
        UserError: if it is missing, damaged, or made by something else.
    """
    _check_fields(assumed)
    assumed = {name: value for name, value in assumed.items() if value is not None}
    file = find(Path(path))
    if file.suffix == PROGRAM:
        raise UserError(f"{file}: is a program, whose weights are fixed; name its checkpoint")
    if file.suffix.lower() in SUFFIXES:
        foreign = read_foreign(file)
        found = to_ours(file, foreign.state, foreign.facts, assumed, bgr)
        extra = {"source": found.source, "notes": found.notes}
        return Checkpoint(found.state, found.config, extra, found.rest)
    try:
        state, described = read_tensors(file, _FIELD)
    except ForeignError as error:
        raise UserError(
            f"{file}: is a safetensors file, but no checkpoint of mrcnn ({error})"
        ) from error
    except (DamagedError, OSError) as error:
        raise UserError(
            f"{file}: is damaged, or no safetensors file ({error}); "
            f"copy it again, or take another checkpoint of the run{_beside(file)}"
        ) from error
    try:
        values = json.loads(described)
        check_format(file, values["format"], FORMAT)
        config = ModelConfig.from_dict({**values["model"], **assumed})
        extra = dict(values["extra"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{file}: its metadata cannot be read ({reason})") from error
    rest = {k.removeprefix(_REST): state.pop(k) for k in list(state) if k.startswith(_REST)}
    return Checkpoint(state, config, extra, rest)


def _check_fields(assumed: Mapping[str, Any]) -> None:
    known = [field.name for field in dataclasses.fields(ModelConfig)]
    for name in assumed:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(known)}"
            raise UserError(f"load: the configuration of a model has no field {name!r}{hint}")


def _beside(file: Path) -> str:
    """Mentions the other checkpoint of the same run."""
    others = [file.with_name(name) for name in NAMES if name != file.name]
    return "".join(f", as {other}" for other in others if other.is_file())
