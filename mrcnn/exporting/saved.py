"""Programs written by `mrcnn export`, loaded to be used like a model."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import mrcnn.ops.library  # noqa: F401  registers the ops
from mrcnn.config import ModelConfig
from mrcnn.errors import UserError, check_format
from mrcnn.exporting.program import DESCRIPTION, FORMAT
from mrcnn.io.plain_files import MAX_WEIGHTS_BYTES, check_plain
from mrcnn.structures import DetectionBatch, ImageBatch


class SavedProgram(nn.Module):
    """A program that can be called like a `MaskRCNN` in evaluation mode.

    Args:
        run: takes row-major pixels (N, 3, H, W) and sizes (N, 2), and returns what `Detector` does.
        config: of the model. Its `score_threshold` and `max_detections` may be stricter than those
            of the program.
        device: of the program.
        least_side: smaller padded images are padded further, to this height and width.
    """

    def __init__(
        self, run: Callable[..., Any], config: ModelConfig, device: torch.device, least_side: int
    ) -> None:
        super().__init__()
        self.run, self.config, self.device, self.least_side = run, config, device, least_side

    def train(self, mode: bool = True) -> SavedProgram:
        """Do nothing: the mode of a program is fixed."""
        return self

    def forward(self, images: ImageBatch) -> DetectionBatch:
        """Return the detections of every image."""
        pixels = images.pixels
        height, width = pixels.shape[2:]
        right, below = (max(self.least_side - side, 0) for side in (width, height))
        if right or below:
            pixels = F.pad(pixels, (0, right, 0, below))
        boxes, scores, labels, _, *masks = self.run(pixels.contiguous(), images.sizes)
        slots = slice(self.config.max_detections)
        kept = scores[:, slots] >= self.config.score_threshold
        kept &= labels[:, slots] >= 0
        return DetectionBatch(
            boxes=torch.where(kept[..., None], boxes[:, slots], 0),
            scores=torch.where(kept, scores[:, slots], 0),
            labels=torch.where(kept, labels[:, slots], -1),
            counts=kept.sum(1),
            masks=masks[0][:, slots] if masks else boxes.new_zeros(*kept.shape, 0, 0),
        )


def load_program(path: Path, device: torch.device, **changes: Any) -> SavedProgram:
    """Read a `.pt2`. Such a file is code, which this function runs.

    The program of `torch.export` names functions to call and holds texts that SymPy evaluates, and
    PyTorch reads its examples with the full pickle; that of AOTInductor is a native library.

    Args:
        path: the file.
        device: must be the CPU.
        **changes: fields of `ModelConfig`; None keeps the value of the program. A program can only
            be made to return fewer detections.

    Raises:
        UserError: if the file is damaged or was not written by mrcnn, or if the program does not
            support the device or a change.
    """
    if device.type != "cpu":
        raise UserError(f"{path}: is a program for the CPU, got device {device}; use --device cpu")
    check_plain(path, MAX_WEIGHTS_BYTES)
    try:
        with zipfile.ZipFile(path) as archive:
            is_compiled = any("/aotinductor/" in name for name in archive.namelist())
        run: Any
        if is_compiled:  # by AOTInductor
            run = torch._inductor.aoti_load_package(str(path))
            description = run.get_metadata().get("mrcnn", "")
        else:
            files = {DESCRIPTION: ""}
            run = torch.export.load(path, extra_files=files).module()
            description = files[DESCRIPTION]
    except (RuntimeError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: cannot be loaded ({reason}); run mrcnn export again") from error
    try:
        about = json.loads(description)
        check_format(path, about["format"], FORMAT)
        config = ModelConfig.from_dict(about["model"])
        least_side = int(about["least_side"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{path}: has no valid description of its model ({reason}); was it written by mrcnn "
            "export?"
        ) from error
    return SavedProgram(run, _stricter(path, config, changes), device, least_side)


def _stricter(path: Path, config: ModelConfig, changes: Mapping[str, Any]) -> ModelConfig:
    """Return the configuration with the changes, which must only remove detections."""
    changes = {name: value for name, value in changes.items() if value is not None}
    for name, value in changes.items():
        is_stricter = (name == "score_threshold" and value >= config.score_threshold) or (
            name == "max_detections" and 1 <= value <= config.max_detections
        )
        if not is_stricter and value != getattr(config, name, None):
            raise UserError(
                f"{path}: is a program with {name} {getattr(config, name, 'fixed')}, "
                f"got {value}; export the model again with this value, or use the checkpoint"
            )
    return replace(config, **changes)
