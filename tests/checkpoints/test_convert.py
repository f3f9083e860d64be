"""The command `mrcnn convert`: import from and export to other frameworks."""

import dataclasses
import re

import pytest
import torch

import mrcnn
from mrcnn import checkpoints
from mrcnn.config import MODELS
from mrcnn.convert import main
from mrcnn.errors import UserError
from mrcnn.models import build
from tests.helpers import foreign_states
from tests.helpers.foreign_states import with_values
from tests.helpers.matching import Boxes, one_to_one
from tests.helpers.random_detectors import random_image


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """Files of torchvision and Detectron2, ResNet-18 of few classes, and a run of mrcnn."""
    folder = tmp_path_factory.mktemp("foreign")
    torch.save(with_values(foreign_states.torchvision(18, outputs=3)), folder / "torchvision.pth")
    state = with_values(foreign_states.detectron2(18, classes=2))
    torch.save(state, folder / "detectron2.pth")
    config = dataclasses.replace(
        MODELS["resnet18-fpn"], class_names=("cat", "dog"), category_ids=(3, 7)
    )
    (folder / "run").mkdir()
    checkpoints.save(
        folder / "run/best.safetensors", build(config).state_dict(), config, {"step": 1}
    )
    return folder


def convert(capsys, *arguments) -> str:
    main([str(argument) for argument in arguments])
    return capsys.readouterr().out


def test_a_checkpoint_of_a_foreign_file(capsys, tmp_path, foreign):
    target = tmp_path / "ours.safetensors"
    printed = convert(capsys, foreign / "detectron2.pth", target).splitlines()
    assert printed[0] == (
        f"{foreign / 'detectron2.pth'}: detectron2, resnet18, 4-level FPN, 2 classes"
    )
    assert printed[1] == (
        "not in the file, so assumed: norm_eps 1e-05, stride_in_1x1 True, pixel_std "
        "(1.0, 1.0, 1.0), pixels blue, green, red, class_names class 1, class 2, "
        "the sizes, anchors, thresholds of detectron2"
    )
    assert re.fullmatch(rf"\d+ tensors in {target}", printed[2])
    direct, again = checkpoints.load(foreign / "detectron2.pth"), checkpoints.load(target)
    assert (again.config, again.extra) == (direct.config, direct.extra)
    for part in ("state", "rest"):
        mine, other = getattr(direct, part), getattr(again, part)
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[name], other[name]) for name in mine)


def test_flags(capsys, tmp_path, foreign):
    target = tmp_path / "ours.safetensors"
    printed = convert(
        capsys, foreign / "detectron2.pth", target, "--bgr", "False", "--set", "norm_eps=0.001",
        "stride_in_1x1=false", "pixel_mean=[1,2,3]", "pixel_std=[4,5,6]",
        'class_names=["cat", "dog"]',
    )  # fmt: skip
    found = checkpoints.load(target)
    assert found.config.norm_eps == 0.001
    assert found.config.stride_in_1x1 is False
    assert found.config.pixel_mean == (1.0, 2.0, 3.0)
    assert found.config.pixel_std == (4.0, 5.0, 6.0)
    assert found.config.class_names == ("cat", "dog")
    assert found.extra["source"]["bgr"] is False
    assert "so assumed: the sizes, anchors, thresholds of detectron2\n" in printed
    usual = checkpoints.load(foreign / "detectron2.pth").state["backbone.body.conv1.weight"]
    assert torch.equal(found.state["backbone.body.conv1.weight"], usual.flip(1))


@pytest.mark.parametrize("framework", ["torchvision", "detectron2"])
@pytest.mark.parametrize("through", ["ours.safetensors", None])
def test_there_and_back(capsys, tmp_path, foreign, framework, through):
    source = foreign / f"{framework}.pth"
    if through:
        convert(capsys, source, tmp_path / through)
    target = tmp_path / "theirs.pth"
    printed = convert(capsys, tmp_path / through if through else source, target, "--to", framework)
    written, state = torch.load(target), torch.load(source)
    written = written["model"] if framework == "detectron2" else written
    assert sorted(written) == sorted(state)
    assert all(torch.equal(written[name], value) for name, value in state.items())
    assert f"{len(state)} tensors in {target}; to build the model in {framework}:\n" in printed
    first = {"torchvision": "MaskRCNN(", "detectron2": "configs/Base-RCNN-FPN.yaml"}[framework]
    assert printed.splitlines()[-1].startswith("  ")
    assert f"{framework}:\n  {first}" in printed


@pytest.mark.parametrize("framework", ["torchvision", "detectron2"])
def test_from_a_run_and_back(capsys, tmp_path, foreign, framework):
    """Weights are kept; category ids are not, because these files cannot contain them."""
    convert(capsys, foreign / "run", tmp_path / "theirs.pth", "--to", framework)
    state = torch.load(tmp_path / "theirs.pth")
    state = state["model"] if framework == "detectron2" else state
    torch.save(state, tmp_path / "theirs.pth")
    back, ours = checkpoints.load(tmp_path / "theirs.pth"), checkpoints.load(foreign / "run")
    assert back.state.keys() == ours.state.keys()
    assert all(torch.equal(back.state[name], value) for name, value in ours.state.items())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{detectron2}", "out.pth"], r"out\.pth: must end with \.safetensors for --to mrcnn"),
        (["{detectron2}", "out.pkl", "--to", "detectron2"], r"end with \.pth for --to detectron2"),
        (["{run}", "out.safetensors", "--to", "torchvision"], r"end with \.pth for --to torch"),
        (["{detectron2}", "out.safetensors", "--set", 'class_names=["cat"]'],
         r"detectron2\.pth: has 2 classes; class_names must have as many, got 1"),
        (["{run}", "out.safetensors", "--set", 'class_names=["cat"]'], "1 class_names need"),
        (["{detectron2}", "out.safetensors", "--set", "norm_eps=-1"], r"norm_eps must be in \[0"),
        (["{detectron2}", "out.safetensors", "--set", "norm_eps=NaN"], "norm_eps must be in"),
        (["{detectron2}", "out.safetensors", "--set", "pixel_std=[1, 0, 1]"], "pixel_std must be"),
        (["{run}", "out.safetensors", "--set", "pixel_mean=[NaN,0,1]"], "pixel_mean must be"),
        (["{detectron2}", "out.safetensors", "--set", "pixel_std=[1,Infinity,1]"], "pixel_std m"),
        (["{run}", "out.safetensors", "--set", "norm_epsilon=1"], "did you mean norm_eps"),
        (["{run}", "out.safetensors", "--set", "scale=1", "scale=2"], "scale is set twice"),
        (["{run}", "out.safetensors", "--set", "scale=wide"], "scale must be of type float"),
        (["{detectron2}", "{detectron2}/out.safetensors"], "detectron2.pth"),
        (["absent.pth", "out.safetensors"], r"absent\.pth: does not exist"),
        (["{torchvision}", "{torchvision}", "--to", "torchvision"], "it exists, and is not over"),
    ],
)  # fmt: skip
def test_refusals(tmp_path, monkeypatch, foreign, arguments, words):
    monkeypatch.chdir(tmp_path)
    places = {name: foreign / f"{name}.pth" for name in ("detectron2", "torchvision")}
    given = [text.format(run=foreign / "run", **places) for text in arguments]
    with pytest.raises(UserError, match=words):
        main(given)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_loading_with_other_fields(foreign):
    path = foreign / "detectron2.pth"
    plain = mrcnn.load(path)
    changed = mrcnn.load(path, stride_in_1x1=False, bgr=False, score_threshold=0.3)
    assert plain.config.stride_in_1x1
    assert not changed.config.stride_in_1x1
    assert changed.config.score_threshold == 0.3
    first, other = (m.model.backbone.body.conv1.weight for m in (plain, changed))
    assert torch.equal(first, other.flip(1))
    with pytest.raises(UserError, match="not have a field 'stride_in_1'; did you mean stride_in"):
        mrcnn.load(path, stride_in_1=False)
    with pytest.raises(UserError, match="not have a field 'wings'; the fields are class_names"):
        mrcnn.load(path, wings=2)
    with pytest.raises(UserError, match="numerics must be one of"):
        mrcnn.load(path, numerics="caffe")


def test_two_names_of_one_stored_tensor(capsys, tmp_path, foreign):
    state = torch.load(foreign / "detectron2.pth")
    head = "roi_heads.mask_head.mask_fcn"
    state[f"{head}2.weight"] = state[f"{head}1.weight"]
    torch.save(state, tmp_path / "tied.pth")
    convert(capsys, tmp_path / "tied.pth", tmp_path / "ours.safetensors")
    found = checkpoints.load(tmp_path / "ours.safetensors").state
    assert torch.equal(found["mask_head.convs.0.weight"], found["mask_head.convs.1.weight"])
    assert torch.equal(found["mask_head.convs.0.weight"], state[f"{head}1.weight"])


# In torchvision itself


@pytest.mark.parametrize("name", ["resnet18", pytest.param("v2", marks=pytest.mark.slow)])
def test_torchvision_loads_an_exported_file(tmp_path, capsys, name):
    """The printed builder loads it strictly, and detects the same objects."""
    pytest.importorskip("torchvision")
    from torchvision.models import detection

    from tests.helpers.torchvision_models import torchvision_input, torchvision_model

    image, sides = random_image(97, 131, 0), {"min_size": 96, "max_size": 160}
    theirs, _ = torchvision_model(name, image, **sides)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = mrcnn.load(tmp_path / "theirs.pth", **sides)
    checkpoints.save(
        tmp_path / "ours.safetensors", *checkpoints.load(tmp_path / "theirs.pth", **sides)
    )
    printed = convert(
        capsys, tmp_path / "ours.safetensors", tmp_path / "again.pth", "--to", "torchvision"
    )
    line, *arguments = printed.split("model with\n")[1].split("\n  ")
    known = vars(detection) | vars(detection.backbone_utils) | {"torch": torch}
    arguments = [text.strip() for text in arguments if re.match(r"\w+=", text.strip())]
    again = eval(f"{line.strip()[:-1]}, {', '.join(arguments)})", known).eval()
    again.load_state_dict(torch.load(tmp_path / "again.pth"), strict=True)
    with torch.no_grad():
        (found,), (wanted,) = (model([torchvision_input(image)]) for model in (again, theirs))
    assert all(torch.equal(found[key], value) for key, value in wanted.items())
    mine = ours.predict(image, 0.0)
    labels = torch.from_numpy(mine.labels)
    pairs = one_to_one(
        Boxes(torch.from_numpy(mine.boxes), torch.from_numpy(mine.scores), labels),
        Boxes(found["boxes"], found["scores"], found["labels"] - 1),
        ours.config.nms_threshold,
        ours.config.max_detections,
    )
    assert len(pairs) >= 0.98 * len(wanted["labels"]) > 10
