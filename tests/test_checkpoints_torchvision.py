"""Names, class order and feature order of torchvision's Mask R-CNN against ours."""

import pytest
import torch

from mrcnn.checkpoints.torchvision import convert_torchvision
from mrcnn.config import ModelConfig
from mrcnn.models import build

CLASSES = 3
CONFIG = ModelConfig(
    class_names=("a", "b", "c"), numerics="torchvision", backbone="resnet50", norm="frozen_batch"
)


def handmade(published: bool) -> dict[str, torch.Tensor]:
    """The tensors of torchvision's model as its modules, or as its published files, name them."""
    conv = "" if published else ".0"
    layers = {
        "rpn.head.conv" + ("" if published else ".0.0"): (256, 256, 3, 3),
        "rpn.head.cls_logits": (3, 256, 1, 1),
        "rpn.head.bbox_pred": (12, 256, 1, 1),
        "roi_heads.box_head.fc6": (1024, 256 * 49),
        "roi_heads.box_head.fc7": (1024, 1024),
        "roi_heads.box_predictor.cls_score": (CLASSES + 1, 1024),
        "roi_heads.box_predictor.bbox_pred": (4 * (CLASSES + 1), 1024),
        "roi_heads.mask_predictor.conv5_mask": (256, 256, 2, 2),
        "roi_heads.mask_predictor.mask_fcn_logits": (CLASSES + 1, 256, 1, 1),
    }
    for i, channels in enumerate((256, 512, 1024, 2048)):
        layers[f"backbone.fpn.inner_blocks.{i}{conv}"] = (256, channels, 1, 1)
        layers[f"backbone.fpn.layer_blocks.{i}{conv}"] = (256, 256, 3, 3)
        name = f"mask_fcn{i + 1}" if published else f"{i}.0"
        layers[f"roi_heads.mask_head.{name}"] = (256, 256, 3, 3)
    state = {f"{name}.weight": torch.randn(shape) for name, shape in layers.items()}
    state |= {f"{name}.bias": torch.randn(shape[0]) for name, shape in layers.items()}
    body = build(CONFIG).backbone.body.state_dict()  # its names are torchvision's
    return state | {f"backbone.body.{name}": value for name, value in body.items()}


@pytest.mark.parametrize("published", [False, True])
def test_every_tensor_finds_its_place(published):
    state = handmade(published) | {"backbone.body.bn1.num_batches_tracked": torch.tensor(7)}
    build(CONFIG).load_state_dict(convert_torchvision(state))  # raises on any difference


def test_orders_of_classes_and_features():
    theirs = handmade(published=True)
    ours = convert_torchvision(theirs)
    features, x = torch.randn(2, 256, 7, 7), torch.randn(2, 1024)
    head = "roi_heads.box_predictor."
    torch.testing.assert_close(
        features.permute(0, 2, 3, 1).flatten(1) @ ours["box_head.fc6.weight"].T,
        features.flatten(1) @ theirs["roi_heads.box_head.fc6.weight"].T,
        atol=12544 * 2**-24 * 30,  # the same terms in another order; each is below 30
        rtol=0,
    )
    logits = x @ theirs[head + "cls_score.weight"].T + theirs[head + "cls_score.bias"]
    found = x @ ours["box_head.class_logits.weight"].T + ours["box_head.class_logits.bias"]
    torch.testing.assert_close(found, logits[:, [1, 2, 3, 0]])
    deltas = (x @ theirs[head + "bbox_pred.weight"].T).view(2, CLASSES + 1, 4)
    torch.testing.assert_close(
        (x @ ours["box_head.deltas.weight"].T).view(2, CLASSES, 4), deltas[:, 1:]
    )
    mask = "roi_heads.mask_predictor.mask_fcn_logits.bias"
    assert torch.equal(ours["mask_head.mask_logits.bias"], theirs[mask][1:])


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"head\.weight is no tensor of torchvision's Mask R-CNN"):
        convert_torchvision({"head.weight": torch.zeros(1)})
