"""Box head: classifies each RoI and refines its box (Fast R-CNN, section 2).

Features are (N, channels, H_l, W_l) per level, fine to coarse. Boxes are xyxy in image pixels.

N images; per image R RoIs, of which the first R' may be positive, and D detections; C classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrcnn.models.layers import Conv, check_choice, conv
from mrcnn.models.losses import BOX_LOSSES, Normalizer, box_loss, local_count
from mrcnn.models.pooling import Pooler
from mrcnn.models.sampling import take
from mrcnn.ops import select_detections
from mrcnn.ops.fused import linear
from mrcnn.structures import DetectionBatch, Proposals, SampledRois, Targets

# Deltas of RoIs have standard deviations of about 0.1 (dx, dy) and 0.2 (dw, dh).
DELTA_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
GIOU_WEIGHT = 10.0  # of the box loss, as in Detectron2 and MMDetection


class BoxHead(nn.Module):
    """Convolutions and fully connected layers over pooled features.

    Args:
        pooler: returns features (N * R, channels, bins, bins).
        convs: number of 3 x 3 convolutions.
        conv_width: channels of the convolutions.
        norm: norm after each convolution, a key of `NORMS` or "none".
        layers: number of fully connected layers. With 0, the mean over the bins is classified.
        width: outputs of each fully connected layer.
        num_classes: C. Logit C, the last one, is background.
        class_agnostic: predict one box for all classes.
        box_loss: one of `BOX_LOSSES`.
        positive_fraction: upper bound on the fraction of positives among the sampled RoIs.
        score_threshold: detections must score higher.
        nms_threshold: IoU above which NMS removes the lower-scoring box of a class.
        max_detections: D.
    """

    def __init__(
        self,
        pooler: Pooler,
        *,
        convs: int = 0,
        conv_width: int = 256,
        norm: str = "none",
        layers: int = 2,
        width: int = 1024,
        num_classes: int,
        class_agnostic: bool = False,
        box_loss: str = "smooth_l1",
        positive_fraction: float = 0.25,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        self.pooler, self.num_classes = pooler, num_classes
        self.boxes_per_roi = 1 if class_agnostic else num_classes
        check_choice("BoxHead: box_loss", box_loss, BOX_LOSSES)
        self.box_loss = box_loss
        self.positive_fraction = positive_fraction
        self.score_threshold, self.nms_threshold = score_threshold, nms_threshold
        self.max_detections = max_detections
        channels = [pooler.channels, *[conv_width] * convs]
        self.convs = nn.ModuleList(
            Conv(channels[i], channels[i + 1], 3, norm) for i in range(convs)
        )
        # Inputs are ordered (row, column, channel), so channels_last features flatten without a
        # copy.
        widths = [channels[-1] * (pooler.size**2 if layers else 1), *[width] * layers]
        self.layers = nn.ModuleList(nn.Linear(widths[i], widths[i + 1]) for i in range(layers))
        self.class_logits = nn.Linear(widths[-1], num_classes + 1)
        self.deltas = nn.Linear(widths[-1], 4 * self.boxes_per_roi)
        for layer in self.convs:
            assert isinstance(layer, Conv)
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.class_logits.weight, std=0.01)
        nn.init.normal_(self.deltas.weight, std=0.001)
        nn.init.zeros_(self.class_logits.bias)
        nn.init.zeros_(self.deltas.bias)

    def forward(
        self, features: dict[str, Tensor], boxes: Tensor, valid: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return class logits (N, R, C + 1) and deltas (N, R, 4 C), or (N, R, 4) if class-agnostic.

        `valid`, (N, R) bool, is False in padded slots of the boxes, (N, R, 4).
        """
        x = self.pooler(features, boxes, valid)
        for layer in self.convs:
            x = conv(x, layer, relu=True, valid=valid.flatten())
        x = x.permute(0, 2, 3, 1).flatten(1) if len(self.layers) else x.mean((2, 3))
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            x = linear(x, layer.weight, layer.bias, relu=True)
        logits, deltas = self.class_logits(x), self.deltas(x)
        return logits.unflatten(0, valid.shape), deltas.unflatten(0, valid.shape)

    def losses(
        self,
        features: dict[str, Tensor],
        rois: SampledRois,
        targets: Targets,
        normalizer: Normalizer = local_count,
    ) -> dict[str, Tensor]:
        """Return the class and box losses, each a mean over the RoIs (Fast R-CNN, section 2.3)."""
        class_logits, deltas = self(features, rois.boxes, rois.labels >= 0)
        count = normalizer((rois.labels >= 0).sum())
        loss_classifier = F.cross_entropy(
            class_logits.flatten(0, 1).float(),
            rois.labels.flatten(),
            ignore_index=-1,
            reduction="sum",
        )
        positives = max(int(rois.labels.shape[1] * self.positive_fraction), 1)  # they come first
        labels = rois.labels[:, :positives]
        positive = (labels >= 0) & (labels < self.num_classes)
        deltas = deltas[:, :positives].unflatten(2, (self.boxes_per_roi, 4))  # (N, R', C or 1, 4)
        # Only the deltas of the true class are trained.
        box = torch.where(positive & (self.boxes_per_roi > 1), labels, 0)
        loss_box = box_loss(
            deltas.gather(2, box[..., None, None].expand(-1, -1, 1, 4))[:, :, 0],
            rois.boxes[:, :positives],
            take(targets.boxes, rois.matched[:, :positives]),
            positive,
            kind=self.box_loss,
            beta=self.pooler.numerics.box_smooth_l1_beta,
            giou_weight=GIOU_WEIGHT,
            delta_weights=DELTA_WEIGHTS,
        )
        return {"loss_classifier": loss_classifier / count, "loss_box_reg": loss_box / count}

    def detect(
        self, features: dict[str, Tensor], proposals: Proposals, sizes: Tensor
    ) -> DetectionBatch:
        """Return the D highest-scoring boxes of each image after NMS per class, without masks.

        Boxes are clipped to `sizes`, (N, 2) (height, width) of the images before padding.
        """
        valid = proposals.scores > -torch.inf
        class_logits, deltas = self(features, proposals.boxes, valid)
        boxes, scores, labels, _, counts = select_detections(
            class_logits.float().softmax(-1)[..., :-1],
            deltas,
            proposals.boxes,
            valid,
            sizes,
            delta_weights=DELTA_WEIGHTS,
            score_threshold=self.score_threshold,
            nms_threshold=self.nms_threshold,
            min_side=self.pooler.numerics.min_detection_side,
            max_detections=self.max_detections,
        )
        masks = boxes.new_empty((*scores.shape, 0, 0))
        return DetectionBatch(boxes, scores, labels, counts, masks)
