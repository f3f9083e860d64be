"""The training loop: batches in, records of steps out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from mrcnn.data.loader import TrainBatch
from mrcnn.errors import UserError
from mrcnn.training.distributed import World
from mrcnn.training.step import TrainStep

logger = logging.getLogger("mrcnn")

LOSSES = (
    "loss_objectness",
    "loss_rpn_box_reg",
    "loss_classifier",
    "loss_box_reg",
    "loss_mask",
)
MOST_SKIPPED = 10  # bad steps in a row, after which skipping more would hide a dead model


@dataclass(frozen=True)
class StepRecord:
    """What happened in one step."""

    step: int  # counted from 1
    lr: float
    losses: dict[str, float]  # the parts, and "loss", their sum, over all processes
    gradient_norm: float  # before clipping
    images: int  # of all processes
    seconds: float = field(default=0.0, compare=False)  # since the step before
    data_seconds: float = field(default=0.0, compare=False)  # of these, waiting for the loader
    skipped: bool = False  # values that were not finite, or too large for a scale of fp16

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Pending:
    """A step whose values are still on the device."""

    step: int
    lr: float
    values: dict[str, Tensor]
    indices: list[int]
    seconds: float
    data_seconds: float


def train_steps(
    take_step: TrainStep,
    batches: Iterator[TrainBatch],
    lr_at: Callable[[int], float],
    *,
    steps: int,
    first_step: int = 0,
    parts: int = 1,
    read_at: Callable[[int], bool],
    name_of: Callable[[int], str] = str,
) -> Iterator[list[StepRecord]]:
    """Train; yield the records since the last time at every step that `read_at` says.

    Values stay on the device until they are yielded, so that a GPU is not waited for every step.

    Args:
        batches: `parts` of them make this process's share of a step.
        lr_at: the learning rate of a step, counted from 0.
        steps: where to end, counted from the beginning of the run.
        first_step: steps done before.
        read_at: asked with the number of steps done, in order, once after each step.
        name_of: the file of an image of the data set, for messages.
    Raises:
        UserError: if a loss or the gradient is no longer finite, which names the step, the part
            and the image files; or if memory runs out, which says what to turn down.
    """
    take_step.model.train()
    pending: list[_Pending] = []
    bad_in_a_row = 0
    last = time.perf_counter()
    for step in range(first_step, steps):
        batch = list(islice(batches, parts))
        data_seconds = time.perf_counter() - last
        lr = lr_at(step)
        try:
            values = take_step(batch, lr, step + 1)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise _out_of_memory(step + 1, batch, error) from error
            raise
        indices = [index for part in batch for index in part.indices]
        now = time.perf_counter()
        pending.append(_Pending(step + 1, lr, values, indices, now - last, data_seconds))
        last = now
        if read_at(step + 1) or step + 1 == steps:
            records = _read(pending, take_step, name_of)
            pending = []
            for record in records:
                bad_in_a_row = bad_in_a_row + 1 if record.skipped else 0
                if bad_in_a_row == MOST_SKIPPED:
                    raise UserError(
                        f"step {record.step}: the last {MOST_SKIPPED} steps were not finite; "
                        "the weights no longer learn. --resume with a lower --lr"
                    )
            yield records
            take_step.model.train()
            last = time.perf_counter()  # what the caller did in between is not training


def _read(
    pending: Sequence[_Pending], take_step: TrainStep, name_of: Callable[[int], str]
) -> list[StepRecord]:
    """Records of the pending steps, after one read from the device."""
    world: World = take_step.world
    names = list(pending[0].values)
    each = torch.stack([torch.stack([p.values[name].float() for name in names]) for p in pending])
    rows = world.sum(each) / world.size  # the gradient norm is the same in all processes
    records = []
    for p, own_row, row in zip(pending, each.tolist(), rows.tolist(), strict=True):
        parts = dict(zip(names, row, strict=True))
        watched = [n for n in names if n != "gradient_norm" or not take_step.scaler.is_enabled()]
        broken = [name for name in watched if not abs(parts[name]) < float("inf")]
        if broken:
            # A gradient is that of all processes; a loss is of one.
            own = dict(zip(names, own_row, strict=True))
            losses = [own[name] for name in broken if name != "gradient_norm"]
            here = not losses or any(not abs(value) < float("inf") for value in losses)
            own_files = [name_of(i) for i in p.indices] if here else []
            files = [file for files in world.from_main(world.gather(own_files)) for file in files]
            message = _not_finite(p, parts, broken, files)
            if not take_step.skip_bad:
                raise UserError(
                    f"{message}\nLower --lr, raise --warmup, or look at these images and their "
                    "annotations; --on-nan skip leaves such steps out."
                )
            if world.is_main:
                logger.warning("%s\nThe step is left out.", message)
        norm = parts.pop("gradient_norm")
        overflowed = take_step.scaler.is_enabled() and not norm < float("inf")
        images = len(p.indices) * world.size
        records.append(
            StepRecord(
                p.step,
                p.lr,
                parts,
                norm,
                images,
                p.seconds,
                p.data_seconds,
                skipped=bool(broken) or overflowed,
            )
        )
    return records


def _not_finite(
    pending: _Pending, parts: dict[str, float], broken: list[str], files: list[str]
) -> str:
    values = ", ".join(f"{name} {parts[name]:g}" for name in broken)
    shown = "".join(f"\n  {file}" for file in files)
    return (
        f"step {pending.step}: {', '.join(broken)} is no longer finite ({values}).\n"
        f"The images of this step:{shown}"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the host or of a GPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        "can't allocate memory" in str(error)  # of the CPU allocator
    )


def _out_of_memory(step: int, batch: Sequence[TrainBatch], error: BaseException) -> UserError:
    height, width = batch[0].images.pixels.shape[2:]
    count = len(batch[0].indices)
    reason = (str(error) or "MemoryError").splitlines()[0]
    return UserError(
        f"step {step}: out of memory with {count} images of {height} x {width} at a time "
        f"({reason:.120}).\nRaise --accumulate or lower --batch-size; lower --image-size or "
        "--large-scale-jitter; or add --amp bf16 or --checkpoint-activations. "
        "--resume continues the run."
    )
