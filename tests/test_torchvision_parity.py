"""The same detections as torchvision, from a file of its weights."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mrcnn
from mrcnn.data.images import pad_images, read_image, resized, to_pixels
from mrcnn.predictor import Predictor

COCO_MINI = Path(__file__).resolve().parents[2] / "shared/data/coco_mini"
# Standard deviations of the outputs over the image at hand, with which many objects are found.
SPREAD = {
    "rpn.head.cls_logits": 3.0,
    "rpn.head.bbox_pred": 0.2,
    "roi_heads.box_predictor.cls_score": 2.0,
    "roi_heads.box_predictor.bbox_pred": 0.5,
    "roi_heads.mask_predictor.mask_fcn_logits": 2.0,
}


def pictures(count: int) -> list[np.ndarray]:
    """Real ones where they are, else noise, of odd sizes."""
    if COCO_MINI.is_dir():
        content = json.loads((COCO_MINI / "annotations.json").read_text())
        names = [image["file_name"] for image in content["images"][:count]]
        found = (next(COCO_MINI.rglob(Path(name).name)) for name in names)
        return [read_image(path) for path in found]
    rng = np.random.default_rng(0)
    sizes = [(211, 333), (480, 301), (97, 128)]
    small = [rng.integers(0, 256, (h // 8, w // 8, 3), dtype=np.uint8) for h, w in sizes]
    return [
        np.asarray(Image.fromarray(s).resize((w, h), Image.Resampling.BICUBIC))
        for s, (h, w) in zip(small, sizes, strict=True)
    ]


def torchvision_model(norm: str, min_size: int, max_size: int, image: np.ndarray):
    """A Mask R-CNN with random weights that finds objects in `image`."""
    torchvision = pytest.importorskip("torchvision")
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    torch.manual_seed(0)
    layer = torchvision.ops.FrozenBatchNorm2d if norm == "frozen" else torch.nn.BatchNorm2d
    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=layer)
    model = MaskRCNN(backbone, 91, min_size=min_size, max_size=max_size).eval()
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif name.endswith("running_mean"):
            value.uniform_(-0.1, 0.1)
        elif ".bn3.weight" in name:
            value.uniform_(0.1, 0.3)  # where a block ends, so that sums stay bounded
    for name, spread in SPREAD.items():
        head, seen = model.get_submodule(name), []
        hook = head.register_forward_hook(lambda _m, _x, y, seen=seen: seen.append(y.flatten()))
        with torch.no_grad():
            model([as_theirs(image)])
            head.weight.mul_(spread / torch.cat(seen).std())
        hook.remove()
    return model


def as_theirs(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255


def compare(theirs, ours: Predictor, images: list[np.ndarray]) -> int:
    """Assert equal detections of a batch; returns how many there were.

    Of random weights many boxes overlap, and an IoU within rounding of the threshold decides
    differently now and then; so two of a hundred may differ.
    """
    with torch.no_grad():
        expected = theirs([as_theirs(image) for image in images])
    results = ours.predict(images, score_threshold=0.0, batch_size=len(images))
    for found, wanted in zip(results, expected, strict=True):
        boxes, labels = wanted["boxes"].numpy(), wanted["labels"].numpy() - 1
        assert len(found) == len(boxes)
        apart = np.abs(found.boxes[:, None] - boxes[None]).max(-1)  # pixels
        score_apart = np.abs(found.scores[:, None] - wanted["scores"].numpy()[None])
        same = (apart <= 1e-2) & (score_apart <= 1e-4) & (found.labels[:, None] == labels[None])
        matched = same.any(1)
        assert matched.sum() >= 0.98 * len(found)
        # Several boxes may be clipped to one place; their scores tell them apart.
        twin = np.where(same, score_apart, np.inf).argmin(1)[matched]
        assert len(set(twin)) == len(twin)
        pasted = wanted["masks"][:, 0].numpy()[twin] >= 0.5
        assert (found.masks[matched] == pasted).mean() > 0.9999
        assert pasted.any()
    return sum(len(found) for found in results)


@torch.no_grad()
def compare_features(theirs, ours: Predictor, images: list[np.ndarray]) -> None:
    """Pixels and features to rounding, proposals one to one."""
    batch, _ = theirs.transform([as_theirs(image) for image in images])
    sizes = [resized(*image.shape[:2], ours.config) for image in images]
    pixels = pad_images(
        [to_pixels(image, size, ours.config) for image, size in zip(images, sizes, strict=True)], 32
    )
    assert sizes == batch.image_sizes
    torch.testing.assert_close(pixels.pixels, batch.tensors, rtol=0, atol=1e-5)
    features, expected = ours.model.backbone(pixels.pixels), theirs.backbone(batch.tensors)
    for mine, other in zip(features.values(), expected.values(), strict=True):
        assert (mine - other).abs().max() <= 1e-5 * other.abs().max()
    logits, deltas = ours.model.rpn(features)
    proposals = ours.model.rpn.propose(logits, deltas, pixels.sizes, training=False)
    for n, boxes in enumerate(theirs.rpn(batch, expected)[0]):
        mine = proposals.boxes[n][proposals.scores[n] > -torch.inf]
        apart = (mine[:, None] - boxes[None]).abs().amax(-1)
        assert len(mine) == len(boxes)
        assert (apart.amin(0) <= 1e-2).float().mean() >= 0.98
        assert (apart.amin(1) <= 1e-2).float().mean() >= 0.98


@pytest.mark.parametrize("norm", ["frozen", "live"])
def test_small_images(tmp_path, norm):
    images = pictures(3)
    theirs = torchvision_model(norm, 224, 373, images[0])
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    loaded = mrcnn.load(tmp_path / "theirs.pth")
    assert loaded.config.class_names[0] == "person"
    assert loaded.config.norm == {"frozen": "frozen_batch", "live": "batch"}[norm]
    config = dataclasses.replace(loaded.config, min_size=224, max_size=373)
    compare_features(theirs, Predictor(loaded.model, config), images)
    assert compare(theirs, Predictor(loaded.model, config), images) > 100
    assert compare(theirs, Predictor(loaded.model, config), images[1:2]) > 0


@pytest.mark.slow
def test_full_size(tmp_path):
    images = pictures(10)
    theirs = torchvision_model("frozen", 800, 1333, images[0])
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = mrcnn.load(tmp_path / "theirs.pth")
    assert sum(compare(theirs, ours, images[i : i + 2]) for i in range(0, 10, 2)) > 500


def test_converted_file_is_the_same_model(tmp_path):
    from mrcnn.convert import main

    theirs = torchvision_model("frozen", 800, 1333, pictures(1)[0][:64, :64])
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    main([str(tmp_path / "theirs.pth"), str(tmp_path / "ours.safetensors"), "--norm-eps", "0"])
    direct = mrcnn.load(tmp_path / "theirs.pth", norm_eps=0.0)
    converted = mrcnn.load(tmp_path / "ours.safetensors")
    assert direct.config == converted.config
    for name, value in direct.model.state_dict().items():
        assert torch.equal(value, converted.model.state_dict()[name])
