"""A detector as one program of `torch.export`, and what a file of it says about itself."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from mrcnn.config import ModelConfig
from mrcnn.exporting.detector import Detector
from mrcnn.models import MaskRCNN
from mrcnn.numerics import NUMERICS

FORMAT = 1  # of the description
DESCRIPTION = "mrcnn.json"  # beside the program in a .pt2

# Pixels of the example that is traced: sides that differ on every level of a pyramid, and are more
# than one cell on the coarsest.
_EXAMPLE = (160, 224)


def description(model: MaskRCNN, config: ModelConfig) -> dict[str, Any]:
    """What a program around the detector must know, in values for JSON."""
    numerics = NUMERICS[config.numerics]
    return {
        "format": FORMAT,
        "class_names": config.class_names,
        "category_ids": config.category_ids or tuple(range(1, config.num_classes + 1)),
        "score_threshold": config.score_threshold,
        "max_detections": config.max_detections,
        "min_size": config.min_size,
        "max_size": config.max_size,
        "scale": config.scale,
        "size_multiple": config.size_multiple,
        "least_side": least_side(model, config),
        "pixel_mean": config.pixel_mean,
        "pixel_std": config.pixel_std,
        "numerics": dataclasses.asdict(numerics),
        "model": config.to_dict(),
    }


def export_program(
    model: MaskRCNN, config: ModelConfig, *, cut: bool = False, original_sizes: bool = False
) -> ExportedProgram:
    """Trace a model for any number of images of any size with more than one cell on every level.

    Args:
        model: in evaluation mode, on the device where the program is to run.
        cut: see `Detector`.
        original_sizes: give the program this third input; see `Detector.forward`.
    """
    device = next(model.parameters()).device
    height, width = _EXAMPLE
    sizes = torch.tensor([[height, width - 1], [height - 1, width]], device=device)
    inputs = [torch.zeros(2, 3, height, width, device=device), sizes]
    shapes = free_sizes(model, config)
    if original_sizes:
        inputs.append(2 * sizes)
        shapes = (*shapes, shapes[1])
    detector = Detector(model, NUMERICS[config.numerics], cut=cut).eval()
    with torch.no_grad():
        return torch.export.export(detector, tuple(inputs), dynamic_shapes=shapes)


def free_sizes(model: MaskRCNN, config: ModelConfig) -> tuple[dict[int, Any], ...]:
    """Which sizes of `pixels` and `sizes` a program leaves free, and how small they may be."""
    batch, multiple = Dim("batch", min=1), config.size_multiple
    least = least_side(model, config) // multiple
    units = [Dim(name, min=least) for name in ("height", "width")]
    height, width = (multiple * side if multiple > 1 else side for side in units)
    return {0: batch, 2: height, 3: width}, {0: batch}


def least_side(model: MaskRCNN, config: ModelConfig) -> int:
    """The least height and width of padded pixels: more than one cell on the coarsest level."""
    multiple = config.size_multiple
    return (model.backbone.strides[-1] // multiple + 1) * multiple


def save_compiled(program: ExportedProgram, about: dict[str, Any], path: Path) -> None:
    """Write a library of machine code made by AOTInductor, and its description as metadata.

    It is for the kind of device and of processor that the program is on, and, on a CPU, for the
    number of threads that PyTorch has. Its weights are constants, packed for their convolutions.

    Args:
        about: the `description` of the program.
    Raises:
        RuntimeError: if a compiler is missing, or the code cannot be compiled.
    """
    settings = {
        # Without it PyTorch 2.13 computes wrong values in layers whose batch is a size read from
        # data, as those of masks that are cut.
        "freezing": True,
        "aot_inductor.metadata": {"mrcnn": json.dumps(about)},
    }
    with torch.no_grad():  # else nothing is frozen
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(path), inductor_configs=settings
        )


def save_pt2(program: ExportedProgram, about: dict[str, Any], path: Path) -> None:
    """Write a program and its `description`, which `torch.export.load` reads."""
    with warnings.catch_warnings():
        # Of weights in channels_last, which it keeps as they are.
        warnings.filterwarnings("ignore", message="No complete tensor found")
        torch.export.save(program, path, extra_files={DESCRIPTION: json.dumps(about)})
