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


def description(config: ModelConfig) -> dict[str, Any]:
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
    batch, multiple = Dim("batch", min=1), config.size_multiple
    least = model.backbone.strides[-1] // multiple + 1
    cells = [Dim(name, min=least) for name in ("height", "width")]
    sides = [multiple * side if multiple > 1 else side for side in cells]
    shapes: list[Any] = [{0: batch, 2: sides[0], 3: sides[1]}, {0: batch}]
    if original_sizes:
        inputs.append(2 * sizes)
        shapes.append({0: batch})
    detector = Detector(model, NUMERICS[config.numerics], cut=cut).eval()
    with torch.no_grad():
        return torch.export.export(detector, tuple(inputs), dynamic_shapes=tuple(shapes))


def save_compiled(model: MaskRCNN, config: ModelConfig, path: Path) -> None:
    """Write a library of machine code made by AOTInductor, and its description as metadata.

    It is for the kind of device and of processor that the model is on, and, on a CPU, for the
    number of threads that PyTorch has. Its weights are constants, packed for their convolutions.

    Raises:
        RuntimeError: if a compiler is missing, or the code cannot be compiled.
    """
    settings = {
        "freezing": True,
        "aot_inductor.metadata": {"mrcnn": json.dumps(description(config))},
    }
    # Not cut: PyTorch 2.13 miscompiles convolutions in a row whose batch is a size read from data.
    program = export_program(model, config)
    with torch.no_grad():  # else nothing is frozen
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(path), inductor_configs=settings
        )


def save_pt2(program: ExportedProgram, config: ModelConfig, path: Path) -> None:
    """Write a program and its description, which `torch.export.load` reads."""
    described = json.dumps(description(config))
    with warnings.catch_warnings():
        # Of weights in channels_last, which it keeps as they are.
        warnings.filterwarnings("ignore", message="No complete tensor found")
        torch.export.save(program, path, extra_files={DESCRIPTION: described})
