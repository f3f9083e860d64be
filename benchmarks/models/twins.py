"""Build the same Mask R-CNN FPN in mrcnn and in torchvision, with the same random weights.

Random weights would give no detections. So the norms of the backbone get random statistics that
keep activations bounded, and the layers that predict are rescaled until their outputs for the given
image have the standard deviations of `SPREAD`. Then about 1000 proposals and 100 detections pass,
as in a trained model.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.harness import torchvision
from mrcnn.checkpoints.foreign.convert import import_state_dict
from mrcnn.config import ModelConfig
from mrcnn.models import MaskRCNN, build
from mrcnn.structures import ImageBatch

CLASSES = 90
SPREAD = {"objectness": 3.0, "rpn deltas": 0.2, "classes": 2.0, "deltas": 0.5, "masks": 2.0}


def build_twins(
    pixels: Tensor,
    *,
    backbone: str = "resnet50",
    proposals: int = 1000,
    detections: int = 100,
    roi_samples: int = 512,
) -> tuple[MaskRCNN, ModelConfig, nn.Module | None]:
    """Build the mrcnn model, its configuration, and torchvision's model (None if not installed).

    Both are in evaluation mode. Three stages of the backbone are trainable, and its norms are
    frozen.

    Args:
        pixels: (1, 3, H, W), the image for which outputs are rescaled.
        backbone: name of a ResNet.
        proposals: per image.
        detections: per image.
        roi_samples: RoIs per image in training.
    """
    torch.manual_seed(0)
    config = ModelConfig(
        class_names=tuple(f"class {i}" for i in range(CLASSES)),
        backbone=backbone,
        numerics="torchvision",
        post_nms_top_k=proposals,
        max_detections=detections,
        roi_samples=roi_samples,
    )
    model = build(config).eval()
    peer = None
    if torchvision is not None:
        from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
        from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

        body = resnet_fpn_backbone(
            backbone_name=backbone,
            weights=None,
            norm_layer=torchvision.ops.FrozenBatchNorm2d,
            trainable_layers=3,
        )
        peer = TorchvisionMaskRCNN(
            body,
            CLASSES + 1,
            rpn_post_nms_top_n_train=proposals,
            rpn_post_nms_top_n_test=proposals,
            box_detections_per_img=detections,
            box_batch_size_per_image=roi_samples,
        ).eval()
    source = model if peer is None else peer
    last = "bn2" if backbone in ("resnet18", "resnet34") else "bn3"  # the last norm of a block
    for name in source.state_dict():
        if name.endswith((".running_mean", ".running_var")):
            norm = name.rpartition(".")[0]
            _randomise(source.get_submodule(norm), last=norm.endswith(last))
    if peer is not None:
        model.load_state_dict(
            import_state_dict(Path("torchvision"), peer.state_dict(), {}, {}).state
        )
    rescale(model, peer, pixels)
    return model, config, peer


def _randomise(norm: nn.Module, last: bool) -> None:
    """Draw statistics and affine values, small ones for a block's last norm: sums stay bounded."""
    for name, value in norm.state_dict().items():
        low, high = {
            "weight": (0.1, 0.3) if last else (0.5, 1.5),
            "running_var": (0.5, 1.5),
        }.get(name, (-0.1, 0.1))
        value.uniform_(low, high)


@torch.no_grad()
def rescale(model: MaskRCNN, peer: nn.Module | None, pixels: Tensor, *, heads: bool = True) -> None:
    """Rescale the outputs for `pixels` (1, 3, H, W) to the deviations of `SPREAD`, in both models.

    Without `heads`, only the outputs of the RPN are rescaled.
    """
    sizes = torch.tensor([pixels.shape[2:]])

    def apply(name: str, values: Tensor, layer: nn.Module, peer_layer: str) -> None:
        factor = SPREAD[name] / values.std()
        layer.weight.mul_(factor)
        if peer is not None:
            peer.get_submodule(peer_layer).weight.mul_(factor)

    rpn, box_head, mask_head = model.rpn, model.box_head, model.mask_head
    features = model.backbone(pixels)
    logits, deltas = (torch.cat([x.flatten() for x in maps]) for maps in rpn(features))
    apply("objectness", logits, rpn.objectness_logits, "rpn.head.cls_logits")
    apply("rpn deltas", deltas, rpn.deltas, "rpn.head.bbox_pred")
    if not heads:
        return
    proposals = rpn.propose(*rpn(features), sizes, training=False)
    classes, deltas = box_head(features, proposals.boxes, proposals.scores > -torch.inf)
    apply("classes", classes, box_head.class_logits, "roi_heads.box_predictor.cls_score")
    apply("deltas", deltas, box_head.deltas, "roi_heads.box_predictor.bbox_pred")
    if mask_head is None:
        return
    detections = model(ImageBatch(pixels, sizes))
    masks = detections.masks[:, : int(detections.counts[0])].logit()
    apply("masks", masks, mask_head.mask_logits, "roi_heads.mask_predictor.mask_fcn_logits")
