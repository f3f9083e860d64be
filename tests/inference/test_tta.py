"""Test-time augmentation: boxes of all views through one NMS, masks averaged."""

import dataclasses

import numpy as np
import pytest
import torch

from mrcnn.inference import tta
from mrcnn.inference.predictor import Predictor
from mrcnn.ops.boxes import box_iou
from tests.helpers import tiny
from tests.helpers.tiny import noise

NUMERICS = ("detectron2", "torchvision", "maskrcnn_benchmark")


def predictor(numerics: str = "detectron2", **changes) -> Predictor:
    config = dataclasses.replace(tiny.CONFIG, numerics=numerics, **changes)
    return Predictor(tiny.model(config), config)


@pytest.mark.parametrize("numerics", NUMERICS)
def test_one_view_is_the_plain_prediction(numerics, monkeypatch):
    """A second NMS removes nothing; converting boxes and back adds float32 rounding."""
    model, image = predictor(numerics), noise(40, 60)
    monkeypatch.setattr(tta.detect_views, "__defaults__", (((1.0, False),),))
    plain, seen = model.predict(image, 0), model.predict(image, 0, tta=True)
    assert len(seen) == len(plain) > 0
    np.testing.assert_array_equal(seen.labels, plain.labels)
    np.testing.assert_array_equal(seen.scores, plain.scores)
    np.testing.assert_allclose(seen.boxes, plain.boxes, atol=1e-4)
    assert (seen.masks != plain.masks).mean() < 0.01


@pytest.mark.parametrize("numerics", NUMERICS)
def test_frames_convert_both_ways(numerics):
    config = dataclasses.replace(tiny.CONFIG, numerics=numerics)
    boxes = torch.tensor([[0.0, 0, 60, 40], [10, 5, 20, 15]])
    last = numerics == "maskrcnn_benchmark"  # which scales corners up to the last pixel
    for mirrored, expected in ((False, [20, 10, 40 - last, 30 - last]), (True, None)):
        frame = tta._Frame((40, 60), (80, 120), mirrored, config)
        torch.testing.assert_close(frame.to_image(frame.to_view(boxes)), boxes)
        if expected:
            assert frame.to_view(boxes)[1].tolist() == expected
        else:
            x1, x2 = 120 - (40 - last), 120 - 20
            assert frame.to_view(boxes)[1].tolist() == [x1, 10, x2, 30 - last]


def test_masks_are_averaged_over_the_views():
    """Every view predicts masks for the same boxes, in its own pixels."""
    model = predictor().model
    inputs, outputs = [], []
    detect = model.mask_head.detect

    def note(features, detections):
        inputs.append(detections)
        outputs.append(detect(features, detections))
        return outputs[-1]

    model.mask_head.detect = note
    image = noise(40, 60)
    with torch.no_grad():
        found = tta.detect_views(model, image, tiny.CONFIG, torch.device("cpu"))
    assert len(outputs) == 6
    masks = [
        output.masks.flip(-1) if mirrored else output.masks
        for output, (_, mirrored) in zip(outputs, tta.VIEWS, strict=True)
    ]
    torch.testing.assert_close(found.masks, torch.stack(masks).mean(0))
    for detections, (scale, mirrored) in zip(inputs, tta.VIEWS, strict=True):
        height, width = round(64 * scale), round(96 * scale)
        boxes = detections.boxes.clone()
        if mirrored:
            boxes[..., [0, 2]] = width - boxes[..., [2, 0]]
        factor = torch.tensor([60 / width, 40 / height, 60 / width, 40 / height])
        torch.testing.assert_close(boxes * factor, found.boxes)
        assert torch.equal(detections.labels, found.labels)


def test_the_boxes_of_all_views_compete():
    model, image = predictor(), noise(40, 60)
    found = model.predict(image, 0, tta=True)
    assert len(found) == 20
    assert (np.diff(found.scores) <= 0).all()
    overlaps = box_iou(torch.tensor(found.boxes), torch.tensor(found.boxes)).fill_diagonal_(0)
    same = torch.tensor(found.labels[:, None] == found.labels)
    assert overlaps[same].max() <= 0.5 + 1e-5
    for scale in (0.75, 1.25):  # the best of any view is the best of all
        config = dataclasses.replace(tiny.CONFIG, scale=None, min_size=round(64 * scale))
        alone = Predictor(model.model, config).predict(image, 0)
        assert found.scores[0] >= alone.scores[0] - 1e-6


def test_a_mirrored_image_has_mirrored_objects():
    """Both images have the same views, up to rounding in the resize."""
    model, image = predictor(), noise(40, 60)
    found = model.predict(image, 0, tta=True)
    mirrored = model.predict(image[:, ::-1], 0, tta=True)
    np.testing.assert_allclose(mirrored.scores, found.scores, atol=1e-4)
    turned = mirrored.boxes.copy()
    turned[:, [0, 2]] = 60 - turned[:, [2, 0]]
    overlaps = box_iou(torch.tensor(turned), torch.tensor(found.boxes))
    assert (overlaps.max(1).values > 0.99).all()


def test_a_model_without_masks():
    found = predictor(masks=False).predict(noise(40, 60), 0, tta=True)
    assert len(found) == 20
    assert found.rles == []


def test_tiles_with_tta():
    model, image = predictor(), noise(64, 128)
    found = model.predict(image, 0, tiles=64, tile_overlap=0, tta=True)
    left = model.predict(image[:, :64], 0, tta=True)
    assert len(found) == 40
    np.testing.assert_allclose(found[found.boxes[:, 2] <= 64].boxes, left.boxes, atol=1e-4)
