"""Time the matching of anchors and proposals against torchvision's `box_iou` and `Matcher`.

Anchors are the 268,569 of an 800 x 1344 image (strides 4 to 64, sides 32 to 512, three aspects).
Proposals are 2000 boxes, half of them near targets. For targets, sqrt(area) is log-uniform from 16
to 600 pixels, aspect ratios are 1/2 to 2, centres uniform. Both results must be equal before they
are timed.

The floor is reading the boxes and writing both results once, at the bandwidth of a copy measured in
the same run.

    python -m benchmarks.ops.match_boxes --threads 1 2
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import Row, about, copy_bandwidth, finish, measure, parse, row
from mrcnn.ops import match_boxes
from mrcnn.ops.reference import match_boxes as reference_match_boxes

try:
    from torchvision.models.detection._utils import Matcher
    from torchvision.ops import box_iou
except ImportError:
    Matcher = box_iou = None

HEIGHT, WIDTH = 800, 1344
RPN = {"low_threshold": 0.3, "high_threshold": 0.7, "low_quality": True}
HEAD = {"low_threshold": 0.5, "high_threshold": 0.5, "low_quality": False}
REFERENCE_BOXES = 500  # the reference is plain Python


def make_targets(count: int) -> Tensor:
    """Draw (count, 4) boxes inside the image."""
    size = torch.exp(torch.empty(count).uniform_(2.7726, 6.3969))  # log 16 … log 600
    aspect = torch.exp(torch.empty(count).uniform_(-0.3466, 0.3466))  # sqrt(1/2) … sqrt(2)
    half = torch.stack([size * aspect, size / aspect], dim=1) / 2
    image = torch.tensor([WIDTH, HEIGHT])
    center = torch.rand(count, 2) * image
    low, high = (center - half).clamp(min=0), torch.minimum(center + half, image)
    return torch.cat([low, high], dim=1)


def make_anchors() -> Tensor:
    """Make (268569, 4) anchors, level by level and row by row, all aspects of a cell together."""
    levels = []
    for stride in (4, 8, 16, 32, 64):
        root = torch.tensor([0.5, 1.0, 2.0]).sqrt()
        half = torch.stack([8 * stride / root, 8 * stride * root], dim=1) / 2
        y = torch.arange(-(-HEIGHT // stride)) * stride
        x = torch.arange(-(-WIDTH // stride)) * stride
        center = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)[:, :, None]
        levels.append(torch.cat([center - half, center + half], dim=-1).view(-1, 4))
    return torch.cat(levels)


def make_proposals(targets: Tensor, count: int = 2000) -> Tensor:
    """Draw (count, 4) boxes in random order, half near targets and half anywhere."""
    near = targets[torch.randint(len(targets), (count // 2,))]
    near = near + torch.randn(count // 2, 4) * 0.15 * (near[:, 2:] - near[:, :2]).repeat(1, 2)
    return torch.cat([near, make_targets(count - len(near))])[torch.randperm(count)]


def run_mrcnn(boxes: Tensor, targets: Tensor, options: dict[str, float]) -> tuple[Tensor, Tensor]:
    valid = torch.ones(1, len(targets), dtype=torch.bool)
    matched, role = match_boxes(boxes[None], targets[None], valid, **options)
    return matched[0], role[0]


def peer(boxes: Tensor, targets: Tensor, options: dict[str, float]) -> Tensor:
    matcher = Matcher(options["high_threshold"], options["low_threshold"], options["low_quality"])
    return matcher(box_iou(targets, boxes))


def check(boxes: Tensor, targets: Tensor, options: dict[str, float]) -> None:
    """Stop if some boxes differ from the reference, or any box from the peer."""
    some = boxes[torch.randperm(len(boxes))[:REFERENCE_BOXES]]
    valid = torch.ones(1, len(targets), dtype=torch.bool)
    expected = reference_match_boxes(some[None], targets[None], valid, **options)
    for result, reference in zip(run_mrcnn(some, targets, options), expected, strict=True):
        if not torch.equal(result, reference[0]):
            raise AssertionError("matches differ from the reference")
    if Matcher is None:
        return
    matched, role = run_mrcnn(boxes, targets, options)
    peer_matches = peer(boxes, targets, options)
    matches = torch.where(role == 1, matched, torch.where(role == 0, -1, -2))
    if not torch.equal(matches, peer_matches):
        different = int((matches != peer_matches).sum())
        raise AssertionError(f"{different} matches differ from torchvision's")


def main() -> None:
    args = parse(__doc__)
    facts = about(args)
    anchors, rows = make_anchors(), list[Row]()
    for count in (20,) if args.quick else (20, 100):
        targets = make_targets(count)
        cases = {
            f"{len(anchors)} anchors x {count}": (anchors, targets, RPN),
            f"2000 proposals x {count}": (make_proposals(targets), targets, HEAD),
        }
        for name, inputs in cases.items():
            check(*inputs)
            for threads in args.threads:
                torch.set_num_threads(threads)
                sides = {"mrcnn": partial(run_mrcnn, *inputs)}
                if Matcher is not None:
                    sides["torchvision"] = partial(peer, *inputs)
                times = measure(sides, args.repeats)
                rows.append(
                    row(
                        name,
                        times,
                        peer="torchvision",
                        floor_bytes=len(inputs[0]) * (16 + 8 + 1),
                        bandwidth=copy_bandwidth(),
                    )
                )
    finish(args, facts, rows)


if __name__ == "__main__":
    main()
