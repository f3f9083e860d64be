"""Command `mrcnn export`: write a trained model as one file for other programs."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mrcnn.cli.flags import parse, require_at_least, run
from mrcnn.errors import UserError
from mrcnn.inference.model_flags import ModelFlags
from mrcnn.io.atomic import check_writable, replacing

if TYPE_CHECKING:
    from mrcnn.config import ModelConfig
    from mrcnn.models import MaskRCNN

ONNX_LIBRARIES = ("onnx", "onnxscript")
INT8_LIBRARIES = ("torchao",)


@dataclass(frozen=True)
class ExportConfig(ModelFlags):
    """Write a detector, from pixels to boxes, classes and masks, as one file.

    The file is a PyTorch program (pt2), a program compiled for this machine (aoti), or an ONNX
    model of standard operators (onnx).
    """

    weights: Path
    """Run folder (its best checkpoint, else its last), checkpoint file, detector of another
    framework, or name of a published model."""
    out: Path
    """File to write: .pt2 or .onnx."""
    format: Literal["pt2", "aoti", "onnx"] | None = None
    """Format of the file. If not set, it is pt2 or onnx, by the suffix of --out."""
    preprocess: bool = False
    """Include resizing, normalising and padding, so that the input is an image (onnx only)."""
    int8: Path | None = None
    """Quantize layers to 8 bits, calibrated on 32 typical images from this folder (aoti only)."""
    score_threshold: float | None = None
    """Minimum score of detections. If not set, it is the model's own threshold."""
    max_dets: int | None = None
    """Maximum detections per image. If not set, it is the model's own limit."""

    def __post_init__(self) -> None:
        suffixes = {None: (".pt2", ".onnx"), "onnx": (".onnx",)}.get(self.format, (".pt2",))
        if self.out.suffix not in suffixes:
            raise UserError(f"--out {self.out}: the name must end in {' or '.join(suffixes)}")
        if self.preprocess and self.out.suffix != ".onnx":
            raise UserError(
                f"--preprocess requires an .onnx file, got --out {self.out}; "
                "mrcnn.data.images prepares pixels for a .pt2"
            )
        if self.int8 is not None and self.format != "aoti":
            raise UserError("--int8 requires a compiled program; add --format aoti")
        if self.score_threshold is not None and not 0 <= self.score_threshold <= 1:
            raise UserError(f"--score-threshold must be in [0, 1], got {self.score_threshold}")
        require_at_least(self, max_dets=1)


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    args = parse(ExportConfig, argv)
    from mrcnn.checkpoints import find, kind_or_none
    from mrcnn.inference.load import load
    from mrcnn.inference.sources import find_images
    from mrcnn.models import MaskRCNN
    from mrcnn.models.layers import fold_norms

    check_writable(args.out, mark=b"mrcnn|least_side")
    if kind_or_none(find(args.weights)) == "program":
        raise UserError(f"--weights {args.weights}: is already a program; name its checkpoint")
    if args.out.suffix == ".onnx":
        _check_libraries("--format onnx", ONNX_LIBRARIES, "onnx")
    if args.int8 is not None:
        _check_libraries("--int8", INT8_LIBRARIES, "int8")
        # Refuses a folder without images before the model is loaded.
        for note in find_images([args.int8]).notes:
            print(note)
    fields = args.fields(score_threshold=args.score_threshold, max_detections=args.max_dets)
    predictor = load(args.weights, **fields)
    model, config = predictor.model, predictor.config
    assert isinstance(model, MaskRCNN)
    for note in predictor.notes:
        print(note)
    fold_norms(model)
    with replacing(args.out) as draft:
        summary = _write(model, config, args, draft)
    print(f"{args.out}: {summary}, {args.out.stat().st_size / 1e6:.1f} MB")


def _write(model: MaskRCNN, config: ModelConfig, args: ExportConfig, path: Path) -> str:
    """Write the file and return a summary of its contents."""
    from mrcnn.exporting.program import (
        description,
        export_program,
        quiet,
        save_compiled,
        save_pt2,
    )

    if args.out.suffix == ".onnx":
        from onnxscript import ir

        from mrcnn.exporting.onnx_file import export_onnx

        onnx_model = export_onnx(model, config, preprocess=args.preprocess)
        ir.save(onnx_model, path)
        return f"{len(onnx_model.graph)} nodes, opset {onnx_model.opset_imports['']}"
    if args.format != "aoti":
        program = export_program(model, config)
        save_pt2(program, description(model, config), path)
        return f"a program of {len(program.graph.nodes)} nodes"
    if args.int8 is None:
        program = export_program(model, config, cut=True)
    else:
        with quiet():
            from mrcnn.exporting.quantized import calibration_batches, quantize
            from mrcnn.inference.sources import find_images

            paths = [source.path for source in find_images([args.int8]).sources]
            program = quantize(model, config, calibration_batches(paths, config))
    save_compiled(program, description(model, config), path)
    import torch

    return f"compiled for {torch.get_num_threads()} threads of this processor"


def _check_libraries(flag: str, names: Sequence[str], extra: str) -> None:
    if missing := [name for name in names if importlib.util.find_spec(name) is None]:
        libraries = " and ".join(missing)
        raise UserError(f'{flag} requires {libraries}; run: pip install "mrcnn[{extra}]"')


if __name__ == "__main__":
    sys.exit(run(main))
