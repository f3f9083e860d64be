"""Checkpoints: safetensors files that carry the configuration and class names of their model."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from mrcnn.checkpoints.state_dict import SUFFIXES, read_state_dict
from mrcnn.checkpoints.torchvision import is_torchvision, read_torchvision
from mrcnn.config import ModelConfig
from mrcnn.errors import UserError
from mrcnn.files import replacing

FORMAT = 1  # of the metadata; a reader refuses higher numbers
NAMES = ("best.safetensors", "last.safetensors")  # in a run folder, in the order of preference


class Checkpoint(NamedTuple):
    """What a checkpoint holds."""

    state: dict[str, Tensor]
    config: ModelConfig
    extra: dict[str, Any]  # step, metrics and the like; plain values


def save(
    path: Path, state: Mapping[str, Tensor], config: ModelConfig, extra: Mapping[str, Any]
) -> None:
    """Write a checkpoint atomically: a crash leaves the file before or the new one, whole.

    Args:
        state: as of `Module.state_dict`, on any device.
        extra: values for JSON.
    Raises:
        UserError: if the file cannot be written.
    """
    described = {"format": FORMAT, "model": config.to_dict(), "extra": dict(extra)}
    metadata = {"mrcnn": json.dumps(described)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with replacing(path) as draft:
        draft.write_bytes(serialize(tensors, metadata))


def find(path: Path) -> Path:
    """The checkpoint file that `path` means: itself, or the best, else the last, of a run folder.

    Raises:
        UserError: if there is none.
    """
    if path.is_dir():
        for name in NAMES:
            if (path / name).is_file():
                return path / name
        raise UserError(f"{path}: holds no checkpoint ({' or '.join(NAMES)}); name a run folder")
    if not path.exists():
        raise UserError(f"{path}: does not exist; name a checkpoint file or a run folder")
    return path


def load(path: str | os.PathLike[str], *, norm_eps: float | None = None) -> Checkpoint:
    """Read a checkpoint file, that of a run folder (`find`), or a state dict of torchvision's
    Mask R-CNN (.pt, .pth), whose `extra["notes"]` then say what was inferred.

    Args:
        norm_eps: of the frozen batch norms of a state dict, in place of what is inferred.
    Raises:
        UserError: if it is missing, damaged, or made by something else.
    """
    file = find(Path(path))
    if file.suffix.lower() in SUFFIXES:
        foreign = read_state_dict(file)
        if not is_torchvision(foreign):
            raise UserError(
                f"{file}: holds no detector that is known (torchvision's Mask R-CNN); "
                f"its names begin with {', '.join(sorted(foreign)[:3])}"
            )
        converted, config, notes = read_torchvision(file, foreign, norm_eps)
        return Checkpoint(converted, config, {"notes": notes})
    if file.suffix.lower() in (".pkl", ".pickle", ".bin", ".ckpt"):
        raise UserError(
            f"{file}: is a pickle by its name, which can run programs when it is opened; "
            "give a .safetensors checkpoint of mrcnn, or a state dict of torchvision (.pth)"
        )
    try:
        with safe_open(file, framework="pt") as content:
            described = (content.metadata() or {}).get("mrcnn")
            state = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{file}: is damaged, or no safetensors file ({error}); "
            f"copy it again, or take another checkpoint of the run{_beside(file)}"
        ) from error
    if described is None:
        raise UserError(
            f"{file}: is a safetensors file, but no checkpoint of mrcnn "
            "(its metadata have no field 'mrcnn')"
        )
    try:
        values = json.loads(described)
        if values["format"] > FORMAT:
            raise UserError(
                f"{file}: has format {values['format']}, this mrcnn reads up to {FORMAT}; "
                "install a newer mrcnn"
            )
        return Checkpoint(state, ModelConfig.from_dict(values["model"]), values["extra"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{file}: its metadata cannot be read ({reason})") from error


def _beside(file: Path) -> str:
    """Mentions the other checkpoint of the same run."""
    others = [file.with_name(name) for name in NAMES if name != file.name]
    return "".join(f", as {other}" for other in others if other.is_file())
