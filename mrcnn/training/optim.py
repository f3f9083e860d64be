"""Optimizer, learning rate schedule with warm-up, and EMA of the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_NORMS = (nn.GroupNorm, nn.LayerNorm, nn.modules.batchnorm._BatchNorm)


def make_optimizer(
    model: nn.Module,
    name: str,
    lr: float,
    *,
    momentum: float,
    weight_decay: float,
    decay_norms: bool = False,
    decay_biases: bool = False,
) -> torch.optim.Optimizer:
    """Make an optimizer for all parameters that require a gradient.

    Args:
        model: The model.
        name: "sgd" (with momentum) or "adamw".
        lr: Learning rate.
        momentum: Of SGD, or the first beta of AdamW.
        weight_decay: Of convolutions and linear layers.
        decay_norms: Decay the parameters of norm layers, too.
        decay_biases: Decay other biases, too.
    """
    groups: dict[float, list[nn.Parameter]] = {weight_decay: [], 0.0: []}
    for module in model.modules():
        for kind, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            is_norm, is_bias = isinstance(module, _NORMS), kind == "bias"
            decayed = decay_norms if is_norm else decay_biases if is_bias else True
            groups[weight_decay if decayed else 0.0].append(parameter)
    parameters = [{"params": params, "weight_decay": decay} for decay, params in groups.items()]
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, betas=(momentum, 0.999))
    return torch.optim.SGD(parameters, lr=lr, momentum=momentum)


def learning_rate(
    step: int,
    steps: int,
    *,
    lr: float,
    warmup: int,
    warmup_factor: float = 0.001,
    schedule: str,
    milestones: Sequence[float] = (2 / 3, 8 / 9),
) -> float:
    """Return the learning rate of a step.

    Args:
        step: Counted from 0.
        steps: Number of steps of the run.
        lr: Learning rate after warm-up.
        warmup: Number of warm-up steps, with a factor that rises linearly to 1.
        warmup_factor: The factor of the first step.
        schedule: "cosine" falls to zero along half a wave, "step" tenfold at each milestone.
        milestones: Fractions of the run. 2/3 and 8/9 are the 60,000 and 80,000 of 90,000 steps in
            Detectron2's 1x schedule.
    """
    done = min(1.0, step / warmup) if warmup else 1.0
    ramp = warmup_factor * (1 - done) + done
    if schedule == "cosine":
        return lr * ramp * 0.5 * (1 + math.cos(math.pi * step / steps))
    return lr * ramp * 0.1 ** sum(step >= round(steps * fraction) for fraction in milestones)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr


class Ema:
    """An exponential moving average (EMA) of the parameters and buffers of a model.

    After step t, counted from 1, mean = d mean + (1 - d) value with
    d = min(decay, (1 + t) / (10 + t)), so that early steps are soon forgotten. Integers are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.mean = {name: value.clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Add the weights after `step` steps to the mean."""
        decay = min(self.decay, (1 + step) / (10 + step))
        means: list[Tensor] = []
        values: list[Tensor] = []
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                means.append(self.mean[name])
                values.append(value)
            else:
                self.mean[name].copy_(value)
        torch._foreach_lerp_(means, values, 1 - decay)
