"""Time pasting masks into the image, as RLE, packed bits or bool, against torchvision's.

Masks are smooth random probabilities of 28 x 28. Boxes are in an 800 x 1344 image: sqrt(area) is
log-uniform from 16 to 600 pixels, aspect ratios are 1/2 to 2, centres uniform. For 4000 x 6000
pixels they are five times as large.

The peer is torchvision's `paste_masks_in_image` and a threshold; for RLE, each mask is then encoded
with pycocotools, as in torchvision's reference scripts. It rounds boxes to whole pixels, so its
pixels differ. Results are therefore compared with the float64 reference, from which only pixels
within rounding of the threshold may differ; RLE and packed bits must equal the bool result exactly.

The floor is writing the output once, at the bandwidth of a copy measured in the same run.

    python -m benchmarks.ops.paste_masks --threads 1 2
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Row, about, copy_bandwidth, finish, measure, parse, row
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
    """Draw (count, 28, 28) probabilities and (count, 4) boxes, as described above."""
    coarse = torch.randn(count, 1, 5, 5)
    masks = (4 * F.interpolate(coarse, (CELLS, CELLS), mode="bicubic")[:, 0]).sigmoid()
    size = torch.exp(torch.empty(count).uniform_(2.7726, 6.3969))  # log 16 … log 600
    aspect = torch.exp(torch.empty(count).uniform_(-0.3466, 0.3466))  # sqrt(1/2) … sqrt(2)
    half = torch.stack([size * aspect, size / aspect], dim=1) / 2 * (height // 800)
    center = torch.rand(count, 2) * torch.tensor([width, height])
    return masks.contiguous(), torch.cat([center - half, center + half], dim=1)


def peer_pixels(masks: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    return paste_masks_in_image(masks[:, None], boxes, (height, width))[:, 0] >= THRESHOLD


def peer_rle(masks: Tensor, boxes: Tensor, height: int, width: int) -> list[dict[str, object]]:
    return [
        coco_mask.encode(np.array(mask.numpy()[:, :, None], dtype=np.uint8, order="F"))[0]
        for mask in peer_pixels(masks, boxes, height, width)
    ]


def decode(rle: dict[str, object]) -> Tensor:
    """Decode one mask to (height, width) bool."""
    height, width = rle["size"]
    runs = host.rle_from_string(rle["counts"].encode(), height, width)
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return torch.from_numpy(values).view(width, height).T


def check(masks: Tensor, boxes: Tensor, height: int, width: int) -> str:
    """Stop on a wrong result; otherwise describe how many pixels differ."""
    dense = paste_masks(masks, boxes, height, width)
    packed = paste_masks_packed(masks, boxes, height, width)
    rles = paste_masks_rle(masks, boxes, height, width)
    pixels, from_reference, from_peer = 0, 0, 0
    for d in range(len(masks)):
        if not np.array_equal(packed[d].numpy(), np.packbits(dense[d].numpy(), axis=1)):
            raise AssertionError(f"packed bits of mask {d} differ from its pixels")
        if not torch.equal(decode(rles[d]), dense[d]):
            raise AssertionError(f"RLE of mask {d} differs from its pixels")
        index = slice(d, d + 1)
        values = paste_values(masks[index], boxes[index], height, width)[0]
        different = dense[d] != (values >= THRESHOLD)
        if ((values - THRESHOLD).abs()[different] > TOLERANCE).any():
            raise AssertionError(f"pixels of mask {d} differ from the reference")
        from_reference += int(different.sum())
        pixels += int(dense[d].sum())
        if paste_masks_in_image is not None:
            peer = peer_pixels(masks[index], boxes[index], height, width)[0]
            from_peer += int((peer != dense[d]).sum())
    note = (
        f"{len(masks)} masks in {height} x {width}, {pixels} pixels inside: {from_reference} "
        "differ from the float64 reference, all within rounding of the threshold"
    )
    if paste_masks_in_image is not None:
        note += f"; {from_peer} from torchvision, which rounds boxes to whole pixels"
    return note


def outputs(
    count: int, height: int, width: int
) -> dict[str, tuple[Callable[..., object], Callable[..., object] | None, int]]:
    """Return op, peer (if installed) and bytes of the result (0 for RLE) by output format."""
    pixels = peer_pixels if paste_masks_in_image else None
    rle = peer_rle if paste_masks_in_image and coco_mask else None
    return {
        "COCO RLE": (paste_masks_rle, rle, 0),
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
            for name, (op, peer, size) in outputs(count, height, width).items():
                sides = {"mrcnn": partial(op, *inputs)}
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
        notes.append("pycocotools is not installed: no peer for RLE")
    finish(args, facts, rows, notes)


if __name__ == "__main__":
    main()
