"""Benchmark cases of the whole model on a GPU: inference and a training step, in bfloat16.

Weights are those of benchmarks/models/twins.py. Convolutions of both sides are channels_last, which
is also torchvision's faster layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.op_cases import DEVICE, HEIGHT, WIDTH, Case, require
from benchmarks.gpu.timing import Call
from benchmarks.models.twins import build_twins
from mrcnn.models.postprocess import to_detections
from mrcnn.numerics import NUMERICS
from mrcnn.structures import ImageBatch

autocast = partial(torch.autocast, DEVICE, torch.bfloat16)


def inference(quick: bool) -> Iterator[Case]:
    """Yield cases from pixels to padded detections and, still on the GPU, RLE; bfloat16."""
    with torch.device(DEVICE):
        model, _, peer_model = build_twins(torch.randn(1, 3, HEIGHT, WIDTH))
    if peer_model is not None:
        peer_model = peer_model.to(memory_format=torch.channels_last)

    def detect(images: ImageBatch) -> object:
        with torch.no_grad(), autocast():
            detections = model(images)
        rle = torch.ops.mrcnn.paste_masks_rle
        pairs = zip(detections.masks, detections.boxes, strict=True)
        return detections, [rle(masks, boxes, HEIGHT, WIDTH, 0.5) for masks, boxes in pairs]

    def results(images: ImageBatch) -> object:
        with torch.no_grad(), autocast():
            detections = model(images)
        original_sizes = [(HEIGHT, WIDTH)] * len(images.pixels)
        return to_detections(detections, images.sizes, original_sizes, NUMERICS["detectron2"])

    def peer(images) -> object:
        with torch.no_grad(), autocast():
            features = peer_model.backbone(images.tensors)
            proposals, _ = peer_model.rpn(images, features)
            sizes = images.image_sizes
            detections, _ = peer_model.roi_heads(features, proposals, sizes)
            return peer_model.transform.postprocess(detections, sizes, sizes)

    for batch in (1,) if quick else (1, 8):
        sets, peers = [], []
        for _ in range(2):  # each far larger than the L2 cache
            pixels = torch.randn(batch, 3, HEIGHT, WIDTH, device=DEVICE)
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            sizes = torch.tensor([[HEIGHT, WIDTH]] * batch, device=DEVICE)
            sets.append(ImageBatch(pixels, sizes))
            if peer_model is not None:
                from torchvision.models.detection.image_list import ImageList

                peers.append(partial(peer, ImageList(pixels, [(HEIGHT, WIDTH)] * batch)))
        detections, _ = detect(sets[0])
        require(int(detections.counts.min()) > 0, "nothing is detected")
        require(bool(detections.boxes.isfinite().all()), "boxes are not finite")
        yield Case(
            f"inference R50-FPN bfloat16, batch {batch}",
            [partial(detect, images) for images in sets],
            goal_us=1e6 * batch / (250 if batch == 1 else 400),
            aim_us=1e6 * batch / (350 if batch == 1 else 600),
            faces=[partial(results, images) for images in sets],
            peer="torchvision bfloat16",
            peers=peers,
        )


def training(quick: bool) -> Iterator[Case]:
    """Yield a case of forward, backward and SGD on two images, bfloat16."""
    from benchmarks.models import training as steps  # needs pycocotools

    with torch.device(DEVICE):
        model, _, peer_model = build_twins(torch.randn(1, 3, HEIGHT, WIDTH))
    objects = steps.make_objects(HEIGHT, WIDTH)
    pixels = torch.randn(steps.IMAGES, 3, HEIGHT, WIDTH, device=DEVICE)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    targets = steps.mrcnn_targets(*objects, HEIGHT, WIDTH).to(DEVICE)
    step = steps.MrcnnStep(model, pixels, targets)
    step.images = step.images.to(DEVICE)
    peers: list[Call] = []
    if peer_model is not None:
        bitmaps = steps.torchvision_targets(*objects, HEIGHT, WIDTH)
        bitmaps = [{name: x.to(DEVICE) for name, x in image.items()} for image in bitmaps]
        peer_model = peer_model.to(memory_format=torch.channels_last)
        peers = [partial(in_bfloat16, steps.TorchvisionStep(peer_model, pixels, bitmaps))]
    call = partial(in_bfloat16, step)
    call()
    losses = {name: loss.item() for name, loss in step.losses.items()}
    require(all(np.isfinite(list(losses.values()))), f"losses are not finite: {losses}")
    images = steps.IMAGES
    yield Case(
        f"training step R50-FPN bfloat16, batch {images}",
        [call],
        goal_us=1e6 * images / 190,
        aim_us=1e6 * images / 250,
        peer="torchvision bfloat16",
        peers=peers,
    )


def in_bfloat16(step: Any) -> None:
    """Run one step, with its forward under autocast."""
    with autocast():
        losses = step.forward()
    total = torch.stack([loss.float() for loss in losses.values()]).sum()
    step.optimizer.zero_grad()
    total.backward()
    step.optimizer.step()
    # Detached: a capture must not meet autograd nodes of an earlier step on another stream.
    step.losses = {name: loss.detach() for name, loss in losses.items()}
