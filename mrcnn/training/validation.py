"""What a run measures of its weights besides AP, and with which weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from mrcnn.config import ModelConfig
from mrcnn.data.coco import CocoDataset
from mrcnn.data.loader import eval_loader
from mrcnn.training.step import TrainStep


@contextmanager
def evaluated_weights(take_step: TrainStep) -> Iterator[None]:
    """The running mean of the weights in place of them, where one is kept."""
    model, ema = take_step.model, take_step.ema
    if ema is None:
        yield
        return
    own = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(ema.mean)
    try:
        yield
    finally:
        model.load_state_dict(own)


@torch.no_grad()
def validation_loss(
    take_step: TrainStep,
    dataset: CocoDataset,
    config: ModelConfig,
    *,
    workers: int = 0,
    progress: Callable[[int, int], None] = lambda done, images: None,
) -> float:
    """The mean loss of the images of a data set, each as a batch of its own.

    Args:
        config: of the model.
        workers: processes that read images.
        progress: called after each image with those done and those in all, of this process.
    """
    model, device, world = take_step.model, take_step.device, take_step.world
    was_training = model.training
    model.eval()
    images = len(range(world.rank, len(dataset), world.size))
    total = torch.zeros(2, device=device)  # losses, images
    loader = eval_loader(
        dataset, config, with_targets=True, workers=workers, rank=world.rank, world=world.size
    )
    for done, batch in enumerate(loader, start=1):
        assert batch.targets is not None
        with take_step.autocast():
            losses = model(batch.images.to(device), batch.targets.to(device))
        total += torch.stack([torch.stack(list(losses.values())).sum(), total.new_ones(())])
        progress(done, images)
    model.train(was_training)
    total = world.sum(total)
    return float(total[0] / total[1])
