"""Optimizer, learning rate schedule with warm-up, and EMA of the weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mrcnn.training.config import TrainConfig

_NORMS = (nn.GroupNorm, nn.LayerNorm, nn.modules.batchnorm._BatchNorm)


def make_optimizer(model: nn.Module, options: TrainConfig) -> torch.optim.Optimizer:
    """Make the optimizer for all parameters that require a gradient."""
    assert options.lr is not None
    groups: dict[float, list[nn.Parameter]] = {options.weight_decay: [], 0.0: []}
    for module in model.modules():
        for kind, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            is_norm, is_bias = isinstance(module, _NORMS), kind == "bias"
            is_decayed = options.decay_norms if is_norm else options.decay_biases or not is_bias
            groups[options.weight_decay if is_decayed else 0.0].append(parameter)
    parameters = [{"params": params, "weight_decay": decay} for decay, params in groups.items()]
    if options.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=options.lr, betas=(options.momentum, 0.999))
    return torch.optim.SGD(parameters, lr=options.lr, momentum=options.momentum)


def learning_rate(step: int, options: TrainConfig) -> float:
    """Return the learning rate of a step, counted from 0.

    The rate rises linearly during warm-up. The schedule "cosine" falls to zero along half a wave,
    "step" tenfold at each milestone. The default milestones 2/3 and 8/9 are the 60,000 and 80,000
    of 90,000 steps in Detectron2's 1x schedule.
    """
    assert options.steps is not None and options.lr is not None  # noqa: PT018
    done = min(1.0, step / options.warmup) if options.warmup else 1.0
    rate = options.lr * (options.warmup_factor * (1 - done) + done)
    if options.schedule == "cosine":
        return rate * 0.5 * (1 + math.cos(math.pi * step / options.steps))
    return rate * 0.1 ** sum(step >= round(options.steps * part) for part in options.milestones)


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
