"""Micro-batches, one after the other or over processes, train as the whole batch does.

In float64 nothing but the order of sums differs, so that all steps stay together within 1e-6; the
losses themselves are computed in float32.
"""

import copy
import dataclasses
import math
import os
import socket

import pytest
import torch
import torch.multiprocessing as mp

from mrcnn.data.augment.transforms import Augmentation
from mrcnn.data.coco.read import read_coco
from mrcnn.data.loading.loader import train_loader
from mrcnn.data.synthetic import write_shapes
from mrcnn.models import build
from mrcnn.ops import instance_masks
from mrcnn.runtime.distributed import ALONE, World, connected
from mrcnn.training.config import TrainConfig
from mrcnn.training.optim import Ema
from mrcnn.training.step import TrainStep
from tests.helpers import tiny

BATCH = 4
STEPS = [5, pytest.param(20, marks=pytest.mark.slow)]
NAMES = ("circle", "triangle", "ring")
CONFIG = dataclasses.replace(
    tiny.CONFIG, class_names=NAMES, category_ids=(1, 2, 3), norm="group_of_8", fpn_channels=16
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_shapes(folder / "shapes", train=10, val=1, size=64)
    return folder


def losses_of(folder, steps: int, accumulate: int = 1, world: World = ALONE, empty: bool = False):
    """All losses, their sum, and the gradient norm, (steps, 7).

    Args:
        empty: leave the last process no instance to learn from.
    """
    dataset = read_coco(folder / "shapes" / "train.json", folder / "shapes" / "images")
    if empty and world.rank == world.size - 1:
        dataset = without_instances(dataset)
    torch.manual_seed(0)
    model = build(CONFIG).double().train()
    take_step = TrainStep(model, TrainConfig(lr=0.02, clip_norm=5.0), world)
    batches = train_loader(
        dataset,
        CONFIG,
        Augmentation(),
        batch_size=BATCH,
        steps=steps,
        rank=world.rank,
        world=world.size,
        accumulate=accumulate,
    )
    rows = []
    for step in range(steps):
        parts = [next(batches) for _ in range(accumulate)]
        parts = [
            b._replace(images=dataclasses.replace(b.images, pixels=b.images.pixels.double()))
            for b in parts
        ]
        values = take_step(parts, 0.02, step + 1)
        norm = values.pop("gradient_norm")
        mean = world.sum(torch.stack(list(values.values()))) / world.size
        rows.append(torch.cat([mean, norm[None]]))
    return torch.stack(rows)


def without_instances(dataset):
    nothing = torch.zeros(0, dtype=torch.int64)
    return dataclasses.replace(
        dataset,
        start=torch.zeros_like(dataset.start),
        annotation_ids=nothing,
        labels=nothing,
        boxes=dataset.boxes[:0],
        crowd=dataset.crowd[:0],
        masks=instance_masks.empty(),
    )


@pytest.mark.parametrize("steps", STEPS)
def test_accumulating_equals_the_large_batch(steps, folder):
    whole, parts = losses_of(folder, steps), losses_of(folder, steps, accumulate=4)
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-6)
    assert len(set(whole[:, 5].tolist())) == steps  # it moved


def process(rank: int, folder, steps: int, port: int, empty: bool) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    torch.set_num_threads(1)
    with connected("cpu") as world:
        found = losses_of(folder, steps, world=world, empty=empty)
        if world.is_main:
            torch.save(found, folder / f"found {empty}.pt")


def in_two_processes(folder, steps: int, empty: bool = False) -> torch.Tensor:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(process, (folder, steps, port, empty), nprocs=2)
    return torch.load(folder / f"found {empty}.pt")


@pytest.mark.parametrize("steps", STEPS)
def test_two_processes_equal_one(steps, folder):
    found = in_two_processes(folder, steps)
    torch.testing.assert_close(found, losses_of(folder, steps), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_a_process_without_instances_keeps_up(folder):
    assert torch.isfinite(in_two_processes(folder, 5, empty=True)).all()


def test_ema_follows_its_formula():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    ema = Ema(model, 0.5)
    wanted = copy.deepcopy(model.state_dict())
    for step in range(1, 30):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(step)
            model[1].num_batches_tracked += 1
        ema.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                wanted[name] = decay * wanted[name] + (1 - decay) * value
            else:
                wanted[name] = value.clone()
    for name, value in wanted.items():
        torch.testing.assert_close(ema.mean[name], value)
    assert not math.isclose(ema.mean["0.bias"][0].item(), model[0].bias[0].item())
