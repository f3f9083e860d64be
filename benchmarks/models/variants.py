"""Time inference in all variants (eager, compiled, exported), mrcnn against torchvision.

Mask R-CNN R50-FPN on an 800 x 1216 image and R18-FPN on a 512 x 512 one (with --quick R18-FPN on
128 x 192), with the same weights (see benchmarks/models/twins.py). From padded pixels to masks:
RLE for mrcnn, floats pasted into the image for torchvision, as its model does. Compiled variants of
both sides have their weights frozen, folded and packed once.

All float32 variants must give the eager model's detections before anything is timed. Random weights
show nothing about the precision of bfloat16 and of 8 bits; docs/export.md measures it on real
images. Compiling takes a minute or two per variant and is done for the current number of threads.
The peer of each line is the fastest of torchvision, eager and compiled, in float32; for bfloat16
and 8 bits, under autocast to bfloat16.

    python -m benchmarks.models.variants --threads 2
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from benchmarks.harness import Row, about, finish, measure, parse, row
from benchmarks.models.inference import compare
from benchmarks.models.twins import build_twins
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
    """Compile with torch.compile."""
    return torch.compile(model, fullgraph=True, options=FROZEN)


def aot_inductor(model: MaskRCNN, config: ModelConfig, images: ImageBatch) -> Detect:
    """Export, then compile ahead of time into a shared library with AOTInductor."""
    return compiled_ahead(export_program(model, config, cut=True), model, config)


def compiled_ahead(program: ExportedProgram, model: MaskRCNN, config: ModelConfig) -> Detect:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt2"
        save_compiled(program, description(model, config), path)
        return load_program(path, torch.device("cpu"))


def bfloat16(model: MaskRCNN, config: ModelConfig, images: ImageBatch) -> Detect:
    """Run eagerly, under autocast to bfloat16."""
    return in_bfloat16(model)


def in_bfloat16(run: Callable[..., Any]) -> Callable[..., Any]:
    def run_in_bfloat16(*args: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return run(*args)

    return run_in_bfloat16


def int8(model: MaskRCNN, config: ModelConfig, images: ImageBatch) -> Detect:
    """Compile with AOTInductor, convolutions and linear layers in 8 bits."""
    with quiet():
        from mrcnn.exporting.quantized import quantize

        folded = copy.deepcopy(model)
        fold_norms(folded)
        return compiled_ahead(quantize(folded, config, [images]), model, config)


def onnxruntime(model: MaskRCNN, config: ModelConfig, images: ImageBatch) -> Detect:
    """Run an exported ONNX file with onnxruntime."""
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
        pixels = np.ascontiguousarray(images.pixels.numpy())  # the only layout it takes
        outputs = session.run(None, {"pixels": pixels, "sizes": images.sizes.numpy()})
        return DetectionBatch(*map(torch.from_numpy, outputs))

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


class MrcnnRun:
    """One variant of the mrcnn model, with masks as RLE."""

    def __init__(self, detect: Detect, images: ImageBatch) -> None:
        self.run, self.images = detect, images
        height, width = images.pixels.shape[2:]
        self.size = (height, width)

    def detect(self) -> DetectionBatch:
        return self.run(self.images)

    def __call__(self) -> object:
        numerics = NUMERICS["torchvision"]
        return to_detections(self.detect(), self.images.sizes, [self.size], numerics)


class TorchvisionRun:
    """The torchvision model, with masks pasted into the image."""

    def __init__(self, model: nn.Module, pixels: Tensor, compile: bool, coarse: bool) -> None:
        from torchvision.models.detection.image_list import ImageList

        self.model = model
        self.images = ImageList(pixels, [(pixels.shape[2], pixels.shape[3])])
        run = in_bfloat16(self.detect) if coarse else self.detect
        self.run = torch.compile(run, options=FROZEN) if compile else run

    def detect(self) -> list[dict[str, Tensor]]:
        features = self.model.backbone(self.images.tensors)
        proposals, _ = self.model.rpn(self.images, features)
        detections: list[dict[str, Tensor]]
        detections, _ = self.model.roi_heads(features, proposals, self.images.image_sizes)
        return detections

    def __call__(self) -> object:
        sizes = self.images.image_sizes
        return self.model.transform.postprocess(self.run(), sizes, sizes)


def unpadded(batch: DetectionBatch) -> dict[str, Tensor]:
    """Return the detections of the first image, without padding."""
    count = slice(int(batch.counts[0]))
    return {name: getattr(batch, name)[0, count] for name in ("boxes", "scores", "labels", "masks")}


def check(name: str, detections: dict[str, Tensor], expected: dict[str, Tensor]) -> str:
    """Describe the agreement with the eager model.

    Raises:
        AssertionError: if a detection is missing and rounding cannot explain it.
    """
    same, errors = compare(detections, expected)
    ties = int((expected["scores"] - expected["scores"].min() <= 2 * errors["scores"]).sum())
    total = len(expected["scores"])
    text = f"{name}: {same} of {total} detections of the eager model, "
    text += ", ".join(f"{field} within {error:.1e}" for field, error in errors.items())
    if name in COARSE:
        return text
    assert same >= total - ties, text
    assert max(errors["scores"], errors["masks"]) < 1e-3, text
    assert errors["boxes"] < 1e-2, text
    return text


@torch.no_grad()
def main() -> None:
    args = parse(__doc__, threads=(2,), repeats=7, ways=list(VARIANTS))
    torch._dynamo.config.recompile_limit = 64  # torchvision's graph has many breaks
    facts = about(args)
    rows: list[Row] = []
    notes: list[str] = []
    for threads in args.threads:
        torch.set_num_threads(threads)
        for backbone, height, width in [("resnet18", 128, 192)] if args.quick else CASES:
            torch._dynamo.reset()
            pixels = torch.randn(1, 3, height, width).to(memory_format=torch.channels_last)
            images = ImageBatch(pixels, torch.tensor([[height, width]]))
            model, config, peer_model = build_twins(pixels, backbone=backbone)
            sides: dict[str, Callable[[], object]] = {}
            expected = unpadded(model(images))
            for name in args.ways:
                run = MrcnnRun(VARIANTS[name](model, config, images), images)
                notes.append(f"{backbone}: " + check(name, unpadded(run.detect()), expected))
                sides[name] = run
            if peer_model is not None:
                for coarse in sorted({name in COARSE for name in args.ways}):
                    for compile in (False, True):
                        name = "torchvision" + " compiled" * compile + " bfloat16" * coarse
                        sides[name] = TorchvisionRun(peer_model, pixels, compile, coarse)
            times = measure(sides, args.repeats)
            peers = [name for name in times if name.startswith("torchvision")]
            for name in args.ways:
                candidates = [peer for peer in peers if ("bfloat16" in peer) == (name in COARSE)]
                peer = min(candidates, key=lambda name: times[name].median, default=None)
                case = f"{backbone} {height} x {width} {name}"
                chosen = {"mrcnn": times[name]} | ({peer: times[peer]} if peer else {})
                rows.append(row(case, chosen, peer=peer))
            if peers:
                notes.append(
                    f"{backbone}, {threads} threads: "
                    + ", ".join(f"{name} {1e3 * times[name].median:.0f} ms" for name in peers)
                )
    finish(args, facts, rows, notes)


if __name__ == "__main__":
    main()
