"""What a file of `mrcnn export` gives, beside what the model itself gives."""

from collections.abc import Sequence

import torch
from matching import Boxes, one_to_one
from torch import Tensor, nn

from mrcnn.config import ModelConfig
from mrcnn.models import build
from mrcnn.ops import paste_masks
from mrcnn.predictor import Predictor
from mrcnn.structures import DetectionBatch, ImageBatch

SAME_PIXELS = 0.9999  # of the masks of an image: roundings decide the pixels at 0.5


def assert_same(outputs: Sequence[Tensor], images: ImageBatch, predictor: Predictor) -> int:
    """The same objects in number, label, place, score and shape; how many there were."""
    with torch.inference_mode():
        wanted = predictor.model(images)
    got = DetectionBatch(*outputs)
    for n, size in enumerate(images.sizes.tolist()):
        ours, theirs = (_of_image(batch, n) for batch in (got, wanted))
        config = predictor.config
        pairs = one_to_one(ours, theirs, config.nms_threshold, config.max_detections)
        assert len(pairs) == len(ours.boxes) == len(theirs.boxes)
        if len(pairs):
            pasted = [
                paste_masks(batch.masks[n, own], batch.boxes[n, own], *size)
                for batch, own in ((got, pairs[:, 0]), (wanted, pairs[:, 1]))
            ]
            assert (pasted[0] == pasted[1]).float().mean() >= SAME_PIXELS
        padding = slice(len(ours.boxes), None)
        assert not got.boxes[n, padding].any()
        assert not got.scores[n, padding].any()
        assert (got.labels[n, padding] == -1).all()
    return int(wanted.counts.sum())


def _of_image(batch: DetectionBatch, n: int) -> Boxes:
    k = int(batch.counts[n])
    return Boxes(batch.boxes[n, :k], batch.scores[n, :k], batch.labels[n, :k])


def decided(config: ModelConfig, seed: int = 0) -> Predictor:
    """A model of random weights whose outputs differ widely from place to place."""
    torch.manual_seed(seed)
    model = build(config).eval()
    images = random_images(config, [(128, 192)], seed)
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
