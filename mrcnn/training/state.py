"""The state of a training run on disk, from which it goes on as if it had never stopped.

A run folder keeps `state/00000120.safetensors` and the like: the last two, and every so many steps.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrcnn.errors import UserError, check_format
from mrcnn.files import sweep_drafts, update_sums
from mrcnn.tensor_files import DamagedError, read_tensors, write_tensors

FORMAT = 1  # of the text; a reader refuses higher numbers
FOLDER = "state"  # in a run folder
_FIELD = "mrcnn_state"


@dataclass(frozen=True)
class TrainingState:
    """All that the next step depends on besides the configuration and the data."""

    step: int  # steps done
    tensors: dict[str, Tensor]  # "model.…", "ema.…", "optimizer.…", of any dtype and memory format
    values: dict[str, Any]  # plain values for JSON


def save_state(folder: Path, state: TrainingState, *, keep_every: int = 0) -> Path:
    """Write `state` into a run folder, then remove what is no longer kept; the file written.

    Kept are the last two states up to this step, and those of multiples of `keep_every`. States of
    later steps, which a run that went back has left behind, are removed. Strides are kept with the
    values; a tensor with gaps or overlaps comes back without them.

    Raises:
        UserError: if the file cannot be written; then the states there stay as they were.
    """
    strides = {}
    for name, tensor in state.tensors.items():
        kept = torch.empty_like(tensor, device="meta").stride()
        if tensor.numel() and kept != torch.empty(tensor.shape, device="meta").stride():
            strides[name] = list(kept)
    text = json.dumps(
        {"format": FORMAT, "step": state.step, "values": state.values, "strides": strides}
    )
    path = folder / FOLDER / f"{state.step:08}.safetensors"
    if path.exists():
        update_sums(folder, gone=[path])
    write_tensors(path, state.tensors, _FIELD, text)
    files = _files(folder)
    last_two = sorted(step for step in files if step <= state.step)[-2:]
    old = [
        file
        for step, file in files.items()
        if step not in last_two and (step > state.step or not keep_every or step % keep_every)
    ]
    update_sums(folder, [path], gone=old)
    for file in old:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"{file}: is no longer kept, and cannot be removed ({error.strerror}); remove it"
            ) from error
    return path


def load_state(folder: Path) -> tuple[TrainingState, list[str]]:
    """The newest whole state of a run folder, and notes on newer ones that are damaged.

    Tensors are on the CPU, with the strides they were saved with.

    Raises:
        UserError: if there is none, or the newest was written by a newer mrcnn.
    """
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"{folder}: {problem}; name the folder of a run")
    files = _files(folder)
    if not files:
        raise UserError(
            f"{folder}: holds no training state ({FOLDER}/*.safetensors); name the folder of a run"
            " that saved one"
        )
    damages: dict[Path, str] = {}
    for step in sorted(files, reverse=True):
        try:
            state = _read(files[step])
        except DamagedError as error:
            damages[files[step]] = str(error)
            continue
        return state, [
            f"{file} is damaged ({reason}); went back to step {state.step}"
            for file, reason in damages.items()
        ]
    raise UserError(
        "\n".join(f"{file}: is damaged ({reason})" for file, reason in damages.items())
        + "\nCopy them again, or start a new run with the weights of a checkpoint of this one."
    )


def sweep(folder: Path) -> list[Path]:
    """Remove what writers that died left half-written in a run folder; what was removed."""
    return sweep_drafts(folder) + sweep_drafts(folder / FOLDER)


def _files(folder: Path) -> dict[int, Path]:
    """The files of states by step."""
    try:
        found = [folder / FOLDER / name for name in os.listdir(folder / FOLDER)]
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(
            f"{folder / FOLDER}: cannot be read ({error.strerror}); may you list that folder?"
        ) from error
    return {
        int(file.stem): file
        for file in found
        if file.stem.isdecimal() and file.suffix == ".safetensors"
    }


def _read(file: Path) -> TrainingState:
    try:
        tensors, text = read_tensors(file, _FIELD)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); may you read it?") from error
    try:
        described = json.loads(text)
        check_format(file, described["format"], FORMAT)
        for name, strides in described["strides"].items():
            tensors[name] = _with_strides(tensors[name], strides)
        return TrainingState(described["step"], tensors, described["values"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedError(f"its metadata: {type(error).__name__}: {error}") from error


def _with_strides(tensor: Tensor, strides: list[int]) -> Tensor:
    """The same values, laid out anew; a file may ask for no more memory than they take."""
    reach = 1
    for stride, size in sorted(zip(strides, tensor.shape, strict=True)):
        if stride < 0 or (size > 1 and stride != reach):
            raise ValueError(f"strides {strides} do not fit the shape {tuple(tensor.shape)}")
        reach *= size
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype).copy_(tensor)
