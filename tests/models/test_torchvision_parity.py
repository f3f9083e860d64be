"""The same detections as torchvision, from a file of its weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as rle_codec
from torch.nn.utils.rnn import pad_sequence

import mrcnn
from mrcnn.data.images import network_size, pad_images, read_image, to_pixels
from mrcnn.inference.predictor import Predictor
from mrcnn.models.postprocess import to_detections
from mrcnn.models.rpn import NMS_IOU
from mrcnn.numerics import NUMERICS
from mrcnn.structures import Proposals
from tests.helpers.matching import Boxes, level_cuts, one_to_one
from tests.helpers.random_detectors import random_image

pytest.importorskip("torchvision", reason="torchvision is not installed to compare with")
from tests.helpers.torchvision_models import (
    BUILDERS,
    mrcnn_predictor,
    recorded,
    torchvision_input,
    torchvision_model,
)

COCO_MINI = Path(__file__).resolve().parents[3] / "shared/data/coco_mini"
# Options of torchvision, and the same as fields of our configuration.
SMALL = {
    "min_size": 144,
    "max_size": 240,
    "rpn_post_nms_top_n_test": 150,
    "box_detections_per_img": 25,
}
OURS = {"min_size": 144, "max_size": 240, "post_nms_top_k": 150, "max_detections": 25}


def pictures(count: int) -> list[np.ndarray]:
    """Real ones where they are, else noise, of odd sizes."""
    if COCO_MINI.is_dir():
        content = json.loads((COCO_MINI / "annotations.json").read_text())
        names = [image["file_name"] for image in content["images"][:count]]
        return [read_image(next(COCO_MINI.rglob(Path(name).name))) for name in names]
    sizes = [(211, 333), (480, 301), (97, 128), (640, 427)]
    return [random_image(*sizes[i % len(sizes)], i) for i in range(count)]


def decoded(masks: list[dict]) -> torch.Tensor:
    """(D, h, w) bool of run lengths."""
    return torch.from_numpy(rle_codec.decode(masks)).permute(2, 0, 1).bool()


@torch.no_grad()
def compare(theirs: torch.nn.Module, ours: Predictor, images: list[np.ndarray]) -> list[int]:
    """Assert that a batch gives the same at every stage; returns the detections of each image.

    Every stage has the results of our stages before it. Only where proposals differ, each time by
    rounding, the heads are given torchvision's.
    """
    model, config = ours.model, ours.config
    with recorded(theirs) as seen:
        expected = theirs([torchvision_input(image) for image in images])
    pixels = seen["transformed"][0]
    sizes = [network_size(*image.shape[:2], config) for image in images]
    batch = pad_images(
        [to_pixels(image, size, config) for image, size in zip(images, sizes, strict=True)], 32
    )
    assert sizes == pixels.image_sizes
    torch.testing.assert_close(batch.pixels, pixels.tensors, rtol=0, atol=1e-5)

    features = model.backbone(batch.pixels)
    for mine, other in zip(features.values(), seen["features"].values(), strict=True):
        assert (mine - other).abs().max() <= 1e-5 * other.abs().max()

    logits, deltas = model.rpn(features)
    proposals = model.rpn.propose(logits, deltas, batch.sizes, training=False)
    alike, cuts = True, level_cuts(logits, config.pre_nms_top_k)
    for boxes, scores, wanted, cut in zip(
        proposals.boxes, proposals.scores, seen["proposals"], cuts, strict=True
    ):
        valid = scores > -torch.inf
        mine, other = (
            Boxes.of_one_class(*kept) for kept in ((boxes[valid], scores[valid].sigmoid()), wanted)
        )
        pairs = one_to_one(mine, other, NMS_IOU, config.post_nms_top_k, cut)
        alike &= len(pairs) == len(mine.boxes) == len(other.boxes)
    if not alike:
        boxes, scores = (pad_sequence(list(v), True) for v in zip(*seen["proposals"], strict=True))
        used = pad_sequence([torch.ones(len(b), dtype=bool) for b, _ in seen["proposals"]], True)
        proposals = Proposals(boxes, torch.where(used, scores, -torch.inf))

    found, ours_logits = model.box_head.detect(features, proposals, batch.sizes), []
    if model.mask_head:
        hook = model.mask_head.register_forward_hook(lambda _m, _x, y: ours_logits.append(y))
        found = model.mask_head.detect(features, found)
        hook.remove()
    results = to_detections(
        found, batch.sizes, [image.shape[:2] for image in images], NUMERICS["torchvision"]
    )
    first = 0  # of the image's detections among all of the batch
    for n, (result, wanted) in enumerate(zip(results, expected, strict=True)):
        labels = wanted["labels"] - 1
        pairs = one_to_one(
            Boxes(result.boxes, result.scores, result.labels),
            Boxes(wanted["boxes"], wanted["scores"], labels),
            config.nms_threshold,
            config.max_detections,
        )
        assert len(pairs) >= 0.98 * len(labels)
        if model.mask_head:
            mine, other = pairs.T
            logits = seen["mask_logits"][first + other, 1 + labels[other]]
            torch.testing.assert_close(ours_logits[0][n, mine], logits, rtol=0, atol=1e-3)
            pasted = decoded(result.masks)[mine]
            assert (pasted == (wanted["masks"][other, 0] >= 0.5)).float().mean() > 0.9999
        first += len(labels)
    return [len(result) for result in results]


@pytest.mark.parametrize("name", ["v1 frozen", "v1 live", "v2", "resnet18", "boxes v1", "boxes v2"])
def test_small_images(tmp_path, name):
    images = pictures(2)
    theirs, _ = torchvision_model(name, images[0], **SMALL)
    ours = mrcnn_predictor(theirs, tmp_path, **OURS)
    assert ours.config.class_names[0] == "person"
    live = any(isinstance(layer, torch.nn.BatchNorm2d) for layer in theirs.modules())
    assert ours.config.norm == ("batch" if live else "frozen_batch")
    assert compare(theirs, ours, images) == [25, 25]


def test_fine_tuned_with_other_classes(tmp_path):
    images = [random_image(97, 131, 0), *pictures(2)]
    theirs, _ = torchvision_model("resnet18", images[1], classes=4, **SMALL)
    ours = mrcnn_predictor(theirs, tmp_path, class_names=("cat", "dog", "owl"), **OURS)
    counts = compare(theirs, ours, images)
    assert min(counts) > 0
    assert compare(theirs, ours, images[:1]) == counts[:1]
    # The stages compared are those that `predict` puts together.
    results = ours.predict(images, 0.0, batch_size=3)
    assert [len(result) for result in results] == counts
    assert set(results[0].names) <= {"cat", "dog", "owl"}


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDERS)
def test_full_size(tmp_path, name):
    """About 1000 proposals and 100 detections of real pictures and noise, alone and in threes."""
    images = [*pictures(10), random_image(333, 517, 0), random_image(641, 399, 1)]
    theirs, _ = torchvision_model(name, images[0])
    ours = mrcnn_predictor(theirs, tmp_path)
    counts = []
    for size, chunk in ((1, images[:3]), (3, images[3:])):
        for first in range(0, len(chunk), size):
            counts += compare(theirs, ours, chunk[first : first + size])
    assert np.mean(counts) > 80


def test_converted_file_is_the_same_model(tmp_path):
    from mrcnn.convert import main

    theirs, _ = torchvision_model("resnet18", pictures(1)[0], **SMALL)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    main([str(tmp_path / "theirs.pth"), str(tmp_path / "ours.safetensors"), "--norm-eps", "0"])
    direct = mrcnn.load(tmp_path / "theirs.pth", norm_eps=0.0)
    converted = mrcnn.load(tmp_path / "ours.safetensors")
    assert direct.config == converted.config
    for name, value in direct.model.state_dict().items():
        assert torch.equal(value, converted.model.state_dict()[name])
