"""Training steps without chance: objects, samples and mask targets by rule."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor

from mrcnn.structures import Targets
from tests.helpers.random_detectors import uniform


def waves(boxes: Tensor, instance: Tensor, size: int) -> Tensor:
    """Mask targets (R, size, size) in [0, 1], smooth in the boxes (R, 4)."""
    cells = torch.arange(size)
    phase = (instance + boxes[:, 0] / 50)[:, None, None]
    return 0.5 + 0.5 * (phase + cells[:, None] / 3 + cells / 5).sin()


def _falling(shape: torch.Size, device: torch.device) -> Tensor:
    return torch.linspace(0.999, 0, shape[-1], device=device).expand(shape)


@contextmanager
def fixed_choices() -> Iterator[None]:
    """Our samplers draw the first positives and the first negatives, and masks are waves."""

    def mask_targets(masks: object, boxes: Tensor, instance: Tensor, size: int) -> Tensor:
        return waves(boxes, instance, size)

    with (
        patch.object(torch, "rand", _falling),
        patch("mrcnn.models.mask_head.mask_targets", mask_targets),
    ):
        yield


def objects(
    sizes: Sequence[tuple[int, int]], counts: Sequence[int], classes: int
) -> list[tuple[Tensor, Tensor]]:
    """Boxes (G, 4) and labels (G,), from 0 on, of images of (height, width)."""
    found = []
    for n, ((height, width), count) in enumerate(zip(sizes, counts, strict=True)):
        values = torch.from_numpy(uniform(f"objects {n}", (count, 5), 0, 1)).float()
        low = values[:, :2] * torch.tensor([width - 60, height - 60])
        high = low + 20 + values[:, 2:4] * (torch.tensor([width, height]) - 20 - low)
        found.append((torch.cat([low, high], dim=1), (values[:, 4] * classes).long()))
    return found


def as_targets(found: list[tuple[Tensor, Tensor]], slots: int = 16) -> Targets:
    """Objects in padded slots, as the loader gives them; `waves` needs no masks."""
    boxes = torch.zeros(len(found), slots, 4, dtype=found[0][0].dtype)
    labels = torch.full((len(found), slots), -1)
    for n, (its_boxes, its_labels) in enumerate(found):
        boxes[n, : len(its_boxes)], labels[n, : len(its_labels)] = its_boxes, its_labels
    index = labels.clone()
    index[labels >= 0] = torch.arange(int((labels >= 0).sum()))
    return Targets(boxes, labels, index, masks=None)
