"""State dicts are found in checkpoints of training, without what wrappers add to their names."""

import os
from pathlib import Path

import pytest
import torch

from mrcnn.checkpoints.foreign.read import read_foreign
from mrcnn.checkpoints.foreign.unwrap import find_state, unwrap_names
from mrcnn.errors import UserError
from tests.helpers.foreign_states import mmdetection

NAMES = (
    "backbone.body.conv1.weight",
    "backbone.body.layer1.0.conv1.weight",
    "rpn.head.cls_logits.bias",
    "roi_heads.mask_predictor.conv5_mask.weight",
)
STATE = {name: torch.full((2,), float(i)) for i, name in enumerate(NAMES)}
BACKBONE = {name.removeprefix("backbone.body."): STATE[name] for name in NAMES[:2]}
VGG = {"features.0.weight": torch.ones(1), "features.3.weight": torch.zeros(1)}


def under(prefix: str, state: dict[str, torch.Tensor] = STATE) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in state.items()}


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


PREFIXES = """module. _orig_mod. module._orig_mod. model. net.detector. _fsdp_wrapped_module.
    model.module._orig_mod.""".split()


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("state", [STATE, BACKBONE], ids=["detector", "backbone"])
def test_a_prefix_of_all_names(prefix, state):
    found, notes = unwrap_names(under(prefix, state))
    same(found, state)
    assert all(part in " ".join(notes) for part in prefix.split(".") if part)


YOLO = {"model.0.conv.weight": torch.ones(1), "model.1.conv.weight": torch.ones(1)}
STAGE = {"layer1.conv1.weight": torch.ones(1), "layer1.conv2.weight": torch.ones(1)}


@pytest.mark.parametrize("state", [STATE, BACKBONE, VGG, YOLO, STAGE, {}], ids=str)
def test_names_of_a_network_stay(state):
    found, notes = unwrap_names(state)
    same(found, state)
    assert notes == []


def test_wrappers_of_single_modules():
    wrapped = {name.replace("body.", "body._orig_mod."): value for name, value in STATE.items()}
    found, notes = unwrap_names(wrapped)
    same(found, STATE)
    assert notes == ["removed from the names of tensors: _orig_mod."]


BESIDE = {  # other tensors, part of the note
    "averaged": ({"module.n_averaged": torch.tensor(5)}, "removed from the names"),
    "a loss": (
        {"loss.weight": torch.ones(3)},
        "left out 1 tensors beside the network: loss.weight",
    ),
    "an EMA": (under("ema.module."), "left out 4 tensors beside the network: ema.module.backbone"),
    "how to use an EMA": (under("ema.module."), "if k.startswith('ema.')}, 'other.pth')"),
    "a student": (under("zstudent."), "also contains a detector under zstudent.; to use this"),
}


@pytest.mark.parametrize("case", BESIDE)
def test_tensors_beside_the_network(case):
    others, message = BESIDE[case]
    found, notes = unwrap_names({**others, **under("module.model.")})
    same(found, STATE)
    assert message in " ".join(notes)


def test_the_second_weights_of_mmdetection_2():
    state = {name: torch.ones(1) for name in mmdetection()}
    second = {f"ema_{name.replace('.', '_')}": torch.zeros(1) for name in state}
    found, notes = unwrap_names({**second, **state})
    same(found, state)
    assert f"second set of weights, {len(state)} tensors such as ema_backbone_conv1" in notes[0]


PLACES = ["model", "state_dict", "net", "module", "checkpoint model", "state w", "ema"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_where_checkpoints_store_weights(tmp_path, place, new):
    content = STATE
    for key in reversed(place.split()):
        content = {"epoch": 3, key: content, "optimizer": {"state": {0: {"m": torch.ones(9)}}}}
    content["rng"] = torch.ones(9)
    path = tmp_path / "last.ckpt"
    torch.save(content, path, _use_new_zipfile_serialization=new)
    found = read_foreign(path)
    same(found.state, STATE)
    assert found.notes == []


@pytest.mark.parametrize("other", ["model_ema", "ema_state_dict", "teacher"])
def test_the_choice_between_two_is_named(other):
    content = {other: under("module."), "model": STATE, "epoch": 3}
    state, notes = find_state(Path("two.pth"), content)
    assert state is STATE
    load = f"torch.load('two.pth', weights_only=True)['{other}']"
    assert notes[0].startswith(f"weights of ['model']; it also contains ['{other}']; ")
    assert load in notes[0]


class Settings:
    """Settings of a training script, which its checkpoints contain as objects."""

    def __init__(self):
        self.lr = 0.1


class AttributeDict(dict):
    """A dictionary of settings, as Lightning stores them."""


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_objects_beside_the_weights_are_left_out(tmp_path, new):
    optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)])
    content = {
        "state_dict": STATE,
        "hyper_parameters": AttributeDict(lr=0.1, settings=[Settings()]),
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1),
        "path.join": os.path.join,
    }
    torch.save(content, tmp_path / "a.ckpt", _use_new_zipfile_serialization=new)
    same(read_foreign(tmp_path / "a.ckpt").state, STATE)


def test_a_whole_model_is_named(tmp_path):
    torch.save({"model": torch.nn.Linear(1, 1), "epoch": 1}, tmp_path / "best.pt")
    message = "does not hold a state dict .* but torch.nn.modules.linear.Linear as model; save it"
    with pytest.raises(UserError, match=message):
        read_foreign(tmp_path / "best.pt")
