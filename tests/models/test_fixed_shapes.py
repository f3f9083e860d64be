"""From pixels to padded detections no shape depends on content, and nothing is read by the host."""

import copy
import dataclasses

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mrcnn.config import MODELS
from mrcnn.data.loading.loader import Batch
from mrcnn.models import build, mask_head
from mrcnn.runtime import cuda_graphs
from mrcnn.structures import ImageBatch, Targets
from mrcnn.training.config import TrainConfig
from mrcnn.training.step import TrainStep
from tests.helpers.masks import masks_of

aten = torch.ops.aten
HOST_READS = {
    aten._local_scalar_dense,
    aten.equal,
    aten.is_nonzero,
    aten.item,
    aten.masked_select,
    aten.nonzero,
    aten.nonzero_numpy,
    aten._unique2,
    aten.unique_dim,
    aten.unique_consecutive,
}


class RecordHostReads(TorchDispatchMode):
    """Collects the ops that read values on the host or whose shape depends on them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        indices = (
            args[1] if func.overloadpacket in (aten.index, aten.index_put, aten.index_put_) else ()
        )
        boolean_index = any(isinstance(i, Tensor) and i.dtype == torch.bool for i in indices or ())
        if func.overloadpacket in HOST_READS or boolean_index:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = dataclasses.replace(
        MODELS["small"], class_names=("disc", "square"), score_threshold=0.0, max_detections=20
    )
    return build(config)


def images(device: str = "cpu") -> ImageBatch:
    pixels = torch.randn(2, 3, 64, 96, device=device)
    return ImageBatch(pixels, torch.tensor([[64, 96], [50, 70]], device=device))


def square_targets(device: str = "cpu") -> Targets:
    """One square in the first image, none in the second."""
    corners = [[10.0, 12.0], [40.0, 12.0], [40.0, 44.0], [10.0, 44.0]]
    masks = masks_of([[corners]], frame=(64, 96)).to(device)
    boxes = torch.zeros(2, 3, 4, device=device)
    boxes[0, 0] = torch.tensor([10.0, 12.0, 40.0, 44.0], device=device)
    labels = torch.full((2, 3), -1, device=device)
    labels[0, 0] = 1
    mask_index = torch.full((2, 3), -1, device=device)
    mask_index[0, 0] = 0
    seeds = torch.tensor([2**62 + 11, 5], device=device)
    return Targets(boxes, labels, mask_index, masks, seeds)


def test_the_recorder_sees_what_it_looks_for():
    with RecordHostReads() as recorder:
        x = torch.arange(3.0)
        x[x > 1]
        x.sum().item()
        torch.nonzero(x)
    assert len(recorder.found) == 3


def test_inference_reads_nothing_on_the_host(model, monkeypatch):
    # The one documented exception, masks for used slots only, is for eager mode on CPU.
    monkeypatch.setattr(mask_head, "_used_slots", lambda labels: labels.shape[1])
    model.eval()
    with torch.no_grad(), RecordHostReads() as recorder:
        model(images())
    assert recorder.found == []


def test_cpu_inference_reads_one_count(model):
    model.eval()
    with torch.no_grad(), RecordHostReads() as recorder:
        model(images())
    assert recorder.found == ["aten._local_scalar_dense.default"]


def test_training_step_reads_nothing_on_the_host(model, monkeypatch):
    monkeypatch.setattr(mask_head, "_used_slots", lambda labels: labels.shape[1])
    model.train()
    with RecordHostReads() as recorder:
        losses = model(images(), square_targets())
        torch.stack(list(losses.values())).sum().backward()
    assert recorder.found == []


@pytest.mark.parametrize("capture", [False, True])
def test_nothing_is_read_up_to_the_updated_weights(model, capture, monkeypatch):
    """With clipping and EMA of the weights; and as a graph would run it."""
    monkeypatch.setattr(mask_head, "_used_slots", lambda labels: labels.shape[1])
    monkeypatch.setattr(cuda_graphs, "record", lambda function, inputs: function)
    model = copy.deepcopy(model).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    step = TrainStep(model, TrainConfig(lr=0.02, clip_norm=1.0, ema=0.9, capture=capture))
    with RecordHostReads() as recorder:
        for number in (1, 2):
            step([Batch(images(), square_targets(), [], [])], 0.02, number)
    assert recorder.found == []
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_cpu_training_step_reads_one_count_and_has_the_same_losses(model, monkeypatch):
    model.train()
    torch.manual_seed(0)
    with RecordHostReads() as recorder:
        cut = model(images(), square_targets())
        torch.stack(list(cut.values())).sum().backward()
    assert recorder.found == ["aten._local_scalar_dense.default"]
    monkeypatch.setattr(mask_head, "_used_slots", lambda labels: labels.shape[1])
    torch.manual_seed(0)
    torch.testing.assert_close(cut, model(images(), square_targets()))


def test_shapes_need_no_values(model):
    """On the meta device tensors have no values, so any dependence on them is an error."""
    meta = build(
        dataclasses.replace(MODELS["small"], class_names=("disc", "square"), max_detections=20)
    ).to("meta")
    detections = meta(images("meta"))
    assert detections.boxes.shape == (2, 20, 4)
    assert detections.masks.shape == (2, 20, 28, 28)
    losses = meta(images("meta"), square_targets("meta"))
    torch.stack(list(losses.values())).sum().backward()
