"""Pretrained weights to start training from: a detector or a backbone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mrcnn.checkpoints.checkpoint import find, load
from mrcnn.checkpoints.foreign.backbones import UNUSED, convert_backbone
from mrcnn.checkpoints.foreign.convert import CLASS_ROWS, detect_framework
from mrcnn.checkpoints.foreign.networks import check_supported
from mrcnn.checkpoints.foreign.read import read_foreign
from mrcnn.checkpoints.kinds import kind_or_none
from mrcnn.checkpoints.weights import COUNTER, check_fits, check_weights
from mrcnn.config import MODELS, ModelConfig
from mrcnn.errors import UserError
from mrcnn.models import MaskRCNN, build

_CLASS_LAYERS = tuple(f"{layer}." for layer in CLASS_ROWS)  # other classes cannot use their weights
_CONV5 = "box_head.pooler.conv5."  # the last stage of the backbone, in C4 models


@dataclass(frozen=True)
class PretrainedWeights:
    """The weights of a file, of a detector or of a backbone."""

    file: Path
    state: dict[str, Tensor]  # of a detector, or of a backbone under torchvision's names
    config: ModelConfig | None  # of the detector; None for a backbone
    fields: dict[str, Any]  # of ModelConfig that the backbone requires
    notes: list[str]


def read_pretrained(path: Path, assumed: Mapping[str, Any] | None = None) -> PretrainedWeights:
    """Read a run folder, a checkpoint, a detector of another framework, or a backbone.

    Args:
        path: the file or folder.
        assumed: fields for a detector of another framework, as in `load`.

    Raises:
        UserError: if the file is missing or damaged.
    """
    file = find(path)
    kind = kind_or_none(file)
    if kind not in (None, "checkpoint", "program"):
        foreign = read_foreign(file)
        if detect_framework(foreign.state) is None:
            check_supported(file, foreign.state, backbone=True)
            state, fields, notes = convert_backbone(foreign.state, foreign.facts)
            return PretrainedWeights(file, state, None, fields, [*foreign.notes, *notes])
    loaded = load(file, **(assumed if kind != "checkpoint" and assumed else {}))
    check_fits(file, loaded.state, loaded.config)
    notes = list(loaded.extra.get("notes", ()))
    return PretrainedWeights(file, loaded.state, loaded.config, {}, notes)


def config_to_train(
    pretrained: PretrainedWeights | None, named: ModelConfig | None, default: ModelConfig
) -> ModelConfig:
    """Return the configuration to train: the named one, else that of the weights, else the default.

    Weights of a backbone replace the fields that they require, such as the pixel mean.
    """
    if pretrained is None:
        return named or default
    if pretrained.config is None:
        return dataclasses.replace(named or default, **pretrained.fields)
    return named or pretrained.config


def fitting_models(state: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the models whose backbones a file of backbone weights fits."""
    fitting = []
    for name, config in MODELS.items():
        with torch.device("meta"):
            model = build(dataclasses.replace(config, class_names=("any",), category_ids=()))
        if _misfit(model.backbone.body.state_dict(), state) is None:
            fitting.append(name)
    return fitting


def load_pretrained(
    model: MaskRCNN, config: ModelConfig, pretrained: PretrainedWeights
) -> list[str]:
    """Load pretrained weights into a model.

    A detector of other classes provides all layers except those that predict classes.

    Args:
        model: the model to load into.
        config: configuration of `model`.
        pretrained: the weights.

    Returns:
        Notes about what was loaded and what was not.

    Raises:
        UserError: if the weights belong to another model.

    Example:
        load_pretrained(model, config, read_pretrained(Path("runs/1")))
    """
    if pretrained.config is None:
        return [*pretrained.notes, *_load_model_backbone(model, pretrained)]
    file, state, saved = pretrained.file, pretrained.state, pretrained.config
    same_norm = saved.norm == config.norm or {saved.norm, config.norm} == {"batch", "sync_batch"}
    if saved.backbone != config.backbone or not same_norm:
        raise UserError(
            f"{file}: holds a {saved.backbone} with {saved.norm} norm, the model to train is a "
            f"{config.backbone} with {config.norm} norm; choose the --model it was trained as, "
            "or none"
        )
    notes = [*pretrained.notes, f"weights from {file}"]
    changed = [
        f"{name} {getattr(saved, name)} in the file, {getattr(config, name)} now"
        for name in ("numerics", "norm_eps", "stride_in_1x1", "pixel_mean", "pixel_std")
        if getattr(saved, name) != getattr(config, name)
    ]
    if changed:
        notes.append("differs from the model the weights were trained for: " + "; ".join(changed))
    own = model.state_dict()
    needed = set(own)
    if saved.class_names != config.class_names:
        state = {k: v for k, v in state.items() if not k.startswith(_CLASS_LAYERS)}
        needed = {k for k in own if not k.startswith(_CLASS_LAYERS)}
        notes.append(
            f"its classes are {_shorten(saved.class_names)}, those of the data are "
            f"{_shorten(config.class_names)}: the layers that predict classes start from scratch"
        )
    _check_shapes(file, state, own)
    if missing := sorted(needed - set(state)):
        raise UserError(f"{file}: lacks {_shorten(missing)}; choose the --model it was trained as")
    if unknown := sorted(set(state) - needed):
        raise UserError(
            f"{file}: holds {_shorten(unknown)}, which the model does not have; "
            "choose the --model it was trained as"
        )
    model.load_state_dict(state, strict=False)
    return notes


def load_backbone(backbone: nn.Module, path: Path) -> list[str]:
    """Load a file of backbone weights into a backbone alone, and return notes.

    Raises:
        UserError: if the file is missing, damaged, or holds another network.
    """
    foreign = read_foreign(path)
    source = convert_backbone(foreign.state, foreign.facts)
    return [*foreign.notes, *source.notes, *_load_body(backbone, path, source.state)]


def _load_model_backbone(model: MaskRCNN, pretrained: PretrainedWeights) -> list[str]:
    """Load a backbone; in a C4 model its last stage belongs to the heads."""
    state, own = pretrained.state, model.state_dict()
    if any(name.startswith(_CONV5) for name in own):
        conv5 = {
            _CONV5 + name.removeprefix("layer4."): value
            for name, value in state.items()
            if name.startswith("layer4.")
        }
        _check_shapes(pretrained.file, conv5, own)
        model.load_state_dict(conv5, strict=False)
        state = {name: value for name, value in state.items() if not name.startswith("layer4.")}
    misfit = _misfit(model.backbone.body.state_dict(), state)
    if misfit is not None and (names := fitting_models(state)):
        raise UserError(
            f"{pretrained.file}: {misfit}; it fits --model {_shorten(names)}; choose one of these, "
            "or leave --model out"
        )
    return _load_body(model.backbone.body, pretrained.file, state)


def _load_body(backbone: nn.Module, file: Path, state: Mapping[str, Tensor]) -> list[str]:
    """Load the layers of a file; all others keep their initial values."""
    own = backbone.state_dict()
    matching = {name: tensor for name, tensor in state.items() if name in own}
    _check_shapes(file, matching, own)
    check_weights(file, matching)
    if not matching:
        raise UserError(
            f"{file}: does not hold any layer of the backbone; its names are "
            f"{_shorten(sorted(state))}, expected {_shorten(sorted(own))}"
        )
    others = [
        name
        for name in state
        if name not in matching and not name.endswith(COUNTER) and not UNUSED.fullmatch(name)
    ]
    stages = {"layer1", "layer2", "layer3", "layer4"}  # a backbone may have fewer
    first_names = stages | {name.split(".")[0] for name in own}
    if unknown := [name for name in others if name.split(".")[0] not in first_names]:
        raise UserError(
            f"{file}: holds {_shorten(unknown)}, which the backbone does not have; "
            "it belongs to another network"
        )
    backbone.load_state_dict(matching, strict=False)
    notes = [f"backbone weights from {file}: {len(matching)} of {len(own)} tensors"]
    if missing := [name for name in own if name not in matching and not name.endswith(COUNTER)]:
        notes.append(f"not in the file, initialised at random: {_shorten(_layers(missing))}")
    if others:
        notes.append(f"in the file, but not in the model: {_shorten(_layers(others))}")
    live = any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    if live and _is_folded(state):
        notes.append("batch norm is folded in this file: correct with frozen batch norm only")
    return notes


def _misfit(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str | None:
    """Describe why weights do not fill a backbone exactly; None if they do.

    They may have further stages, and a classifier.
    """

    def stage(name: str) -> str:
        parts = name.split(".")
        return ".".join(parts[:2]) if parts[0] == "features" else parts[0]

    stages = {stage(name) for name in own}
    for name, value in own.items():
        if name.endswith(COUNTER):
            continue
        if name not in state:
            return f"lacks {name}, which the model has"
        if state[name].shape != value.shape:
            shapes = f"{tuple(state[name].shape)}, in the model {tuple(value.shape)}"
            return f"{name} has shape {shapes}"
    for name in state:
        if stage(name) in stages and name not in own and not name.endswith(COUNTER):
            return f"holds {name}, which the model does not have"
    return None


def _check_shapes(path: Path, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    for name, tensor in state.items():
        if name in own and tensor.shape != own[name].shape:
            raise UserError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, the model needs "
                f"{tuple(own[name].shape)}; choose the --model it was trained as"
            )


def _is_folded(state: Mapping[str, Tensor]) -> bool:
    """Return whether all batch norms only add: mean 0 and variance 1."""
    means = [t for name, t in state.items() if name.endswith(".running_mean")]
    variances = [t for name, t in state.items() if name.endswith(".running_var")]
    constant = all((t == 0).all() for t in means) and all((t == 1).all() for t in variances)
    return bool(means) and constant


def _layers(names: list[str]) -> list[str]:
    """Return the layers of tensors, without repetition, in order."""
    return list(dict.fromkeys(name.rpartition(".")[0] or name for name in names))


def _shorten(names: list[str] | tuple[str, ...], limit: int = 6) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
