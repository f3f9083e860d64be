"""The GIoU loss: its definition, its gradients, and boxes without extent."""

from dataclasses import replace

import pytest
import torch

from mrcnn.config import MODELS
from mrcnn.models import box_head, build, losses, rpn
from tests.models.test_fixed_shapes import images, square_targets


def exact_giou(a: list[float], b: list[float]) -> float:
    """Algorithm 1 of the paper for two boxes with areas."""
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    overlap = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return overlap / union - (hull - union) / hull


def test_giou_is_that_of_the_definition():
    torch.manual_seed(0)
    corners = torch.rand(2, 1, 200, 2, dtype=torch.float64) * 100
    boxes, wanted = torch.cat([corners, corners + 1 + torch.rand_like(corners) * 60], dim=-1)
    boxes[0, 0], boxes[0, 1, :2] = wanted[0, 0], wanted[0, 1, 2:]  # equal; corner to corner
    boxes[0, 1, 2:] = boxes[0, 1, :2] + 3
    weight = torch.rand(1, 200) > 0.3
    pairs = zip(boxes[0].tolist(), wanted[0].tolist(), weight[0].tolist(), strict=True)
    exact = sum(1 - exact_giou(a, b) for a, b, used in pairs if used)
    assert losses.giou_loss(boxes, wanted, weight).item() == pytest.approx(exact, rel=1e-12)
    in_float = losses.giou_loss(boxes.float(), wanted.float(), weight).item()
    assert in_float == pytest.approx(exact, rel=1e-5)
    assert torch.autograd.gradcheck(
        lambda b: losses.giou_loss(b, wanted[:, 2:], weight[:, 2:]), boxes[:, 2:].requires_grad_()
    )


def test_giou_of_refined_boxes_is_that_of_boxes():
    deltas = torch.tensor([[[0.5, 0.0, 0.0, 2.0], [7.0, 7.0, 7.0, 7.0]]])
    anchors = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 10]]])
    wanted = torch.tensor([[[5.0, 0, 15, 10], [0, 0, 10, 10]]])
    loss = losses.box_loss(
        deltas,
        anchors,
        wanted,
        torch.tensor([[True, False]]),
        kind="giou",
        beta=0.0,
        giou_weight=3.0,
        delta_weights=(1.0, 1.0, 1.0, 1 / torch.tensor(2.0).log().item() * 2),
    )
    # The box is moved by 5 and made twice as high, so that half of it, and of the hull, overlaps.
    assert loss.item() == pytest.approx(3 * 0.5, rel=1e-6)


@pytest.mark.parametrize(
    ("delta", "anchor", "wanted"),
    [
        ([0.0, 0, 0, 0], [5.0, 5, 5, 5], [5.0, 5, 5, 5]),  # nothing at all
        ([0.0, 0, 0, 0], [5.0, 5, 5, 9], [0.0, 0, 10, 10]),
        ([0.0, 0, 0, 0], [0.0, 0, 10, 10], [3.0, 3, 3, 3]),
        ([0.0, 0, -200, -200], [0.0, 0, 10, 10], [0.0, 0, 10, 10]),
        ([0.0, 0, 200, 200], [0.0, 0, 10, 10], [0.0, 0, 10, 10]),
        ([1e22, 1e22, 0, 0], [0.0, 0, 10, 10], [0.0, 0, 10, 10]),  # the hull's area overflows
    ],
)
def test_giou_of_boxes_without_extent_has_finite_gradients(delta, anchor, wanted):
    deltas = torch.tensor([[delta, [1.0, 1, 1, 1], [1.0, 1, 1, 1]]], requires_grad=True)
    nothing, not_a_number = [0.0] * 4, [torch.nan] * 4
    loss = losses.box_loss(
        deltas,
        torch.tensor([[anchor, nothing, not_a_number]]),
        torch.tensor([[wanted, nothing, not_a_number]]),
        torch.tensor([[True, False, False]]),
        kind="giou",
        beta=0.0,
        giou_weight=1.0,
    )
    loss.backward()
    assert 0 <= loss <= 2
    assert deltas.grad.isfinite().all()
    assert deltas.grad[0, 1:].eq(0).all()


def test_weights_of_giou_in_the_model(monkeypatch):
    """With GIoU, Detectron2 weighs the box loss of the RPN by 2 and that of the head by 10."""
    config = replace(MODELS["small"], class_names=("a", "b"), rpn_box_loss="giou", box_loss="giou")
    torch.manual_seed(0)
    model, batch, targets = build(config), images(), square_targets()
    weighted = model(batch, targets)
    monkeypatch.setattr(rpn, "GIOU_WEIGHT", 1.0)
    monkeypatch.setattr(box_head, "GIOU_WEIGHT", 1.0)
    plain = model(batch, targets)
    factors = {"loss_rpn_box_reg": 2, "loss_box_reg": 10}
    for name, loss in plain.items():
        assert weighted[name].item() == pytest.approx(factors.get(name, 1) * loss.item(), rel=1e-6)
        assert loss > 0
