"""Time the selection of proposals against torchvision's RPN, on the same maps.

Five levels of an 832 x 1344 image (279,279 anchors), 1000 boxes per level before NMS and 1000 per
image after. (The height is 832 because torchvision computes the stride as image height // map
height: with 800, it takes 61 instead of 64 for the coarsest level.) Logits are smooth blobs, as a
trained head gives them, so that neighbours compete. The peer is torchvision's
`RegionProposalNetwork` without the convolutions: anchors, decoding, top-k, clipping, filtering,
NMS. The error is the largest difference of the boxes that both keep, in pixels.

    python -m benchmarks.ops.select_proposals --threads 1
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import harness
from mrcnn.models.anchors import make_cell_anchors
from mrcnn.numerics import NUMERICS
from mrcnn.ops import select_proposals

STRIDES = (4, 8, 16, 32, 64)
SIZES, RATIOS = [[32], [64], [128], [256], [512]], (0.5, 1.0, 2.0)
HEIGHT, WIDTH = 832, 1344


def make_maps(images: int) -> tuple[list[Tensor], list[Tensor]]:
    """Make logits (N, 3, H, W) and deltas (N, 12, H, W) for each level."""
    logits, deltas = [], []
    for stride in STRIDES:
        height, width = -(-HEIGHT // stride), -(-WIDTH // stride)
        coarse = torch.randn(images, 3, height // 4 + 2, width // 4 + 2) * 3
        smooth = F.interpolate(coarse, (height, width), mode="bicubic")
        logits.append(smooth + 0.1 * torch.randn(images, 3, height, width) - 4)
        deltas.append(0.3 * torch.randn(images, 12, height, width))
    return logits, deltas


def make_peer(images: int) -> torch.nn.Module:
    """Return torchvision's RPN with a head that returns prepared maps."""
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.rpn import RegionProposalNetwork

    class PreparedMaps(torch.nn.Module):
        maps: tuple[list[Tensor], list[Tensor]]

        def forward(self, _features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
            return self.maps

    anchors = AnchorGenerator(SIZES, (RATIOS,) * len(SIZES))
    top_k = {"training": 1000, "testing": 1000}
    rpn = RegionProposalNetwork(anchors, PreparedMaps(), 0.7, 0.3, 256, 0.5, top_k, top_k, 0.7)
    return rpn.eval()


def compare(proposals: tuple[Tensor, Tensor], peer: list[Tensor]) -> tuple[float, int, int]:
    """Match proposals with the peer's boxes.

    Returns:
        The largest difference of boxes that match within 0.01 pixels, their number, and the number
        of the peer's boxes.
    """
    worst, matched, total = 0.0, 0, 0
    for boxes, scores, expected in zip(*proposals, peer, strict=True):
        kept = boxes[scores > -torch.inf]
        distance = torch.cdist(expected, kept, p=torch.inf).min(dim=1).values
        near = distance < 0.01
        worst = max(worst, float(distance[near].max()))
        matched, total = matched + int(near.sum()), total + len(expected)
    return worst, matched, total


def count_of(images: int) -> str:
    return f"{images} image{'s' if images > 1 else ''}"


def main() -> None:
    args = harness.parse(__doc__)
    facts, rows, notes = harness.about(args), [], []
    cell_anchors = make_cell_anchors(SIZES, RATIOS, STRIDES, NUMERICS["torchvision"])
    for threads in args.threads:
        torch.set_num_threads(threads)
        bandwidth = harness.copy_bandwidth()
        for images in (1, 2) if args.quick else (1, 8):
            torch.manual_seed(images)
            logits, deltas = make_maps(images)
            sizes = torch.tensor([[HEIGHT, WIDTH]]).repeat(images, 1)
            last = [m.contiguous(memory_format=torch.channels_last) for m in (*logits, *deltas)]
            maps = last[: len(STRIDES)], last[len(STRIDES) :]

            def run(maps=maps, sizes=sizes):
                return select_proposals(
                    *maps, cell_anchors, [(s, s) for s in STRIDES], sizes,
                    pre_nms_top_k=1000, post_nms_top_k=1000, nms_threshold=0.7, min_side=1e-3,
                )  # fmt: skip

            sides, error = {"mrcnn": run}, None
            if harness.torchvision:
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

                error, matched, total = compare(run(), peer())
                # Rounding decides about boxes at the NMS threshold.
                if matched < 0.995 * total:
                    raise SystemExit(f"only {matched} of {total} proposals match torchvision")
                notes.append(
                    f"{count_of(images)}: {matched} of {total} proposals match torchvision"
                )
                sides["torchvision"] = peer
            # All logits are read, but only the deltas of the selected anchors.
            moved = sum(m.nbytes for m in logits) + images * len(STRIDES) * 1000 * 16
            rows.append(
                harness.row(
                    f"{count_of(images)}, {sum(m[0].numel() for m in logits)} anchors each",
                    harness.measure(sides, args.repeats),
                    peer="torchvision",
                    floor_bytes=moved,
                    bandwidth=bandwidth,
                    error=error,
                )
            )
    harness.finish(args, facts, rows, dict.fromkeys(notes))


if __name__ == "__main__":
    main()
