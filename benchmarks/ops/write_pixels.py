"""Time preparing an image for the network: crop, resize, mirror, normalise, write into the batch.

The peers do this in several passes, as data loaders do. Pillow: bilinear `resize`, then PyTorch's
subtraction, division and flip, then a copy into the batch. torchvision: the image as floats from 0
to 1, `normalize` and `resize` of its detection transform, a flip, and the same copy. mrcnn writes
into the batch in one pass. One thread, as in a loader's worker; the batch is allocated before.

With Pillow's filter, results must be equal. With torchvision's, the error is the largest
difference, which must stay within rounding.

The floor is reading the image and writing its pixels once, at the bandwidth of a copy measured in
the same run.

    python -m benchmarks.ops.write_pixels
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmarks.harness import Row, about, copy_bandwidth, finish, measure, parse, row
from mrcnn.config import ModelConfig
from mrcnn.data.images import empty_batch, unpadded_views, write_view

try:
    from torchvision.models.detection.transform import GeneralizedRCNNTransform
    from torchvision.transforms.functional import to_tensor
except ImportError:
    GeneralizedRCNNTransform = None

UNIT = 2.0**-24  # half the distance between 1 and the next float32


@dataclass
class Case:
    """(height, width) of the image and of its resized pixels."""

    image_size: tuple[int, int]
    size: tuple[int, int]
    mirror: bool = False

    def __str__(self) -> str:
        (h, w), (height, width) = self.image_size, self.size
        return f"{w} x {h} to {width} x {height}{', mirrored' * self.mirror}"


CASES = [
    Case((480, 640), (800, 1067)),
    Case((1080, 1920), (750, 1333)),
    Case((256, 256), (512, 512), mirror=True),
]


def run_mrcnn(image: NDArray[np.uint8], case: Case, config: ModelConfig, slot: Tensor) -> None:
    height, width = case.image_size
    write_view(image, (0, 0, width, height), slot, config, mirror_x=case.mirror)


def run_pillow(image: NDArray[np.uint8], case: Case, config: ModelConfig, slot: Tensor) -> None:
    small = Image.fromarray(image).resize(case.size[::-1], Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(small)).float()
    pixels = pixels.sub_(torch.tensor(config.pixel_mean)).div_(torch.tensor(config.pixel_std))
    pixels = pixels.permute(2, 0, 1)
    slot.copy_(pixels.flip(2) if case.mirror else pixels)


def run_torchvision(
    image: NDArray[np.uint8], case: Case, config: ModelConfig, slot: Tensor
) -> None:
    transform = GeneralizedRCNNTransform(
        config.min_size,
        config.max_size,
        [mean / 255 for mean in config.pixel_mean],
        [std / 255 for std in config.pixel_std],
        fixed_size=case.size[::-1],
    )
    pixels, _ = transform.resize(transform.normalize(to_tensor(image)))
    slot.copy_(pixels.flip(2) if case.mirror else pixels)


def compare(
    case: Case, config: ModelConfig, peer: Callable[..., None], image: NDArray[np.uint8]
) -> tuple[float, Tensor]:
    """Return the largest difference, and a slot to write into; stop on a wrong result."""
    pixels, expected = (unpadded_views(empty_batch([case.size], 32))[0] for _ in range(2))
    run_mrcnn(image, case, config, pixels)
    peer(image, case, config, expected)
    difference = float((pixels - expected).abs().max())
    # Positions differ by up to 3 roundings, on a slope of at most twice the largest value. Values
    # are rounded up to 12 times on either side, and 5 times when they are normalised, which in
    # torchvision starts from [0, 1] with steps of 255 / std.
    largest = float(expected.abs().max())
    scale = 255 / min(config.pixel_std)
    allowed = UNIT * (largest * (6 * sum(case.image_size) + 24) + 5 * scale)
    if difference > (0 if peer is run_pillow else allowed):
        raise AssertionError(f"{case}: {difference} from {peer.__name__}")
    return difference, pixels


def main() -> None:
    args = parse(__doc__, threads=(1,))
    facts = about(args)
    rng = np.random.default_rng(0)
    peers = {"Pillow": ("detectron2", run_pillow)}
    if GeneralizedRCNNTransform is not None:
        peers["torchvision"] = ("torchvision", run_torchvision)
    rows: list[Row] = []
    for threads in args.threads:
        torch.set_num_threads(threads)
        bandwidth = copy_bandwidth()
        for case in CASES[2:] if args.quick else CASES:
            image = rng.integers(0, 256, (*case.image_size, 3), dtype=np.uint8)
            for name, (numerics, peer) in peers.items():
                config = ModelConfig(numerics=numerics)
                difference, slot = compare(case, config, peer, image)
                sides = {
                    "mrcnn": partial(run_mrcnn, image, case, config, slot),
                    name: partial(peer, image, case, config, slot),
                }
                rows.append(
                    row(
                        f"{case}, filter of {name}",
                        measure(sides, args.repeats),
                        peer=name,
                        floor_bytes=image.nbytes + 4 * slot.numel(),
                        bandwidth=bandwidth,
                        error=difference,
                    )
                )
    finish(args, facts, rows)


if __name__ == "__main__":
    main()
