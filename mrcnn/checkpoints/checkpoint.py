"""Checkpoints: safetensors files with the configuration and class names of their model."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mrcnn.checkpoints.download import PUBLISHED, fetch
from mrcnn.checkpoints.foreign.convert import Checkpoint, import_state_dict
from mrcnn.checkpoints.foreign.read import read_foreign
from mrcnn.checkpoints.kinds import FIELD, kind_of
from mrcnn.checkpoints.weights import check_weights
from mrcnn.config import ModelConfig
from mrcnn.errors import UserError, check_format
from mrcnn.io.tensors import DamagedError, read_tensors, write_tensors

FORMAT = 1  # of the metadata; a reader refuses higher numbers
_REST = "source/"  # prefix of the names of `Checkpoint.rest`
NAMES = ("best.safetensors", "last.safetensors")  # in a run folder, in order of preference


def save(
    path: Path,
    state: Mapping[str, Tensor],
    config: ModelConfig,
    extra: Mapping[str, Any],
    rest: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint atomically: a crash leaves either the old or the new file.

    Args:
        path: file to write.
        state: state dict of the model, on any device.
        config: configuration of the model.
        extra: further values for JSON.
        rest: see `Checkpoint`.

    Raises:
        UserError: if the file cannot be written.
    """
    described = {"format": FORMAT, "model": config.to_dict(), "extra": dict(extra)}
    tensors = {**state, **{_REST + name: value for name, value in (rest or {}).items()}}
    write_tensors(path, tensors, FIELD, described)


def find(path: Path) -> Path:
    """Return the checkpoint file that `path` refers to.

    That is the file itself, the best or else the last checkpoint of a run folder, or a published
    checkpoint by its name in `mrcnn.checkpoints.PUBLISHED`, which is downloaded once.

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
        raise UserError(
            f"{path}: does not contain a checkpoint ({' or '.join(NAMES)}); give a run folder"
        )
    if not path.exists():
        raise UserError(
            f"{path}: does not exist; give a checkpoint file, a run folder, "
            "or the name of a published checkpoint (mrcnn.checkpoints.PUBLISHED)"
        )
    return path


def load(path: str | os.PathLike[str], *, bgr: bool | None = None, **assumed: Any) -> Checkpoint:
    """Read a checkpoint of mrcnn, or a detector of another framework, recognized by its content.

    For other frameworks, `extra["notes"]` describes what was recognized and assumed.

    Args:
        path: anything that `find` accepts.
        bgr: whether the pixels of another framework's model are BGR.
        assumed: fields of `ModelConfig` that replace those of the file; None keeps the file's.

    Raises:
        UserError: if the file is missing, damaged, or not a checkpoint.

    Example:
        checkpoint = load("model_final.pkl", class_names=("car", "person"))
    """
    _check_fields(assumed)
    assumed = {name: value for name, value in assumed.items() if value is not None}
    file = find(Path(path))
    try:
        if kind_of(file) != "checkpoint":
            foreign = read_foreign(file)
            found = import_state_dict(file, foreign.state, foreign.facts, assumed, bgr)
            found.extra["notes"] += foreign.notes
            return found
        state, values = read_tensors(file, FIELD)
    except DamagedError as error:
        others = [file.with_name(name) for name in NAMES if name != file.name]
        hint = "".join(f", such as {other}" for other in others if other.is_file())
        raise UserError(
            f"{file}: is damaged, or not a file of weights ({error}); "
            f"copy it again, or use another checkpoint of the run{hint}"
        ) from error
    except OSError as error:
        raise UserError(
            f"{file}: cannot be read ({error.strerror or error}); check its permissions"
        ) from error
    try:
        check_format(file, values["format"], FORMAT)
        config = ModelConfig.from_dict(values["model"])
        extra = dict(values["extra"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{file}: its metadata cannot be read ({reason})") from error
    try:
        config = dataclasses.replace(config, **assumed)
    except (ValueError, TypeError) as error:
        raise UserError(f"{file}: cannot be changed ({error})") from error
    rest = {k.removeprefix(_REST): state.pop(k) for k in list(state) if k.startswith(_REST)}
    check_weights(file, state)
    return Checkpoint(state, config, extra, rest)


def _check_fields(assumed: Mapping[str, Any]) -> None:
    known = [field.name for field in dataclasses.fields(ModelConfig)]
    for name in assumed:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the fields are {', '.join(known)}"
            raise UserError(f"load: a model configuration does not have a field {name!r}; {hint}")
