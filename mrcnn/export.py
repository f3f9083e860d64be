"""A trained model as one file for other programs: `mrcnn export --weights RUN --out model.onnx`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from mrcnn.checkpoints import find
from mrcnn.config import ModelConfig
from mrcnn.data.images import network_size, pad_images, read_image, to_pixels
from mrcnn.errors import UserError
from mrcnn.exporting.program import description, export_program, save_compiled, save_pt2
from mrcnn.exporting.quiet import quiet
from mrcnn.exporting.saved import SavedProgram
from mrcnn.files import check_writable, replacing
from mrcnn.flags import parse, run
from mrcnn.inference.load import load
from mrcnn.models import MaskRCNN
from mrcnn.models.layers import fold_norms
from mrcnn.sources import find_images
from mrcnn.structures import ImageBatch

ENDINGS = {"pt2": ".pt2", "aoti": ".pt2", "onnx": ".onnx"}  # of the files of each format
ONNX_LIBRARIES = ("onnx", "onnxscript")
INT8_LIBRARIES = ("torchao",)
EXAMPLES = 32  # pictures for --int8


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
    int8: Path | None = None
    """For aoti: compute convolutions and linear layers in 8 bits, with ranges found on this folder
    of pictures like those to come (32 of them are taken)."""
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
        if self.int8 is not None and self.format != "aoti":
            raise UserError("--int8: is for compiled programs; give --format aoti, too")
        if self.score_threshold is not None and not 0 <= self.score_threshold <= 1:
            raise UserError(f"--score-threshold must lie in [0, 1], got {self.score_threshold}")
        if self.max_dets is not None and self.max_dets < 1:
            raise UserError(f"--max-dets must be at least 1, got {self.max_dets}")


def main(argv: list[str] | None = None) -> None:
    """Read, trace, write."""
    args = parse(ExportConfig, argv)
    if args.out.suffix == ".onnx":
        _check_libraries("--format onnx", ONNX_LIBRARIES, "onnx")
    if args.int8 is not None:
        _check_libraries("--int8", INT8_LIBRARIES, "int8")
        find_images([args.int8])  # refuses a folder without any before the model is loaded
    check_writable(args.out)
    if args.out.resolve() == find(args.weights).resolve():
        raise UserError(f"{args.out}: is the source; name another file to write")
    predictor = load(
        args.weights, score_threshold=args.score_threshold, max_detections=args.max_dets
    )
    model = predictor.model
    if isinstance(model, SavedProgram):
        raise UserError(f"--weights {args.weights}: is a program already; name its checkpoint")
    for note in predictor.notes:
        print(note)
    fold_norms(model)
    write = _WRITERS[args.format or args.out.suffix.removeprefix(".")]
    what = write(model, predictor.config, args)
    print(f"{args.out}: {what}, {args.out.stat().st_size / 1e6:.1f} MB")


def _check_libraries(flag: str, names: Sequence[str], extra: str) -> None:
    if missing := [name for name in names if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"{flag}: needs {' and '.join(missing)}, which this Python has not; "
            f'run: pip install "mrcnn[{extra}]"'
        )


def _write_pt2(model: MaskRCNN, config: ModelConfig, args: ExportConfig) -> str:
    program = export_program(model, config)
    with replacing(args.out) as draft:
        save_pt2(program, description(model, config), draft)
    return f"a program of {len(program.graph.nodes)} nodes"


def _write_compiled(model: MaskRCNN, config: ModelConfig, args: ExportConfig) -> str:
    if args.int8 is None:
        program = export_program(model, config, cut=True)
    else:
        with quiet():
            from mrcnn.exporting.quantized import quantize

            program = quantize(model, config, _examples(args.int8, config))
    with replacing(args.out) as draft, quiet():
        try:
            save_compiled(program, description(model, config), draft)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(
                f"--format aoti: PyTorch cannot compile the model here ({reason}); is a C++ "
                "compiler installed? --format pt2 needs none"
            ) from error
    return f"compiled for {torch.get_num_threads()} threads of this processor"


def _examples(folder: Path, config: ModelConfig) -> Iterator[ImageBatch]:
    """Some of the pictures in a folder, spread over all, one by one."""
    paths = [source.path for source in find_images([folder])]
    for path in paths[:: -(-len(paths) // EXAMPLES)]:
        image = read_image(path)
        size = network_size(image.shape[0], image.shape[1], config)
        yield pad_images([to_pixels(image, size, config)], config.size_multiple)


def _write_onnx(model: MaskRCNN, config: ModelConfig, args: ExportConfig) -> str:
    from mrcnn.exporting.onnx_file import export_onnx, save_onnx
    from mrcnn.ops.to_onnx import OPSET

    graph = export_onnx(model, config, preprocess=args.preprocess)
    with replacing(args.out) as draft:
        save_onnx(graph, draft)
    return f"{len(graph.graph)} nodes, opset {OPSET}"


_WRITERS = {"pt2": _write_pt2, "aoti": _write_compiled, "onnx": _write_onnx}


if __name__ == "__main__":
    sys.exit(run(main))
