"""A detector as a program of `torch.export`, and the files of such programs.

N images, H x W padded pixels.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from mrcnn.config import ModelConfig
from mrcnn.errors import UserError
from mrcnn.exporting.detector import Detector
from mrcnn.models import MaskRCNN

FORMAT = 1  # of the description
DESCRIPTION = "mrcnn.json"  # beside the program in a .pt2

# Height and width of the images that are traced. They differ on every level of a pyramid, and are
# more than one cell on the coarsest.
_EXAMPLE = (160, 224)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings of exporting libraries, which concern optional parts that are not used."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def description(model: MaskRCNN, config: ModelConfig) -> dict[str, Any]:
    """Return what a program that uses the detector must know, in values for JSON."""
    numerics = config.conventions
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
    """Trace a model for any number of images of any size from `least_side` on.

    Args:
        model: in evaluation mode, on the device where the program is to run.
        config: of the model.
        cut: see `Detector`.
        original_sizes: give the program this third input; see `Detector.forward`.
    """
    device = next(model.parameters()).device
    height, width = _EXAMPLE
    sizes = torch.tensor([[height, width - 1], [height - 1, width]], device=device)
    inputs = [torch.zeros(2, 3, height, width, device=device), sizes]
    shapes = dynamic_shapes(model, config)
    if original_sizes:
        inputs.append(2 * sizes)
        shapes = (*shapes, shapes[1])
    detector = Detector(model, config.conventions, cut=cut).eval()
    with torch.no_grad():
        return torch.export.export(detector, tuple(inputs), dynamic_shapes=shapes)


def dynamic_shapes(model: MaskRCNN, config: ModelConfig) -> tuple[dict[int, Any], ...]:
    """Return the dimensions of `pixels` and `sizes` that a program leaves free."""
    batch, multiple = Dim("batch", min=1), config.size_multiple
    least = least_side(model, config) // multiple
    units = [Dim(name, min=least) for name in ("height", "width")]
    height, width = (multiple * side if multiple > 1 else side for side in units)
    return {0: batch, 2: height, 3: width}, {0: batch}


def least_side(model: MaskRCNN, config: ModelConfig) -> int:
    """Return the least side of padded images, which has more than one cell on every level."""
    multiple = config.size_multiple
    return (model.backbone.strides[-1] // multiple + 1) * multiple


def save_pt2(program: ExportedProgram, about: dict[str, Any], path: Path) -> None:
    """Write a program and its `description`, to be read by `torch.export.load`."""
    with warnings.catch_warnings():
        # The warning is about weights in channels_last, which are saved correctly.
        warnings.filterwarnings("ignore", message="No complete tensor found")
        torch.export.save(program, path, extra_files={DESCRIPTION: json.dumps(about)})


def save_compiled(program: ExportedProgram, about: dict[str, Any], path: Path) -> None:
    """Compile a program with AOTInductor, and write the machine code and the description.

    The code is for the device and the kind of processor of the program. On a CPU it is also for the
    number of threads that PyTorch has. Weights are constants in it, packed for their convolutions.

    Args:
        program: from `export_program` with `cut`.
        about: the `description`, written as metadata.
        path: file to write.

    Raises:
        UserError: if there is no compiler, or the code cannot be compiled.
    """
    settings = {
        # Without freezing, PyTorch 2.13 computes wrong values in layers whose batch size is read
        # from data, such as those of masks with `cut`.
        "freezing": True,
        "aot_inductor.metadata": {"mrcnn": json.dumps(about)},
    }
    try:
        with quiet(), torch.no_grad():  # with gradients nothing is frozen
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(path), inductor_configs=settings
            )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"--format aoti: PyTorch cannot compile the model here ({reason}); is a C++ compiler "
            "installed? --format pt2 does not require one"
        ) from error
