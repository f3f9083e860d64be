"""Torchvision's detectors with random weights, and what flows through them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torchvision.models import detection
from torchvision.models.detection import roi_heads
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

import mrcnn
from mrcnn.inference.predictor import Predictor
from tests.helpers.fixed_samples import wave_masks
from tests.helpers.random_detectors import SPREAD, random_state


def _plain(backbone: str) -> Callable[..., torch.nn.Module]:
    """A Mask R-CNN with frozen batch norm on any ResNet; stem and layer1 are not trained."""

    def build(num_classes: int, **options) -> torch.nn.Module:
        body = resnet_fpn_backbone(
            backbone_name=backbone, weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3
        )
        return detection.MaskRCNN(body, num_classes, **options)

    return build


def _published(name: str) -> Callable[..., torch.nn.Module]:
    """Torchvision's own builder; without weights its batch norms are live."""

    def build(num_classes: int, **options) -> torch.nn.Module:
        return getattr(detection, name)(
            weights=None, weights_backbone=None, num_classes=num_classes, **options
        )

    return build


BUILDERS = {
    "v1 frozen": _plain("resnet50"),
    "v1 live": _published("maskrcnn_resnet50_fpn"),
    "v2": _published("maskrcnn_resnet50_fpn_v2"),
    "resnet18": _plain("resnet18"),
    "resnext101": _plain("resnext101_32x8d"),
    "boxes v1": _published("fasterrcnn_resnet50_fpn"),
    "boxes v2": _published("fasterrcnn_resnet50_fpn_v2"),
}


def torchvision_model(
    name: str, image: np.ndarray, *, classes: int = 91, seed: int = 0, **options
) -> tuple[torch.nn.Module, dict[str, float]]:
    """A detector of `BUILDERS` that finds objects in `image`, and the factors that make it so.

    Args:
        classes: with background.
        options: of torchvision's constructor.
    """
    model = BUILDERS[name](classes, **options).eval()
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    model.load_state_dict(random_state(shapes, seed))
    factors: dict[str, float] = {}

    def rescale(name: str) -> Callable:
        def hook(layer, inputs, output):
            if name in factors:  # the RPN sees five levels, the finest of them decides
                return output
            factors[name] = round(SPREAD[name] / float(output.std()), 5)
            layer.weight.mul_(factors[name])
            return layer.forward(*inputs)

        return hook

    present = [layer for layer in SPREAD if layer + ".weight" in shapes]
    hooks = [model.get_submodule(n).register_forward_hook(rescale(n)) for n in present]
    with torch.no_grad():
        model([torchvision_input(image)])
    for hook in hooks:
        hook.remove()
    return model, factors


def torchvision_input(image: np.ndarray) -> Tensor:
    """(3, h, w) in [0, 1]."""
    return torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255


def mrcnn_predictor(theirs: torch.nn.Module, folder: Path, **config) -> Predictor:
    """Our model of a file of their weights."""
    torch.save(theirs.state_dict(), folder / "theirs.pth")
    return mrcnn.load(folder / "theirs.pth", **config)


@contextmanager
def recorded(model: torch.nn.Module) -> Iterator[dict]:
    """What a call computes on its way.

    "batch" is torchvision's ImageList, "features" a dict, "proposals" one (boxes, scores) an image,
    "mask_logits" (all detections, classes, 28, 28).
    """
    seen: dict = {}

    def keep(name: str) -> Callable:
        return lambda _module, _inputs, output: seen.update({name: output})

    def filter_proposals(*inputs) -> tuple[list[Tensor], list[Tensor]]:
        boxes, scores = type(model.rpn).filter_proposals(model.rpn, *inputs)
        seen["proposals"] = list(zip(boxes, scores, strict=True))
        return boxes, scores

    hooks = [model.backbone.register_forward_hook(keep("features"))]
    hooks.append(model.transform.register_forward_hook(keep("transformed")))
    if model.roi_heads.has_mask():
        predictor = model.roi_heads.mask_predictor
        hooks.append(predictor.register_forward_hook(keep("mask_logits")))
    model.rpn.filter_proposals = filter_proposals
    try:
        yield seen
    finally:
        del model.rpn.filter_proposals
        for hook in hooks:
            hook.remove()


def torchvision_targets(
    found: list[tuple[Tensor, Tensor]], sizes: Sequence[tuple[int, int]]
) -> list[dict[str, Tensor]]:
    """`fixed_samples.objects` for torchvision; pixels of masks hold the numbers of instances."""
    targets, first = [], 0
    for (boxes, labels), size in zip(found, sizes, strict=True):
        number = torch.arange(first, first + len(boxes), dtype=torch.uint8)
        masks = number[:, None, None].expand(-1, *size)
        targets.append({"boxes": boxes, "labels": 1 + labels, "masks": masks})
        first += len(boxes)
    return targets


@contextmanager
def deterministic_torchvision() -> Iterator[None]:
    """As `fixed_samples.deterministic_sampling`, of torchvision with `torchvision_targets`."""

    def project(masks: Tensor, boxes: Tensor, matched: Tensor, size: int) -> Tensor:
        return wave_masks(boxes, masks[matched, 0, 0], size)

    with (
        patch.object(torch, "randperm", lambda n, device: torch.arange(n, device=device)),
        patch.object(roi_heads, "project_masks_on_boxes", project),
    ):
        yield
