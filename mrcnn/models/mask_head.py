"""Mask head: one M x M mask per class for each RoI (Mask R-CNN, section 3 and figure 4).

Features are (N, channels, H_l, W_l) per level, fine to coarse. Boxes are xyxy in image pixels.

N images; per image R RoIs, of which the first R' may be positive, and D detections; C classes.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrcnn.models.layers import Conv, conv
from mrcnn.models.losses import Normalizer, binary_loss, local_count
from mrcnn.models.pooling import Pooler
from mrcnn.ops.fused import linear
from mrcnn.ops.mask_targets import mask_targets
from mrcnn.structures import DetectionBatch, SampledRois, Targets


class MaskHead(nn.Module):
    """3 x 3 convolutions, a transposed convolution that doubles the size, and a 1 x 1 convolution.

    Args:
        pooler: returns features (N * R, channels, M / 2, M / 2). If it has weights, they belong to
            the box head, which has the same pooler.
        convs: number of 3 x 3 convolutions.
        norm: norm after each 3 x 3 convolution, a key of `NORMS` or "none".
        width: channels of the convolutions.
        num_classes: C.
        class_agnostic: predict one mask for all classes.
        positive_fraction: upper bound on the fraction of positives among the sampled RoIs. They
            come first, and only they enter the mask loss.
    """

    def __init__(
        self,
        pooler: Pooler,
        *,
        convs: int = 4,
        norm: str = "none",
        width: int = 256,
        num_classes: int,
        class_agnostic: bool = False,
        positive_fraction: float = 0.25,
    ) -> None:
        super().__init__()
        # In a C4 model both heads share one pooler, which contains conv5. The tuple hides it from
        # `nn.Module`, which would otherwise list its weights a second time, as "mask_head.pooler".
        self._pooler = (pooler,)
        self.num_classes, self.class_agnostic = num_classes, class_agnostic
        self.positive_fraction = positive_fraction
        channels = [pooler.channels, *[width] * convs]
        self.convs = nn.ModuleList(
            Conv(channels[i], channels[i + 1], 3, norm) for i in range(convs)
        )
        self.upsample = nn.ConvTranspose2d(channels[-1], width, 2, 2)
        self.mask_logits = nn.Conv2d(width, 1 if class_agnostic else num_classes, 1)
        for layer in (*self.convs, self.upsample):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.mask_logits.weight, std=0.001)
        for layer in (self.upsample, self.mask_logits):
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    @property
    def pooler(self) -> Pooler:
        """The pooler of RoI features."""
        return self._pooler[0]

    def forward(self, features: dict[str, Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        """Return mask logits (N, R, M, M): for each of the boxes (N, R, 4), those of its label.

        Labels, (N, R) int64, are -1 in padded slots.
        """
        valid = labels >= 0
        x = self.pooler(features, boxes, valid)
        for layer in self.convs:
            x = conv(x, layer, relu=True, valid=valid.flatten())
        # A transposed convolution of kernel 2 and stride 2 is a matrix product per cell; each row
        # of its result holds 2 x 2 pixels. From these, only the logits of the box's label are
        # computed, then reordered to a mask. This moves less memory than feature maps would.
        up, last, half = self.upsample, self.mask_logits, self.pooler.size
        assert up.bias is not None
        assert last.bias is not None
        cells = x.permute(0, 2, 3, 1).reshape(-1, up.in_channels)  # (N * R * M * M / 4, width)
        x = linear(cells, up.weight.permute(2, 3, 1, 0).flatten(0, 2), up.bias.repeat(4), relu=True)
        x = x.view(labels.numel(), 4 * half * half, up.out_channels)
        mask_class = labels.clamp(min=0, max=0 if self.class_agnostic else None).reshape(-1)
        weight = last.weight.flatten(1)[mask_class]  # (N * R, width)
        logits = x @ weight[:, :, None] + last.bias[mask_class][:, None, None]
        logits = logits.view(*labels.shape, half, half, 2, 2).transpose(3, 4)
        return logits.reshape(*labels.shape, 2 * half, 2 * half)

    def losses(
        self,
        features: dict[str, Tensor],
        rois: SampledRois,
        targets: Targets,
        normalizer: Normalizer = local_count,
    ) -> dict[str, Tensor]:
        """Return the mask loss: mean binary cross-entropy over the masks of the positive RoIs."""
        positives = max(int(rois.labels.shape[1] * self.positive_fraction), 1)
        boxes, labels = rois.boxes[:, :positives], rois.labels[:, :positives]
        labels = torch.where(labels < self.num_classes, labels, -1)  # background has no mask
        slots = max(_used_slots(labels), 1)  # at least one, so that all weights get gradients
        boxes, labels = boxes[:, :slots], labels[:, :slots]
        matched = rois.matched[:, :slots]
        logits = self(features, boxes, labels)  # (N, R', M, M)
        instance = targets.mask_index.gather(1, matched)
        size = logits.shape[-1]
        mask = mask_targets(
            targets.masks,
            boxes.reshape(-1, 4),
            torch.where(labels >= 0, instance, -1).reshape(-1),
            size,
        ).view(logits.shape)
        count = normalizer((labels >= 0).sum()) * size * size
        loss = binary_loss(logits, mask, (labels >= 0)[..., None, None])
        return {"loss_mask": loss / count}

    def detect(self, features: dict[str, Tensor], detections: DetectionBatch) -> DetectionBatch:
        """Return the detections, each with a mask of probabilities for its class."""
        slots = _used_slots(detections.labels)
        boxes, labels = detections.boxes[:, :slots], detections.labels[:, :slots]
        masks = self(features, boxes, labels).float().sigmoid()
        padding = detections.labels.shape[1] - slots
        return replace(detections, masks=F.pad(masks, (0, 0, 0, 0, 0, padding)))


def _used_slots(labels: Tensor) -> int:
    """Return the number of slots per image, counted from the front, to compute masks for.

    This is the number of all slots, so that shapes stay fixed. In eager mode on a CPU it is the
    number in the fullest image: there, reading a count is free and convolving padding is not.
    """
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        return int((labels >= 0).sum(1).max())
    return labels.shape[1]
