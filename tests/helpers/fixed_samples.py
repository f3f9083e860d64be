"""Training steps without random numbers: fixed objects, samples and mask targets."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor

from mrcnn.structures import Targets
from tests.helpers.random_detectors import uniform


def wave_masks(boxes: Tensor, instance: Tensor, size: int) -> Tensor:
    """Return mask targets (R, size, size) in [0, 1] that are smooth in the boxes (R, 4)."""
    cells = torch.arange(size)
    phase = (instance + boxes[:, 0] / 50)[:, None, None]
    return 0.5 + 0.5 * (phase + cells[:, None] / 3 + cells / 5).sin()


def _falling(shape: torch.Size, device: torch.device) -> Tensor:
    return torch.linspace(0.999, 0, shape[-1], device=device).expand(shape)


@contextmanager
def deterministic_sampling() -> Iterator[None]:
    """Make mrcnn sample the first positives and negatives, and use `wave_masks` as targets."""

    def mask_targets(masks: object, boxes: Tensor, instance: Tensor, size: int) -> Tensor:
        return wave_masks(boxes, instance, size)

    with (
        patch.object(torch, "rand", _falling),
        patch("mrcnn.models.mask_head.mask_targets", mask_targets),
    ):
        yield


def objects(
    sizes: Sequence[tuple[int, int]], counts: Sequence[int], classes: int
) -> list[tuple[Tensor, Tensor]]:
    """Return boxes (G, 4) and labels (G,) in [0, classes) for images of (height, width)."""
    result = []
    for n, ((height, width), count) in enumerate(zip(sizes, counts, strict=True)):
        values = torch.from_numpy(uniform(f"objects {n}", (count, 5), 0, 1)).float()
        low = values[:, :2] * torch.tensor([width - 60, height - 60])
        high = low + 20 + values[:, 2:4] * (torch.tensor([width, height]) - 20 - low)
        result.append((torch.cat([low, high], dim=1), (values[:, 4] * classes).long()))
    return result


def padded_targets(objects: list[tuple[Tensor, Tensor]], slots: int = 16) -> Targets:
    """Pad objects to slots as the loader does, without masks, for `wave_masks`."""
    boxes = torch.zeros(len(objects), slots, 4, dtype=objects[0][0].dtype)
    labels = torch.full((len(objects), slots), -1)
    for n, (image_boxes, image_labels) in enumerate(objects):
        boxes[n, : len(image_boxes)] = image_boxes
        labels[n, : len(image_labels)] = image_labels
    index = labels.clone()
    index[labels >= 0] = torch.arange(int((labels >= 0).sum()))
    return Targets(boxes, labels, index, masks=None)
