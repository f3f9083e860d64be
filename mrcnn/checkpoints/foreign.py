"""Detectors of other frameworks: their tensors as ours, and back, and the configuration they need.

Tensors change in three ways, all of which can be undone. Pixels may be blue, green, red: then the
first convolution's inputs are turned round. Pooled features are flattened as (channel, row,
column), ours as (row, column, channel). Background may be class 0, ours is the last logit, without
a box or a mask.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrcnn.checkpoints.layouts import LAYOUTS
from mrcnn.checkpoints.naming import Found, Layout
from mrcnn.checkpoints.others import refuse_others
from mrcnn.checkpoints.shapes import COUNTER, PIXELS, fields_of_shapes
from mrcnn.config import ModelConfig
from mrcnn.errors import UserError
from mrcnn.models import build
from mrcnn.models.build import BOX_BINS

_FLATTENED = "box_head.layers.0.weight"
_CLASSES = "box_head.class_logits."
_PER_CLASS = {"box_head.deltas.": 4, "mask_head.mask_logits.": 1}  # rows a class


_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Converted:
    """A detector of another framework, as ours."""

    state: dict[str, Tensor]
    config: ModelConfig
    # Of the file, without a place in our model; for the way back. Under their names, rows of the
    # background as NAME[background].
    rest: dict[str, Tensor]
    # For the way back: the framework, whether its pixels are blue, green, red ("bgr"), and whether
    # its live norms bring counters.
    source: dict[str, Any]
    notes: list[str]


def layout_of(state: Mapping[str, Tensor]) -> str | None:
    """The key of `LAYOUTS` whose names these are."""
    for name, layout in LAYOUTS.items():
        if any(layout.mark.fullmatch(key) for key in state):
            return name
    return None


def to_ours(
    file: Path,
    state: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    assumed: Mapping[str, Any],
    bgr: bool | None = None,
) -> Converted:
    """Our state dict and configuration of a state dict of another framework.

    Args:
        file: where the state comes from, for messages.
        facts: what lay beside the tensors.
        assumed: fields of `ModelConfig` in place of those that are inferred.
        bgr: whether pixels are blue, green, red; None takes the framework's habit.
    Raises:
        UserError: if the file holds another network, or one that lacks or misshapes a tensor.
    """
    refuse_others(file, state)
    framework = layout_of(state)
    if framework is None:
        raise UserError(
            f"{file}: holds no detector that is known ({', '.join(LAYOUTS)}); "
            f"its names begin with {', '.join(sorted(state)[:3])}"
        )
    layout = LAYOUTS[framework]
    theirs: dict[str, str] = {}
    for name, tensor in state.items():
        ours = layout.ours(name)
        if ours is not None or layout.ignored.fullmatch(name):
            _check_kind(file, name, tensor)
        if ours is not None and ours in theirs:
            raise UserError(f"{file}: {theirs[ours]} and {name} are the same tensor; remove one")
        if ours is not None:
            theirs[ours] = name
    shapes = {ours: tuple(state[name].shape) for ours, name in theirs.items()}
    fields, classes = fields_of_shapes(file, framework, layout, theirs, shapes)
    implied, by_habit = layout.implied(Found(state, facts, fields, classes))
    given = bgr is not None
    bgr = by_habit if bgr is None else bgr
    if len(assumed.get("class_names", ())) not in (0, classes):
        raise UserError(
            f"{file}: has {classes} classes, class_names must be as many, "
            f"got {len(assumed['class_names'])}"
        )
    try:
        config = ModelConfig(**{**fields, **implied, **assumed})
        own = _tensors(config)
    except ValueError as error:
        raise UserError(f"{file}: {error}") from None
    if not all(0 < value < math.inf for value in config.pixel_std):
        raise UserError(f"{file}: pixel_std must be more than 0 each, got {config.pixel_std}")

    state = _apart(state)
    converted, rest = {}, {}
    for ours, meta in own.items():
        if ours not in theirs:
            if ours.endswith(COUNTER):
                converted[ours] = torch.zeros((), dtype=torch.int64)
                continue
            raise UserError(
                f"{file}: lacks {layout.theirs(ours, config) or ours}, "
                f"{_their_shape(layout, config, ours, meta)}; is the file whole?"
            )
        name = theirs[ours]
        value, background = _value_to_ours(layout, config, bgr, ours, state[name])
        if value is None or value.shape != meta.shape:
            raise UserError(
                f"{file}: {name} has shape {tuple(state[name].shape)}, that of a "
                f"{config.backbone} with {classes} classes is "
                f"{_their_shape(layout, config, ours, meta)}"
            )
        converted[ours] = value
        if background is not None:
            rest[f"{name}[background]"] = background
    placed = {theirs[ours] for ours in own if ours in theirs}
    for name in set(state) - placed:
        if not layout.ignored.fullmatch(name):
            raise UserError(
                f"{file}: {name}, {tuple(state[name].shape)}, is no tensor of the Mask R-CNNs of "
                f"{framework} that are read; it belongs to another network"
            )
        rest[name] = state[name]
    counters = any(name.endswith(COUNTER) for name in state)
    source = {"framework": framework, "bgr": bgr, "counters": counters}
    notes = _notes(file, framework, config, None if given else bgr, assumed)
    return Converted(converted, config, rest, source, notes)


def to_theirs(
    framework: str,
    state: Mapping[str, Tensor],
    config: ModelConfig,
    rest: Mapping[str, Tensor],
    bgr: bool,
) -> dict[str, Tensor]:
    """The inverse of `to_ours`.

    Args:
        framework: a key of `LAYOUTS`.
        rest: of a file of that framework; without it background gets zeros.
        bgr: whether their pixels are blue, green, red.
    Raises:
        ValueError: if the framework has no such layer.
    """
    layout = LAYOUTS[framework]
    written: dict[str, Tensor] = {}
    for ours, value in state.items():
        name = layout.theirs(ours, config)
        if name is None:
            raise ValueError(f"{framework} has no layer for {ours}")
        background = rest.get(f"{name}[background]")
        written[name] = _value_to_theirs(layout, config, bgr, ours, value, background)
    return written | {k: v for k, v in rest.items() if not k.endswith("[background]")}


def _apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share no memory, as safetensors wants them."""
    apart, seen = {}, set()
    for name, value in state.items():
        memory = value.untyped_storage().data_ptr() if value.layout == torch.strided else 0
        apart[name] = value.clone() if memory in seen else value
        seen.add(memory)
    return apart


def _check_kind(file: Path, name: str, value: Tensor) -> None:
    kind = str(value.dtype if value.layout == torch.strided else value.layout)
    if value.layout != torch.strided or not (value.dtype in _FLOATS or name.endswith(COUNTER)):
        raise UserError(
            f"{file}: {name} holds {kind.removeprefix('torch.')}, weights must be dense and of "
            f"{', '.join(str(dtype).removeprefix('torch.') for dtype in _FLOATS)}"
        )


def _value_to_ours(
    layout: Layout, config: ModelConfig, bgr: bool, ours: str, value: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """One tensor, and its rows of background if these have no place; None if it cannot be."""
    if ours == PIXELS and bgr:
        return value.flip(1) if value.dim() == 4 else None, None
    if ours == _FLATTENED:
        if value.dim() != 2 or value.shape[1] % BOX_BINS**2:
            return None, None
        maps = value.reshape(len(value), -1, BOX_BINS, BOX_BINS)
        return maps.permute(0, 2, 3, 1).flatten(1), None
    if not layout.background_first or value.dim() == 0:
        return value, None
    if ours.startswith(_CLASSES):
        return value.roll(-1, 0), None
    for layer, rows in _PER_CLASS.items():
        if ours.startswith(layer):
            return value[rows:], value[:rows]
    return value, None


def _value_to_theirs(
    layout: Layout,
    config: ModelConfig,
    bgr: bool,
    ours: str,
    value: Tensor,
    background: Tensor | None,
) -> Tensor:
    if ours == PIXELS and bgr:
        return value.flip(1)
    if ours == _FLATTENED:
        return value.reshape(len(value), BOX_BINS, BOX_BINS, -1).permute(0, 3, 1, 2).flatten(1)
    if not layout.background_first:
        return value
    if ours.startswith(_CLASSES):
        return value.roll(1, 0)
    for layer, rows in _PER_CLASS.items():
        if ours.startswith(layer):
            if background is None:
                background = value.new_zeros(rows, *value.shape[1:])
            return torch.cat([background, value])
    return value


def _their_shape(layout: Layout, config: ModelConfig, ours: str, meta: Tensor) -> tuple[int, ...]:
    return tuple(_value_to_theirs(layout, config, True, ours, meta, None).shape)


def _tensors(config: ModelConfig) -> dict[str, Tensor]:
    """The state dict of a model, without values."""
    with torch.device("meta"):
        return build(config).state_dict()


def _notes(
    file: Path,
    framework: str,
    config: ModelConfig,
    bgr: bool | None,
    assumed: Mapping[str, Any],
) -> list[str]:
    """What was recognised, and what the file does not say but was taken for granted."""
    given = {name: getattr(config, name) for name in ("norm_eps", "stride_in_1x1", "pixel_std")}
    if config.norm.startswith("group"):
        del given["norm_eps"]
    told = [f"{name} {value}" for name, value in given.items() if name not in assumed]
    if bgr is not None:
        told.append("pixels blue, green, red" if bgr else "pixels red, green, blue")
    neck = {"fpn": f"{config.fpn_levels}-level FPN", "c4": "C4", "dc5": "DC5"}[config.neck]
    return [
        f"{file}: {framework}, {config.backbone}, {neck}, {config.num_classes} classes"
        + ("" if config.masks else ", boxes only"),
        "not in the file, so assumed: "
        + ", ".join([*told, f"{config.numerics}'s sizes, thresholds and anchors"]),
    ]
