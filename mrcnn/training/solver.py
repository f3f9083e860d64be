"""How weights move: an optimiser under a warm-up and a schedule, and a running mean beside it."""

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
    """`sgd` with momentum, or `adamw`, over all parameters that are trained.

    Args:
        momentum: of SGD, and of the first moment of AdamW.
        weight_decay: of weights; and, where asked, of norms and of other biases.
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
    """The rate of one step, counted from 0.

    `cosine` falls to zero along half a wave; `step` falls tenfold at each milestone, a part of the
    steps: 2/3 and 8/9 are the paper's 60,000 and 80,000 of 90,000. Warm-up multiplies it by a
    factor that rises along a line from `warmup_factor` to 1.
    """
    done = min(1.0, step / warmup) if warmup else 1.0
    ramp = warmup_factor * (1 - done) + done
    if schedule == "cosine":
        return lr * ramp * 0.5 * (1 + math.cos(math.pi * step / steps))
    return lr * ramp * 0.1 ** sum(step >= round(steps * part) for part in milestones)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The same rate for all groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr


class Ema:
    """A running mean of a model's parameters and buffers.

    After step t (from 1 on) mean = d mean + (1 - d) value, where d = min(decay, (1 + t) / (10 + t))
    lets early steps be forgotten soon. Whole numbers, as counters, are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.mean = {name: value.clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after `step` steps."""
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
