"""The training loop: takes batches, yields records of steps."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice

import torch
from torch import Tensor

from mrcnn.data.loading.loader import Batch
from mrcnn.errors import UserError
from mrcnn.runtime.memory import is_out_of_memory, memory_reason
from mrcnn.training.config import TrainConfig
from mrcnn.training.optim import learning_rate
from mrcnn.training.step import TrainStep

logger = logging.getLogger("mrcnn")

LOSSES = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask")
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


# A step whose values are still on the device: its record without them, and its images.
_Pending = tuple[StepRecord, dict[str, Tensor], list[int]]


def train_steps(
    take_step: TrainStep,
    batches: Iterator[Batch],
    options: TrainConfig,
    *,
    first_step: int = 0,
    read_at: Callable[[StepRecord], bool],
    name_of: Callable[[int], str] = str,
) -> Iterator[list[StepRecord]]:
    """Train; yield the records of the steps so far after every step for which `read_at` is true.

    Values stay on the device until they are yielded, so that the host does not wait for the GPU
    in every step. `batches` are the micro-batches of this process. `first_step` steps were done
    before. `read_at` is called once after each step, with its record without losses. `name_of`
    returns the file of an image of the data set, for messages.

    Raises:
        UserError: if a loss or the gradient is no longer finite (the message names the step, the
            loss and the image files), or if memory runs out.
    """
    assert options.steps is not None
    take_step.model.train()
    pending: list[_Pending] = []
    bad_in_a_row = 0
    last = time.perf_counter()
    for step in range(first_step + 1, options.steps + 1):
        batch = list(islice(batches, options.accumulate))
        data_seconds = time.perf_counter() - last
        lr = learning_rate(step - 1, options)
        height, width = batch[0].images.pixels.shape[2:]
        with explain_out_of_memory(
            f"step {step}: out of memory with {len(batch[0].indices)} images of "
            f"{height} x {width} at a time",
            "Raise --accumulate or lower --batch-size; lower --image-size or --large-scale-jitter; "
            "or add --amp bf16 or --checkpoint-activations.",
        ):
            values = take_step(batch, lr, step)
        indices = [index for micro_batch in batch for index in micro_batch.indices]
        now = time.perf_counter()
        images = len(indices) * take_step.world.size
        record = StepRecord(step, lr, {}, 0.0, images, now - last, data_seconds)
        pending.append((record, values, indices))
        last = now
        if read_at(record) or step == options.steps:
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


def contention(records: Sequence[StepRecord], cpu_seconds: float, threads: int) -> str:
    """Return a note if other processes took the cores during these steps; "" if not.

    Args:
        records: Steps on a CPU.
        cpu_seconds: Time that all threads of this process computed meanwhile.
        threads: Threads of PyTorch. Several wait for the slowest, one does not.
    """
    seconds = sum(record.seconds - record.data_seconds for record in records)
    if threads == 1 or seconds < 2 or seconds < 1.25 * cpu_seconds:
        return ""
    return (
        f"other processes use the cores: {len(records)} steps took {seconds:.0f} s, of which this "
        f"process computed {cpu_seconds:.0f} s; with OMP_NUM_THREADS=1 they would take less"
    )


def _read(
    pending: Sequence[_Pending], take_step: TrainStep, name_of: Callable[[int], str]
) -> list[StepRecord]:
    """Read the values of the pending steps from the device at once; return their records."""
    world, is_scaled = take_step.world, take_step.scaler.is_enabled()
    names = list(pending[0][1])
    each = torch.stack(
        [torch.stack([values[n].float() for n in names]) for _, values, _ in pending]
    )
    rows = world.sum(each) / world.size  # the gradient norm is the same in all processes
    records = []
    for (record, _, indices), own_row, row in zip(
        pending, each.tolist(), rows.tolist(), strict=True
    ):
        values = dict(zip(names, row, strict=True))
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        overflowed = is_scaled and "gradient_norm" in broken
        if overflowed:  # the gradient scaler skips the step and lowers its scale
            broken.remove("gradient_norm")
        if broken:
            # The gradient is that of all processes; a loss is that of one.
            own = dict(zip(names, own_row, strict=True))
            losses = [own[name] for name in broken if name != "gradient_norm"]
            is_here = not all(map(math.isfinite, losses)) or not losses
            own_files = [name_of(index) for index in indices] if is_here else []
            files = [file for files in world.from_main(world.gather(own_files)) for file in files]
            message = (
                f"step {record.step}: {', '.join(broken)} is no longer finite "
                f"({', '.join(f'{name} {values[name]:g}' for name in broken)}).\n"
                "The images of this step:" + "".join(f"\n  {file}" for file in files)
            )
            if not take_step.skip_bad:
                raise UserError(
                    f"{message}\nLower --lr, raise --warmup, or check these images and their "
                    "annotations; --on-nan skip skips such steps."
                )
            if world.is_main:
                logger.warning("%s\nThe step is skipped.", message)
        norm = values.pop("gradient_norm")
        skipped = bool(broken) or overflowed
        records.append(replace(record, losses=values, gradient_norm=norm, skipped=skipped))
    return records


@contextmanager
def explain_out_of_memory(problem: str, fix: str) -> Iterator[None]:
    """Raise a `UserError` if the host or a GPU runs out of memory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"{problem} ({memory_reason(error)}).\n{fix} --resume continues the run."
        ) from error
