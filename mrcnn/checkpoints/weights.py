"""Weights to start training from: a detector, ours or another framework's, or a backbone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mrcnn.checkpoints.backbones import UNUSED, read_backbone
from mrcnn.checkpoints.files import find, load
from mrcnn.checkpoints.foreign import layout_of
from mrcnn.checkpoints.state_dict import SUFFIXES, read_foreign
from mrcnn.config import ModelConfig
from mrcnn.errors import UserError
from mrcnn.models import MaskRCNN

# The layers whose outputs are classes, so that other classes cannot use their weights.
_CLASS_LAYERS = ("box_head.class_logits.", "box_head.deltas.", "mask_head.mask_logits.")
_COUNTER = ".num_batches_tracked"  # of live batch norm; nothing depends on it
_CONV5 = "box_head.pooler.conv5."  # the last stage of the backbone, in C4 models


@dataclass(frozen=True)
class Start:
    """What a file holds to start from."""

    file: Path
    state: dict[str, Tensor]  # of a detector, or of a backbone under torchvision's names
    config: ModelConfig | None  # of the detector; None for a backbone
    fields: dict[str, Any]  # of ModelConfig, that a model must have for the backbone
    notes: list[str]


def read_start(path: Path) -> Start:
    """Read a run folder, a checkpoint, a detector of another framework, or a backbone.

    Raises:
        UserError: if the file is missing or damaged.
    """
    file = find(path)
    if file.suffix.lower() in SUFFIXES:
        foreign = read_foreign(file)
        if layout_of(foreign.state) is None:
            body = read_backbone(foreign.state, foreign.facts)
            return Start(file, body.state, None, body.fields, body.notes)
    found = load(file)
    return Start(file, found.state, found.config, {}, list(found.extra.get("notes", ())))


def model_for(
    start: Start | None, named: ModelConfig | None, otherwise: ModelConfig
) -> ModelConfig:
    """The model to train: the one that was named, or that of the weights, or another.

    A backbone's weights change what they need of it, as its pixels.
    """
    if start is None:
        return named or otherwise
    if start.config is None:
        return dataclasses.replace(named or otherwise, **start.fields)
    return named or start.config


def fill(model: MaskRCNN, config: ModelConfig, start: Start) -> list[str]:
    """Give a model the weights. A detector of other classes gives all but what predicts classes.

    Args:
        config: of `model`.
    Returns:
        Sentences about what was loaded and what was not.
    Raises:
        UserError: if the weights are of another model.
    """
    if start.config is None:
        return [*start.notes, *_fill_backbone(model, start)]
    file, state, saved = start.file, start.state, start.config
    same_norm = saved.norm == config.norm or {saved.norm, config.norm} == {"batch", "sync_batch"}
    if saved.backbone != config.backbone or not same_norm:
        raise UserError(
            f"{file}: holds a {saved.backbone} with {saved.norm} norm, the model to train is a "
            f"{config.backbone} with {config.norm} norm; choose the --model it was trained as, "
            "or none"
        )
    notes = [*start.notes, f"weights from {file}"]
    changed = [
        f"{name} {getattr(saved, name)} in the file, {getattr(config, name)} now"
        for name in ("numerics", "norm_eps", "stride_in_1x1", "pixel_mean", "pixel_std")
        if getattr(saved, name) != getattr(config, name)
    ]
    if changed:
        notes.append("differs from what the weights were made for: " + "; ".join(changed))
    own = model.state_dict()
    if saved.class_names != config.class_names:
        state = {k: v for k, v in state.items() if not k.startswith(_CLASS_LAYERS)}
        wanted = {k for k in own if not k.startswith(_CLASS_LAYERS)}
        notes.append(
            f"its classes are {_some(saved.class_names)}, those of the data are "
            f"{_some(config.class_names)}: the layers that predict classes start anew"
        )
    else:
        wanted = set(own)
    _check_shapes(file, state, own)
    if lacking := sorted(wanted - set(state)):
        raise UserError(f"{file}: lacks {_some(lacking)}; choose the --model it was trained as")
    if unknown := sorted(set(state) - wanted):
        raise UserError(
            f"{file}: holds {_some(unknown)}, which the model has not; "
            "choose the --model it was trained as"
        )
    model.load_state_dict(state, strict=False)
    return notes


def load_weights(model: MaskRCNN, config: ModelConfig, path: Path) -> list[str]:
    """`fill` a model from a file."""
    return fill(model, config, read_start(path))


def load_backbone(backbone: nn.Module, path: Path) -> list[str]:
    """Fill a backbone alone from a file of one; see `fill`."""
    foreign = read_foreign(path)
    body = read_backbone(foreign.state, foreign.facts)
    return [*body.notes, *_fill_body(backbone, path, body.state, _layer_names(backbone))]


def _fill_backbone(model: MaskRCNN, start: Start) -> list[str]:
    """Of a C4 model the last stage belongs to the heads."""
    state, names = start.state, _layer_names(model.backbone.body)
    own = model.state_dict()
    if any(name.startswith(_CONV5) for name in own):
        conv5 = {
            _CONV5 + name.removeprefix("layer4."): value
            for name, value in state.items()
            if name.startswith("layer4.")
        }
        _check_shapes(start.file, conv5, own)
        model.load_state_dict(conv5, strict=False)
        state = {name: value for name, value in state.items() if not name.startswith("layer4.")}
    return _fill_body(model.backbone.body, start.file, state, names)


def _fill_body(
    backbone: nn.Module, file: Path, state: Mapping[str, Tensor], families: set[str]
) -> list[str]:
    """Layers that the file does not hold keep their initial values."""
    own = backbone.state_dict()
    fits = {name: tensor for name, tensor in state.items() if name in own}
    _check_shapes(file, fits, own)
    if not fits:
        raise UserError(
            f"{file}: holds no layer of the backbone; its names are {_some(sorted(state))}, "
            f"expected {_some(sorted(own))}"
        )
    others = [
        name
        for name in state
        if name not in fits and not name.endswith(_COUNTER) and not UNUSED.fullmatch(name)
    ]
    if strange := [name for name in others if name.split(".")[0] not in families]:
        raise UserError(
            f"{file}: holds {_some(strange)}, which the backbone has not; "
            "it belongs to another network"
        )
    backbone.load_state_dict(fits, strict=False)
    notes = [f"backbone weights from {file}: {len(fits)} of {len(own)} tensors"]
    if lacking := [name for name in own if name not in fits and not name.endswith(_COUNTER)]:
        notes.append(f"not in the file, initialised at random: {_some(_layers(lacking))}")
    if others:
        notes.append(f"in the file, but not in the model: {_some(_layers(others))}")
    if any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules()) and _folded(state):
        notes.append("batch norm is folded in this file: right with frozen batch norm only")
    return notes


def _layer_names(backbone: nn.Module) -> set[str]:
    """First parts of the names that a backbone has, or would have with all its stages."""
    first = {name.split(".")[0] for name in backbone.state_dict()}
    return first | {"layer1", "layer2", "layer3", "layer4"}


def _check_shapes(path: Path, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    for name, tensor in state.items():
        if name in own and tensor.shape != own[name].shape:
            raise UserError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, the model needs "
                f"{tuple(own[name].shape)}; choose the --model it was trained as"
            )


def _folded(state: Mapping[str, Tensor]) -> bool:
    """Whether all batch norms only add: weight 1, mean 0, variance 1."""
    means = [t for name, t in state.items() if name.endswith(".running_mean")]
    variances = [t for name, t in state.items() if name.endswith(".running_var")]
    return (
        bool(means)
        and all((t == 0).all() for t in means)
        and all((t == 1).all() for t in variances)
    )


def _layers(names: list[str]) -> list[str]:
    """The layers that tensors belong to, each once, in order."""
    return list(dict.fromkeys(name.rpartition(".")[0] or name for name in names))


def _some(names: list[str] | tuple[str, ...], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
