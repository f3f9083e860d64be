"""Conversion of detectors between mrcnn and other frameworks.

Tensors change in three ways, all of which are reversible. If pixels are BGR, the inputs of the
first convolution are reversed. Pooled features are flattened as (row, column, channel) in mrcnn,
and as (channel, row, column) elsewhere. Background is the last logit in mrcnn, without a box or a
mask; elsewhere it may be class 0, with both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mrcnn.checkpoints.foreign.infer import (
    PIXELS,
    check_anchors,
    infer_buffers,
    infer_fields,
)
from mrcnn.checkpoints.foreign.layouts import LAYOUTS
from mrcnn.checkpoints.foreign.naming import Fields, Layout
from mrcnn.checkpoints.foreign.networks import check_supported
from mrcnn.checkpoints.foreign.plain import Settings
from mrcnn.checkpoints.foreign.settings import read_settings
from mrcnn.checkpoints.weights import COUNTER, check_weights
from mrcnn.config import ModelConfig
from mrcnn.errors import UserError
from mrcnn.models import build

# The layers that predict classes, and the rows that each class has in their tensors.
CLASS_LOGITS = "box_head.class_logits"
CLASS_ROWS = {CLASS_LOGITS: 1, "box_head.deltas": 4, "mask_head.mask_logits": 1}
_FLATTENED = "box_head.layers.0.weight"


class Checkpoint(NamedTuple):
    """The contents of a checkpoint, or of a file of another framework after conversion."""

    state: dict[str, Tensor]
    config: ModelConfig
    # Step, metrics and other plain values. From another framework: "notes" on what was recognized
    # and assumed, and the "source": its "framework", whether its pixels are "bgr", and whether its
    # live norms have "counters".
    extra: dict[str, Any]
    # Unused tensors of another framework's file under source names, for exporting; rows of the
    # background as NAME[background].
    rest: dict[str, Tensor]


def detect_framework(state: Mapping[str, Tensor]) -> str | None:
    """Return the key of `LAYOUTS` that these names belong to, or None."""
    for name, layout in LAYOUTS.items():
        if any(layout.signature.fullmatch(key) for key in state):
            return name
    return None


def import_state_dict(
    file: Path,
    state: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    assumed: Mapping[str, Any],
    bgr: bool | None = None,
) -> Checkpoint:
    """Convert a state dict of another framework into one of mrcnn, with its configuration.

    Args:
        file: where the state comes from, for messages.
        state: tensors under the names of the framework.
        facts: values that the file has beside the tensors.
        assumed: fields of `ModelConfig` that replace inferred ones.
        bgr: whether pixels are BGR; None uses the framework's default.

    Raises:
        UserError: if the file holds another network, or a tensor is missing or has a wrong shape.
    """
    check_supported(file, state)
    framework = detect_framework(state)
    if framework is None:
        raise UserError(
            f"{file}: does not hold a known detector ({', '.join(LAYOUTS)}); "
            f"its names begin with {', '.join(sorted(state)[:3])}"
        )
    layout = LAYOUTS[framework]
    sources = _source_names(file, layout, state)
    used = set(sources.values())
    check_weights(
        file, {k: v for k, v in state.items() if k in used or layout.ignored.fullmatch(k)}
    )
    shapes = {name: tuple(state[source].shape) for name, source in sources.items()}
    fields = infer_fields(file, layout, sources, shapes)
    classes = len(fields["class_names"])
    settings = read_settings(file, framework, fields, facts)
    defaults, default_bgr = layout.defaults(fields, state)
    if len(assumed.get("class_names", ())) not in (0, classes):
        raise UserError(
            f"{file}: has {classes} classes; class_names must have as many, "
            f"got {len(assumed['class_names'])}"
        )
    stated = settings.bgr if bgr is None else bgr
    reverse = default_bgr if stated is None else stated
    known = {**settings.fields, **assumed}
    if fields.get("fpn_levels", 4) < 4 and "anchor_sizes" not in known:
        raise UserError(
            f"{file}: has a {fields['fpn_levels']}-level FPN, whose anchors are not in the file; "
            "give their sizes, fine to coarse, such as --set 'anchor_sizes=[32,64,128,256]'"
        )
    try:
        config = ModelConfig(**{**fields, **defaults, **known})
        buffers = infer_buffers(file, state, config, reverse, assumed)
        config = dataclasses.replace(config, **{**buffers, **assumed})
        with torch.device("meta"):
            expected = build(config).state_dict()
    except ValueError as error:
        raise UserError(f"{file}: {error}") from None
    if (logits := "rpn.objectness_logits.weight") in sources and shapes[logits]:
        check_anchors(file, sources[logits], shapes[logits][0], config)

    converted: dict[str, Tensor] = {}
    rest: dict[str, Tensor] = {}
    for name, meta in expected.items():
        source = sources.get(name)
        if source is None and name.endswith(COUNTER):
            converted[name] = torch.zeros((), dtype=torch.int64)
            continue
        shape = tuple(_export_tensor(layout, True, name, meta, None, config.box_bins).shape)
        if source is None:
            raise UserError(
                f"{file}: lacks {layout.source_name(name, config) or name}, {shape}; "
                "is the file complete?"
            )
        value, background = _import_tensor(layout, reverse, name, state[source], config.box_bins)
        if value is None or value.shape != meta.shape:
            raise UserError(
                f"{file}: {source} has shape {tuple(state[source].shape)}; the shape for a "
                f"{config.backbone} with {classes} classes is {shape}"
            )
        converted[name] = value
        if background is not None:
            rest[f"{source}[background]"] = background
    used = {sources[name] for name in expected if name in sources}
    for source, value in state.items():
        if source in used:
            continue
        if not layout.ignored.fullmatch(source):
            raise UserError(
                f"{file}: {source}, {tuple(value.shape)}, is not a tensor of the supported Mask "
                f"R-CNNs of {framework}; it belongs to another network"
            )
        rest[source] = value
    counters = any(source.endswith(COUNTER) for source in state)
    origin = {"framework": framework, "bgr": reverse, "counters": counters}
    notes = _notes(
        file,
        framework,
        config,
        settings,
        {**fields, **defaults},
        {*known, *buffers},
        stated,
        reverse,
    )
    return Checkpoint(converted, config, {"source": origin, "notes": notes}, rest)


def export_state_dict(
    framework: str,
    state: Mapping[str, Tensor],
    config: ModelConfig,
    rest: Mapping[str, Tensor],
    bgr: bool,
) -> dict[str, Tensor]:
    """Convert a state dict of mrcnn into one of another framework; inverts `import_state_dict`.

    Without the `rest` of a file of that framework, the rows of the background are zeros.

    Raises:
        ValueError: if the framework lacks one of the layers.
    """
    layout = LAYOUTS[framework]
    exported: dict[str, Tensor] = {}
    for name, value in state.items():
        source = layout.source_name(name, config)
        if source is None:
            raise ValueError(f"{framework} does not have a layer for {name}")
        background = rest.get(f"{source}[background]")
        exported[source] = _export_tensor(layout, bgr, name, value, background, config.box_bins)
    return exported | {k: v for k, v in rest.items() if not k.endswith("[background]")}


def _source_names(file: Path, layout: Layout, state: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the source names by mrcnn name."""
    sources: dict[str, str] = {}
    for source in state:
        name = layout.mrcnn_name(source)
        if name is None and not layout.ignored.fullmatch(source):
            continue
        if name in sources:
            raise UserError(f"{file}: {sources[name]} and {source} are the same tensor; remove one")
        if name is not None:
            sources[name] = source
    return sources


def _import_tensor(
    layout: Layout, bgr: bool, name: str, value: Tensor, bins: int
) -> tuple[Tensor | None, Tensor | None]:
    """Return a tensor and its background rows, if mrcnn drops these; None for a wrong shape."""
    if name == PIXELS and bgr:
        return value.flip(1) if value.dim() == 4 else None, None
    if name == _FLATTENED:
        if value.dim() != 2 or value.shape[1] % bins**2:
            return None, None
        maps = value.reshape(len(value), -1, bins, bins)
        return maps.permute(0, 2, 3, 1).flatten(1), None
    layer = name.rpartition(".")[0]
    if not layout.background_first or layer not in CLASS_ROWS or value.dim() == 0:
        return value, None
    if layer == CLASS_LOGITS:
        return value.roll(-1, 0), None
    return value[CLASS_ROWS[layer] :], value[: CLASS_ROWS[layer]]


def _export_tensor(
    layout: Layout, bgr: bool, name: str, value: Tensor, background: Tensor | None, bins: int
) -> Tensor:
    """Invert `_import_tensor`; background rows that are not given become zeros."""
    if name == PIXELS and bgr:
        return value.flip(1)
    if name == _FLATTENED:
        return value.reshape(len(value), bins, bins, -1).permute(0, 3, 1, 2).flatten(1)
    layer = name.rpartition(".")[0]
    if not layout.background_first or layer not in CLASS_ROWS:
        return value
    if layer == CLASS_LOGITS:
        return value.roll(1, 0)
    if background is None:
        background = value.new_zeros(CLASS_ROWS[layer], *value.shape[1:])
    return torch.cat([background, value])


def _notes(
    file: Path,
    framework: str,
    config: ModelConfig,
    settings: Settings,
    usual: Fields,
    known: Collection[str],
    stated: bool | None,
    bgr: bool,
) -> list[str]:
    """Describe what was recognized, what was read, and what was assumed.

    Args:
        file: the weights.
        framework: where they come from.
        config: what is built.
        settings: the configuration that was read.
        usual: fields of this network without that configuration.
        known: fields of that configuration, of buffers, or set by the user.
        stated: whether pixels are BGR, if that is known.
        bgr: the same, or else what is assumed.
    """
    neck = {"fpn": f"{config.fpn_levels}-level FPN", "c4": "C4", "dc5": "DC5"}[config.neck]
    notes = [
        f"{file}: {framework}, {config.backbone}, {neck}, {config.num_classes} classes"
        + ("" if config.masks else ", boxes only")
    ]
    if settings.fields:
        shown = [
            f"{name} {_some(value) if name == 'class_names' else value}"
            for name, value in settings.fields.items()
            if name != "category_ids" and value != usual.get(name, getattr(ModelConfig, name))
        ]
        notes.append(f"read from {settings.source}: {', '.join(shown) or 'the usual settings'}")
    if settings.problems:
        notes.append(
            f"in {settings.source}, but not in mrcnn, so results may differ: "
            + "; ".join(settings.problems)
        )
    fields = ["norm_eps", "stride_in_1x1", "pixel_std"]
    if config.norm.startswith("group"):
        fields.remove("norm_eps")
    guesses = [f"{name} {getattr(config, name)}" for name in fields if name not in known]
    if stated is None:
        guesses.append("pixels blue, green, red" if bgr else "pixels red, green, blue")
    if "class_names" not in known:
        guesses.append(f"class_names {_some(config.class_names)}")
    rest = [
        text
        for text, name in (("sizes", "min_size"), ("anchors", "anchor_sizes"))
        if name not in known and not (name == "min_size" and "scale" in known)
    ]
    rest += ["thresholds"] * ("score_threshold" not in known)
    if rest:
        guesses.append(f"the {', '.join(rest)} of {config.numerics}")
    if guesses:
        notes.append("not in the file, so assumed: " + ", ".join(guesses))
    return notes


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:2]) + ", …" * (len(names) > 2)
