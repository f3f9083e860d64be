"""VGG, Inception and MobileNet: torchvision's features, and what necks expect of a backbone."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mrcnn.config import ModelConfig
from mrcnn.models import build
from mrcnn.models.backbones.inception import INCEPTIONS, Inception
from mrcnn.models.backbones.mobilenet import MOBILENETS, MobileNet, folded_to_frozen
from mrcnn.models.backbones.vgg import VGG, VGGS
from mrcnn.models.fpn import FPN
from mrcnn.models.layers import FrozenBatchNorm
from mrcnn.numerics import NUMERICS

MAKE = {
    **{name: partial(VGG, name) for name in VGGS},
    **{name: partial(Inception, name) for name in INCEPTIONS},
    **{name: partial(MobileNet, name) for name in MOBILENETS},
}
PLAIN = [name for name, (_, with_norms) in VGGS.items() if not with_norms]
DEFAULT_NORM = {name: "none" if name in PLAIN else "batch" for name in MAKE}
SLOW = ["vgg13", "vgg16", "vgg19", "vgg13_bn", "vgg16_bn", "vgg19_bn"]  # others are built alike


def cases(*rows: tuple[str, ...]) -> list:
    """Parameters of tests whose first one is a name; those of slow networks are marked."""
    return [pytest.param(*row, marks=[pytest.mark.slow] * (row[0] in SLOW)) for row in rows]


PUBLISHED = cases(*([name] for name in MAKE if name != "inception_v3_narrow"))  # by torchvision
VARIANTS = cases(
    *(
        (name, norm)
        for name in MAKE
        for norm in (["none"] if name in PLAIN else ["frozen_batch", "batch", "group_of_8"])
    )
)


def randomised(model: nn.Module, pixels: torch.Tensor) -> nn.Module:
    """Values as large as trained ones everywhere, so that each of them matters."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.momentum = 1.0  # the statistics become those of `pixels`
    with torch.no_grad():
        model.train()(pixels)
    return model.eval()


def pad_as_ours(inception: nn.Module, monkeypatch) -> None:
    """Padding of 1 where torchvision's Inception has none around a 3 x 3 window."""
    unpadded = [
        module
        for module in inception.modules()
        if isinstance(module, nn.Conv2d)
        and module.kernel_size == (3, 3)
        and module.padding == (0, 0)
    ]
    assert len(unpadded) == 7  # three in the stem, two in each of Mixed_6a and Mixed_7a
    for module in unpadded:
        module.padding = (1, 1)
    inception.maxpool1.padding = inception.maxpool2.padding = 1
    padded = SimpleNamespace(
        max_pool2d=partial(F.max_pool2d, padding=1), avg_pool2d=F.avg_pool2d, relu=F.relu
    )
    monkeypatch.setattr("torchvision.models.inception.F", padded)


def torchvision_model(name: str) -> tuple[nn.Module, list[nn.Module]]:
    """Torchvision's network, and the layers of it whose outputs are the maps."""
    models = pytest.importorskip("torchvision").models
    if name in VGGS:
        letter = {"11": "A", "13": "B", "16": "D", "19": "E"}[name[3:5]]
        layers = models.vgg.make_layers(models.vgg.cfgs[letter], name.endswith("_bn"))
        pools = [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
        places = [pools[2] - 1, pools[3] - 1, pools[4] - 1, pools[4]]
        return nn.ModuleDict({"features": layers}), [layers[i] for i in places]
    if name in INCEPTIONS:
        model = models.inception_v3(weights=None, aux_logits=False, init_weights=False)
        return model, [model.Conv2d_4a_3x3, model.Mixed_5d, model.Mixed_6e, model.Mixed_7c]
    model = models.mobilenet_v2(weights=None)
    return model, [model.features[i] for i in (3, 6, 13, 17)]


def maps_of(model: nn.Module, layers: list[nn.Module], pixels: torch.Tensor) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    hooks = [layer.register_forward_hook(lambda _m, _x, y: found.append(y)) for layer in layers]
    with torch.no_grad():
        model(pixels)
    for hook in hooks:
        hook.remove()
    return found


def difference(maps: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    """The largest one of any map, relative to that map's largest value."""
    assert [x.shape for x in maps] == [x.shape for x in others]
    assert all(x.std() > 0.1 for x in others)  # so that equality says something
    return max(
        float((x - y).abs().max() / y.abs().max()) for x, y in zip(maps, others, strict=True)
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_features_are_torchvisions(name, monkeypatch):
    """In float64 to rounding; in float32 no further from that than torchvision is.

    Deep networks of random weights amplify rounding by some hundred times, float64's to 1e-13. The
    largest of thousands of errors varies little; ours are of other products, so may be twice.
    """
    torch.manual_seed(0)
    theirs, layers = torchvision_model(name)
    run = theirs["features"] if name in VGGS else theirs
    if name in INCEPTIONS:
        pad_as_ours(theirs, monkeypatch)
    randomised(run, torch.randn(2, 3, 64, 96))
    inputs = [torch.randn(1, 3, 64, 96), torch.randn(1, 3, 96, 32)]
    rounded = [maps_of(run, layers, pixels) for pixels in inputs]
    run.double()
    exact = [maps_of(run, layers, pixels.double()) for pixels in inputs]
    run.float()
    for norm in ["none"] if name in PLAIN else ["frozen_batch", "batch"]:
        body = MAKE[name](norm=norm).eval()
        missing, unexpected = body.load_state_dict(theirs.state_dict(), strict=False)
        assert missing == []
        assert [
            key
            for key in unexpected
            if not key.startswith(("fc.", "classifier.", "features.18."))
            and not (norm == "frozen_batch" and key.endswith(".num_batches_tracked"))
        ] == []
        for pixels, maps, truth in zip(inputs, rounded, exact, strict=True):
            with torch.no_grad():
                fused = body(pixels)
                wide = body.double()(pixels.double())
            layered = [x.detach() for x in body.float()(pixels)]
            assert difference(wide, truth) < 1e-12
            assert difference(fused, truth) <= 2 * difference(maps, truth)
            assert difference(layered, truth) <= 2 * difference(maps, truth)


def test_inception_inside_is_torchvisions_without_padding():
    """Cells of ours are earlier cells of torchvision's on pixels from 3 on.

    Windows without padding start 1 cell later, at strides 1, 2 (two cells by then), 4 and 4: cell i
    is centred at pixel 4 i + 9 and 8 i + 13 of what they see, ours at 4 i and 8 i.
    """
    torch.manual_seed(0)
    pixels = torch.randn(1, 3, 256, 256)
    theirs, layers = torchvision_model("inception_v3")
    randomised(theirs, pixels).double()
    body = Inception("inception_v3", norm="frozen_batch", stages=2)
    body.load_state_dict(theirs.state_dict(), strict=False)
    fine, coarse = maps_of(theirs, layers[:2], pixels[:, :, 3:, 3:].double())
    with torch.no_grad():
        our_fine, our_coarse = body.double().eval()(pixels.double())
    # Padding, ours or theirs, reaches cells up to 3 and from 62 on at stride 4. Pooling takes that
    # to 2 and 31 at stride 8, and each of the three blocks 2 cells further.
    assert difference([our_fine[:, :, 4:62, 4:62]], [fine[:, :, 1:59, 1:59]]) < 1e-12
    assert difference([our_coarse[:, :, 9:25, 9:25]], [coarse[:, :, 7:23, 7:23]]) < 1e-12


@pytest.mark.parametrize(
    ("name", "count"),
    [  # as published, less the classifiers
        ("vgg11", 132_863_336 - 123_642_856),
        ("vgg13", 133_047_848 - 123_642_856),
        ("vgg16", 138_357_544 - 123_642_856),
        ("vgg19", 143_667_240 - 123_642_856),
        ("vgg11_bn", 132_868_840 - 123_642_856),
        ("vgg13_bn", 133_053_736 - 123_642_856),
        ("vgg16_bn", 138_365_992 - 123_642_856),
        ("vgg19_bn", 143_678_248 - 123_642_856),
        ("inception_v3", 27_161_264 - 3_326_696 - 2_049_000),
        ("mobilenet_v2", 3_504_872 - 412_160 - 1_281_000),
    ],
)
def test_parameters_are_as_many_as_published(name, count):
    assert sum(p.numel() for p in MAKE[name](norm=DEFAULT_NORM[name]).parameters()) == count


@pytest.mark.parametrize(("name", "norm"), VARIANTS)
def test_pyramid_has_exact_strides_and_gradients_everywhere(name, norm):
    torch.manual_seed(0)
    body = MAKE[name](norm=norm)
    assert body.strides == [4, 8, 16, 32]
    maps = body(torch.randn(2, 3, 64, 96))
    expected = [(2, c, 64 // s, 96 // s) for c, s in zip(body.channels, body.strides, strict=True)]
    assert [tuple(x.shape) for x in maps] == expected
    neck = FPN(body, 32)
    levels = neck.merge(maps)
    assert [tuple(x.shape[2:]) for x in levels.values()] == [
        (16, 24),
        (8, 12),
        (4, 6),
        (2, 3),
        (1, 2),
    ]
    torch.stack([x.square().mean() for x in levels.values()]).sum().backward()
    for key, parameter in neck.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize("name", ["vgg11", "vgg11_bn", "inception_v3_narrow", "mobilenet_v2"])
def test_fewer_stages_are_the_first_ones(name):
    whole = MAKE[name](norm=DEFAULT_NORM[name]).eval()
    pixels = torch.randn(1, 3, 64, 96)
    for stages in (1, 2, 3):
        part = MAKE[name](norm=DEFAULT_NORM[name], stages=stages).eval()
        missing, _ = part.load_state_dict(whole.state_dict(), strict=False)
        assert missing == []
        assert part.strides == whole.strides[:stages]
        assert part.channels == whole.channels[:stages]
        with torch.no_grad():
            torch.testing.assert_close(part(pixels), whole(pixels)[:stages], atol=0, rtol=0)


FIRST_TRAINED = {  # the first convolution that trains with 0, 1, 2, … frozen parts
    "vgg16": ["features.0", "features.10", "features.17", "features.24", None, None],
    "vgg16_bn": ["features.0", "features.14", "features.24", "features.34", None, None],
    "inception_v3_narrow": [
        "Conv2d_1a_3x3.conv",
        "Conv2d_3b_1x1.conv",
        "Mixed_5b.branch1x1.conv",
        "Mixed_6a.branch3x3.conv",
        "Mixed_7a.branch3x3_1.conv",
        None,
    ],
    "mobilenet_v2": [
        "features.0.0",
        "features.2.conv.0.0",
        "features.4.conv.0.0",
        "features.7.conv.0.0",
        "features.14.conv.0.0",
        None,
    ],
}


@pytest.mark.parametrize("name", FIRST_TRAINED)
@pytest.mark.parametrize("frozen", range(6))
def test_frozen_stages_keep_their_weights(name, frozen):
    body = MAKE[name](norm=DEFAULT_NORM[name], frozen_stages=frozen)
    trained = [key for key, p in body.named_parameters() if p.requires_grad]
    keys = [key for key, _ in body.named_parameters()]
    first = FIRST_TRAINED[name][frozen]
    assert trained == ([] if first is None else keys[keys.index(f"{first}.weight") :])


@pytest.mark.parametrize("numerics", NUMERICS)
@pytest.mark.parametrize("norm", ["batch", "sync_batch"])
def test_batch_norm_of_frozen_stages(norm, numerics):
    """Only in torchvision do frozen stages normalise by the batch, and gather its statistics."""
    config = ModelConfig(class_names=("a",), backbone="resnet18", norm=norm, numerics=numerics)
    body = build(config).backbone.body
    body.train(False).train()
    torch.manual_seed(0)
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
    before = {key: value.clone() for key, value in body.named_buffers() if "mean" in key}
    body(torch.randn(2, 3, 64, 64))
    changed = {
        key
        for key, value in body.named_buffers()
        if key in before
        if not torch.equal(value, before[key])
    }
    frozen = {key for key in before if key.startswith(("bn1", "layer1"))}
    assert changed == (set(before) if numerics == "torchvision" else set(before) - frozen)

    stem = body.run_stem(pixels := torch.randn(2, 3, 64, 64))
    mean, variance = body.bn1.running_mean, body.bn1.running_var
    x = F.conv2d(pixels, body.conv1.weight, stride=2, padding=3)
    if numerics == "torchvision":
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    x = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
    torch.testing.assert_close(stem, F.max_pool2d(x.relu(), 3, 2, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vgg11_bn", "inception_v3_narrow", "mobilenet_v2"])
def test_a_step_changes_what_is_not_frozen(name):
    torch.manual_seed(0)
    body = MAKE[name](norm="group_of_8", frozen_stages=2)
    before = {key: p.clone() for key, p in body.named_parameters()}
    sum((x * torch.randn_like(x)).sum() for x in body(torch.randn(1, 3, 64, 96))).backward()
    torch.optim.SGD(body.parameters(), lr=0.1).step()
    for key, parameter in body.named_parameters():
        assert torch.equal(parameter, before[key]) == (not parameter.requires_grad), key


@pytest.mark.parametrize(("name", "norm"), VARIANTS)
def test_channels_last_stays_and_changes_nothing(name, norm):
    torch.manual_seed(0)
    body = MAKE[name](norm=norm).eval()
    pixels = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = body(pixels)
        body.to(memory_format=torch.channels_last)
        maps = body(pixels.contiguous(memory_format=torch.channels_last))
    for x, other in zip(maps, expected, strict=True):
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert (x - other).abs().max() <= 1e-5 * other.abs().max()


@pytest.mark.parametrize("name", ["inception_v3", "inception_v3_narrow", "mobilenet_v2"])
def test_groups_that_do_not_divide_channels_are_named(name):
    words = rf"backbone '{name}' has a layer of \d+ channels, which norm 'group'"
    with pytest.raises(ValueError, match=words):
        MAKE[name](norm="group")


def test_vgg_with_32_groups():
    assert len(VGG("vgg11_bn", norm="group")(torch.randn(1, 3, 64, 96))) == 4


def test_norms_of_vgg_are_those_of_its_name():
    with pytest.raises(ValueError, match="backbone 'vgg16' has no norms, got norm 'batch'"):
        VGG("vgg16", norm="batch")
    with pytest.raises(ValueError, match="backbone 'vgg16_bn' has norms, got norm 'none'"):
        VGG("vgg16_bn", norm="none")


def test_norm_eps_reaches_every_norm():
    for name in ["vgg11_bn", "inception_v3_narrow", "mobilenet_v2"]:
        body = MAKE[name](norm="frozen_batch", norm_eps=0.25)
        norms = [m for m in body.modules() if isinstance(m, FrozenBatchNorm)]
        assert {norm.eps for norm in norms} == {0.25}
        assert len(norms) == sum(isinstance(m, nn.Conv2d) for m in body.modules())


def run_folded(folded: dict[str, torch.Tensor], x: torch.Tensor) -> list[torch.Tensor]:
    """MobileNetV2 without norms, straight from its tensors; the results of blocks 3, 6, 13, 17."""
    maps = []
    for block in range(18):
        names = [key[:-7] for key in folded if key.startswith(f"{block}.") and "weight" in key]
        y = x
        for i, name in enumerate(names):
            weight, bias = folded[f"{name}.weight"], folded[f"{name}.bias"]
            size, depthwise = weight.shape[2], weight.shape[1] == 1
            stride = 2 if block in (0, 2, 4, 7, 14) and size == 3 else 1
            groups = len(weight) if depthwise else 1
            y = F.conv2d(y, weight, bias, stride, size // 2, groups=groups)
            if block == 0 or i < len(names) - 1:
                y = y.clamp(0, 6)
        x = x + y if x.shape == y.shape else y
        if block in (3, 6, 13, 17):
            maps.append(x)
    return maps


def test_mobilenet_takes_weights_with_folded_norms(shared_data):
    from mrcnn.data.images import read_image

    folded = torch.load(
        shared_data / "weights" / "mobilenet_v2_1.0_224_quant_features.pt", weights_only=True
    )
    body = MobileNet("mobilenet_v2", norm="frozen_batch").eval()
    missing, unexpected = body.load_state_dict(folded_to_frozen(folded, 1e-5), strict=False)
    assert missing == []
    assert all(key.startswith("features.18.") for key in unexpected)
    image = read_image(min((shared_data / "coco_mini").rglob("*.jpg")))
    crop = torch.from_numpy(image[:192, :256].copy()).permute(2, 0, 1)[None]
    pixels = crop / 127.5 - 1
    with torch.no_grad():
        maps = body(pixels)
    assert difference(maps, run_folded(folded, pixels)) < 1e-5
    for x in maps:
        assert x.std((0, 2, 3)).min() > 0  # every channel sees something
