"""CUDA graphs, with a replacement for graphs that calls the function again.

On a GPU, tests/ops/test_cuda.py makes real ones.
"""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from mrcnn.data.augment.transforms import Augmentation
from mrcnn.data.coco.read import read_coco
from mrcnn.data.loading.loader import train_loader
from mrcnn.data.synthetic import write_shapes
from mrcnn.errors import UserError
from mrcnn.inference.load import load
from mrcnn.inference.predictor import Predictor
from mrcnn.models import build
from mrcnn.runtime import cuda_graphs
from mrcnn.runtime.cuda_graphs import WARM_UP, Graphs, tensors
from mrcnn.training.config import TrainConfig
from mrcnn.training.step import TrainStep
from tests.helpers import short_runs, tiny

CONFIG = dataclasses.replace(
    tiny.CONFIG,
    class_names=("circle", "triangle", "ring"),
    category_ids=(1, 2, 3),
    norm="group_of_8",
    fpn_channels=16,
)


@pytest.fixture
def recorded(monkeypatch):
    """Shapes of which graphs were made; their inputs and results stay in one place."""
    shapes = []

    def record(function, inputs):
        own = copy.deepcopy(inputs)
        shapes.append(tuple(tensors(own)[0].shape))
        for _ in range(WARM_UP):
            result = function(own)

        def replay(inputs):
            for place, value in zip(tensors(own), tensors(inputs), strict=True):
                assert place.shape == value.shape
                place.copy_(value)
            for place, value in zip(tensors(result), tensors(function(own)), strict=True):
                place.copy_(value)
            return result

        return replay

    monkeypatch.setattr(cuda_graphs, "record", record)
    return shapes


def test_a_graph_for_each_shape(recorded):
    calls = Graphs(lambda x: {"twice": x * 2})
    for x in (torch.ones(2), torch.full((2,), 3.0), torch.ones(3), torch.zeros(2)):
        assert torch.equal(calls(x)["twice"], x * 2)
    assert recorded == [(2,), (3,)]
    calls.clear()
    calls(torch.ones(2))
    assert recorded == [(2,), (3,), (2,)]


def test_making_a_graph_changes_nothing(recorded):
    total = torch.zeros(2)
    calls = Graphs(total.add_, [total])
    for _ in range(3):
        calls(torch.ones(2))
    assert total.tolist() == [3, 3]


def test_more_shapes_than_the_limit_run_without(recorded):
    calls = Graphs(lambda x: x + 1, limit=1)
    with pytest.warns(UserWarning, match="no CUDA graph for 3: 1 exist already") as warned:
        results = [calls(torch.zeros(size)) for size in (2, 3, 3, 2)]
    assert [result.tolist() for result in results] == [[1] * 2, [1] * 3, [1] * 3, [1] * 2]
    assert recorded == [(2,)]
    assert len(warned) == 1


def test_functions_that_cannot_be_captured_run_without(monkeypatch):
    def record(function, inputs):
        function(inputs)
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(cuda_graphs, "record", record)
    total = torch.zeros(2)
    calls = Graphs(total.add_, [total])
    reason = "no CUDA graph for 2: CUDA error: operation not permitted when stream is capturing$"
    with pytest.warns(UserWarning, match=reason) as warned:
        calls(torch.ones(2))
    calls(torch.ones(2))
    assert len(warned) == 1
    assert total.tolist() == [2, 2]


def losses(
    folder, capture: bool, sizes: tuple[int, ...], steps: int = 6, device: str = "cpu"
) -> list[dict]:
    """Return the losses of steps on small drawn images, resized to one of `sizes`."""
    dataset = read_coco(folder / "train.json", folder / "images")
    torch.manual_seed(0)
    model = build(CONFIG).train().to(device)
    options = TrainConfig(lr=0.02, clip_norm=5.0, capture=capture)
    step = TrainStep(model, options, device=torch.device(device))
    batches = train_loader(
        dataset, CONFIG, Augmentation(min_sizes=sizes), batch_size=2, steps=steps
    )
    return [step([batch], 0.02, number + 1) for number, batch in enumerate(batches)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(folder, train=10, val=1, size=64)
    return folder


def test_captured_training_is_training(folder, recorded):
    """Instances, outlines and slots are padded to the most so far, and change nothing."""
    wanted = losses(folder, False, (64,))
    found = losses(folder, True, (64,))
    assert found == wanted
    assert 1 <= len(recorded) < 6


def test_captured_training_pads_images_to_the_largest(folder, recorded):
    found = losses(folder, True, (48, 64, 96), steps=10)
    assert all(np.isfinite(loss.item()) for step in found for loss in step.values())
    assert len(set(recorded)) <= 3
    assert recorded[-1] == (2, 3, 96, 96)


def test_captured_inference_finds_the_same(recorded):
    model = tiny.model()
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((40, 60), (60, 40))] * 2
    plain = Predictor(model, tiny.CONFIG).predict(images, 0.0, batch_size=1)
    captured = Predictor(model, tiny.CONFIG, capture=True).predict(images, 0.0, batch_size=1)
    for one, other in zip(plain, captured, strict=True):
        assert np.array_equal(one.boxes, other.boxes)
        assert one.rles == other.rles
    assert len(recorded) == 2


def test_capture_requires_a_cuda_device(tmp_path):
    data = short_runs.write_data(tmp_path / "shapes")
    with pytest.raises(UserError, match=r"--capture: requires one process .* 1 on cpu"):
        short_runs.run(data, tmp_path / "run", "--capture")
    with pytest.raises(UserError, match="capture=True requires a CUDA device, got cpu"):
        load(tiny.run(tmp_path / "tiny"), capture=True)
