"""Checkpoints are read back as saved, are written atomically, and foreign files are refused."""

import dataclasses
import errno
import fcntl
import json
import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mrcnn import checkpoints
from mrcnn.checkpoints import load, load_backbone, load_pretrained, read_pretrained, save
from mrcnn.errors import UserError
from mrcnn.io.atomic import replacing, sweep_drafts
from mrcnn.models.backbones.resnet import ResNet
from tests.helpers import tiny

STATE = {
    "w": torch.arange(6.0).view(2, 3),
    "n.num_batches_tracked": torch.tensor(3),
    "none": torch.zeros(0, 4),
}


def test_saving_and_loading(tmp_path):
    transposed = {**STATE, "channels_last": torch.rand(2, 3, 4, 5).permute(0, 3, 1, 2)}
    save(tmp_path / "new" / "a.safetensors", transposed, tiny.CONFIG, {"step": 3, "ap": 0.5})
    state, config, extra, _ = load(tmp_path / "new" / "a.safetensors")
    assert state.keys() == transposed.keys()
    for name, tensor in transposed.items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)
    assert config == tiny.CONFIG
    assert extra == {"step": 3, "ap": 0.5}


def test_files_have_the_usual_permissions(tmp_path):
    save(tmp_path / "a.safetensors", STATE, tiny.CONFIG, {})
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_run_folder_gives_its_best_or_else_last_checkpoint(tmp_path):
    save(tmp_path / "last.safetensors", STATE, tiny.CONFIG, {"step": 2})
    assert load(tmp_path).extra == {"step": 2}
    save(tmp_path / "best.safetensors", STATE, tiny.CONFIG, {"step": 1})
    assert load(tmp_path).extra == {"step": 1}


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch, failing):
    path = tmp_path / "a.safetensors"
    save(path, STATE, tiny.CONFIG, {"step": 1})

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(UserError, match=r"a\.safetensors: cannot be written \(No space left"):
        save(path, STATE, tiny.CONFIG, {"step": 2})
    assert load(path).extra == {"step": 1}
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_the_draft_of_a_dead_writer_is_removed(tmp_path):
    (tmp_path / ".draft-0123456789abcdef.safetensors").write_bytes(b"half")
    with replacing(tmp_path / "b.safetensors") as draft:
        save(tmp_path / "a.safetensors", STATE, tiny.CONFIG, {})
        assert sorted(os.listdir(tmp_path)) == [draft.name, "a.safetensors"]


def test_a_draft_swept_before_it_is_locked_is_created_again(tmp_path, monkeypatch):
    lock = fcntl.flock
    sweeps = [sweep_drafts]

    def sweep_and_lock(file, operation):
        if sweeps:
            assert len(sweeps.pop()(tmp_path)) == 1
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", sweep_and_lock)
    with replacing(tmp_path / "a.txt") as draft:
        draft.write_text("whole")
        assert sweep_drafts(tmp_path) == []
    assert (tmp_path / "a.txt").read_text() == "whole"


def test_drafts_are_swept_where_locks_need_writable_files(tmp_path, monkeypatch):
    """As on NFS."""
    (tmp_path / ".draft-0123456789abcdef.txt").touch()

    def lock(file, operation):
        if not file.writable():
            raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(fcntl, "flock", lock)
    assert len(sweep_drafts(tmp_path)) == 1


def described(**changes) -> dict[str, str]:
    model = {**tiny.CONFIG.to_dict(), **changes.pop("model", {})}
    return {"mrcnn": json.dumps({"format": 1, "model": model, "extra": {}, **changes})}


FOREIGN = {  # metadata of a safetensors file, part of the message
    "no metadata": (None, "does not hold a known detector"),
    "another program's": ({"format": "pt"}, "does not hold a known detector"),
    "not JSON": ({"mrcnn": "{"}, "metadata cannot be read"),
    "no object": ({"mrcnn": "[]"}, "metadata cannot be read"),
    "no model": ({"mrcnn": '{"format": 1}'}, "metadata cannot be read"),
    "newer format": (described(format=2), "format 2, this mrcnn reads up to 1; install a newer"),
    "unknown field": (described(model={"depth": 3}), "unknown fields ['depth']"),
    "unknown numerics": (described(model={"numerics": "exact"}), "got 'exact'"),
    "nested deeply": ({"mrcnn": "[" * 99_999}, "metadata cannot be read"),
    "no text as sha256": ({"mrcnn": r'{"sha256": "\ud800"}'}, "the sha256 differs"),
    "model is a list": (described() | {"mrcnn": '{"format": 1, "model": [], "extra": {}}'}, "read"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_foreign_files(tmp_path, case):
    metadata, message = FOREIGN[case]
    save_file(STATE, tmp_path / "a.safetensors", metadata)
    with pytest.raises(UserError) as caught:
        load(tmp_path / "a.safetensors")
    assert str(tmp_path / "a.safetensors") in str(caught.value)
    assert message in str(caught.value)


def test_metadata_of_null(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"\x16" + bytes(7) + b'{"__metadata__": null}')
    with pytest.raises(UserError, match="does not hold a known detector"):
        load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("kept", [0, 4, 8, 100, -1])
def test_truncated_files(tmp_path, kept):
    path = tmp_path / "best.safetensors"
    save(path, STATE, tiny.CONFIG, {})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"best\.safetensors: is damaged"):
        load(tmp_path)
    save(tmp_path / "last.safetensors", STATE, tiny.CONFIG, {})
    with pytest.raises(UserError, match=r"use another checkpoint of the run, such as .*last\."):
        load(tmp_path)


def test_a_huge_file_of_another_format_is_not_read_whole(tmp_path):
    file = tmp_path / "video.mp4"
    with file.open("wb") as sparse:
        sparse.truncate(1 << 40)
    with pytest.raises(UserError, match="has 1,099,511,627,776 bytes, at most"):
        checkpoints.load(file)
    with file.open("r+b") as sparse:
        sparse.truncate(1 << 33)
    with pytest.raises(UserError, match="damaged, or not a file of weights"):
        checkpoints.load(file)


def test_missing_files(tmp_path):
    with pytest.raises(UserError, match="does not exist; give a checkpoint file, a run folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"not contain a checkpoint \(best\.safetensors or last"):
        load(tmp_path)


# Backbones


def resnet(name: str = "resnet18", norm: str = "frozen_batch") -> ResNet:
    torch.manual_seed(0)
    return ResNet(name, norm=norm)


def test_backbone_with_a_missing_stage(shared_data):
    path = shared_data / "weights" / "resnet18_imagenet_stem_to_layer3.pt"
    backbone = resnet()
    initial = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    notes = load_backbone(backbone, path)
    stored = torch.load(path, weights_only=True)
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, stored.get(name, initial[name])), name
    lacking = {name for name in initial if name not in stored}
    assert lacking
    assert {name.split(".")[0] for name in lacking} == {"layer4"}
    assert any("initialised at random: layer4.0.conv1" in note for note in notes)
    assert not any("folded" in note for note in notes)
    notes = load_backbone(resnet(norm="batch"), path)
    assert any("folded in this file: correct with frozen batch norm only" in note for note in notes)


def test_a_whole_classifier(tmp_path):
    """As torchvision stores it: counters of live batch norm, the ImageNet layer, a DDP prefix."""
    full = {f"module.{k}": torch.rand_like(v.float()) for k, v in resnet().state_dict().items()}
    full |= {"module.fc.weight": torch.rand(1000, 512), "module.fc.bias": torch.rand(1000)}
    full["module.bn1.num_batches_tracked"] = torch.tensor(0)
    torch.save(full, tmp_path / "resnet18.pth")
    backbone = resnet()
    notes = load_backbone(backbone, tmp_path / "resnet18.pth")
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, full[f"module.{name}"]), name
    assert len(notes) == 2
    assert "removed from the names of tensors: module." in notes[0]


BAD_BACKBONES = {  # pickled value, part of the message
    "a list": ([1, 2], "does not hold a state dict (names and tensors) but list"),
    "numbers": ({"conv1.weight": 3}, "does not hold a state dict"),
    "other names": ({"stem.weight": torch.zeros(1)}, "does not hold any layer of the backbone"),
    "other shapes": (
        {"conv1.weight": torch.zeros(64, 1, 7, 7)},
        "conv1.weight has shape (64, 1, 7, 7), the model needs (64, 3, 7, 7)",
    ),
    "nothing": ({}, "does not hold any layer of the backbone"),
}


@pytest.mark.parametrize("case", BAD_BACKBONES)
def test_bad_backbones(tmp_path, case):
    content, message = BAD_BACKBONES[case]
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UserError) as caught:
        load_backbone(resnet(), tmp_path / "a.pt")
    assert str(tmp_path / "a.pt") in str(caught.value)
    assert message in str(caught.value)


# Starting from a checkpoint


def test_all_weights_are_loaded_for_the_same_classes(tmp_path):
    tiny.run(tmp_path)
    model = tiny.model(seed=1)
    assert load_pretrained(model, tiny.CONFIG, read_pretrained(tmp_path)) == [
        f"weights from {tmp_path / 'last.safetensors'}"
    ]
    assert_same(model, tiny.model(), {name for name, _ in model.named_parameters()})


def test_class_layers_stay_untrained_for_other_classes(tmp_path):
    tiny.run(tmp_path)
    config = dataclasses.replace(tiny.CONFIG, class_names=("dog", "cat"))
    model = tiny.model(config, seed=1)
    notes = load_pretrained(model, config, read_pretrained(tmp_path))
    assert "its classes are cat, dog, those of the data are dog, cat" in notes[1]
    last = {"box_head.class_logits", "box_head.deltas", "mask_head.mask_logits"}
    names = {name for name, _ in model.named_parameters()}
    fresh = {name for name in names if name.rpartition(".")[0] in last}
    assert len(fresh) == 6
    assert_same(model, tiny.model(), names - fresh)
    assert_same(model, tiny.model(config, seed=1), fresh)


def assert_same(model: nn.Module, expected: nn.Module, names: set[str]) -> None:
    actual, target = model.state_dict(), expected.state_dict()
    for name in names:
        assert torch.equal(actual[name], target[name]), name


OTHER_MODELS = {
    "backbone": ({"backbone": "resnet34"}, "holds a resnet18 with batch norm, the model to train"),
    "norm": ({"norm": "frozen_batch"}, "the model to train is a resnet18 with frozen_batch norm"),
    "width": ({"box_head_width": 32}, "box_head."),
    "levels": ({"fpn_levels": 3, "anchor_sizes": (8, 16, 32, 64)}, "lacks backbone.body.layer3"),
}


@pytest.mark.parametrize("case", OTHER_MODELS)
def test_another_model(tmp_path, case):
    tiny.run(tmp_path)
    changes, message = OTHER_MODELS[case]
    config = dataclasses.replace(tiny.CONFIG, **changes)
    with pytest.raises(UserError) as caught:
        load_pretrained(tiny.model(config), config, read_pretrained(tmp_path))
    assert message in str(caught.value)
    assert "; choose the --model" in str(caught.value)


def test_a_state_that_does_not_fit_its_own_configuration(tmp_path):
    save(tmp_path / "a.safetensors", STATE, tiny.CONFIG, {})
    from mrcnn.inference.load import load as load_predictor

    with pytest.raises(UserError, match="weights do not fit the model it describes"):
        load_predictor(tmp_path / "a.safetensors")
    assert checkpoints.find(tmp_path / "a.safetensors") == tmp_path / "a.safetensors"
