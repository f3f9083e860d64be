"""The whole model is one graph for torch.compile, in inference and in training."""

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter, CompileCounterWithBackend

from mrcnn.config import MODELS
from mrcnn.data.images import network_size, pad_images, read_image, to_pixels
from mrcnn.models import MaskRCNN, build
from mrcnn.structures import ImageBatch
from tests.helpers.exported import assert_same, decided
from tests.models.test_fixed_shapes import square_targets

# (model, numerics); those of a default run take a few seconds each.
CASES = [
    ("small", "detectron2"),
    ("small-mobilenet", "torchvision"),
    *(
        pytest.param(name, numerics, marks=pytest.mark.slow)
        for name in ("resnet50-fpn", "small-c4", "resnet50-c4", "small-mobilenet", "small-roipool")
        for numerics in ("detectron2", "torchvision", "maskrcnn_benchmark")
    ),
]


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.reset()


def make(name: str, numerics: str = "detectron2") -> MaskRCNN:
    torch.manual_seed(0)
    config = dataclasses.replace(
        MODELS[name],
        class_names=("disc", "square"),
        numerics=numerics,
        score_threshold=0.0,
        max_detections=20,
    )
    return build(config)


def batch(images: int = 2, height: int = 64, width: int = 96) -> ImageBatch:
    pixels = torch.randn(images, 3, height, width).to(memory_format=torch.channels_last)
    return ImageBatch(pixels, torch.tensor([[height, width - 10]] * images))


def step(
    model: MaskRCNN, forward: Callable[..., dict[str, Tensor]], images: ImageBatch
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Losses, and the gradient of their sum."""
    model.zero_grad()
    losses = forward(images, square_targets())
    torch.stack(list(losses.values())).sum().backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {name: loss.detach() for name, loss in losses.items()}, grads


@pytest.mark.parametrize(("name", "numerics"), CASES)
def test_there_are_no_graph_breaks(name, numerics):
    model = make(name, numerics)
    with torch.no_grad():
        found = torch._dynamo.explain(model.eval())(batch())
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons
    found = torch._dynamo.explain(model.train())(batch(), square_targets())
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons


def test_graph_breaks_would_be_seen():
    def reads_a_value(x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x - 1

    assert torch._dynamo.explain(reads_a_value)(torch.ones(3)).graph_break_count == 1


def test_what_an_image_holds_compiles_nothing_anew():
    """One graph a shape; the third shape brings one for all that follow."""
    model, counter = make("small").eval(), CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    with torch.no_grad():
        some = batch()
        for images in (some, batch(), ImageBatch(torch.zeros_like(some.pixels), some.sizes - 7)):
            compiled(images)
        assert counter.frame_count == 1
        compiled(batch(2, 96, 64))
        assert counter.frame_count == 2
        for shape in ((96, 128), (128, 64), (64, 96)):
            compiled(batch(2, *shape))
        assert counter.frame_count == 2


def test_training_compiles_once_a_shape():
    model, counter = make("small").train(), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for _ in range(2):
        step(model, compiled, batch())
    assert counter.frame_count == 1


def test_the_training_graph_has_the_same_losses_and_gradients():
    """Forward and backward as traced for a compiler, run by PyTorch's own kernels."""
    model = make("small").train()
    images = batch()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    losses, grads = step(model, compiled, images)
    expected_losses, expected_grads = step(model, model, images)
    torch.testing.assert_close(losses, expected_losses)
    torch.testing.assert_close(grads, expected_grads, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small", "resnet50-fpn", "small-c4"])
def test_compiled_code_finds_the_same_in_pictures(name, shared_data):
    config = dataclasses.replace(
        MODELS[name], class_names=("disc", "square"), min_size=256, max_size=448
    )
    predictor = decided(config)
    compiled = torch.compile(predictor.model, fullgraph=True)
    paths = sorted((shared_data / "coco_mini" / "images").iterdir())[:20]
    found = 0
    with torch.no_grad():
        for path in paths:
            image = read_image(path)
            pixels = to_pixels(image, network_size(*image.shape[:2], config), config)
            images = pad_images([pixels], config.size_multiple)
            outputs = compiled(images)
            values = [getattr(outputs, field.name) for field in dataclasses.fields(outputs)]
            found += assert_same(values, images, predictor)
    assert found > 100


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small", "resnet50-fpn"])
def test_compiled_steps_have_the_same_gradients(name):
    """No further from float64 than four times what those of PyTorch's own kernels are.

    Where an input of a ReLU rounds to the other side of zero, all gradients below it change, with
    either kind of kernels; so it is the middle one of five batches that counts.
    """
    model = make(name).train()
    wide, compiled = copy.deepcopy(model).double(), torch.compile(model, fullgraph=True)
    errors = []
    for _ in range(5):
        images = batch()
        losses, grads = step(model, compiled, images)
        usual_losses, usual = step(model, model, images)
        torch.testing.assert_close(losses, usual_losses)
        in_wide = dataclasses.replace(images, pixels=images.pixels.double())
        exact = flat(step(wide, wide, in_wide)[1])
        errors.append([(flat(found) - exact).norm() / exact.norm() for found in (grads, usual)])
    error, usual_error = torch.tensor(errors).median(0).values
    assert error <= 4 * usual_error < 1e-2


def flat(values: dict[str, Tensor]) -> Tensor:
    return torch.cat([values[name].double().flatten() for name in sorted(values)])
