"""How weights move: an optimiser under a warm-up and a schedule."""

from __future__ import annotations

import math

import torch
from torch import nn


def make_optimizer(
    model: nn.Module, name: str, lr: float, *, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """`sgd` with momentum, or `adamw`; norms and biases are not decayed."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (decayed if parameter.dim() > 1 else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(momentum, 0.999))
    return torch.optim.SGD(groups, lr=lr, momentum=momentum)


def learning_rate(step: int, steps: int, *, lr: float, warmup: int, schedule: str) -> float:
    """Rate of one step: a linear ramp, then `cosine` to zero, or `step` tenfold down twice.

    The drops come at 2/3 and 8/9 of the run, as in the 90,000-step schedule of the paper's
    60,000 and 80,000.
    """
    ramp = min(1.0, (step + 1) / max(warmup, 1))
    if schedule == "cosine":
        return lr * ramp * 0.5 * (1 + math.cos(math.pi * step / steps))
    return lr * ramp * 0.1 ** sum(step >= steps * part for part in (2 / 3, 8 / 9))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The same rate for all groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr
