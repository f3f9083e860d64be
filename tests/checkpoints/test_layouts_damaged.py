"""Messages for damaged detectors of other frameworks, and for networks that are not supported."""

import random
import re

import pytest
import torch

from mrcnn import checkpoints
from mrcnn.checkpoints.foreign.convert import import_state_dict
from mrcnn.errors import UserError
from mrcnn.models import build
from tests.helpers import foreign_states
from tests.helpers.foreign_states import without_values
from tests.helpers.layout_cases import FILE


def without(pattern: str):
    return lambda state: {k: v for k, v in state.items() if not re.search(pattern, k)}


def with_shape(name: str, *shape: int, dtype: torch.dtype = torch.float32):
    return lambda state: state | {name: torch.zeros(shape, dtype=dtype)}


def renamed(pattern: str, replacement: str):
    return lambda state: {re.sub(pattern, replacement, k): v for k, v in state.items()}


D2_SCORES = "roi_heads.box_predictor.cls_score"
D2_BOXES = "roi_heads.box_predictor.bbox_pred"
D2_MASKS = "roi_heads.mask_head.predictor"
D2_BODY = "backbone.bottom_up"

# Framework and damage -> words of the message.
MALFORMED = {
    ("detectron2", "no stem"): (
        without(r"stem\.conv1\.weight"), r"does not hold a known detector \(torchvision, "),
    ("detectron2", "no norm of the stem"): (
        without(r"stem.*running_var"),
        r"lacks backbone\.bottom_up\.stem\.conv1\.norm\.running_var, \(64,\); is the file"),
    ("detectron2", "no convolution of a block"): (
        without(r"res4\.1\.conv2\.weight"),
        r"lacks backbone\.bottom_up\.res4\.1\.conv2\.weight, \(256, 256, 3, 3\)"),
    ("detectron2", "no first convolution to know the backbone by"): (
        without(r"res2\.0\.conv2\.weight"), r"has shape \(0, 0, 0, 0\); that is none of resnet18"),
    ("detectron2", "no lateral connection"): (
        without(r"fpn_lateral3\.bias"), r"lacks backbone\.fpn_lateral3\.bias, \(256,\)"),
    ("detectron2", "no head"): (
        without("cls_score"), r"lacks roi_heads\.box_predictor\.cls_score\.weight, which every"),
    ("detectron2", "no boxes"): (
        without(r"box_predictor\.bbox_pred"), r"lacks .*bbox_pred\.weight, which every detector"),
    ("detectron2", "half a mask head"): (
        without(r"mask_head\.deconv"), r"lacks roi_heads\.mask_head\.deconv\.weight, which every"),
    ("detectron2", "no mask convolution"): (
        without(r"mask_fcn2"), r"lacks .*mask_fcn\d\.(weight|bias)|mask_fcn4.* is no tensor"),
    ("detectron2", "no RPN"): (
        without("proposal_generator"), r"lacks proposal_generator\.rpn_head\.objectness_logits"),
    ("detectron2", "a misshaped convolution"): (
        with_shape(f"{D2_BODY}.res3.0.conv1.weight", 100, 256, 1, 1),
        r"res3\.0\.conv1\.weight has shape \(100, 256, 1, 1\); .* is \(128, 256, 1, 1\)"),
    ("detectron2", "a misshaped bias"): (
        with_shape("proposal_generator.rpn_head.anchor_deltas.bias", 3),
        r"anchor_deltas\.bias has shape \(3,\); .* is \(12,\)"),
    ("detectron2", "a flattened layer of another size"): (
        with_shape("roi_heads.box_head.fc1.weight", 1024, 256 * 49 + 1),
        r"fc1\.weight has shape \(1024, 12545\); .* is \(1024, 12544\)"),
    ("detectron2", "grey pixels"): (
        with_shape(f"{D2_BODY}.stem.conv1.weight", 64, 1, 7, 7),
        r"stem\.conv1\.weight has shape \(64, 1, 7, 7\); .* is \(64, 3, 7, 7\)"),
    ("detectron2", "a flat first convolution"): (
        with_shape(f"{D2_BODY}.stem.conv1.weight", 64, 147),
        r"stem\.conv1\.weight has shape \(64, 147\); .* is \(64, 3, 7, 7\)"),
    ("detectron2", "a scalar"): (
        with_shape(f"{D2_BODY}.res2.0.conv1.norm.bias"), r"bias has shape \(\); .* is \(64,\)"),
    ("detectron2", "a flat class layer"): (
        with_shape(f"{D2_SCORES}.weight", 81), r"shape \(81,\); it must have 2 dimensions"),
    ("detectron2", "an empty class layer"): (
        with_shape(f"{D2_SCORES}.weight", 0, 1024), "none of them empty"),
    ("detectron2", "background alone"): (
        with_shape(f"{D2_SCORES}.weight", 1, 1024), "one for background and one for each class"),
    ("detectron2", "no channels"): (
        with_shape("backbone.fpn_lateral2.weight", 0, 256, 1, 1), "none of them empty"),
    ("detectron2", "an empty bias"): (
        with_shape("backbone.fpn_lateral2.bias", 0), r"bias has shape \(0,\); .* is \(256,\)"),
    ("detectron2", "integers"): (
        with_shape("backbone.fpn_lateral2.bias", 256, dtype=torch.int32),
        "fpn_lateral2.bias holds int32; weights must be dense and of type float32, float16, "),
    ("detectron2", "complex numbers"): (
        with_shape("backbone.fpn_lateral2.bias", 256, dtype=torch.complex64),
        "fpn_lateral2.bias holds complex64; weights must be dense"),
    ("detectron2", "eight bits"): (
        with_shape("backbone.fpn_lateral2.bias", 256, dtype=torch.float8_e4m3fn),
        "fpn_lateral2.bias holds float8_e4m3fn; weights must be dense"),
    ("detectron2", "sparse weights"): (
        lambda state: state | {f"{D2_SCORES}.weight": torch.zeros(81, 1024).to_sparse()},
        "cls_score.weight holds sparse_coo; weights must be dense"),
    ("detectron2", "pixels without a spread"): (
        with_shape("pixel_std", 3), r"pixel_std must be in .*, got \(0\.0, 0\.0, "),
    ("detectron2", "complex pixel values"): (
        with_shape("pixel_mean", 3, dtype=torch.complex64), "pixel_mean holds complex64"),
    ("detectron2", "boxes of fewer classes"): (
        with_shape(f"{D2_BOXES}.weight", 4 * 79, 1024),
        r"bbox_pred\.weight has shape \(316, 1024\); .* 80 classes is \(320, 1024\)"),
    ("detectron2", "masks of more classes"): (
        with_shape(f"{D2_MASKS}.weight", 81, 256, 1, 1),
        r"predictor\.weight has shape \(81, 256, 1, 1\); .* 80 classes is \(80, 256, 1, 1\)"),
    ("detectron2", "a bias of fewer classes"): (
        with_shape(f"{D2_SCORES}.bias", 80), r"cls_score\.bias has shape \(80,\); .* is \(81,\)"),
    ("detectron2", "one block more"): (
        renamed(r"res3\.3\.", "res3.17."), r"lacks .*res3\.3\."),
    ("detectron2", "one block less"): (
        without(r"res3\.3\."), r"has \(3, 3, 6, 3\) blocks in its .* none of resnet18"),
    ("detectron2", "no last stage"): (without(r"\.res5\."), r"has \(3, 4, 6, 0\) blocks"),
    ("detectron2", "a pyramid of three levels"): (
        without("fpn_(lateral|output)5"), r"has a 3-level FPN.* --set 'anchor_sizes=\[32,64,"),
    ("detectron2", "a Keypoint R-CNN"): (
        with_shape("roi_heads.keypoint_head.conv_fcn1.weight", 512, 256, 3, 3),
        r"keypoint_head\.conv_fcn1\.weight is a tensor of a Keypoint R-CNN; the supported"),
    ("detectron2", "a Cascade R-CNN"): (
        renamed(r"box_(head|predictor)\.", r"box_\1.0."), "a tensor of a Cascade R-CNN"),
    ("detectron2", "a panoptic model"): (
        with_shape("sem_seg_head.p2.0.weight", 128, 256, 3, 3), "a tensor of a Panoptic FPN"),
    ("detectron2", "PointRend"): (
        with_shape("roi_heads.mask_head.point_head.fc1.weight", 256, 336, 1), "of PointRend"),
    ("detectron2", "deformable convolutions"): (
        with_shape(f"{D2_BODY}.res3.0.conv2_offset.weight", 18, 128, 3, 3), "deformable"),
    ("detectron2", "a RetinaNet"): (
        lambda state: without("roi_heads|proposal")(state) | {"head.cls_subnet.0.weight": state[
            "backbone.fpn_output3.weight"]}, "head.cls_subnet.0.weight is a tensor of a RetinaNet"),
    ("detectron2", "an unknown head"): (
        with_shape("roi_heads.depth_head.weight", 3, 3),
        r"depth_head\.weight, \(3, 3\), is not a tensor of the supported .* of detectron2"),
    ("detectron2", "a third norm"): (
        with_shape("backbone.fpn_lateral2.norm.weight", 256), r"lacks backbone\.fpn_.*norm"),
    ("torchvision", "two names of one tensor"): (
        lambda state: state | {"rpn.head.conv.weight": state["rpn.head.conv.0.0.weight"]},
        r"conv\.0\.0\.weight and rpn\.head\.conv\.weight are the same tensor; remove one"),
    ("torchvision", "half published names"): (
        with_shape("backbone.fpn.inner_blocks.2.weight", 256, 1024, 1, 1),
        r"inner_blocks\.2\.0\.weight and .*inner_blocks\.2\.weight are the same tensor"),
    ("torchvision", "no pyramid"): (
        without("fpn"), r"lacks backbone\.fpn\.inner_blocks\.0\.0\.weight, which every detector"),
    ("detectron2", "no pyramid"): (
        without(r"\.fpn_"), r"lacks backbone\.fpn_lateral2\.weight, which every detector"),
    ("torchvision", "tensors of another framework"): (
        lambda state: state | {"roi_head.bbox_head.fc_cls.weight": torch.zeros(81, 1024)},
        r"fc_cls\.weight, \(81, 1024\), is not a tensor of the supported .* of torchvision"),
    ("torchvision", "a Keypoint R-CNN"): (
        with_shape("roi_heads.keypoint_predictor.kps_score_lowres.bias", 17), "a Keypoint R-CNN"),
    ("torchvision", "a RetinaNet"): (
        lambda state: without("roi_heads|rpn")(state)
        | {"head.classification_head.cls_logits.bias": torch.zeros(9)}, "a RetinaNet"),
    ("torchvision", "a backbone alone"): (
        without("roi_heads|rpn"), r"lacks roi_heads\.box_predictor\.cls_score\.weight"),
    ("maskrcnn_benchmark", "C4"): (
        with_shape("roi_heads.box.feature_extractor.head.layer4.0.conv1.weight", 512, 1024, 1, 1),
        "a tensor of a C4 model of maskrcnn-benchmark"),
    ("maskrcnn_benchmark", "a Keypoint R-CNN"): (
        with_shape("roi_heads.keypoint.predictor.kps_score_lowres.bias", 17), "a Keypoint R-CNN"),
    ("maskrcnn_benchmark", "a RetinaNet"): (
        with_shape("rpn.head.cls_tower.0.weight", 256, 256, 3, 3), "a RetinaNet"),
    ("maskrcnn_benchmark", "norms in the pyramid"): (
        with_shape("backbone.fpn.fpn_inner1.1.weight", 256), "is not a tensor of the supported"),
    ("mmdetection", "a Cascade R-CNN"): (
        renamed(r"roi_head\.bbox_head\.", "roi_head.bbox_head.1."), "a Cascade R-CNN"),
    ("mmdetection", "HTC"): (
        with_shape("roi_head.semantic_head.conv_logits.bias", 183), "an HTC"),
    ("mmdetection", "a RetinaNet"): (
        with_shape("bbox_head.retina_cls.weight", 720, 256, 3, 3), "a tensor of a RetinaNet"),
    ("mmdetection", "version 1"): (
        renamed(r"roi_head\.", ""), r"lacks roi_head\.bbox_head\.fc_cls\.weight, which every"),
    ("mmdetection", "norms of two kinds"): (
        with_shape("neck.fpn_convs.0.gn.weight", 256), r"lacks neck\.|has shape|is not a tensor"),
}  # fmt: skip


@pytest.mark.parametrize(("framework", "damage"), MALFORMED)
def test_malformed(framework, damage):
    change, words = MALFORMED[framework, damage]
    state = change(without_values(getattr(foreign_states, framework)()))
    with pytest.raises(UserError, match=words) as caught:
        import_state_dict(FILE, state, {}, {})
    assert str(caught.value).startswith("theirs.pth: ")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.weight": torch.zeros(1000, 512)},
         "fc.weight is a tensor of a classification network.* mrcnn train --weights"),
        ({"backbone.layer1.0.conv1.weight": torch.zeros(1), "head.fc.weight": torch.zeros(1)},
         "a classification network"),
        ({"transformer.encoder.layers.0.linear1.weight": torch.zeros(1),
          "class_embed.weight": torch.zeros(92, 256)}, "is a tensor of a DETR"),
        ({"backbone.conv1.weight": torch.zeros(1), "decoder.layers.0.norms.0.bias": torch.zeros(1)},
         "is a tensor of a DETR"),
        ({"net.0.conv.weight": torch.zeros(1)},
         "does not hold a known detector .*; its names begin with net.0.conv.weight"),
        ({}, "does not hold a known detector"),
        (torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), 0.1).state_dict(), "a state dict"),
    ],
)  # fmt: skip
def test_other_networks(tmp_path, state, words):
    torch.save(state, tmp_path / "theirs.pth")
    with pytest.raises(UserError, match=words) as caught:
        checkpoints.load(tmp_path / "theirs.pth")
    assert str(caught.value).startswith(f"{tmp_path / 'theirs.pth'}: ")


@pytest.mark.parametrize("rounds", [8, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("framework", "arguments"),
    [("torchvision", {}), ("torchvision", {"version": 2, "kind": "live"}), ("detectron2", {}),
     ("detectron2", {"neck": "c4", "leftovers": True}), ("maskrcnn_benchmark", {}),
     ("mmdetection", {"head_kind": "group", "box_convs": 4})],
)  # fmt: skip
def test_random_damage(framework, arguments, rounds):
    """A complete model or one message, whatever is dropped, renamed, reshaped or exchanged."""
    shapes = getattr(foreign_states, framework)(**arguments)
    rng, refusals = random.Random(rounds), []
    for _ in range(rounds):
        state = damaged(without_values(shapes), rng)
        try:
            found = import_state_dict(FILE, state, {}, {})
        except UserError as error:
            refusals.append(str(error))
            continue
        with torch.device("meta"):
            build(found.config).load_state_dict(found.state, strict=True, assign=True)
    assert refusals
    assert all(text.startswith("theirs.pth: ") for text in refusals)


def damaged(state: dict[str, torch.Tensor], rng: random.Random) -> dict[str, torch.Tensor]:
    """One to three changes of single tensors."""
    if "pixel_mean" in state:
        state |= {"pixel_mean": torch.rand(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}
    for _ in range(rng.randint(1, 3)):
        name, other = rng.sample(sorted(state), 2)
        value = state[name]
        change = rng.choice(["drop", "rename", "reshape", "resize", "exchange", "retype", "whole"])
        if change == "drop":
            del state[name]
        elif change == "rename":
            part = rng.choice(name.split("."))
            new = {"weight": "bias", "bias": "weight"}.get(part, str(rng.randint(0, 9)))
            state[name.replace(part, new, 1)] = state.pop(name)
        elif change == "reshape":
            state[name] = value.flatten() if rng.random() < 0.5 else value[None]
        elif change == "resize":
            shape = [max(n + rng.randint(-n, 2), 0) for n in value.shape]
            state[name] = torch.empty(shape, device="meta")
        elif change == "exchange":
            state[name], state[other] = state[other], state[name]
        elif change == "retype":
            state[name] = value.to(rng.choice([torch.int64, torch.bool, torch.float64]))
        else:
            layer = name.rpartition(".")[0]
            state = {k: v for k, v in state.items() if not k.startswith(layer)}
    return state
