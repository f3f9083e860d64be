"""The state of a run as tensors and plain values, and back: what exact resuming needs.

Sampling, augmentation, the order of images and the learning rate are functions of seed and step, so
nothing of them is kept; PyTorch's generators are, for backbones that draw at random.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mrcnn.training.solver import Ema
from mrcnn.training.state import TrainingState
from mrcnn.training.step import TrainStep


def snapshot(take_step: TrainStep, step: int, values: Mapping[str, Any]) -> TrainingState:
    """Model, running mean, optimiser, scaler and generators after `step` steps.

    Args:
        values: of the caller, for JSON.
    """
    tensors = _named("model", take_step.model.state_dict())
    if take_step.ema is not None:
        tensors |= _named("ema", take_step.ema.mean)
    names = _names(take_step.model)
    for parameter, moments in take_step.optimizer.state.items():
        tensors |= _named(f"optimizer.{names[parameter]}", moments)
    tensors["generator.cpu"] = torch.get_rng_state()
    if take_step.device.type == "cuda":
        tensors["generator.cuda"] = torch.cuda.get_rng_state(take_step.device)
    kind, scaler = type(take_step.optimizer).__name__, take_step.scaler.state_dict()
    return TrainingState(step, tensors, {**values, "optimizer": kind, "scaler": scaler})


def restore(take_step: TrainStep, state: TrainingState) -> None:
    """Put everything of `snapshot` back in its place.

    Moments find their parameters by name. The numbers of the optimiser stay those of the run that
    goes on.

    Raises:
        ValueError: if the state is of another model or optimiser.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in state.tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = value
    then, now = state.values["optimizer"], type(take_step.optimizer).__name__
    if then != now:
        raise ValueError(f"it is of a run with the optimiser {then}, not {now}")
    try:
        take_step.model.load_state_dict(parts["model"])
    except RuntimeError as error:
        raise ValueError(f"it is of another model: {error}") from error
    _restore_moments(take_step, parts.get("optimizer", {}))
    if take_step.ema is not None:
        _restore_ema(take_step.ema, take_step.model, parts.get("ema"))
    if take_step.scaler.is_enabled() and state.values["scaler"]:
        take_step.scaler.load_state_dict(state.values["scaler"])
    torch.set_rng_state(parts["generator"]["cpu"])
    if take_step.device.type == "cuda" and "cuda" in parts["generator"]:
        torch.cuda.set_rng_state(parts["generator"]["cuda"], take_step.device)


def _restore_moments(take_step: TrainStep, saved: Mapping[str, Tensor]) -> None:
    moments: dict[str, dict[str, Tensor]] = {}
    for name, value in saved.items():
        parameter, _, kind = name.rpartition(".")
        moments.setdefault(parameter, {})[kind] = value
    names = _names(take_step.model)
    ordered = [names[p] for group in take_step.optimizer.param_groups for p in group["params"]]
    take_step.optimizer.load_state_dict(
        {
            "state": {i: moments[name] for i, name in enumerate(ordered) if name in moments},
            "param_groups": take_step.optimizer.state_dict()["param_groups"],
        }
    )


def _restore_ema(ema: Ema, model: nn.Module, saved: Mapping[str, Tensor] | None) -> None:
    """A run that kept no mean so far begins one at its weights."""
    for name, value in (saved or model.state_dict()).items():
        ema.mean[name].copy_(value)


def _names(model: nn.Module) -> dict[Tensor, str]:
    return {parameter: name for name, parameter in model.named_parameters()}


def _named(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors under a prefix; None, as SGD has for a momentum it did not begin, is left out."""
    return {
        f"{prefix}.{name}": value for name, value in tensors.items() if isinstance(value, Tensor)
    }
