"""The same losses, gradients and running statistics as torchvision, of the same samples.

Both programs draw anchors and RoIs by their own rules, but from fixed numbers instead of random
ones: the first positives and the first negatives. Torchvision averages bitmaps where ours are drawn
from polygons, so both get mask targets from one function here.

Losses are compared in float32 and float64, gradients and statistics in float64 alone: rounding to
float32 flips so many ReLUs of a deep network with live batch norm that torchvision's own gradients
of some tensors differ by several per cent from its own in float64.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mrcnn.checkpoints.foreign.convert import export_state_dict
from mrcnn.inference.predictor import Predictor
from mrcnn.models.rpn import NMS_IOU
from mrcnn.structures import ImageBatch, Proposals
from tests.helpers.fixed_samples import deterministic_sampling, objects, padded_targets
from tests.helpers.matching import Boxes, level_cuts, one_to_one
from tests.helpers.random_detectors import random_image

pytest.importorskip("torchvision", reason="torchvision is not installed to compare with")
from tests.helpers.torchvision_models import (
    deterministic_torchvision,
    mrcnn_predictor,
    recorded,
    torchvision_input,
    torchvision_model,
    torchvision_targets,
)

SIZES = [(128, 160), (144, 128)]  # not resized: the shorter side is `min_size`
# So few proposals that slots of RoIs stay empty.
THEIRS = {"min_size": 128, "rpn_post_nms_top_n_train": 24, "box_batch_size_per_image": 40}
OURS = {"training_post_nms_top_k": 24, "roi_samples": 40}
FROZEN_STAGES = {"v1 frozen": 2, "resnet18": 2, "resnext101": 2}  # of others none


@contextmanager
def double_losses() -> Iterator[None]:
    """Our losses are computed in float32 at least; here in float64, if the model is."""
    with patch.object(Tensor, "float", lambda x: x.to(torch.promote_types(x.dtype, torch.float32))):
        yield


def give_proposals(ours: Predictor, given: list[tuple[Tensor, Tensor]], monkeypatch) -> None:
    """Let our heads have torchvision's proposals, once ours are found to be the same."""
    propose = ours.model.rpn.propose

    def compared(*inputs, training: bool) -> Proposals:
        mine = propose(*inputs, training=training)
        cuts = level_cuts(inputs[0], 2 * ours.config.pre_nms_top_k)
        for boxes, scores, wanted, cut in zip(mine.boxes, mine.scores, given, cuts, strict=True):
            valid = scores > -torch.inf
            found = Boxes.of_one_class(boxes[valid], scores[valid].sigmoid())
            one_to_one(found, Boxes.of_one_class(*wanted), NMS_IOU, mine.boxes.shape[1], cut)
        boxes, scores = (pad_sequence(list(v), True) for v in zip(*given, strict=True))
        return Proposals(boxes, torch.where(scores > 0, scores, -torch.inf))

    monkeypatch.setattr(ours.model.rpn, "propose", compared)


CASES = {
    "resnet18, 3 classes": ("resnet18", 4, [5, 2]),
    "resnet18, no objects": ("resnet18", 91, [0, 0]),
    "v1 frozen": ("v1 frozen", 91, [3, 1]),
    "v1 live, an image without objects": ("v1 live", 91, [2, 0]),
    "v2": ("v2", 91, [4, 1]),
    "v2, 3 classes, an image without objects": ("v2", 4, [0, 3]),
    "boxes v1": ("boxes v1", 91, [3, 2]),
    "boxes v2": ("boxes v2", 91, [2, 3]),
    "resnext101": ("resnext101", 91, [2, 2]),
}
FAST = [
    ("resnet18, 3 classes", torch.float64),
    ("v2, 3 classes, an image without objects", torch.float32),
]


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        pytest.param(*run, marks=[] if run in FAST else pytest.mark.slow)
        for run in product(CASES, [torch.float32, torch.float64])
    ],
    ids=str,
)
def test_a_training_step_is_the_same(tmp_path, monkeypatch, case, dtype):
    name, classes, counts = CASES[case]
    images = [random_image(*size, n) for n, size in enumerate(SIZES)]
    targets = [(b.to(dtype), labels) for b, labels in objects(SIZES, counts, classes - 1)]
    theirs, _ = torchvision_model(name, images[0], classes=classes, **THEIRS)
    ours = mrcnn_predictor(theirs, tmp_path, frozen_stages=FROZEN_STAGES.get(name, 0), **OURS)
    assert ours.config.num_classes == classes - 1

    theirs.train().to(dtype)
    ours.model.train().to(dtype)
    with recorded(theirs) as seen, deterministic_torchvision():
        expected = theirs(
            [torchvision_input(image).to(dtype) for image in images],
            torchvision_targets(targets, SIZES),
        )
    give_proposals(ours, seen["proposals"], monkeypatch)
    batch = ImageBatch(seen["transformed"][0].tensors, torch.tensor(SIZES))
    with deterministic_sampling(), double_losses():
        losses = ours.model(batch, padded_targets(targets))
    assert set(losses) == set(expected)
    for key, loss in losses.items():
        wanted = expected[key].detach()
        assert abs(loss.detach() - wanted) <= 1e-5 * max(1.0, abs(wanted)), key

    sum(expected.values()).backward()
    sum(losses.values()).backward()
    grads = {k: p.grad for k, p in ours.model.named_parameters() if p.grad is not None}
    assert all(grad.isfinite().all() for grad in grads.values())
    if dtype == torch.float64:
        same_statistics(theirs, ours)
        grads = export_state_dict("torchvision", grads, ours.config, {}, bgr=False)
        wanted = {k: p.grad for k, p in theirs.named_parameters() if p.grad is not None}
        assert set(grads) == set(wanted)
        for key, grad in wanted.items():
            assert (grads[key] - grad).abs().max() <= 1e-4 * grad.abs().max(), key


def same_statistics(theirs: torch.nn.Module, ours: Predictor) -> None:
    """Of batch norms, after a step."""
    mine = export_state_dict("torchvision", ours.model.state_dict(), ours.config, {}, bgr=False)
    for key, value in theirs.state_dict().items():
        if "running" in key:
            assert (mine[key] - value).abs().max() <= 1e-5 * value.abs().max(), key
        elif key.endswith("num_batches_tracked"):
            assert mine[key] == value, key
