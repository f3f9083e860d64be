"""What a file of `mrcnn export` gives, beside what the model itself gives."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mrcnn.config import ModelConfig
from mrcnn.inference.predictor import Predictor
from mrcnn.models import build
from mrcnn.ops import paste_masks
from mrcnn.structures import DetectionBatch, ImageBatch

PIXELS, SCORE = 1e-2, 1e-3  # boxes are the same up to here
SAME_PIXELS = 0.9999  # of the masks of an image: roundings decide the pixels at 0.5


def assert_same(outputs: Sequence[Tensor], images: ImageBatch, predictor: Predictor) -> int:
    """The same objects in number, label, place, score and shape; how many there were."""
    with torch.inference_mode():
        wanted = predictor.model(images)
    got = DetectionBatch(*outputs)
    for n, size in enumerate(images.sizes.tolist()):
        count = int(wanted.counts[n])
        assert int(got.counts[n]) == count
        order = _partners(got, wanted, n, count)
        if count:
            pasted = [
                paste_masks(batch.masks[n, slots], batch.boxes[n, slots], *size)
                for batch, slots in ((got, order), (wanted, torch.arange(count)))
            ]
            assert (pasted[0] == pasted[1]).float().mean() >= SAME_PIXELS
        padding = slice(count, None)
        assert not got.boxes[n, padding].any()
        assert not got.scores[n, padding].any()
        assert (got.labels[n, padding] == -1).all()
    return int(wanted.counts.sum())


def _partners(got: DetectionBatch, wanted: DetectionBatch, n: int, count: int) -> Tensor:
    """(count,) slots of `got` in the order of `wanted`: scores that round differently may swap."""
    order: list[int] = []
    for i in range(count):
        apart = (got.boxes[n, :count] - wanted.boxes[n, i]).abs().amax(-1)
        score_apart = (got.scores[n, :count] - wanted.scores[n, i]).abs()
        same = (apart <= PIXELS) & (score_apart <= SCORE)
        same &= got.labels[n, :count] == wanted.labels[n, i]
        same[order] = False
        assert same.any(), f"image {n}: detection {i} is at none of {got.boxes[n, :count]}"
        # Several boxes may be clipped to one place; their scores tell them apart.
        order.append(int(torch.where(same, apart + score_apart, torch.inf).argmin()))
    return torch.tensor(order, dtype=torch.int64)


def decided(config: ModelConfig, images: ImageBatch | None = None) -> Predictor:
    """A model of random weights whose outputs for some images differ widely from place to place."""
    torch.manual_seed(0)
    model = build(config).eval()
    images = images or random_images(config, [(128, 192)], seed=0)
    with torch.no_grad():
        features = model.backbone(images.pixels)
        logits, deltas = model.rpn(features)
        _spread(model.rpn.objectness_logits, logits[0], 3.0)
        _spread(model.rpn.deltas, deltas[0], 0.2)
        proposals = model.rpn.propose(*model.rpn(features), images.sizes, training=False)
        valid = proposals.scores > -torch.inf
        class_logits, box_deltas = model.box_head(features, proposals.boxes, valid)
        _spread(model.box_head.class_logits, class_logits[valid], 2.0)
        _spread(model.box_head.deltas, box_deltas[valid], 0.5)
        if model.mask_head is not None:
            labels = torch.where(valid, 0, -1)
            masks = model.mask_head(features, proposals.boxes, labels)
            _spread(model.mask_head.mask_logits, masks[valid], 2.0)
    return Predictor(model, config)


def _spread(layer: nn.Module, output: Tensor, deviation: float) -> None:
    """Scale a layer so that its output has this standard deviation."""
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    layer.weight *= deviation / output.std()


def random_images(config: ModelConfig, sizes: Sequence[tuple[int, int]], seed: int) -> ImageBatch:
    """Pixels of normal noise for images of these (height, width), padded as a batch."""
    multiple = config.size_multiple
    height, width = (-(-max(side) // multiple) * multiple for side in zip(*sizes, strict=True))
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.zeros(len(sizes), 3, height, width)
    for slot, (h, w) in zip(pixels, sizes, strict=True):
        slot[:, :h, :w] = torch.randn(3, h, w, generator=generator)
    return ImageBatch(pixels, torch.tensor(sizes))


# Batches of one and of three, none of the sizes a program is traced with.
BATCHES = {
    "one image": [(96, 128)],
    "three of one size": [(128, 120)] * 3,
    "three of different sizes": [(250, 100), (60, 330), (256, 200)],
}
