"""The weights that a training run evaluates, and their validation loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from mrcnn.config import ModelConfig
from mrcnn.data.coco.read import CocoDataset
from mrcnn.data.loading.loader import eval_loader
from mrcnn.training.step import TrainStep


@contextmanager
def evaluated_weights(take_step: TrainStep) -> Iterator[None]:
    """Load the EMA of the weights into the model, if the run keeps one; restore them at the end."""
    model, ema = take_step.model, take_step.ema
    if ema is None:
        yield
        return
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(ema.mean)
    try:
        yield
    finally:
        model.load_state_dict(weights)


@torch.no_grad()
def validation_loss(
    take_step: TrainStep,
    dataset: CocoDataset,
    config: ModelConfig,
    workers: int = 0,
    check: Callable[[], None] = lambda: None,
) -> float:
    """Compute the mean loss per image of a data set, one image per batch.

    The processes of `take_step` share the images; `check` is called after each image.
    """
    model, device, world = take_step.model, take_step.device, take_step.world
    was_training = model.training
    model.eval()
    total = torch.zeros(2, device=device)  # losses, images
    for batch in eval_loader(dataset, config, workers=workers, rank=world.rank, world=world.size):
        with take_step.autocast():
            losses = model(batch.images.to(device), batch.targets.to(device))
        total += torch.stack([torch.stack(list(losses.values())).sum(), total.new_ones(())])
        check()
    model.train(was_training)
    total = world.sum(total)
    return float(total[0] / total[1])
