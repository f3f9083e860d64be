"""What gpu_bench.py measures of the whole model: inference and a training step, in bfloat16.

Weights are those of twins.py. Convolutions of both sides are channels_last, which is torchvision's
faster layout, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from gpu_cases import DEVICE, HEIGHT, WIDTH, Case, require
from gpu_timing import Call
from twins import build_twins

from mrcnn.models.postprocess import to_detections
from mrcnn.numerics import NUMERICS
from mrcnn.structures import ImageBatch

autocast = partial(torch.autocast, DEVICE, torch.bfloat16)


def inference(quick: bool) -> Iterator[Case]:
    """Pixels to padded detections and, on the GPU still, run lengths; bfloat16."""
    with torch.device(DEVICE):
        ours, _, theirs = build_twins(torch.randn(1, 3, HEIGHT, WIDTH))
    if theirs is not None:
        theirs = theirs.to(memory_format=torch.channels_last)

    def detect(images: ImageBatch) -> object:
        with torch.no_grad(), autocast():
            found = ours(images)
        runs = torch.ops.mrcnn.paste_masks_rle
        masks = [
            runs(m, b, HEIGHT, WIDTH, 0.5) for m, b in zip(found.masks, found.boxes, strict=True)
        ]
        return found, masks

    def results(images: ImageBatch) -> object:
        with torch.no_grad(), autocast():
            found = ours(images)
        original_sizes = [(HEIGHT, WIDTH)] * len(images.pixels)
        return to_detections(found, images.sizes, original_sizes, NUMERICS["detectron2"])

    def peer(images) -> object:
        with torch.no_grad(), autocast():
            features = theirs.backbone(images.tensors)
            proposals, _ = theirs.rpn(images, features)
            found, _ = theirs.roi_heads(features, proposals, images.image_sizes)
            return theirs.transform.postprocess(found, images.image_sizes, images.image_sizes)

    for batch in (1,) if quick else (1, 8):
        sets, peers = [], []
        for _ in range(2):  # each far larger than the L2 cache
            pixels = torch.randn(batch, 3, HEIGHT, WIDTH, device=DEVICE)
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            sizes = torch.tensor([[HEIGHT, WIDTH]] * batch, device=DEVICE)
            sets.append(ImageBatch(pixels, sizes))
            if theirs is not None:
                from torchvision.models.detection.image_list import ImageList

                peers.append(partial(peer, ImageList(pixels, [(HEIGHT, WIDTH)] * batch)))
        found, _ = detect(sets[0])
        require(int(found.counts.min()) > 0, "nothing is detected")
        require(bool(found.boxes.isfinite().all()), "boxes are not finite")
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
    """Forward, backward and SGD on two images, bfloat16."""
    import training_bench  # needs pycocotools

    with torch.device(DEVICE):
        ours, _, theirs = build_twins(torch.randn(1, 3, HEIGHT, WIDTH))
    objects = training_bench.make_objects(HEIGHT, WIDTH)
    pixels = torch.randn(training_bench.IMAGES, 3, HEIGHT, WIDTH, device=DEVICE)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    targets = training_bench.our_targets(*objects, HEIGHT, WIDTH).to(DEVICE)
    step = training_bench.OurStep(ours, pixels, targets)
    step.images = step.images.to(DEVICE)
    peers: list[Call] = []
    if theirs is not None:
        bitmaps = training_bench.their_targets(*objects, HEIGHT, WIDTH)
        bitmaps = [{name: x.to(DEVICE) for name, x in one.items()} for one in bitmaps]
        theirs = theirs.to(memory_format=torch.channels_last)
        peers = [partial(in_bfloat16, training_bench.TheirStep(theirs, pixels, bitmaps))]
    call = partial(in_bfloat16, step)
    call()
    losses = {name: loss.item() for name, loss in step.losses.items()}
    require(all(np.isfinite(list(losses.values()))), f"losses are not finite: {losses}")
    images = training_bench.IMAGES
    yield Case(
        f"training step R50-FPN bfloat16, batch {images}",
        [call],
        goal_us=1e6 * images / 190,
        aim_us=1e6 * images / 250,
        peer="torchvision bfloat16",
        peers=peers,
    )


def in_bfloat16(step: Any) -> None:
    """One step, its forward under autocast."""
    with autocast():
        losses = step.forward()
    total = torch.stack([loss.float() for loss in losses.values()]).sum()
    step.optimizer.zero_grad()
    total.backward()
    step.optimizer.step()
    # Without their graph: a capture must not meet nodes of the step before, on another stream.
    step.losses = {name: loss.detach() for name, loss in losses.items()}
