"""Pasting masks into the image, as run lengths, packed bits or bool: ours against torchvision's.

Masks are smooth random probabilities of 28 x 28. Boxes are those of an 800 x 1344 image: sqrt(area)
log-uniform from 16 to 600 pixels, aspect 1/2 to 2, centres uniform; 4000 x 6000 pixels see them
five times as large.

The peer is torchvision's `paste_masks_in_image` and a threshold, and for run lengths pycocotools'
encoding of each mask, as in torchvision's reference scripts. It rounds boxes to whole pixels, so
its pixels differ: ours are compared with the float64 reference, where only pixels within rounding
of the threshold may differ, and the run lengths and bits with our own pixels, exactly.

The floor is writing the output once, at the bandwidth of a copy measured in the same run.

    python benchmarks/paste_masks_bench.py --threads 1 2
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common import Row, about, copy_bandwidth, finish, measure, parse, row
from mrcnn.ops import library, paste_masks, paste_masks_packed, paste_masks_rle
from mrcnn.ops.reference_masks import paste_values

try:
    from torchvision.models.detection.roi_heads import paste_masks_in_image
except ImportError:
    paste_masks_in_image = None
try:
    from pycocotools import mask as coco_mask
except ImportError:
    coco_mask = None

host = library.load("mrcnn_host")
CELLS, THRESHOLD = 28, 0.5
# How far float32 may be from float64 in a coordinate of up to CELLS cells, along two axes; derived
# in tests/ops/test_paste_masks.py.
TOLERANCE = 2 * (5 * CELLS + 3) * 2.0**-24


def make_inputs(count: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """(count, 28, 28) probabilities and (count, 4) boxes, as described above."""
    coarse = torch.randn(count, 1, 5, 5)
    masks = (4 * F.interpolate(coarse, (CELLS, CELLS), mode="bicubic")[:, 0]).sigmoid()
    size = torch.exp(torch.empty(count).uniform_(2.7726, 6.3969))  # log 16 … log 600
    aspect = torch.exp(torch.empty(count).uniform_(-0.3466, 0.3466))  # sqrt(1/2) … sqrt(2)
    half = torch.stack([size * aspect, size / aspect], dim=1) / 2 * (height // 800)
    center = torch.rand(count, 2) * torch.tensor([width, height])
    return masks.contiguous(), torch.cat([center - half, center + half], dim=1)


def peer_pixels(masks: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    return paste_masks_in_image(masks[:, None], boxes, (height, width))[:, 0] >= THRESHOLD


def peer_runs(masks: Tensor, boxes: Tensor, height: int, width: int) -> list[dict[str, object]]:
    return [
        coco_mask.encode(np.array(mask.numpy()[:, :, None], dtype=np.uint8, order="F"))[0]
        for mask in peer_pixels(masks, boxes, height, width)
    ]


def decode(rle: dict[str, object]) -> Tensor:
    """(height, width) bool."""
    height, width = rle["size"]
    runs = host.rle_from_string(rle["counts"].encode(), height, width)
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return torch.from_numpy(values).view(width, height).T


def check(masks: Tensor, boxes: Tensor, height: int, width: int) -> str:
    """Stop on a wrong result; otherwise say how many pixels differ from whom."""
    dense = paste_masks(masks, boxes, height, width)
    packed = paste_masks_packed(masks, boxes, height, width)
    rles = paste_masks_rle(masks, boxes, height, width)
    pixels, unlike_reference, unlike_peer = 0, 0, 0
    for d in range(len(masks)):
        if not np.array_equal(packed[d].numpy(), np.packbits(dense[d].numpy(), axis=1)):
            raise AssertionError(f"packed bits of mask {d} are not its pixels")
        if not torch.equal(decode(rles[d]), dense[d]):
            raise AssertionError(f"run lengths of mask {d} are not its pixels")
        one = slice(d, d + 1)
        values = paste_values(masks[one], boxes[one], height, width)[0]
        unlike = dense[d] != (values >= THRESHOLD)
        if ((values - THRESHOLD).abs()[unlike] > TOLERANCE).any():
            raise AssertionError(f"pixels of mask {d} differ from the reference")
        unlike_reference += int(unlike.sum())
        pixels += int(dense[d].sum())
        if paste_masks_in_image is not None:
            peer = peer_pixels(masks[one], boxes[one], height, width)[0]
            unlike_peer += int((peer != dense[d]).sum())
    note = (
        f"{len(masks)} masks in {height} x {width}, {pixels} pixels inside: {unlike_reference} "
        "differ from the float64 reference, all within rounding of the threshold"
    )
    if paste_masks_in_image is not None:
        note += f"; {unlike_peer} from torchvision, whose boxes are whole pixels"
    return note


def outputs(
    count: int, height: int, width: int
) -> dict[str, tuple[Callable[..., object], Callable[..., object] | None, int]]:
    """By name: ours, the peer if it is installed, bytes of the result (of run lengths: none)."""
    pixels = peer_pixels if paste_masks_in_image else None
    runs = peer_runs if paste_masks_in_image and coco_mask else None
    return {
        "COCO run lengths": (paste_masks_rle, runs, 0),
        "packed bits": (paste_masks_packed, pixels, count * height * ((width + 7) // 8)),
        "bool": (paste_masks, pixels, count * height * width),
    }


def main() -> None:
    args = parse(__doc__)
    facts = about(args)
    cases = [(20, 800, 1344)] if args.quick else [(100, 800, 1344), (10, 4000, 6000)]
    rows: list[Row] = []
    notes = []
    for count, height, width in cases:
        inputs = (*make_inputs(count, height, width), height, width)
        notes.append(check(*inputs))
        for threads in args.threads:
            torch.set_num_threads(threads)
            bandwidth = copy_bandwidth()
            for name, (ours, peer, size) in outputs(count, height, width).items():
                sides = {"ours": partial(ours, *inputs)}
                if peer:
                    sides["torchvision"] = partial(peer, *inputs)
                times = measure(sides, args.repeats)
                rows.append(
                    row(
                        f"{count} masks in {height} x {width} to {name}",
                        times,
                        peer="torchvision",
                        floor_bytes=size or None,
                        bandwidth=bandwidth,
                    )
                )
    if coco_mask is None:
        notes.append("pycocotools is not installed: no peer for run lengths")
    finish(args, facts, rows, notes)


if __name__ == "__main__":
    main()
