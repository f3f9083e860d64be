"""Inference in every way to run it: eager, compiled, exported; ours and torchvision's.

Mask R-CNN R50-FPN on an 800 x 1216 image and R18-FPN on a 512 x 512 one, in float32 (with --quick
R18-FPN on 128 x 192), with the same weights (see twins.py). From padded pixels to masks: ours as
run lengths, torchvision's pasted into the image as floats, as its model does. Weights are frozen
into what is compiled, folded and packed once, on both sides.

Every way must find what the eager model finds, before anything is timed. Compiling takes a minute
or two each; code is made for the number of threads at that time. The peer of each line is the
faster of torchvision eager and compiled.

    python benchmarks/variants_bench.py --threads 2
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from inference_bench import compare
from torch import Tensor, nn
from torch._inductor import aoti_load_package
from twins import build_twins

from common import Row, about, finish, measure, parse, row
from mrcnn.config import ModelConfig
from mrcnn.exporting.program import save_compiled
from mrcnn.models import MaskRCNN
from mrcnn.models.postprocess import to_detections
from mrcnn.numerics import NUMERICS
from mrcnn.structures import DetectionBatch, ImageBatch

Detect = Callable[[ImageBatch], DetectionBatch]
FROZEN = {"freezing": True}  # weights as constants, packed for oneDNN
CASES = [("resnet50", 800, 1216), ("resnet18", 512, 512)]


def eager(model: MaskRCNN, config: ModelConfig) -> Detect:
    return model


def compiled(model: MaskRCNN, config: ModelConfig) -> Detect:
    """By torch.compile."""
    return torch.compile(model, fullgraph=True, options=FROZEN)


def aot_inductor(model: MaskRCNN, config: ModelConfig) -> Detect:
    """By AOTInductor: a program of torch.export, compiled ahead into a shared library."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt2"
        save_compiled(model, config, path)
        run = aoti_load_package(path)
    # Compiled for the layout of the example, which is not looked at again.
    return lambda images: DetectionBatch(*run(images.pixels.contiguous(), images.sizes))


def onnxruntime(model: MaskRCNN, config: ModelConfig) -> Detect:
    """By onnxruntime, from an ONNX file."""
    import onnxruntime

    from mrcnn.exporting.onnx_file import export_onnx, save_onnx

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        save_onnx(export_onnx(model, config), path)
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
}


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

    def __init__(self, model: nn.Module, pixels: Tensor, compile: bool) -> None:
        from torchvision.models.detection.image_list import ImageList

        self.model = model
        self.images = ImageList(pixels, [(pixels.shape[2], pixels.shape[3])])
        self.run = torch.compile(self.detect, options=FROZEN) if compile else self.detect

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
    assert same >= total - ties, text
    assert max(errors["scores"], errors["masks"]) < 1e-3, text
    assert errors["boxes"] < 1e-2, text
    return text


@torch.no_grad()
def main() -> None:
    args = parse(__doc__, threads=(2,), repeats=7, ways=list(VARIANTS))
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
                ours = Ours(VARIANTS[name](model, config), images)
                notes.append(f"{backbone}: " + check(name, cut(ours.detect()), expected))
                sides[name] = ours
            if their_model is not None:
                sides["torchvision"] = Theirs(their_model, pixels, compile=False)
                sides["torchvision compiled"] = Theirs(their_model, pixels, compile=True)
            times = measure(sides, args.repeats)
            peers = [name for name in times if name.startswith("torchvision")]
            peer = min(peers, key=lambda name: times[name].median, default=None)
            for name in args.ways:
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
