"""The training loop: batches in, records of each step out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mrcnn.data.loader import TrainBatch
from mrcnn.errors import UserError
from mrcnn.training.solver import set_learning_rate

LOSSES = (
    "loss_objectness",
    "loss_rpn_box_reg",
    "loss_classifier",
    "loss_box_reg",
    "loss_mask",
)


@dataclass(frozen=True)
class StepRecord:
    """What happened in one step."""

    step: int  # counted from 1
    lr: float
    losses: dict[str, float]  # the parts, and "loss", their sum
    gradient_norm: float  # before clipping
    images: int
    seconds: float  # since the step before
    data_seconds: float  # of these, waiting for the loader


def train_steps(
    model: nn.Module,
    batches: Iterable[TrainBatch],
    optimizer: torch.optim.Optimizer,
    lr_at: Callable[[int], float],
    *,
    device: torch.device,
    clip_norm: float,
    read_every: int,
    amp: bool = False,
    first_step: int = 0,
    name_of: Callable[[int], str] = str,
) -> Iterator[list[StepRecord]]:
    """Train on every batch; yield the records of the last `read_every` steps.

    Losses stay on the device until they are yielded, so that a GPU is not waited for every step.

    Args:
        lr_at: the learning rate of a step, counted from 0.
        clip_norm: limit of the global gradient norm.
        amp: compute convolutions and matrix products in bfloat16.
        name_of: the file of an image of the data set, for messages.
    Raises:
        UserError: if a loss or the gradient is no longer finite; names the step, the part and the
            image files.
    """
    model.train()
    pending: list[tuple[int, float, Tensor, list[int], float, float]] = []
    last = time.perf_counter()
    for step, batch in enumerate(batches, start=first_step):
        data_seconds = time.perf_counter() - last
        lr = lr_at(step)
        set_learning_rate(optimizer, lr)
        images = batch.images.to(device, non_blocking=True)
        targets = batch.targets.to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            losses = model(images, targets)
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        torch.autograd.backward(total)
        norm = nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        values = torch.stack([*losses.values(), total, norm]).detach()
        now = time.perf_counter()
        pending.append((step + 1, lr, values, batch.indices, now - last, data_seconds))
        last = now
        if len(pending) == read_every:
            yield _read(pending, list(losses), name_of)
            pending = []
            last = time.perf_counter()  # what the caller did in between is not training
    if pending:
        yield _read(pending, list(losses), name_of)


def _read(
    pending: list[tuple[int, float, Tensor, list[int], float, float]],
    names: list[str],
    name_of: Callable[[int], str],
) -> list[StepRecord]:
    """Records of the pending steps, after one read from the device."""
    rows = torch.stack([values for _, _, values, *_ in pending]).tolist()
    records = []
    for (step, lr, _, indices, seconds, data_seconds), row in zip(pending, rows, strict=True):
        parts = dict(zip([*names, "loss", "gradient norm"], row, strict=True))
        broken = [name for name, value in parts.items() if not abs(value) < float("inf")]
        if broken:
            files = "\n  ".join(name_of(index) for index in indices)
            raise UserError(
                f"step {step}: {', '.join(broken)} is no longer finite "
                f"({', '.join(f'{name} {parts[name]:g}' for name in broken)}).\n"
                f"The images of this step:\n  {files}\n"
                "Lower --lr, raise --warmup, or look at these images and their annotations."
            )
        norm = parts.pop("gradient norm")
        records.append(StepRecord(step, lr, parts, norm, len(indices), seconds, data_seconds))
    return records
