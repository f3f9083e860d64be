"""Mask R-CNN: instance segmentation in PyTorch with its own C++ and CUDA kernels."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str

    from mrcnn.config import MODELS, ModelConfig
    from mrcnn.errors import UserError
    from mrcnn.inference.load import load
    from mrcnn.inference.predictor import Predictor
    from mrcnn.inference.results import Result
    from mrcnn.models import MaskRCNN, build
    from mrcnn.structures import DetectionBatch, Detections, ImageBatch, Targets

# Modules of the public names, imported on first use: `mrcnn --help` must not wait for PyTorch.
_HOMES = {
    "MODELS": "mrcnn.config",
    "ModelConfig": "mrcnn.config",
    "UserError": "mrcnn.errors",
    "MaskRCNN": "mrcnn.models",
    "build": "mrcnn.models",
    "Predictor": "mrcnn.inference.predictor",
    "Result": "mrcnn.inference.results",
    "load": "mrcnn.inference.load",
    "DetectionBatch": "mrcnn.structures",
    "Detections": "mrcnn.structures",
    "ImageBatch": "mrcnn.structures",
    "Targets": "mrcnn.structures",
}

_LINES = {  # names that are tried -> what to write
    "train": "from mrcnn.training import train",
    "evaluate": 'mrcnn.load("runs/1").evaluate(data)',
    **dict.fromkeys(["predict", "detect"], 'mrcnn.load("runs/1").predict(image)'),
    **dict.fromkeys(["Model", "load_model", "from_pretrained"], 'mrcnn.load("runs/1")'),
    "list_models": "mrcnn.MODELS",
}

__all__ = [
    "MODELS", "DetectionBatch", "Detections", "ImageBatch", "MaskRCNN", "ModelConfig", "Predictor",
    "Result", "Targets", "UserError", "__version__", "build", "load",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("mrcnn")
        except PackageNotFoundError:  # a source tree that is not installed
            return "0+source"
    if name not in _HOMES:
        hint = f"; write {_LINES[name]}" if name in _LINES else ""
        raise AttributeError(f"module 'mrcnn' has no attribute {name!r}{hint}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
