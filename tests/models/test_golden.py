"""The numbers of torchvision, where it is not installed: recorded by `golden/write_torchvision.py`.

Weights and pictures are those of `random_detectors`, made anew.
"""

import json
from pathlib import Path

import pytest
import torch

import mrcnn
from mrcnn.checkpoints.foreign.convert import export_state_dict
from mrcnn.config import ModelConfig
from mrcnn.data.images import pad_images, to_pixels
from mrcnn.inference.predictor import Predictor
from mrcnn.models import build
from mrcnn.models.rpn import NMS_IOU
from tests.helpers.fixed_samples import deterministic_sampling, objects, padded_targets
from tests.helpers.matching import Boxes, level_cuts, one_to_one
from tests.helpers.random_detectors import random_image, random_state

GOLDEN = json.loads((Path(__file__).parent / "golden/torchvision.json").read_text())
FAST = ("resnet18", "v2")


def rebuilt(name: str, file: Path) -> Predictor:
    """Our model of a file as torchvision would write it, of the recorded model's weights."""
    recorded = GOLDEN["models"][name]
    names = tuple(f"class {i}" for i in range(GOLDEN["classes"]))
    config = ModelConfig.from_dict({**recorded["config"], "class_names": names})
    theirs = export_state_dict("torchvision", build(config).state_dict(), config, {}, bgr=False)
    shapes = {key: tuple(value.shape) for key, value in theirs.items()}
    state = random_state(shapes, GOLDEN["seed"])
    for layer, factor in recorded["factors"].items():
        state[layer + ".weight"] *= factor
    torch.save(state, file)
    return mrcnn.load(file, **GOLDEN["options"])


@torch.no_grad()
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in GOLDEN["models"]],
)
def test_numbers_of_torchvision(tmp_path, name):
    ours, wanted = rebuilt(name, tmp_path / "theirs.pth"), GOLDEN["models"][name]
    model, config, sizes = ours.model, ours.config, [tuple(size) for size in GOLDEN["sizes"]]
    images = [random_image(*size, n) for n, size in enumerate(sizes)]
    batch = pad_images(
        [to_pixels(image, size, config) for image, size in zip(images, sizes, strict=True)], 32
    )

    features = model.backbone(batch.pixels)
    for x, digest in zip(features.values(), wanted["features"], strict=True):
        assert list(x.shape) == digest["shape"]
        picked = x.flatten()[torch.linspace(0, x.numel() - 1, len(digest["values"])).long()]
        difference = (picked - torch.tensor(digest["values"])).abs().max()
        assert difference <= 1e-5 * digest["largest"]
        assert float(x.double().square().mean()) == pytest.approx(
            digest["mean_of_squares"], rel=1e-5
        )

    logits, deltas = model.rpn(features)
    proposals = model.rpn.propose(logits, deltas, batch.sizes, training=False)
    cuts = level_cuts(logits, config.pre_nms_top_k)
    for boxes, scores, other, cut in zip(
        proposals.boxes, proposals.scores, wanted["proposals"], cuts, strict=True
    ):
        valid = scores > -torch.inf
        one_to_one(
            Boxes.of_one_class(boxes[valid], scores[valid].sigmoid()),
            Boxes.of_one_class(torch.tensor(other["boxes"]), torch.tensor(other["scores"])),
            NMS_IOU,
            config.post_nms_top_k,
            cut,
        )

    mask_logits: list[torch.Tensor] = []
    if model.mask_head:
        model.mask_head.register_forward_hook(lambda _m, _x, y: mask_logits.append(y))
    found = model(batch)
    for n, other in enumerate(wanted["detections"]):
        count = int(found.counts[n])
        pairs = one_to_one(
            Boxes(found.boxes[n, :count], found.scores[n, :count], found.labels[n, :count]),
            Boxes(*(torch.tensor(other[key]) for key in ("boxes", "scores", "labels"))),
            config.nms_threshold,
            config.max_detections,
        )
        assert len(pairs) > 0.9 * len(other["boxes"])
        if model.mask_head:
            mine = mask_logits[0][n, pairs[:, 0], 3::11, 3::11].flatten(1)
            theirs = torch.tensor(other["mask_logits"])[pairs[:, 1]]
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-3)

    model.train()
    with deterministic_sampling():
        targets = padded_targets(objects(sizes, GOLDEN["objects"], GOLDEN["classes"]))
        losses = model(batch, targets)
    assert set(losses) == set(wanted["losses"])
    for key, loss in losses.items():
        other = wanted["losses"][key]
        assert abs(loss - other) <= 1e-5 * max(1.0, abs(other)), key
