"""State dicts as PyTorch saves them, read without running the code that a pickle may hold."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrcnn.errors import UserError

SUFFIXES = (".pt", ".pth")


@dataclass(frozen=True)
class Foreign:
    """What a file of another program holds."""

    path: Path
    state: dict[str, Tensor]
    facts: dict[str, Any]  # plain values beside the weights


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The names and tensors of a .pt or .pth file; no code in it is run.

    Raises:
        UserError: if the file is missing, damaged, or no state dict.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: does not exist; name a state dict (.pt, .pth)") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: is no plain state dict: it is damaged, or holds objects that would run code; "
            "save it with torch.save(model.state_dict(), path)"
        ) from error
    except Exception as error:  # torch.load fails on damaged files with errors of many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: cannot be read ({reason}); copy it again") from error
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise UserError(
            f"{path}: holds no state dict (names and tensors) but {type(state).__name__}; "
            "save it with torch.save(model.state_dict(), path)"
        )
    return {name.removeprefix("module."): value for name, value in state.items()}


def read_foreign(path: Path) -> Foreign:
    """The state dict of a file; see `read_state_dict`."""
    return Foreign(path, read_state_dict(path), {})
