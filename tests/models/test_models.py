"""The modules put together: losses, gradients, detections, initial weights."""

import dataclasses
from copy import deepcopy

import pytest
import torch

from mrcnn.config import MODELS, ModelConfig
from mrcnn.models import build
from mrcnn.models.anchors import grid_anchors, make_cell_anchors
from mrcnn.models.backbones.resnet import RESNETS, ResNet
from mrcnn.models.layers import FrozenBatchNorm
from mrcnn.models.losses import smooth_l1_loss
from mrcnn.models.mask_head import MaskHead
from mrcnn.models.postprocess import to_detections
from mrcnn.numerics import NUMERICS
from mrcnn.ops.boxes import box_iou
from mrcnn.structures import Targets
from tests.models.test_fixed_shapes import images, square_targets

CLASSES = ("disc", "square")


def small(**changes) -> ModelConfig:
    return dataclasses.replace(MODELS["small"], class_names=CLASSES, **changes)


def no_targets() -> Targets:
    targets = square_targets()
    return dataclasses.replace(targets, labels=torch.full_like(targets.labels, -1))


@pytest.mark.parametrize("norm", ["frozen_batch", "batch", "group"])
def test_training_step_reaches_every_trainable_parameter(norm):
    torch.manual_seed(0)
    model = build(small(norm=norm))
    losses = model(images(), square_targets())
    assert list(losses) == [
        "loss_objectness",
        "loss_rpn_box_reg",
        "loss_classifier",
        "loss_box_reg",
        "loss_mask",
    ]
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []


def test_initial_losses_are_those_of_a_guess():
    """Untrained, objectness and masks are coin flips: log 2 each."""
    torch.manual_seed(0)
    losses = build(small())(images(), square_targets())
    log2 = torch.tensor(2.0).log()
    torch.testing.assert_close(losses["loss_objectness"], log2, atol=0.02, rtol=0)
    torch.testing.assert_close(losses["loss_mask"], log2, atol=0.02, rtol=0)


def test_images_without_objects_train():
    model = build(small())
    losses = model(images(), no_targets())
    torch.stack(list(losses.values())).sum().backward()
    assert losses["loss_mask"] == 0
    assert losses["loss_box_reg"] == 0
    assert losses["loss_rpn_box_reg"] == 0
    assert all(p.grad is not None for p in model.parameters())


def test_detections_are_padded_sorted_and_inside():
    torch.manual_seed(0)
    model = build(small(score_threshold=0.0, max_detections=15)).eval()
    with torch.no_grad():
        found = model(images())
    assert found.masks.shape == (2, 15, 28, 28)
    for n, (height, width) in enumerate([(64, 96), (50, 70)]):
        count = int(found.counts[n])
        assert count > 0
        scores, boxes = found.scores[n, :count], found.boxes[n, :count]
        assert (scores[:-1] >= scores[1:]).all()
        assert (boxes >= 0).all()
        assert (boxes[:, [0, 2]] <= width).all()
        assert (boxes[:, [1, 3]] <= height).all()
        assert (found.labels[n, count:] == -1).all()


def test_images_without_detections_give_empty_padding():
    model = build(small(score_threshold=0.99, max_detections=5)).eval()
    with torch.no_grad():
        found = model(images())
    assert found.counts.tolist() == [0, 0]
    assert found.masks.shape == (2, 5, 28, 28)
    assert (found.labels == -1).all()
    detections = to_detections(found, images().sizes, [(64, 96), (50, 70)], NUMERICS["detectron2"])
    assert [len(d) for d in detections] == [0, 0]


def test_a_batch_equals_its_images_one_by_one():
    torch.manual_seed(0)
    model = build(small(score_threshold=0.0, max_detections=10)).eval()
    batch = images()
    one = dataclasses.replace(batch, pixels=batch.pixels[1:], sizes=batch.sizes[1:])
    with torch.no_grad():
        together, alone = model(batch), model(one)
    torch.testing.assert_close(together.boxes[1:], alone.boxes, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(together.masks[1:], alone.masks, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("grad", [False, True])
def test_masks_are_those_of_the_layers_one_by_one(grad):
    """The upsampling as a product per cell, and the own class alone, change nothing."""
    torch.manual_seed(0)
    head = build(small()).mask_head
    torch.nn.init.normal_(head.mask_logits.weight)
    torch.nn.init.normal_(head.mask_logits.bias)
    pooled = torch.randn(6, 64, 14, 14)
    head.pooler.forward = lambda *_: pooled
    labels = torch.tensor([[0, 1, -1], [1, 1, 0]])
    with torch.set_grad_enabled(grad):
        found = head({}, torch.empty(2, 3, 4), labels)
    in_steps, exact = (one_by_one(net, pooled, labels) for net in (head, deepcopy(head).double()))
    error, usual = (float((x - exact).detach().abs().max()) for x in (found, in_steps))
    assert error <= 4 * usual  # the same roundings in another order


def one_by_one(head: MaskHead, pooled: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mask logits (N, R, M, M) of the labels' classes by the layers as the paper has them."""
    x = pooled.to(head.mask_logits.weight.dtype)
    for layer in head.convs:
        x = layer(x).relu()
    every_class = head.mask_logits(head.upsample(x).relu())
    own_class = labels.clamp(min=0).flatten()
    return every_class[torch.arange(len(own_class)), own_class].unflatten(0, labels.shape)


def test_autocast_keeps_boxes_and_losses_in_float32():
    torch.manual_seed(0)
    model = build(small(score_threshold=0.0))
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(images(), square_targets())
        torch.stack(list(losses.values())).sum().backward()
        model.eval()
        with torch.no_grad():
            found = model(images())
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    assert found.boxes.dtype == found.scores.dtype == found.masks.dtype == torch.float32
    assert found.counts.min() > 0


def test_overfits_one_square():
    """The whole chain learns: a box and a mask that fit one object in 150 steps."""
    torch.manual_seed(0)
    model = build(small())
    batch, targets = images(), square_targets()
    batch.pixels.mul_(0.1)
    batch.pixels[0, :, 12:44, 10:40] += 1
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for _ in range(150):
        loss = torch.stack(list(model(batch, targets).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    with torch.no_grad():
        found = model(batch)
    assert found.scores[0, 0] > 0.8
    assert found.labels[0, 0] == 1
    assert box_iou(found.boxes[0, :1], targets.boxes[0, :1]) > 0.75  # COCO's strict match
    assert (found.masks[0, 0] >= 0.5).float().mean() > 0.9  # the object fills its box
    assert found.scores[1].max() < 0.5


@pytest.mark.parametrize("name", RESNETS)
def test_resnets_state_strides_and_channels(name):
    body = ResNet(name, norm="frozen_batch").to("meta")
    maps = body(torch.empty(1, 3, 64, 96, device="meta"))
    assert [m.shape[1] for m in maps] == body.channels
    assert [64 // m.shape[2] for m in maps] == body.strides


def test_resnet18_loads_imagenet_weights_by_name(shared_data):
    weights = torch.load(
        shared_data / "weights" / "resnet18_imagenet_stem_to_layer3.pt", weights_only=True
    )
    body = ResNet("resnet18", norm="frozen_batch", stages=3)
    missing, unexpected = body.load_state_dict(weights, strict=False)
    assert missing == []
    assert [key for key in unexpected if not key.startswith(("fc", "layer4"))] == []


def test_resnet50_has_torchvisions_parameters():
    body = ResNet("resnet50", norm="batch")
    names = dict(body.named_parameters())
    assert sum(p.numel() for p in body.parameters()) == 25_557_032 - 2_049_000  # without fc
    assert names["layer2.0.downsample.0.weight"].shape == (512, 256, 1, 1)
    assert names["layer4.2.bn3.bias"].shape == (2048,)


def test_frozen_stages_keep_their_weights():
    model = build(dataclasses.replace(MODELS["resnet18-fpn"], class_names=CLASSES))
    frozen = {n.split(".")[2] for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "layer1"}


def test_frozen_batch_norm_is_batch_norm_in_inference():
    norm, frozen = torch.nn.BatchNorm2d(8), FrozenBatchNorm(8)
    for value in norm.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 2)
    frozen.load_state_dict(norm.state_dict(), strict=False)
    x = torch.randn(2, 8, 5, 5)
    torch.testing.assert_close(frozen(x), norm.eval()(x))


def test_grid_anchors_are_ordered_by_row_column_anchor():
    cell = make_cell_anchors([[8]], [0.5, 1.0], [4], NUMERICS["detectron2"])
    anchors = grid_anchors(cell, [(4, 5)], [(2, 3)])[0].view(2, 3, 2, 4)
    shift = torch.tensor([10.0, 4.0, 10.0, 4.0])  # column 2, row 1
    torch.testing.assert_close(anchors[1, 2, 1], cell[0, 1] + shift)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"backbone": "resnet19"}, "backbone must be one of resnet18"),
        ({"class_names": ()}, "class_names must name at least one class"),
    ],
)
def test_build_names_what_is_wrong(change, words):
    with pytest.raises(ValueError, match=words):
        build(dataclasses.replace(small(), **change))


def test_config_names_what_is_wrong():
    with pytest.raises(ValueError, match="anchor_sizes must hold 4 sizes"):
        small(anchor_sizes=(32, 64))
    with pytest.raises(
        ValueError, match="numerics must be one of detectron2, torchvision, mmdetection"
    ):
        small(numerics="caffe")
    with pytest.raises(ValueError, match=r"unknown fields \['wings'\]"):
        ModelConfig.from_dict({"wings": 2})


@pytest.mark.parametrize(
    "fields",
    [{"rpn_convs": 10**7}, {"max_detections": 10**9}, {"max_detections": 1.5}, {"masks_bins": 1},
     {"mask_bins": 10**5}, {"min_size": 10**6}, {"scale": float("nan")}, {"scale": -1.0},
     {"pixel_std": (1.0,)}, {"pixel_std": (0.0, 1.0, 1.0)}, {"max_size": 0}, {"norm_eps": "small"},
     {"category_ids": (3,)}, {"category_ids": (3, 3)}, {"category_ids": (3, 2**63)},
     {"score_threshold": float("nan")}, {"nms_threshold": 2}, {"anchor_ratios": ()},
     {"anchor_sizes": (16, 32, 64, -128)}, {"max_detections": True}, {"min_size": [256]},
     {"masks": "yes"}, {"masks": 1}, {"class_names": "ab"}, {"class_names": ["cat", None]},
     {"class_names": 3}, {"backbone": None}, {"backbone": ["vgg"]}, {"anchor_sizes": 32},
     {"anchor_sizes": None}, {"pixel_mean": 3}, {"norm": {}}, {"scale": "x"}, {"scale": [1.0]},
     {"min_size": None}, {"norm_eps": None}, {"numerics": []}],
    ids=str,
)  # fmt: skip
def test_values_that_no_model_has_are_refused_before_it_is_built(fields):
    values = {**MODELS["small"].to_dict(), "class_names": ["cat", "dog"], **fields}
    with pytest.raises(ValueError, match=f"^ModelConfig: .*{next(iter(fields))}"):
        ModelConfig.from_dict(values)


def test_config_survives_json():
    import json

    config = small(scale=1.5)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("beta", [0.0, 1 / 9])
def test_unused_slots_of_the_box_loss_have_no_gradient(beta):
    """Padding is a box without extent, whose deltas are infinite or NaN."""
    deltas = torch.ones(1, 3, 4, requires_grad=True)
    wanted = torch.tensor([0.0, -torch.inf, torch.nan])[None, :, None].expand(1, 3, 4)
    loss = smooth_l1_loss(deltas, wanted, torch.tensor([[True, False, False]]), beta)
    loss.backward()
    assert loss.isfinite()
    assert deltas.grad.tolist() == [[[1.0] * 4, [0.0] * 4, [0.0] * 4]]
