"""Mask R-CNN (He et al., 2017): from pixels to a box, a class and a mask for every object."""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor, nn

from mrcnn.models.box_head import BoxHead
from mrcnn.models.fpn import FPN
from mrcnn.models.losses import Normalizer, own_count
from mrcnn.models.mask_head import MaskHead
from mrcnn.models.rpn import RPN
from mrcnn.models.sampling import sample_rois
from mrcnn.models.single_level import SingleLevel
from mrcnn.structures import DetectionBatch, ImageBatch, Targets


class MaskRCNN(nn.Module):
    """The figure of the paper: backbone, RPN, box head, mask head.

    Args:
        backbone: (N, 3, H, W) pixels to {"p2": features, …}, or to one map.
        rpn: features to proposals.
        box_head: proposals to classes and boxes.
        mask_head: boxes to masks; None detects boxes only.
        roi_samples: RoIs an image in the losses of the heads.
    """

    def __init__(
        self,
        backbone: FPN | SingleLevel,
        rpn: RPN,
        box_head: BoxHead,
        mask_head: MaskHead | None,
        *,
        roi_samples: int = 512,
    ) -> None:
        super().__init__()
        self.backbone, self.rpn = backbone, rpn
        self.box_head, self.mask_head = box_head, mask_head
        self.roi_samples = roi_samples

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @overload
    def forward(self, images: ImageBatch, targets: None = None) -> DetectionBatch: ...
    @overload
    def forward(
        self, images: ImageBatch, targets: Targets, normalizer: Normalizer = ...
    ) -> dict[str, Tensor]: ...

    def forward(
        self,
        images: ImageBatch,
        targets: Targets | None = None,
        normalizer: Normalizer = own_count,
    ) -> DetectionBatch | dict[str, Tensor]:
        """The five losses where targets are given, else the detections of every image."""
        features = self.backbone(images.pixels)  # {"p2": (N, 256, H / 4, W / 4), …}
        logits, deltas = self.rpn(features)
        proposals = self.rpn.propose(logits, deltas, images.sizes, training=targets is not None)
        if targets is None:
            detections = self.box_head.detect(features, proposals, images.sizes)
            return self.mask_head.detect(features, detections) if self.mask_head else detections

        rois = sample_rois(
            proposals,
            targets,
            self.box_head.num_classes,
            self.roi_samples,
            self.box_head.positive_fraction,
        )
        losses: dict[str, Tensor] = self.rpn.losses(logits, deltas, targets, normalizer)
        losses |= self.box_head.losses(features, rois, targets, normalizer)
        if self.mask_head:
            losses |= self.mask_head.losses(features, rois, targets, normalizer)
        return losses
