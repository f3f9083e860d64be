"""The state of a training run on disk, for bit-exact resuming.

A run folder contains `state/00000120.safetensors` and the like: the last two, and one every so many
steps. Sampling, augmentation, the order of images and the learning rate are functions of seed and
step, so they are not stored. PyTorch's generators are, for backbones that draw random numbers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mrcnn.errors import UserError, check_format
from mrcnn.io.atomic import sweep_drafts
from mrcnn.io.tensors import DamagedError, not_finite, read_tensors, write_tensors
from mrcnn.training.step import TrainStep

FORMAT = 1  # of the metadata; a reader refuses higher numbers
FOLDER = "state"  # in a run folder
_FIELD = "mrcnn_state"


@dataclass(frozen=True)
class TrainingState:
    """Everything that the next step depends on, except the configuration and the data."""

    step: int  # finished steps
    tensors: dict[str, Tensor]  # "model.…", "ema.…", "optimizer.…", "generator.…"
    values: dict[str, Any]  # plain values for JSON


def snapshot(take_step: TrainStep, step: int, values: Mapping[str, Any]) -> TrainingState:
    """Return the state after `step` steps; `values` are further values for JSON."""
    tensors = _with_prefix("model", take_step.model.state_dict())
    if take_step.ema is not None:
        tensors |= _with_prefix("ema", take_step.ema.mean)
    names = _parameter_names(take_step.model)
    for parameter, moments in take_step.optimizer.state.items():
        tensors |= _with_prefix(f"optimizer.{names[parameter]}", moments)
    tensors["generator.cpu"] = torch.get_rng_state()
    if take_step.device.type == "cuda":
        tensors["generator.cuda"] = torch.cuda.get_rng_state(take_step.device)
    kind, scaler = type(take_step.optimizer).__name__, take_step.scaler.state_dict()
    return TrainingState(step, tensors, {**values, "optimizer": kind, "scaler": scaler})


def restore(take_step: TrainStep, state: TrainingState, folder: Path) -> None:
    """Load a state from `folder` into a training step.

    Moments are matched with parameters by name, and get their memory format. The optimizer's
    hyperparameters are not changed. A run without an EMA so far starts it at its weights.

    Raises:
        UserError: if the state belongs to another model or optimizer.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in state.tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = value
    then, now = state.values["optimizer"], type(take_step.optimizer).__name__
    if then != now:
        raise _does_not_fit(folder, f"it was saved with the optimizer {then}, not {now}")
    try:
        take_step.model.load_state_dict(parts["model"])
    except RuntimeError as error:
        reason = "\n".join(str(error).splitlines()[:4])
        raise _does_not_fit(folder, f"it belongs to another model: {reason}") from error
    _restore_moments(take_step, parts.get("optimizer", {}))
    if take_step.ema is not None:
        for name, value in (parts.get("ema") or parts["model"]).items():
            take_step.ema.mean[name].copy_(value)
    if take_step.scaler.is_enabled() and state.values["scaler"]:
        take_step.scaler.load_state_dict(state.values["scaler"])
    torch.set_rng_state(parts["generator"]["cpu"])
    if take_step.device.type == "cuda" and "cuda" in parts["generator"]:
        torch.cuda.set_rng_state(parts["generator"]["cuda"], take_step.device)


def _does_not_fit(folder: Path, reason: str) -> UserError:
    return UserError(
        f"{folder}: its state does not fit this run; {reason}\n"
        "Leave out the flag that changes it, or start a new run with --weights"
    )


def save_state(folder: Path, state: TrainingState, *, keep_every: int = 0) -> Path:
    """Write a state into a run folder, then remove old states; return the path of the file.

    The last two states up to this step are kept, and those at multiples of `keep_every`, if it is
    not 0. States of later steps are removed; they come from before the run went back to an earlier
    state. Memory formats are not stored; see `restore`.

    Raises:
        UserError: if the file cannot be written; then the older states are still there.
    """
    path = folder / FOLDER / f"{state.step:08}.safetensors"
    described = {"format": FORMAT, "step": state.step, "values": state.values}
    write_tensors(path, state.tensors, _FIELD, described)
    files = _state_files(folder)
    last_two = sorted(step for step in files if step <= state.step)[-2:]
    for step, file in files.items():
        if step in last_two or (step <= state.step and keep_every and step % keep_every == 0):
            continue
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"{file}: is an old state and cannot be removed ({error.strerror}); remove it"
            ) from error
    return path


def load_state(folder: Path) -> tuple[TrainingState, list[str]]:
    """Read the newest undamaged state of a run folder.

    Returns:
        The state, with row-major CPU tensors, and notes about newer states that are damaged.

    Raises:
        UserError: if there is no such state, or the newest was written by a newer mrcnn.
    """
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"{folder}: {problem}; give the folder of a run")
    files = _state_files(folder)
    if not files:
        raise UserError(
            f"{folder}: does not contain a training state ({FOLDER}/*.safetensors); give the folder"
            " of a run that saved one"
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
    """Remove the drafts that dead writers left in a run folder, and return their paths."""
    return sweep_drafts(folder) + sweep_drafts(folder / FOLDER)


def _state_files(folder: Path) -> dict[int, Path]:
    """Return the state files of a run folder by step."""
    try:
        files = [folder / FOLDER / name for name in os.listdir(folder / FOLDER)]
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(
            f"{folder / FOLDER}: cannot be read ({error.strerror}); check its permissions"
        ) from error
    return {
        int(file.stem): file
        for file in files
        if file.stem.isdecimal() and file.suffix == ".safetensors"
    }


def _read(file: Path) -> TrainingState:
    try:
        tensors, described = read_tensors(file, _FIELD)
    except OSError as error:
        raise UserError(
            f"{file}: cannot be read ({error.strerror}); check its permissions"
        ) from error
    weights = {k: v for k, v in tensors.items() if k.startswith(("model.", "ema."))}
    if names := not_finite(weights):
        raise DamagedError(f"NaN or infinite numbers in {names}")
    try:
        check_format(file, described["format"], FORMAT)
        return TrainingState(described["step"], tensors, described["values"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedError(f"its metadata: {type(error).__name__}: {error}") from error


def _restore_moments(take_step: TrainStep, saved: Mapping[str, Tensor]) -> None:
    parameters = dict(take_step.model.named_parameters())
    moments: dict[str, dict[str, Tensor]] = {}
    for name, value in saved.items():
        owner, _, kind = name.rpartition(".")
        like = parameters.get(owner)
        if like is not None and like.shape == value.shape:
            value = torch.empty_like(like, dtype=value.dtype, device="cpu").copy_(value)
        moments.setdefault(owner, {})[kind] = value
    names = _parameter_names(take_step.model)
    ordered = [names[p] for group in take_step.optimizer.param_groups for p in group["params"]]
    take_step.optimizer.load_state_dict(
        {
            "state": {i: moments[name] for i, name in enumerate(ordered) if name in moments},
            "param_groups": take_step.optimizer.state_dict()["param_groups"],
        }
    )


def _parameter_names(model: nn.Module) -> dict[Tensor, str]:
    return {parameter: name for name, parameter in model.named_parameters()}


def _with_prefix(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """Add a prefix to the names of tensors; drop None, which SGD has before its first momentum."""
    return {
        f"{prefix}.{name}": value for name, value in tensors.items() if isinstance(value, Tensor)
    }
