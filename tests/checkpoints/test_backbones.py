"""ImageNet weights to start from, under the names of each framework."""

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from mrcnn.checkpoints import (
    config_to_train,
    fitting_models,
    load_backbone,
    load_pretrained,
    read_pretrained,
)
from mrcnn.config import MODELS, ModelConfig
from mrcnn.errors import UserError
from mrcnn.models import build
from mrcnn.models.backbones.mobilenet import MobileNet
from mrcnn.models.backbones.resnet import ResNet
from mrcnn.models.build import BACKBONES
from mrcnn.training.options import choose_model, parse_options

PLAIN = ModelConfig(class_names=("a",))


def body(name: str = "resnet50", **options) -> dict[str, torch.Tensor]:
    """A state dict with values that tell tensors apart."""
    generator = torch.Generator().manual_seed(0)
    state = ResNet(name, norm="frozen_batch", **options).state_dict()
    return {k: torch.rand(v.shape, generator=generator) + 0.5 for k, v in state.items()}


def detectron2(name: str) -> str:
    """`layer1.0.bn1.weight` as Detectron2 has it."""
    for stage in "4321":
        name = name.replace(f"layer{stage}.", f"res{int(stage) + 1}.")
    for i in "123":
        name = name.replace(f"bn{i}.", f"conv{i}.norm.")
    name = name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
    return name if name.startswith("res") else f"stem.{name}"


def caffe2(name: str) -> str:
    """`layer1.0.bn1.weight` as Detectron has it."""
    layer, kind = name.rsplit(".", 1)
    end = (
        {"weight": "s", "bias": "b"}[kind]
        if "bn" in layer or layer.endswith("downsample.1")
        else "w"
    )
    if layer in ("conv1", "bn1"):
        return {"conv1": "conv1_w", "bn1": f"res_conv1_bn_{end}"}[layer]
    stage, block, *rest = layer.split(".")
    start = f"res{int(stage[5]) + 1}_{block}_branch"
    if rest[0] == "downsample":
        return f"{start}1_{'bn_' if rest[1] == '1' else ''}{end}"
    return f"{start}2{'abc'[int(rest[0][-1]) - 1]}_{'bn_' if 'bn' in rest[0] else ''}{end}"


def written(path: Path, state: dict[str, torch.Tensor], **facts) -> Path:
    content = {"model": {k: v.numpy() for k, v in state.items()}, **facts}
    path.write_bytes(pickle.dumps(content if facts else content["model"], protocol=2))
    return path


def started(path: Path, config: ModelConfig = PLAIN):
    start = read_pretrained(path)
    config = config_to_train(start, config, PLAIN)
    torch.manual_seed(0)
    model = build(config)
    return model, config, load_pretrained(model, config, start)


def test_detectron2s_file_of_torchvision(tmp_path):
    state = body()
    named = {detectron2(k): v for k, v in state.items()} | {"stem.fc.weight": torch.zeros(2, 2)}
    path = written(tmp_path / "R-50.pkl", named, __author__="torchvision", matching_heuristics=True)
    model, config, _ = started(path)
    for name, value in model.backbone.body.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert config == PLAIN


def test_caffe2s_file_of_msra(tmp_path):
    """Pixels blue, green, red without a deviation; strides in the 1 x 1; norms that only add."""
    state = body()
    named = {caffe2(k): v for k, v in state.items() if "running" not in k}
    named |= {"fc1000_w": torch.zeros(2, 2), "fc1000_b": torch.zeros(2)}
    model, config, notes = started(written(tmp_path / "R-50.pkl", named))
    assert (config.stride_in_1x1, config.pixel_std) == (True, (1.0, 1.0, 1.0))
    found = model.backbone.body.state_dict()
    assert torch.equal(found["conv1.weight"], state["conv1.weight"].flip(1))
    for name in ("layer1.0.conv2.weight", "layer4.2.bn3.bias", "layer2.0.downsample.0.weight"):
        assert torch.equal(found[name], state[name]), name
    assert (found["layer3.0.bn2.running_mean"] == 0).all()
    norm, x = model.backbone.body.layer3[0].bn2, torch.randn(1, 256, 3, 3)
    scale, shift = (state[f"layer3.0.bn2.{of}"][:, None, None] for of in ("weight", "bias"))
    torch.testing.assert_close(norm(x), x * scale + shift)
    assert any("blue, green, red" in note for note in notes)
    assert not any("random" in note for note in notes)


def test_caffe2s_resnext(tmp_path):
    state = body("resnext101_32x8d")
    named = {caffe2(k): v for k, v in state.items() if "running" not in k}
    config = dataclasses.replace(PLAIN, backbone="resnext101_32x8d")
    model, config, _ = started(written(tmp_path / "X-101.pkl", named), config)
    assert (config.stride_in_1x1, config.pixel_std) == (False, PLAIN.pixel_std)
    found = model.backbone.body.layer3[22].conv2.weight
    assert torch.equal(found, state["layer3.22.conv2.weight"])


def test_the_last_stage_of_a_c4_model_is_in_its_heads(tmp_path):
    state = body() | {"fc.weight": torch.zeros(2, 2048)}  # torchvision's and timm's names
    torch.save(state, tmp_path / "resnet50.pth")
    config = dataclasses.replace(MODELS["resnet50-c4"], class_names=("a",))
    model, _, notes = started(tmp_path / "resnet50.pth", config)
    assert torch.equal(model.box_head.pooler.conv5[2].conv3.weight, state["layer4.2.conv3.weight"])
    assert torch.equal(model.backbone.body.layer3[5].bn1.bias, state["layer3.5.bn1.bias"])
    assert not any("random" in note or "not in the model" in note for note in notes)


def test_folded_mobilenet(shared_data):
    """The maps are those of the file's convolutions, one after another."""
    path = shared_data / "weights" / "mobilenet_v2_1.0_224_quant_features.pt"
    start = read_pretrained(path)
    assert start.fields == {"pixel_mean": (127.5,) * 3, "pixel_std": (127.5,) * 3}
    network = MobileNet("mobilenet_v2", norm="frozen_batch")
    notes = load_backbone(network, path)
    assert not any("random" in note for note in notes)
    stored = torch.load(path, weights_only=True)
    pixels = torch.rand(1, 3, 64, 64) * 2 - 1
    expected = torch.nn.functional.conv2d(
        pixels, stored["0.0.weight"], stored["0.0.bias"], 2, 1
    ).clamp(0, 6)
    stem = network.features[0]
    found = stem[1](stem[0](pixels)).clamp(0, 6)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert all(x.std() > 0 for x in network(pixels))


def test_mobilenet_of_timm(tmp_path):
    """Its layers come in the same order, so that their shapes and values tell where they went."""
    own = MobileNet("mobilenet_v2", norm="frozen_batch").state_dict()
    values = {name: torch.rand(tensor.shape) for name, tensor in own.items()}
    named, stage, within, stride_2 = {}, 0, 0, (2, 4, 7, 14)
    for k in range(18):
        layers = {name: v for name, v in values.items() if name.startswith(f"features.{k}.")}
        if k in (*stride_2, 11, 17):  # where a row of table 2 of the paper begins
            stage, within = stage + 1, 0
        for name, value in layers.items():
            place, kind = name.removeprefix(f"features.{k}.").rsplit(".", 1)
            if k == 0:
                theirs = {"0": "conv_stem", "1": "bn1"}[place]
            else:
                first = {
                    "conv.0.0": "conv_dw",
                    "conv.0.1": "bn1",
                    "conv.1": "conv_pw",
                    "conv.2": "bn2",
                }
                later = {"conv.0.0": "conv_pw", "conv.0.1": "bn1", "conv.1.0": "conv_dw"}
                later |= {"conv.1.1": "bn2", "conv.2": "conv_pwl", "conv.3": "bn3"}
                theirs = f"blocks.{stage}.{within}.{(first if k == 1 else later)[place]}"
            named[f"{theirs}.{kind}"] = value
        within += k > 0
    named |= {"conv_head.weight": torch.rand(1280, 320, 1, 1), "bn2.weight": torch.rand(1280)}
    torch.save(named | {"classifier.weight": torch.rand(2, 1280)}, tmp_path / "timm.pth")
    network = MobileNet("mobilenet_v2", norm="frozen_batch")
    notes = load_backbone(network, tmp_path / "timm.pth")
    assert len(notes) == 1
    for name, value in network.state_dict().items():
        assert torch.equal(value, values[name]), name


@pytest.mark.parametrize(
    ("backbone", "norm", "models"),
    [
        ("resnet18", "frozen_batch", ["small-imagenet", "resnet18-fpn"]),
        ("resnet18", "group_of_8", ["small", "small-roipool"]),
        ("resnet34", "frozen_batch", ["resnet34-fpn"]),
        ("resnet50", "batch", ["resnet50-fpn", "resnet50-c4", "resnet50-dc5", "resnet50-fpn-v2"]),
        ("resnet50", "group", ["resnet50-gn-fpn"]),
        ("resnet101", "frozen_batch", ["resnet101-fpn"]),
        ("resnext101_32x8d", "frozen_batch", ["resnext101-fpn"]),
        ("mobilenet_v2", "frozen_batch", ["small-mobilenet", "mobilenet-fpn"]),
        ("vgg16", "none", ["vgg16-fpn", "vgg16"]),
        ("vgg11_bn", "frozen_batch", []),
        ("inception_v3", "frozen_batch", ["inception-fpn"]),
    ],
)
def test_models_that_weights_fit(backbone, norm, models):
    with torch.device("meta"):
        state = BACKBONES[backbone](norm=norm).state_dict()
    state |= {"fc.weight": torch.zeros(2, 2), "classifier.0.weight": torch.zeros(2, 2)}
    found = fitting_models(state)
    assert [
        name for name in found if not name.endswith(("-c4", "-dc5")) or name in models
    ] == models


def test_a_model_that_weights_do_not_fit_is_refused(tmp_path):
    """Before a step is trained, with the models that they fit."""
    torch.save(body("resnet18"), tmp_path / "resnet18.pth")
    small = dataclasses.replace(MODELS["small"], class_names=("a",))
    message = r"holds bn1\.running_mean, which the model does not have; it fits --model small-imag"
    with pytest.raises(UserError, match=message):
        started(tmp_path / "resnet18.pth", small)
    with pytest.raises(UserError, match=r"lacks layer1\.0\.conv3\.weight|layer1\.0.* has shape"):
        started(tmp_path / "resnet18.pth")


def test_training_chooses_the_model_of_a_backbone(tmp_path):
    torch.save(body("resnet18"), tmp_path / "resnet18.pth")
    weights = read_pretrained(tmp_path / "resnet18.pth")
    chosen, notes = choose_model(parse_options([]), weights)
    assert chosen.model == "small-imagenet"
    assert notes[0].startswith("--model small-imagenet, because ")
    for flags in (["--model", "resnet18-fpn"], ["--recipe", "1x"]):
        options = parse_options(flags)
        chosen, notes = choose_model(options, weights)
        assert chosen.model == ("resnet18-fpn" if "--model" in flags else "small-imagenet")
        assert bool(notes) is ("--recipe" in flags)
    torch.save(body("resnet50"), tmp_path / "resnet50.pth")
    options = parse_options(["--recipe", "1x"])
    assert choose_model(options, read_pretrained(tmp_path / "resnet50.pth")) == (options, [])


def test_a_deep_stem_is_refused(tmp_path):
    state = body("resnet18") | {
        "conv1.0.weight": torch.zeros(32, 3, 3, 3),
        "se.weight": torch.zeros(1),
    }
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a\.pth: holds .*se\.weight.*, which the backbone"):
        load_backbone(ResNet("resnet18", norm="frozen_batch"), tmp_path / "a.pth")


def test_weights_of_other_widths_are_refused(tmp_path):
    path = written(tmp_path / "a.pkl", {"conv1_w": torch.zeros(32, 3, 7, 7)})
    with pytest.raises(UserError, match=r"conv1\.weight has shape \(32, 3, 7, 7\)"):
        load_backbone(ResNet("resnet18", norm="frozen_batch"), path)


def test_fine_tuning_takes_the_model_of_the_weights(tmp_path):
    from mrcnn.checkpoints import Checkpoint
    from mrcnn.checkpoints.foreign.write import export_checkpoint

    config = dataclasses.replace(
        MODELS["resnet18-fpn"], class_names=("a", "b"), category_ids=(1, 2), numerics="torchvision"
    )
    torch.manual_seed(0)
    source = build(config)
    state, _ = export_checkpoint("torchvision", Checkpoint(source.state_dict(), config, {}, {}))
    torch.save({"model": state, "epoch": np.int64(3)}, tmp_path / "theirs.pth")
    start = read_pretrained(tmp_path / "theirs.pth")
    chosen = config_to_train(start, None, MODELS["small"])
    assert (chosen.backbone, chosen.numerics, chosen.num_classes) == ("resnet18", "torchvision", 2)
    other = dataclasses.replace(chosen, class_names=("x", "y", "z"), category_ids=(1, 2, 3))
    model = build(other)
    notes = load_pretrained(model, other, start)
    assert any("the layers that predict classes start from scratch" in note for note in notes)
    assert torch.equal(model.box_head.layers[0].weight, source.box_head.layers[0].weight)
