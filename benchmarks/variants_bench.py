"""Inference in every way to run it: eager, compiled, exported; ours and torchvision's.

Mask R-CNN R50-FPN on an 800 x 1216 image and R18-FPN on a 512 x 512 one (with --quick R18-FPN on
128 x 192), with the same weights (see twins.py). From padded pixels to masks: ours as run lengths,
torchvision's pasted into the image as floats, as its model does. Weights are frozen into what is
compiled, folded and packed once, on both sides.

Every way in float32 must find what the eager model finds, before anything is timed; random weights
tell nothing of the precision of bfloat16 and of 8 bits, real pictures do (docs/export.md).
Compiling takes a minute or two each; code is made for the number of threads at that time. The peer
of each line is the fastest of torchvision, eager and compiled, in float32, or for bfloat16 and 8
bits under autocast to bfloat16.

    python benchmarks/variants_bench.py --threads 2
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from inference_bench import compare
from torch import Tensor, nn
from torch.export import ExportedProgram
from twins import build_twins

from common import Row, about, finish, measure, parse, row
from mrcnn.config import ModelConfig
from mrcnn.exporting.program import description, export_program, quiet, save_compiled
from mrcnn.exporting.saved import load_program
from mrcnn.models import MaskRCNN
from mrcnn.models.layers import fold_norms
from mrcnn.models.postprocess import to_detections
from mrcnn.numerics import NUMERICS
from mrcnn.structures import DetectionBatch, ImageBatch

Detect = Callable[[ImageBatch], DetectionBatch]
FROZEN = {"freezing": True}  # weights as constants, packed for oneDNN
CASES = [("resnet50", 800, 1216), ("resnet18", 512, 512)]


def eager(model: MaskRCNN, config: ModelConfig, images: ImageBatch) -> Detect:
    return model


def compiled(model: MaskRCNN, config: ModelConfig, images: ImageBatch) -> Detect:
    """By torch.compile."""
    return torch.compile(model, fullgraph=True, options=FROZEN)


def aot_inductor(model: MaskRCNN, config: ModelConfig, images: ImageBatch) -> Detect:
    """By AOTInductor: a program of torch.export, compiled ahead into a shared library."""
    return compiled_ahead(export_program(model, config, cut=True), model, config)


def compiled_ahead(program: ExportedProgram, model: MaskRCNN, config: ModelConfig) -> Detect:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt2"
        save_compiled(program, description(model, config), path)
        return load_program(path, torch.device("cpu"))


def bfloat16(model: MaskRCNN, config: ModelConfig, images: ImageBatch) -> Detect:
    """Eager, under autocast."""
    return in_bfloat16(model)


def in_bfloat16(run: Callable[..., Any]) -> Callable[..., Any]:
    def run_in_bfloat16(*args: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return run(*args)

    return run_in_bfloat16


def int8(model: MaskRCNN, config: ModelConfig, images: ImageBatch) -> Detect:
    """By AOTInductor, convolutions and linear layers in 8 bits."""
    with quiet():
        from mrcnn.exporting.quantized import quantize

        folded = copy.deepcopy(model)
        fold_norms(folded)
        return compiled_ahead(quantize(folded, config, [images]), model, config)


def onnxruntime(model: MaskRCNN, config: ModelConfig, images: ImageBatch) -> Detect:
    """By onnxruntime, from an ONNX file."""
    import onnxruntime
    from onnxscript import ir

    from mrcnn.exporting.onnx_file import export_onnx

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        ir.save(export_onnx(model, config), path)
        session = onnxruntime.InferenceSession(path, options)

    def detect(images: ImageBatch) -> DetectionBatch:
        pixels = np.ascontiguousarray(images.pixels.numpy())  # the one layout that it knows
        found = session.run(None, {"pixels": pixels, "sizes": images.sizes.numpy()})
        return DetectionBatch(*map(torch.from_numpy, found))

    return detect


VARIANTS = {
    "eager": eager,
    "compiled": compiled,
    "AOTInductor": aot_inductor,
    "onnxruntime": onnxruntime,
    "bfloat16": bfloat16,
    "int8": int8,
}
COARSE = ("bfloat16", "int8")


class Ours:
    """One way to run our model, with the masks as run lengths."""

    def __init__(self, detect: Detect, images: ImageBatch) -> None:
        self.run, self.images = detect, images
        height, width = images.pixels.shape[2:]
        self.size = (height, width)

    def detect(self) -> DetectionBatch:
        return self.run(self.images)

    def __call__(self) -> object:
        numerics = NUMERICS["torchvision"]
        return to_detections(self.detect(), self.images.sizes, [self.size], numerics)


class Theirs:
    """Torchvision's model, with the masks in the image."""

    def __init__(self, model: nn.Module, pixels: Tensor, compile: bool, coarse: bool) -> None:
        from torchvision.models.detection.image_list import ImageList

        self.model = model
        self.images = ImageList(pixels, [(pixels.shape[2], pixels.shape[3])])
        run = in_bfloat16(self.detect) if coarse else self.detect
        self.run = torch.compile(run, options=FROZEN) if compile else run

    def detect(self) -> list[dict[str, Tensor]]:
        features = self.model.backbone(self.images.tensors)
        proposals, _ = self.model.rpn(self.images, features)
        found: list[dict[str, Tensor]]
        found, _ = self.model.roi_heads(features, proposals, self.images.image_sizes)
        return found

    def __call__(self) -> object:
        sizes = self.images.image_sizes
        return self.model.transform.postprocess(self.run(), sizes, sizes)


def cut(found: DetectionBatch) -> dict[str, Tensor]:
    """The detections of the one image, without padding."""
    count = slice(int(found.counts[0]))
    return {name: getattr(found, name)[0, count] for name in ("boxes", "scores", "labels", "masks")}


def check(name: str, found: dict[str, Tensor], expected: dict[str, Tensor]) -> str:
    """A sentence about the agreement with the eager model.

    Raises:
        AssertionError: if a detection is missing that not rounding alone decides.
    """
    same, errors = compare(found, expected)
    ties = int((expected["scores"] - expected["scores"].min() <= 2 * errors["scores"]).sum())
    total = len(expected["scores"])
    text = f"{name}: {same} of {total} detections of the eager model, "
    text += ", ".join(f"{of} within {error:.1e}" for of, error in errors.items())
    if name in COARSE:
        return text
    assert same >= total - ties, text
    assert max(errors["scores"], errors["masks"]) < 1e-3, text
    assert errors["boxes"] < 1e-2, text
    return text


@torch.no_grad()
def main() -> None:
    args = parse(__doc__, threads=(2,), repeats=7, ways=list(VARIANTS))
    torch._dynamo.config.recompile_limit = 64  # torchvision's graph is in many parts
    facts = about(args)
    rows: list[Row] = []
    notes: list[str] = []
    for threads in args.threads:
        torch.set_num_threads(threads)
        for backbone, height, width in [("resnet18", 128, 192)] if args.quick else CASES:
            torch._dynamo.reset()
            pixels = torch.randn(1, 3, height, width).to(memory_format=torch.channels_last)
            images = ImageBatch(pixels, torch.tensor([[height, width]]))
            model, config, their_model = build_twins(pixels, backbone=backbone)
            sides: dict[str, Callable[[], object]] = {}
            expected = cut(model(images))
            for name in args.ways:
                ours = Ours(VARIANTS[name](model, config, images), images)
                notes.append(f"{backbone}: " + check(name, cut(ours.detect()), expected))
                sides[name] = ours
            if their_model is not None:
                for coarse in sorted({name in COARSE for name in args.ways}):
                    for compile in (False, True):
                        name = "torchvision" + " compiled" * compile + " bfloat16" * coarse
                        sides[name] = Theirs(their_model, pixels, compile, coarse)
            times = measure(sides, args.repeats)
            peers = [name for name in times if name.startswith("torchvision")]
            for name in args.ways:
                equals = [peer for peer in peers if ("bfloat16" in peer) == (name in COARSE)]
                peer = min(equals, key=lambda name: times[name].median, default=None)
                case = f"{backbone} {height} x {width} {name}"
                chosen = {"ours": times[name]} | ({peer: times[peer]} if peer else {})
                rows.append(row(case, chosen, peer=peer))
            if peers:
                notes.append(
                    f"{backbone}, {threads} threads: "
                    + ", ".join(f"{name} {1e3 * times[name].median:.0f} ms" for name in peers)
                )
    finish(args, facts, rows, notes)


if __name__ == "__main__":
    main()
