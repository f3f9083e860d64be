"""From the outputs of the RPN head to proposals: ours against torchvision's, on the same maps.

Five levels of an 832 x 1344 image (279,279 anchors), 1000 boxes a level before NMS and 1000 an
image after. (832, since torchvision divides the image's height by the map's, rounded down, to get
the stride: with 800 it takes 61 for the coarsest level, whose stride is 64.) Logits are smooth
blobs, as a trained head gives them, so that neighbours compete. torchvision's part is its
`RegionProposalNetwork` without the convolutions: anchors, decoding, top-k, clipping, filtering,
NMS. The error is the largest difference of the boxes that both keep, in pixels.

    python benchmarks/proposals_bench.py --threads 1
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import common
from mrcnn.models.anchors import make_cell_anchors
from mrcnn.numerics import NUMERICS
from mrcnn.ops import select_proposals

STRIDES = (4, 8, 16, 32, 64)
SIZES, RATIOS = [[32], [64], [128], [256], [512]], (0.5, 1.0, 2.0)
HEIGHT, WIDTH = 832, 1344


def make_maps(images: int) -> tuple[list[Tensor], list[Tensor]]:
    """Logits (N, 3, H, W) and deltas (N, 12, H, W) of every level."""
    logits, deltas = [], []
    for stride in STRIDES:
        height, width = -(-HEIGHT // stride), -(-WIDTH // stride)
        coarse = torch.randn(images, 3, height // 4 + 2, width // 4 + 2) * 3
        smooth = F.interpolate(coarse, (height, width), mode="bicubic")
        logits.append(smooth + 0.1 * torch.randn(images, 3, height, width) - 4)
        deltas.append(0.3 * torch.randn(images, 12, height, width))
    return logits, deltas


def make_peer(images: int) -> torch.nn.Module:
    """torchvision's network with a head that returns what it is given."""
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.rpn import RegionProposalNetwork

    class Given(torch.nn.Module):
        maps: tuple[list[Tensor], list[Tensor]]

        def forward(self, _features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
            return self.maps

    anchors = AnchorGenerator(SIZES, (RATIOS,) * len(SIZES))
    top_k = {"training": 1000, "testing": 1000}
    rpn = RegionProposalNetwork(anchors, Given(), 0.7, 0.3, 256, 0.5, top_k, top_k, 0.7)
    return rpn.eval()


def compare(ours: tuple[Tensor, Tensor], theirs: list[Tensor]) -> tuple[float, int, int]:
    """Largest difference of matching boxes, how many match within 0.01 pixels, and of how many."""
    worst, matched, total = 0.0, 0, 0
    for boxes, scores, expected in zip(*ours, theirs, strict=True):
        kept = boxes[scores > -torch.inf]
        distance = torch.cdist(expected, kept, p=torch.inf).min(dim=1).values
        near = distance < 0.01
        worst = max(worst, float(distance[near].max()))
        matched, total = matched + int(near.sum()), total + len(expected)
    return worst, matched, total


def count_of(images: int) -> str:
    return f"{images} image{'s' if images > 1 else ''}"


def main() -> None:
    args = common.parse(__doc__)
    facts, rows, notes = common.about(args), [], []
    cell_anchors = make_cell_anchors(SIZES, RATIOS, STRIDES, NUMERICS["torchvision"])
    for threads in args.threads:
        torch.set_num_threads(threads)
        bandwidth = common.copy_bandwidth()
        for images in (1, 2) if args.quick else (1, 8):
            torch.manual_seed(images)
            logits, deltas = make_maps(images)
            sizes = torch.tensor([[HEIGHT, WIDTH]]).repeat(images, 1)
            last = [m.contiguous(memory_format=torch.channels_last) for m in (*logits, *deltas)]
            maps = last[: len(STRIDES)], last[len(STRIDES) :]

            def ours(maps=maps, sizes=sizes):
                return select_proposals(
                    *maps, cell_anchors, [(s, s) for s in STRIDES], sizes,
                    pre_nms_top_k=1000, post_nms_top_k=1000, nms_threshold=0.7, min_side=1e-3,
                )  # fmt: skip

            sides, error = {"ours": ours}, None
            if common.torchvision:
                from torchvision.models.detection.image_list import ImageList

                rpn = make_peer(images)
                rpn.head.maps = logits, deltas
                image_list = ImageList(
                    torch.empty(images, 3, HEIGHT, WIDTH), [(HEIGHT, WIDTH)] * images
                )
                features = {str(i): m for i, m in enumerate(logits)}

                def peer(rpn=rpn, image_list=image_list, features=features):
                    with torch.no_grad():
                        return rpn(image_list, features)[0]

                error, matched, total = compare(ours(), peer())
                # Boxes on the edge of the NMS threshold may fall to either side of a rounding.
                if matched < 0.995 * total:
                    raise SystemExit(f"only {matched} of {total} proposals are torchvision's")
                notes.append(
                    f"{count_of(images)}: {matched} of {total} proposals are torchvision's"
                )
                sides["torchvision"] = peer
            # Every logit is read; of the deltas only those of the winners.
            moved = sum(m.nbytes for m in logits) + images * len(STRIDES) * 1000 * 16
            rows.append(
                common.row(
                    f"{count_of(images)}, {sum(m[0].numel() for m in logits)} anchors each",
                    common.measure(sides, args.repeats),
                    peer="torchvision",
                    floor_bytes=moved,
                    bandwidth=bandwidth,
                    error=error,
                )
            )
    common.finish(args, facts, rows, dict.fromkeys(notes))


if __name__ == "__main__":
    main()
