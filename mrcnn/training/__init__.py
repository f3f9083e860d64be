"""Training: `train` runs one, `TrainConfig` holds its options.

The names are imported when they are first used, so that importing a module of this package stays
cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrcnn.training.config import TrainConfig
    from mrcnn.training.loggers import Logger
    from mrcnn.training.setup import TrainResult, train

__all__ = ["Logger", "TrainConfig", "TrainResult", "train"]

_MODULES = {"Logger": "loggers", "TrainConfig": "config", "TrainResult": "setup", "train": "setup"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'mrcnn.training' has no attribute {name!r}")
    return getattr(importlib.import_module(f"mrcnn.training.{_MODULES[name]}"), name)
