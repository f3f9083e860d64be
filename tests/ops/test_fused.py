"""Products that end in a sum or a ReLU equal the same in steps, whichever way they are computed."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mrcnn.config import MODELS, ModelConfig
from mrcnn.models import build
from mrcnn.models.backbones.resnet import ResNet
from mrcnn.models.layers import FrozenBatchNorm, conv, fold_norms
from mrcnn.ops.fused import conv2d, linear
from tests.models.test_fixed_shapes import images

UNIT = 2.0**-24  # rounding of float32


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("with_add", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("kernel", "stride", "groups"), [(1, 1, 1), (3, 2, 1), (3, 1, 2)])
def test_conv2d_equals_its_steps(grad, with_add, relu, layout, kernel, stride, groups):
    torch.manual_seed(0)
    x = torch.randn(2, 6, 9, 11).to(memory_format=layout)
    weight = torch.randn(8, 6 // groups, kernel, kernel).to(memory_format=torch.channels_last)
    bias, pad = torch.randn(8), kernel // 2
    how = ((stride, stride), (pad, pad), (1, 1), groups)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), *how)
    size = F.conv2d(x.double().abs(), weight.double().abs(), bias.double().abs(), *how)
    add = torch.randn(expected.shape).to(memory_format=layout) if with_add else None
    if add is not None:
        expected, size = expected + add, size + add.abs()
    if relu:
        expected = expected.relu()
    found = conv2d(x, weight.requires_grad_(grad), bias, *how, add=add, relu=relu)
    assert found.requires_grad == grad
    terms = weight[0].numel() + 2  # each addition rounds once
    assert ((found - expected).abs() <= terms * UNIT * size).all()


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_linear_equals_its_steps(grad, relu):
    x, weight, bias = torch.randn(5, 7), torch.randn(3, 7), torch.randn(3)
    expected = F.linear(x.double(), weight.double(), bias.double())
    expected = expected.relu() if relu else expected
    size = F.linear(x.double().abs(), weight.double().abs(), bias.double().abs())
    found = linear(x, weight.requires_grad_(grad), bias, relu=relu)
    assert found.requires_grad == grad
    assert ((found - expected).abs() <= 8 * UNIT * size).all()


def test_empty_batches_pass():
    with torch.no_grad():
        x = torch.empty(0, 4, 5, 5)
        how = ((1, 1), (1, 1))
        assert conv2d(x, torch.ones(2, 4, 3, 3), None, *how, relu=True).shape == (0, 2, 5, 5)
        assert linear(torch.empty(0, 4), torch.ones(2, 4), torch.ones(2)).shape == (0, 2)


def frozen_norm(channels: int) -> FrozenBatchNorm:
    norm = FrozenBatchNorm(channels)
    for value in norm.buffers():
        value.uniform_(0.5, 2)
    return norm


def test_a_frozen_norm_is_folded_with_its_gradients():
    torch.manual_seed(0)
    layer, norm = torch.nn.Conv2d(6, 8, 3, bias=False).double(), frozen_norm(8).double()
    x = torch.randn(2, 6, 9, 11, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 8, 7, 9)
    found, expected = (
        torch.autograd.grad((y * weight).sum(), (x, layer.weight))
        for y in (conv(x, layer, norm, relu=True), norm(layer(x)).relu())
    )
    # Each side rounds each of up to 126 terms, of size up to 20, a handful of times in float64.
    torch.testing.assert_close(found, expected, atol=2 * 126 * 5 * 20 * 2.0**-53, rtol=0)


def test_a_folded_norm_is_never_out_of_date():
    layer, norm = torch.nn.Conv2d(6, 8, 3, bias=False), frozen_norm(8)
    x, names = torch.randn(1, 6, 5, 5), list(norm.state_dict())
    with torch.no_grad():
        conv(x, layer, norm)
        layer.weight.mul_(2)
        norm.load_state_dict(frozen_norm(8).state_dict())
        found, expected = conv(x, layer, norm), norm(layer(x))
        # 54 terms and the norm round a handful of times each; old weights would be off by half.
        torch.testing.assert_close(found, expected, atol=54 * 8 * UNIT, rtol=54 * UNIT)
    assert list(norm.state_dict()) == names


@pytest.mark.parametrize("norm", ["frozen_batch", "batch", "group"])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_fused_stages_equal_those_in_steps(name, norm):
    """Sums in place leave the maps of all stages, and the pixels, as they are."""
    torch.manual_seed(0)
    body = ResNet(name, norm=norm).eval()
    pixels = torch.randn(2, 3, 64, 96)
    kept = pixels.clone()
    with torch.no_grad():
        fused = body(pixels)
    assert torch.equal(pixels, kept)
    steps = body(pixels)
    exact = body.double()(pixels.double())
    for found, in_steps, expected in zip(fused, steps, exact, strict=True):
        # The same roundings in another order; a wrong map is off by its own size, 10^6 times more.
        error, usual = (float((x - expected).detach().abs().max()) for x in (found, in_steps))
        assert error <= 4 * usual


def randomise_norms(model: torch.nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm | torch.nn.BatchNorm2d):
            for name, value in module.state_dict().items():
                if value.is_floating_point():
                    value.uniform_(*((-0.5, 0.5) if name in ("bias", "running_mean") else (0.5, 2)))


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("resnet18", "frozen_batch"),
        ("resnet50", "batch"),
        ("resnext50_32x4d", "frozen_batch"),
        ("mobilenet_v2", "batch"),
        ("inception_v3_narrow", "frozen_batch"),
        ("vgg11_bn", "batch"),
        ("vgg11", "none"),
        ("resnet18", "group"),
    ],
)
def test_norms_folded_once_leave_features_as_they_are(name, norm):
    torch.manual_seed(0)
    config = ModelConfig(backbone=name, norm=norm, class_names=("a",), fpn_channels=16)
    backbone = build(config).backbone.double().eval()
    randomise_norms(backbone)
    pixels = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        expected = backbone(pixels)
        fold_norms(backbone)
        found = backbone(pixels)
    left = [m for m in backbone.modules() if isinstance(m, FrozenBatchNorm | torch.nn.BatchNorm2d)]
    assert left == []
    # Weights are scaled by the same product at every call before, and once after.
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


def test_detections_of_a_folded_model_are_the_same():
    """With live norms in the heads, too, in float32."""
    torch.manual_seed(0)
    model = build(
        dataclasses.replace(
            MODELS["small-imagenet"],
            class_names=("disc", "square"),
            head_norm="batch",
            box_head_convs=1,
            score_threshold=0.0,
            max_detections=20,
        )
    ).eval()
    randomise_norms(model)
    batch = images()
    with torch.no_grad():
        expected = model(batch)
        fold_norms(model)
        found = model(batch)
    for field in dataclasses.fields(found):
        of = field.name
        torch.testing.assert_close(getattr(found, of), getattr(expected, of), atol=0, rtol=0)


@torch.no_grad()
def test_group_norm_of_maps_far_from_zero():
    """A mean of 100 standard deviations costs the digits of float32 at 100, no more."""
    torch.manual_seed(0)
    layer, norm = nn.Conv2d(16, 64, 1), nn.GroupNorm(8, 64)
    layer.bias.fill_(100)
    x = torch.randn(2, 16, 40, 48).contiguous(memory_format=torch.channels_last)
    actual = conv(x, layer, norm, relu=True)
    assert actual.is_contiguous(memory_format=torch.channels_last)
    expected = norm.double()(layer.double()(x.double())).relu()
    spacing = torch.finfo(torch.float32).eps * 100 / 0.5  # the deviation of the map is about 0.58
    assert (actual - expected).abs().max() < 10 * spacing
