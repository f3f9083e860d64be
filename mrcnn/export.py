"""A trained model as one file for other programs: `mrcnn export --weights RUN --out model.onnx`."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from mrcnn.checkpoints import find
from mrcnn.errors import UserError
from mrcnn.exporting.program import export_program, save_compiled, save_pt2
from mrcnn.files import check_writable, replacing
from mrcnn.flags import parse, run
from mrcnn.models.layers import fold_norms
from mrcnn.predictor import Predictor, load

ENDINGS = {"pt2": ".pt2", "aoti": ".pt2", "onnx": ".onnx"}  # of the files of each format
ONNX_LIBRARIES = ("onnx", "onnxscript")


@dataclass(frozen=True)
class ExportConfig:
    """Write a detector, from pixels to boxes, classes and masks, as one file: a program for
    PyTorch (pt2), the same compiled for this machine (aoti), or ONNX with standard operators
    alone (onnx)."""

    weights: Path
    """A run folder (its best checkpoint, else its last), a checkpoint file, a detector of another
    framework, or the name of a published one."""
    out: Path
    """File to write: .pt2 or .onnx."""
    format: Literal["pt2", "aoti", "onnx"] | None = None
    """By default pt2 or onnx, as the name of the file says."""
    preprocess: bool = False
    """For onnx: take images as they are read, and resize, normalise and pad within the file."""
    score_threshold: float | None = None
    """Objects with a lower score are left out; by default as the model was trained."""
    max_dets: int | None = None
    """Objects an image, at most; by default as the model was trained."""

    def __post_init__(self) -> None:
        endings = [ENDINGS[self.format]] if self.format else [".pt2", ".onnx"]
        if self.out.suffix not in endings:
            raise UserError(f"--out {self.out}: must be named {' or '.join(endings)}")
        if self.preprocess and self.out.suffix != ".onnx":
            raise UserError(
                f"--preprocess: is for .onnx files, got --out {self.out}; "
                "mrcnn.data.images prepares pixels for a .pt2"
            )
        if self.score_threshold is not None and not 0 <= self.score_threshold <= 1:
            raise UserError(f"--score-threshold must lie in [0, 1], got {self.score_threshold}")
        if self.max_dets is not None and self.max_dets < 1:
            raise UserError(f"--max-dets must be at least 1, got {self.max_dets}")


def main(argv: list[str] | None = None) -> None:
    """Read, trace, write."""
    args = parse(ExportConfig, argv)
    if args.out.suffix == ".onnx":
        _check_libraries()
    check_writable(args.out)
    if args.out.resolve() == find(args.weights).resolve():
        raise UserError(f"{args.out}: is the source; name another file to write")
    predictor = load(
        args.weights, score_threshold=args.score_threshold, max_detections=args.max_dets
    )
    for note in predictor.notes:
        print(note)
    fold_norms(predictor.model)
    what = _WRITERS[args.format or args.out.suffix.removeprefix(".")](predictor, args)
    print(f"{args.out}: {what}, {args.out.stat().st_size / 1e6:.1f} MB")


def _check_libraries() -> None:
    if missing := [name for name in ONNX_LIBRARIES if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"--format onnx: needs {' and '.join(missing)}, which this Python has not; "
            'run: pip install "mrcnn[onnx]"'
        )


def _write_pt2(predictor: Predictor, args: ExportConfig) -> str:
    program = export_program(predictor.model, predictor.config)
    with replacing(args.out) as draft:
        save_pt2(program, predictor.config, draft)
    return f"a program of {len(program.graph.nodes)} nodes"


def _write_compiled(predictor: Predictor, args: ExportConfig) -> str:
    with replacing(args.out) as draft:
        try:
            save_compiled(predictor.model, predictor.config, draft)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(
                f"--format aoti: PyTorch cannot compile the model here ({reason}); is a C++ "
                "compiler installed? --format pt2 needs none"
            ) from error
    return f"compiled for {torch.get_num_threads()} threads of this processor"


def _write_onnx(predictor: Predictor, args: ExportConfig) -> str:
    from mrcnn.exporting.onnx_file import export_onnx, save_onnx
    from mrcnn.ops.to_onnx import OPSET

    model = export_onnx(predictor.model, predictor.config, preprocess=args.preprocess)
    with replacing(args.out) as draft:
        save_onnx(model, draft)
    return f"{len(model.graph)} nodes, opset {OPSET}"


_WRITERS = {"pt2": _write_pt2, "aoti": _write_compiled, "onnx": _write_onnx}


if __name__ == "__main__":
    sys.exit(run(main))
