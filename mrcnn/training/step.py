"""One training step: forward, backward, clipping, optimizer update, EMA."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from mrcnn.data.loading.loader import Batch
from mrcnn.models import MaskRCNN
from mrcnn.models.losses import Normalizer, local_count
from mrcnn.runtime.distributed import ALONE, World, distribute
from mrcnn.structures import ImageBatch, Targets
from mrcnn.training.activation_checkpointing import checkpoint_stages
from mrcnn.training.captured import CapturedLosses
from mrcnn.training.config import TrainConfig
from mrcnn.training.optim import Ema, make_optimizer

AMP = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_CPU = torch.device("cpu")


class TrainStep:
    """One optimizer step: forward, backward, clipping, update, EMA.

    Each process takes a share of the batch, and may split it into micro-batches. Losses are
    normalized by the counts of the whole batch. So the same batches give the same training, up to
    rounding, for any split. Only live batch norm differs, since it sees one micro-batch at a time.

    Raises:
        UserError: if the backbone does not support `--checkpoint-activations`.
    """

    def __init__(
        self,
        model: MaskRCNN,
        options: TrainConfig,
        world: World = ALONE,
        device: torch.device = _CPU,
    ) -> None:
        if options.checkpoint_activations:
            checkpoint_stages(model.backbone.body)
        forward: nn.Module = torch.compile(model) if options.compile else model  # type: ignore[assignment]
        self.forward = distribute(forward, device) if world.size > 1 else forward
        self.model, self.device, self.world = model, device, world
        self.optimizer = make_optimizer(model, options)
        self.ema = Ema(model, options.ema) if options.ema else None
        self.dtype = AMP[options.amp]
        self.scaler = torch.amp.GradScaler(device.type, enabled=options.amp == "fp16")
        self.clip_norm = float("inf") if options.clip_norm is None else options.clip_norm
        self.skip_bad = options.on_nan == "skip"
        self.captured = CapturedLosses(model, self._add_gradients) if options.capture else None
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        self.counts_ahead = not norms
        # A forward pass changes these buffers. A skipped step must restore them.
        self.statistics = [b for norm in norms for b in norm.buffers()] if self.skip_bad else []

    def __call__(self, micro_batches: Sequence[Batch], lr: float, step: int) -> dict[str, Tensor]:
        """Take one step.

        Args:
            micro_batches: The share of this process, with equally many images each.
            lr: Learning rate.
            step: Number of the step, counted from 1.

        Returns:
            The mean of each loss in this process, of their sum "loss", and the "gradient_norm"
            before clipping, as scalars on the device.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=self.captured is None)  # graphs need fixed tensors
        batches = [
            (
                batch.images.to(self.device, non_blocking=True),
                batch.targets.to(self.device, non_blocking=True),
            )
            for batch in micro_batches
        ]
        statistics = [buffer.clone() for buffer in self.statistics]
        sums: dict[str, Tensor] = {}
        normalizer = self._normalizer(batches)
        for i, (images, targets) in enumerate(batches):
            if self.captured is not None:
                losses = self.captured(images, targets)
            else:
                # Gradients are summed over processes only in the last micro-batch.
                is_last = i == len(batches) - 1
                with (
                    self.forward.no_sync()
                    if isinstance(self.forward, DistributedDataParallel) and not is_last
                    else nullcontext()
                ):
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
        count: int = 1,
    ) -> dict[str, Tensor]:
        """Add the gradients of one of `count` micro-batches; return its detached losses."""
        with self.autocast():
            losses = self.forward(images, targets, normalizer)
        losses["loss"] = torch.stack(list(losses.values())).sum()
        self.scaler.scale(losses["loss"] / count).backward()
        return {name: value.detach() for name, value in losses.items()}

    def autocast(self) -> torch.autocast:
        """Return a context with the precision of the run."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)

    def _normalizer(self, batches: Sequence[tuple[Any, Any]]) -> Normalizer:
        """Return a function that gives the mean counts over all micro-batches of the batch.

        With one micro-batch, counts are summed over the processes during the forward pass. With
        several, they must be known before the first backward pass. An additional forward pass
        without gradients counts them, so that accumulation is exact; it costs a third more time.
        With live batch norm there is no such pass, since accumulation is not exact anyway.
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
        kinds = len(counts) // len(batches)  # counts per micro-batch, always in the same order
        totals = world.sum(torch.stack(counts).view(-1, kinds).sum(0).float())
        means: Iterator[Tensor] = iter(
            (local_count(totals) / (world.size * len(batches))).repeat(len(batches))
        )
        return lambda count: next(means)

    def _mean_over_processes(self, count: Tensor) -> Tensor:
        return local_count(self.world.sum(count.float())) / self.world.size

    def _is_bad(self, loss: Tensor, norm: Tensor) -> bool:
        """Return whether a value is not finite in any process. This waits for the device.

        The fp16 gradient scaler tries scales that overflow, and skips such steps by itself.
        """
        watched = loss if self.scaler.is_enabled() else loss + norm
        return self.world.any(not bool(torch.isfinite(watched)))
