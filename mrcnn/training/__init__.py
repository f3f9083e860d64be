"""Training: `train` runs one, `TrainConfig` holds its options."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mrcnn.training.config import TrainConfig

if TYPE_CHECKING:
    from mrcnn.training.loggers import Logger
    from mrcnn.training.setup import TrainResult, train

# Imported on first use: `mrcnn train --help` must not wait for PyTorch.
_HOMES = {"Logger": "loggers", "TrainResult": "setup", "train": "setup"}

__all__ = ["Logger", "TrainConfig", "TrainResult", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
