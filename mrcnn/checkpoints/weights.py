"""Weights to start from: a whole checkpoint, or a backbone under torchvision's names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from mrcnn.checkpoints.files import find, load
from mrcnn.checkpoints.foreign import layout_of
from mrcnn.checkpoints.state_dict import SUFFIXES, read_state_dict
from mrcnn.config import ModelConfig
from mrcnn.errors import UserError
from mrcnn.models import MaskRCNN

# The layers whose outputs are classes, so that other classes cannot use their weights.
_CLASS_LAYERS = ("box_head.class_logits.", "box_head.deltas.", "mask_head.mask_logits.")
_CLASSIFIER = ("fc.weight", "fc.bias")  # of an ImageNet file; a detector has none


def load_weights(model: MaskRCNN, config: ModelConfig, path: Path) -> list[str]:
    """Fill `model` from a run folder, a checkpoint, or a backbone's state dict (.pt, .pth).

    A checkpoint of other classes gives all but the layers that predict classes.

    Args:
        config: of `model`.
    Returns:
        Sentences about what was loaded and what was not.
    Raises:
        UserError: if the file is missing, damaged, or of another model.
    """
    file = find(path)
    if file.suffix.lower() in SUFFIXES and layout_of(read_state_dict(file)) is None:
        body = model.backbone.body
        assert isinstance(body, nn.Module)
        return load_backbone(body, file)
    state, saved, _, _ = load(file)
    if saved.backbone != config.backbone or saved.norm != config.norm:
        raise UserError(
            f"{file}: holds a {saved.backbone} with {saved.norm} norm, the model to train is a "
            f"{config.backbone} with {config.norm} norm; choose the --model it was trained as"
        )
    notes = [f"weights from {file}"]
    if (saved.numerics, saved.norm_eps) != (config.numerics, config.norm_eps):
        notes.append(
            f"they were made for the numerics of {saved.numerics} with a norm epsilon of "
            f"{saved.norm_eps:g}; the model to train has those of {config.numerics} with "
            f"{config.norm_eps:g}"
        )
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


def load_backbone(backbone: nn.Module, path: Path) -> list[str]:
    """Fill a ResNet from a state dict under torchvision's names.

    Layers that the file does not hold keep their initial values. No code in the file is run.

    Returns:
        Sentences about what was loaded and what was not.
    Raises:
        UserError: if the file is missing, damaged, no state dict, or of another network.
    """
    state = read_state_dict(path)
    own = backbone.state_dict()
    fits = {name: tensor for name, tensor in state.items() if name in own}
    _check_shapes(path, fits, own)
    if not fits:
        raise UserError(
            f"{path}: holds no layer of the backbone; its names are {_some(sorted(state))}, "
            f"expected {_some(sorted(own))}"
        )
    backbone.load_state_dict(fits, strict=False)
    notes = [f"backbone weights from {path}: {len(fits)} of {len(own)} tensors"]
    counter = ".num_batches_tracked"  # of live batch norm; nothing depends on it
    if lacking := [name for name in own if name not in fits and not name.endswith(counter)]:
        notes.append(f"not in the file, initialised at random: {_some(_layers(lacking))}")
    if unused := [
        name
        for name in state
        if name not in fits and name not in _CLASSIFIER and not name.endswith(counter)
    ]:
        notes.append(f"in the file, but not in the model: {_some(_layers(unused))}")
    if any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules()) and _folded(state):
        notes.append("batch norm is folded in this file: right with frozen batch norm only")
    return notes


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
