"""One step of training: losses of a batch, their gradient, and the weights moved along it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from mrcnn.data.loader import TrainBatch
from mrcnn.models.losses import Normalizer, local_count
from mrcnn.structures import ImageBatch, Targets
from mrcnn.training.captured import CapturedLosses
from mrcnn.training.distributed import World
from mrcnn.training.solver import Ema, set_learning_rate

AMP = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class TrainStep:
    """What a step needs besides its batch.

    The batch may come in parts, one after the other and over several processes. Losses are those
    of the whole batch: sums over its samples, divided by how many of them the whole batch has. So
    the same batches give the same training, however they are cut, up to rounding; but for live
    batch norm, which sees a part at a time.

    Args:
        forward: gives the losses: the model, or what wraps it (compiled, distributed).
        amp: a key of `AMP`.
        clip_norm: limit of the global gradient norm; None sets none.
        skip_bad: leave the weights alone where a loss or the gradient is not finite.
        capture: run forward and backward as CUDA graphs; of batches in one part, in one process.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        device: torch.device,
        world: World,
        amp: str = "off",
        clip_norm: float | None = None,
        ema: Ema | None = None,
        skip_bad: bool = False,
        capture: bool = False,
    ) -> None:
        self.model, self.forward, self.optimizer = model, forward, optimizer
        self.device, self.world, self.ema = device, world, ema
        self.dtype = AMP[amp]
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")
        self.clip_norm = float("inf") if clip_norm is None else clip_norm
        self.skip_bad = skip_bad
        self.captured = CapturedLosses(model, self._add_gradients) if capture else None
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        self.counts_ahead = not norms
        # What a forward pass changes, and a step that is left out must not.
        self.statistics = [b for norm in norms for b in norm.buffers()] if skip_bad else []

    def __call__(self, parts: Sequence[TrainBatch], lr: float, step: int) -> dict[str, Tensor]:
        """Take one step.

        Args:
            parts: of this process's share of the batch, equally many images each.
            lr: learning rate.
            step: counted from 1.
        Returns:
            This process's mean of each loss, of their sum "loss", and the "gradient_norm" before
            clipping, as scalars on the device, not waited for.
        """
        set_learning_rate(self.optimizer, lr)
        self.optimizer.zero_grad(set_to_none=self.captured is None)  # graphs add to the same place
        batches = [
            (
                part.images.to(self.device, non_blocking=True),
                part.targets.to(self.device, non_blocking=True),
            )
            for part in parts
        ]
        statistics = [buffer.clone() for buffer in self.statistics]
        sums: dict[str, Tensor] = {}
        normalizer = self._normalizer(batches)
        for i, (images, targets) in enumerate(batches):
            if self.captured is not None:
                losses = self.captured(images, targets)
            else:
                with self._exchange(last=i == len(batches) - 1):
                    losses = self._add_gradients(images, targets, normalizer, len(batches))
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value / len(batches)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        if self.skip_bad and self._is_bad(sums["loss"], norm):
            for buffer, before in zip(self.statistics, statistics, strict=True):
                buffer.copy_(before)
        else:
            self.scaler.step(self.optimizer)
            if self.ema is not None:
                self.ema.update(self.model, step)
        self.scaler.update()
        return {**sums, "gradient_norm": norm.detach()}

    def _add_gradients(
        self,
        images: ImageBatch,
        targets: Targets,
        normalizer: Normalizer = local_count,
        parts: int = 1,
    ) -> dict[str, Tensor]:
        """The losses of one of the parts of a batch, as plain values."""
        with self.autocast():
            losses = self.forward(images, targets, normalizer)
        losses["loss"] = torch.stack(list(losses.values())).sum()
        self.scaler.scale(losses["loss"] / parts).backward()
        return {name: value.detach() for name, value in losses.items()}

    def autocast(self) -> torch.autocast:
        """The precision of the run, as a context."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)

    def _exchange(self, last: bool) -> Any:
        """Gradients are summed over the processes once a step, after the last part."""
        if isinstance(self.forward, DistributedDataParallel) and not last:
            return self.forward.no_sync()
        return nullcontext()

    def _normalizer(self, batches: Sequence[tuple[Any, Any]]) -> Normalizer:
        """Counts of the whole batch, as a mean over its parts.

        Of a single part they are summed over the processes as they come up. Of several parts they
        must be known before the gradient of the first: a forward pass without gradients counts
        them, which costs a third more, so that accumulation is no approximation. Live batch norm
        makes it one anyway, and is not made to see the batch twice.
        """
        world = self.world
        if len(batches) == 1 or not self.counts_ahead:
            return local_count if world.size == 1 else self._mean_over_processes
        counts: list[Tensor] = []

        def record(count: Tensor) -> Tensor:
            counts.append(count)
            return local_count(count)

        with torch.no_grad(), self.autocast():
            for images, targets in batches:
                self.model(images, targets, record)
        kinds = len(counts) // len(batches)  # counted in each part, in the same order
        totals = world.sum(torch.stack(counts).view(-1, kinds).sum(0).float())
        means: Iterator[Tensor] = iter(
            (local_count(totals) / (world.size * len(batches))).repeat(len(batches))
        )
        return lambda count: next(means)

    def _mean_over_processes(self, count: Tensor) -> Tensor:
        return local_count(self.world.sum(count.float())) / self.world.size

    def _is_bad(self, loss: Tensor, norm: Tensor) -> bool:
        """Whether any process met a value that is not finite; waits for the device.

        The scaler of fp16 tries scales that overflow, and leaves out such steps by itself.
        """
        watched = loss if self.scaler.is_enabled() else loss + norm
        return self.world.any(not bool(torch.isfinite(watched)))
