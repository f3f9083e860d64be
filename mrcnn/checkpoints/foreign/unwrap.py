"""State dicts inside training checkpoints, without what wrappers add to the names of tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mrcnn.checkpoints.foreign.layouts import LAYOUTS
from mrcnn.checkpoints.foreign.pickles import Array, RefusedError

# Keys under which training checkpoints store their weights, in order of preference.
_WRAPPERS = ("model", "state_dict", "model_state_dict", "model_state", "module", "blobs")
# Modules of PyTorch that contain another one under this name: DataParallel, compiled modules,
# FullyShardedDataParallel, activation checkpoints.
_PARTS = re.compile(r"(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_DETECTOR = re.compile(
    "(?P<prefix>(.*[.])?)("
    + "|".join(layout.signature.pattern for layout in LAYOUTS.values())
    + ")"
)
# First parts of the names of backbones.
_BACKBONES = re.compile(r"stem|blocks|(layer|res|conv|bn)\d")


def find_state(path: Path, content: Any) -> tuple[Mapping[Any, Any], list[str]]:
    """Return the state dict in a training checkpoint, and notes about others that it contains.

    Args:
        path: of the checkpoint, for the notes.
        content: what the file contains.

    Raises:
        RefusedError: if there is none.
    """
    if not isinstance(content, Mapping):
        raise not_a_state_dict(type(content).__name__)
    states = dict(_states(content, ()))

    def order(place: tuple[str, ...]) -> tuple[int, bool, int]:
        known = [_WRAPPERS.index(key) for key in place if key in _WRAPPERS]
        is_ema = "ema" in "_".join(place).lower()
        return min(known, default=len(_WRAPPERS)), is_ema, -len(states[place])

    if not states:
        return content, []
    best, *others = sorted(states, key=order)
    return states[best], [
        f"weights of {_key(best)}; it also contains {_key(other)}; to use these, in Python: "
        f"torch.save(torch.load({str(path)!r}, weights_only=True){_key(other)}, 'other.pth')"
        for other in others
        if len(states[other]) > len(states[best]) / 2
    ]


def _states(
    content: Mapping[Any, Any], place: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Yield the mappings that consist mostly of tensors, by their keys from the outside."""
    tensors = sum(isinstance(value, Array | Tensor) for value in content.values())
    if 2 * tensors > len(content) or (tensors and place and place[-1] in _WRAPPERS):
        yield place, content
    elif len(place) < 3:
        for key, value in content.items():
            if isinstance(key, str) and isinstance(value, Mapping):
                yield from _states(value, (*place, key))


def _key(place: tuple[str, ...]) -> str:
    return "".join(f"[{key!r:.40}]" for key in place)


def unwrap_names(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Remove what wrappers add to names, and tensors of an EMA beside the weights.

    One prefix that all names have in common, or that those of a detector have, is removed.

    Returns:
        The tensors, and notes about what was removed.

    Raises:
        RefusedError: if two names become the same.
    """
    notes: list[str] = []
    names = {name: name for name in state if not name.endswith("n_averaged")}
    if parts := sorted({part for name in names for part in _PARTS.findall(name)}):
        notes.append(f"removed from the names of tensors: {', '.join(f'{p}.' for p in parts)}")
        names = {name: _PARTS.sub("", name) for name in names}
    # MMDetection 2 stores the second set of weights under such names.
    flat = {f"ema_{short.replace('.', '_')}" for short in names.values()}
    if second := [name for name, short in names.items() if short in flat]:
        notes.append(
            f"left out a second set of weights, {len(second)} tensors such as {second[0]}; to use "
            "it, save state['ema_' + name.replace('.', '_')] as each name"
        )
        names = {name: short for name, short in names.items() if short not in flat}
    matches = [match for short in names.values() if (match := _DETECTOR.fullmatch(short))]
    prefixes = sorted({m["prefix"] for m in matches}, key=lambda p: ("ema" in p.lower(), len(p), p))
    prefix, *others = prefixes or [_common_prefix(list(names.values()))]
    if prefix:
        taken = {name: short for name, short in names.items() if short.startswith(prefix)}
    else:
        taken = {k: v for k, v in names.items() if not (others and v.startswith(tuple(others)))}
    if left := [name for name in names if name not in taken]:
        notes.append(f"left out {len(left)} tensors beside the network: {', '.join(left[:3])}, …")
    for other in others:
        notes.append(
            f"it also contains a detector under {other}; to use this, in Python: "
            "torch.save({k[%d:]: v for k, v in state.items() if k.startswith(%r)}, 'other.pth')"
            % (len(other), other)
        )
    if prefix:
        notes.append(f"removed from the names of tensors: {prefix}")
    tensors: dict[str, Tensor] = {}
    for name, short in taken.items():
        short = short[len(prefix) :]
        if short in tensors:
            raise RefusedError(f"holds {short[:80]!r} twice; save it again")
        tensors[short] = state[name]
    return tensors, notes


def _common_prefix(names: list[str]) -> str:
    """Return the first parts that all names share, but not those of a network itself.

    A part before a number is the sequence of layers of a network, such as "features" of VGG.
    """
    prefix: list[str] = []
    split = [name.split(".") for name in names]
    for i, parts in enumerate(zip(*(parts[:-2] for parts in split), strict=False)):
        is_layer = _BACKBONES.match(parts[0]) or split[0][i + 1].isdecimal()
        if len(set(parts)) > 1 or is_layer or len(names) == 1:
            break
        prefix.append(f"{parts[0]}.")
    return "".join(prefix)


def not_a_state_dict(content: str) -> RefusedError:
    """Return the error for a file that contains something else."""
    return RefusedError(
        f"does not hold a state dict (names and tensors) but {content}; "
        "save it with torch.save(model.state_dict(), path)"
    )
