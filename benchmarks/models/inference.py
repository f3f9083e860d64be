"""Time Mask R-CNN R50-FPN from padded pixels to detections with masks, against torchvision.

One 800 x 1216 image in float32 (with --quick 256 x 384, 100 proposals and 10 detections), with the
same weights (see benchmarks/models/twins.py). torchvision pastes its masks into the image as
floats, as its model does; mrcnn returns RLE, its default. Reading, resizing and normalising the
image are not part of either time.

Before anything is timed, both are compared with torchvision's model in float64. Both must have as
many of its detections (same class, corners within a pixel), except for ties of scores that rounding
decides. Errors of mrcnn must be at most four times those of torchvision in float32.

    python -m benchmarks.models.inference --threads 1 2
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import Row, Timing, about, finish, measure, parse, row
from benchmarks.models.twins import build_twins
from mrcnn.models import MaskRCNN
from mrcnn.models.postprocess import to_detections
from mrcnn.numerics import NUMERICS
from mrcnn.structures import ImageBatch

PEER = "torchvision"
STAGES = (
    "backbone body",
    "FPN",
    "RPN head",
    "proposals",
    "box RoIAlign",
    "box head",
    "detections",
    "mask RoIAlign",
    "mask head",
    "masks into image",
)


class Stopwatch:
    """Wall and CPU seconds of each stage, without the stages that it calls."""

    def __init__(self) -> None:
        self.runs: list[dict[str, tuple[float, float]]] = []
        self.open: list[
            tuple[float, float]
        ] = []  # time spent in inner stages of the calls that are running

    def wrap(self, owner: Any, method: str, stage: str) -> None:
        """Time a method of an object."""
        setattr(owner, method, self.timed(getattr(owner, method), stage))

    def timed(self, run: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def timed_run(*args: Any, **kwargs: Any) -> Any:
            self.open.append((0.0, 0.0))
            wall, cpu = time.perf_counter(), time.process_time()
            result = run(*args, **kwargs)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            inner_wall, inner_cpu = self.open.pop()
            before_wall, before_cpu = self.runs[-1].get(stage, (0.0, 0.0))
            outer = (before_wall + wall - inner_wall, before_cpu + cpu - inner_cpu)
            self.runs[-1][stage] = outer
            if self.open:
                outer_wall, outer_cpu = self.open.pop()
                self.open.append((outer_wall + wall, outer_cpu + cpu))
            return result

        return timed_run

    def timing(self, stage: str, repeats: int) -> Timing:
        times = [run.get(stage, (0.0, 0.0)) for run in self.runs[-repeats:]]
        return Timing(
            statistics.median(wall for wall, _ in times),
            min(wall for wall, _ in times),
            statistics.median(cpu for _, cpu in times),
        )


class MrcnnRun:
    """The mrcnn model with a stopwatch on its stages."""

    def __init__(self, model: MaskRCNN, pixels: Tensor) -> None:
        self.model, self.watch = model, Stopwatch()
        self.size = (pixels.shape[2], pixels.shape[3])
        self.images = ImageBatch(pixels, torch.tensor([self.size]))
        assert model.mask_head is not None
        for owner, method, stage in (
            (model.backbone.body, "forward", "backbone body"),
            (model.backbone, "merge", "FPN"),
            (model.rpn, "forward", "RPN head"),
            (model.rpn, "propose", "proposals"),
            (model.box_head.pooler, "forward", "box RoIAlign"),
            (model.box_head, "forward", "box head"),
            (model.box_head, "detect", "detections"),
            (model.mask_head.pooler, "forward", "mask RoIAlign"),
            (model.mask_head, "detect", "mask head"),
        ):
            self.watch.wrap(owner, method, stage)
        self.paste = self.watch.timed(to_detections, "masks into image")

    @torch.inference_mode()
    def detect(self) -> list[dict[str, Tensor]]:
        self.watch.runs.append({})
        batch = self.batch = self.model(self.images)
        count = slice(int(batch.counts[0]))
        return [
            {
                "boxes": batch.boxes[0, count],
                "scores": batch.scores[0, count],
                "labels": batch.labels[0, count] + 1,
                "masks": batch.masks[0, count, None],
            }
        ]

    @torch.inference_mode()
    def __call__(self) -> object:
        self.detect()
        numerics = NUMERICS["detectron2"]
        return self.paste(self.batch, self.images.sizes, [self.size], numerics)


class TorchvisionRun:
    """The torchvision model with a stopwatch on its stages."""

    def __init__(self, model: nn.Module, pixels: Tensor) -> None:
        from torchvision.models.detection.image_list import ImageList

        self.model, self.watch = model, Stopwatch()
        self.images = ImageList(pixels, [(pixels.shape[2], pixels.shape[3])])
        heads = model.roi_heads
        for owner, method, stage in (
            (model.backbone.body, "forward", "backbone body"),
            (model.backbone.fpn, "forward", "FPN"),
            (model.rpn.head, "forward", "RPN head"),
            (model.rpn, "forward", "proposals"),
            (heads.box_roi_pool, "forward", "box RoIAlign"),
            (heads.box_head, "forward", "box head"),
            (heads.box_predictor, "forward", "box head"),
            (heads, "postprocess_detections", "detections"),
            (heads.mask_roi_pool, "forward", "mask RoIAlign"),
            (heads, "forward", "mask head"),
            (model.transform, "postprocess", "masks into image"),
        ):
            self.watch.wrap(owner, method, stage)

    @torch.inference_mode()
    def detect(self) -> list[dict[str, Tensor]]:
        self.watch.runs.append({})
        features = self.model.backbone(self.images.tensors)
        proposals, _ = self.model.rpn(self.images, features)
        detections: list[dict[str, Tensor]]
        detections, _ = self.model.roi_heads(features, proposals, self.images.image_sizes)
        return detections

    @torch.inference_mode()
    def __call__(self) -> object:
        sizes = self.images.image_sizes
        return self.model.transform.postprocess(self.detect(), sizes, sizes)


def compare(
    detections: dict[str, Tensor], exact: dict[str, Tensor]
) -> tuple[int, dict[str, float]]:
    """Count the detections that are also in `exact`, and return their largest errors."""
    distance = (detections["boxes"][:, None] - exact["boxes"]).abs().amax(2)
    distance[detections["labels"][:, None] != exact["labels"]] = torch.inf
    nearest, index = distance.min(1)
    same = nearest < 1
    errors = {
        name: float((detections[name][same] - exact[name][index[same]]).abs().max())
        for name in ("boxes", "scores", "masks")
    }
    return int(same.sum()), errors


def check(
    mrcnn: MrcnnRun, peer: TorchvisionRun, exact: dict[str, Tensor]
) -> tuple[list[str], float]:
    """Compare both with `exact`.

    Returns:
        Notes for the table, and the largest error of a score of mrcnn.

    Raises:
        AssertionError: if the agreement is worse than the module's docstring promises.
    """
    total = len(exact["scores"])
    count, errors = compare(mrcnn.detect()[0], exact)
    peer_count, peer_errors = compare(peer.detect()[0], exact)
    notes = [
        f"of {total} detections of torchvision in float64, mrcnn in float32 has {count}, "
        f"torchvision in float32 {peer_count}"
    ]
    for name, error in errors.items():
        peer_error = peer_errors[name]
        notes.append(f"largest error of {name}: mrcnn {error:.1e}, torchvision {peer_error:.1e}")
        assert error <= 4 * peer_error, notes[-1]
    # Rounding decides among detections whose scores are within rounding of the last one kept.
    last = exact["scores"].min()
    ties = int((exact["scores"] - last <= 2 * errors["scores"]).sum())
    assert count >= peer_count - ties, notes[0]
    return notes, errors["scores"]


def main() -> None:
    args = parse(__doc__, repeats=5)
    height, width = (256, 384) if args.quick else (800, 1216)
    facts = about(args)
    torch.set_num_threads(max(args.threads))
    pixels = torch.randn(1, 3, height, width)
    small = {"proposals": 100, "detections": 10} if args.quick else {}
    model, _, peer_model = build_twins(pixels, **small)
    mrcnn = MrcnnRun(model, pixels)
    sides: dict[str, MrcnnRun | TorchvisionRun] = {"mrcnn": mrcnn}
    notes: list[str] = []
    error = None
    if peer_model is not None:
        exact = TorchvisionRun(copy.deepcopy(peer_model).double(), pixels.double()).detect()[0]
        sides[PEER] = peer = TorchvisionRun(peer_model, pixels)
        notes, error = check(mrcnn, peer, exact)
    rows: list[Row] = []
    for threads in args.threads:
        torch.set_num_threads(threads)
        times = measure(sides, args.repeats)
        rows.append(row(f"{height} x {width} end to end", times, peer=PEER, error=error))
        for stage in STAGES:
            stages = {name: side.watch.timing(stage, args.repeats) for name, side in sides.items()}
            rows.append(row(f"  {stage}", stages, peer=PEER))
    finish(args, facts, rows, notes)


if __name__ == "__main__":
    main()
