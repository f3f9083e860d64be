"""The training loop: takes batches, yields records of steps."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from mrcnn.data.loading.loader import TrainBatch
from mrcnn.errors import UserError
from mrcnn.runtime.distributed import World
from mrcnn.training.step import TrainStep

logger = logging.getLogger("mrcnn")

LOSSES = (
    "loss_objectness",
    "loss_rpn_box_reg",
    "loss_classifier",
    "loss_box_reg",
    "loss_mask",
)
MOST_SKIPPED = 10  # bad steps in a row; skipping more would hide a diverged model


@dataclass(frozen=True)
class StepRecord:
    """The losses and timing of one step."""

    step: int  # counted from 1
    lr: float
    losses: dict[str, float]  # each loss and "loss", their sum; means over all processes
    gradient_norm: float  # before clipping
    images: int  # of all processes
    seconds: float = field(default=0.0, compare=False)  # since the previous step
    data_seconds: float = field(default=0.0, compare=False)  # of these, waiting for the loader
    skipped: bool = False  # a value was not finite, or too large for the fp16 loss scale

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Pending:
    """A step with values that are still on the device."""

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
    micro_batches: int = 1,
    read_at: Callable[[int], bool],
    name_of: Callable[[int], str] = str,
) -> Iterator[list[StepRecord]]:
    """Train; yield the records of the steps so far after every step for which `read_at` is true.

    Values stay on the device until they are yielded, so that the host does not wait for the GPU
    in every step.

    Args:
        take_step: The training step.
        batches: The micro-batches of this process.
        lr_at: Returns the learning rate of a step, counted from 0.
        steps: Number of the last step, counted from the start of the run.
        first_step: Number of steps done before.
        micro_batches: Number of `batches` per step.
        read_at: Called once after each step, with the number of steps done.
        name_of: Returns the file of an image of the data set, for messages.

    Yields:
        The records since the last yield.

    Raises:
        UserError: if a loss or the gradient is no longer finite (the message names the step, the
            loss and the image files), or if memory runs out.
    """
    take_step.model.train()
    pending: list[_Pending] = []
    bad_in_a_row = 0
    last = time.perf_counter()
    for step in range(first_step, steps):
        batch = list(islice(batches, micro_batches))
        data_seconds = time.perf_counter() - last
        lr = lr_at(step)
        try:
            values = take_step(batch, lr, step + 1)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise _out_of_memory(step + 1, batch, error) from error
            raise
        indices = [index for micro_batch in batch for index in micro_batch.indices]
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
                        "training has diverged. Use --resume with a lower --lr"
                    )
            yield records
            take_step.model.train()
            last = time.perf_counter()  # the time of the caller is not training time


def _read(
    pending: Sequence[_Pending], take_step: TrainStep, name_of: Callable[[int], str]
) -> list[StepRecord]:
    """Read the values of the pending steps from the device at once; return their records."""
    world: World = take_step.world
    names = list(pending[0].values)
    each = torch.stack([torch.stack([p.values[name].float() for name in names]) for p in pending])
    rows = world.sum(each) / world.size  # the gradient norm is the same in all processes
    records = []
    for p, own_row, row in zip(pending, each.tolist(), rows.tolist(), strict=True):
        values = dict(zip(names, row, strict=True))
        watched = [n for n in names if n != "gradient_norm" or not take_step.scaler.is_enabled()]
        broken = [name for name in watched if not abs(values[name]) < float("inf")]
        if broken:
            # The gradient is that of all processes; a loss is that of one.
            own = dict(zip(names, own_row, strict=True))
            losses = [own[name] for name in broken if name != "gradient_norm"]
            here = not losses or any(not abs(loss) < float("inf") for loss in losses)
            own_files = [name_of(i) for i in p.indices] if here else []
            files = [file for files in world.from_main(world.gather(own_files)) for file in files]
            message = _not_finite(p, values, broken, files)
            if not take_step.skip_bad:
                raise UserError(
                    f"{message}\nLower --lr, raise --warmup, or check these images and their "
                    "annotations; --on-nan skip skips such steps."
                )
            if world.is_main:
                logger.warning("%s\nThe step is skipped.", message)
        norm = values.pop("gradient_norm")
        overflowed = take_step.scaler.is_enabled() and not norm < float("inf")
        images = len(p.indices) * world.size
        records.append(
            StepRecord(
                p.step,
                p.lr,
                values,
                norm,
                images,
                p.seconds,
                p.data_seconds,
                skipped=bool(broken) or overflowed,
            )
        )
    return records


def _not_finite(
    pending: _Pending, values: dict[str, float], broken: list[str], files: list[str]
) -> str:
    text = ", ".join(f"{name} {values[name]:g}" for name in broken)
    listed = "".join(f"\n  {file}" for file in files)
    return (
        f"step {pending.step}: {', '.join(broken)} is no longer finite ({text}).\n"
        f"The images of this step:{listed}"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the host or a GPU ran out of memory."""
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
