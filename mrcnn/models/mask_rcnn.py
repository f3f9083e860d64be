"""Mask R-CNN (He et al., 2017): a box, a class and a mask for every object in an image."""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor, nn

from mrcnn.models.box_head import BoxHead
from mrcnn.models.fpn import FPN, SingleLevel
from mrcnn.models.losses import Normalizer, local_count
from mrcnn.models.mask_head import MaskHead
from mrcnn.models.rpn import RPN
from mrcnn.models.sampling import sample_rois
from mrcnn.structures import DetectionBatch, ImageBatch, Targets


class MaskRCNN(nn.Module):
    """The network of the paper's figure 1: backbone, RPN, box head, mask head.

    Args:
        backbone: turns (N, 3, H, W) pixels into features, {"p2": (N, 256, H / 4, W / 4), …}.
        rpn: turns features into proposals.
        box_head: turns proposals into classes and refined boxes.
        mask_head: turns boxes into masks. None detects boxes only (Faster R-CNN).
        roi_samples: RoIs per image that the losses of the heads sample.
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
        """The device of the weights."""
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
        normalizer: Normalizer = local_count,
    ) -> DetectionBatch | dict[str, Tensor]:
        """Return the losses if targets are given, else the detections of every image.

        Call `model.eval()` first for inference and `model.train()` for training: batch norm
        depends on the mode, everything else on `targets`.

        Args:
            images: normalised pixels, padded to one size.
            targets: boxes, labels and masks of the objects, in the frame of `images`.
            normalizer: turns the number of samples into the divisor of a loss; see `Normalizer`.

        Returns:
            Without targets, boxes and masks in the frame of `images`. With targets, a dict of
            scalars: loss_objectness, loss_rpn_box_reg, loss_classifier, loss_box_reg, loss_mask.
            Their sum is the loss to minimise.

        Example:
            >>> model = mrcnn.build(dataclasses.replace(MODELS["small"], class_names=("cat",)))
            >>> images = ImageBatch(torch.rand(1, 3, 256, 256), torch.tensor([[256, 200]]))
            >>> detections = model.eval()(images)
            >>> detections.boxes.shape  # (images, slots, 4)
            torch.Size([1, 100, 4])
        """
        features = self.backbone(images.pixels)  # {"p2": (N, 256, H / 4, W / 4), …}
        logits, deltas = self.rpn(features)
        proposals = self.rpn.propose(logits, deltas, images.sizes, training=targets is not None)
        if targets is None:
            # Masks are predicted for detections only, not for all proposals (section 3.1).
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
