"""Box head: the class of each RoI, and its box refined (Fast R-CNN, section 2).

N images, R RoIs an image, C classes, D detections.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrcnn.models.layers import Conv, check_choice, conv
from mrcnn.models.losses import BOX_LOSSES, Normalizer, box_loss, own_count
from mrcnn.models.pooling import Pooler
from mrcnn.models.sampling import take
from mrcnn.ops import select_detections
from mrcnn.ops.fused import linear
from mrcnn.structures import DetectionBatch, Proposals, SampledRois, Targets

DELTA_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # deltas of RoIs have a standard deviation of 0.1, 0.2


class BoxHead(nn.Module):
    """Convolutions and fully connected layers over pooled features.

    Args:
        pooler: gives (N * R, channels, bins, bins).
        convs: 3 x 3 convolutions, of `conv_width` channels and `norm`, a key of `NORMS` or "none".
        layers: fully connected, of `width`; without any, the mean over the bins is classified.
        num_classes: C; background is class logit C.
        class_agnostic: one box for all classes.
        box_loss: one of `BOX_LOSSES`.
        positive_fraction: of the sampled RoIs, at most; they come first.
        score_threshold, nms_threshold, max_detections: of the detections.
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
        # Inputs are ordered (row, column, channel): channels_last features flatten without a copy.
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
        """Class logits (N, R, C + 1) and deltas (N, R, 4 C or 4) of boxes (N, R, 4)."""
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
        normalizer: Normalizer = own_count,
    ) -> dict[str, Tensor]:
        """Cross-entropy of the classes and distance of the boxes, each a mean over the RoIs."""
        class_logits, deltas = self(features, rois.boxes, rois.labels >= 0)
        count = normalizer((rois.labels >= 0).sum())
        loss_classifier = F.cross_entropy(
            class_logits.flatten(0, 1).float(),
            rois.labels.flatten(),
            ignore_index=-1,
            reduction="sum",
        )
        positives = max(int(rois.labels.shape[1] * self.positive_fraction), 1)
        labels = rois.labels[:, :positives]
        positive = (labels >= 0) & (labels < self.num_classes)
        deltas = deltas[:, :positives].unflatten(2, (self.boxes_per_roi, 4))  # (N, R', C or 1, 4)
        box = torch.where(positive & (self.boxes_per_roi > 1), labels, 0)
        loss_box = box_loss(
            deltas.gather(2, box[..., None, None].expand(-1, -1, 1, 4))[:, :, 0],
            rois.boxes[:, :positives],
            take(targets.boxes, rois.matched[:, :positives]),
            positive,
            kind=self.box_loss,
            beta=self.pooler.numerics.box_smooth_l1_beta,
            delta_weights=DELTA_WEIGHTS,
        )
        return {"loss_classifier": loss_classifier / count, "loss_box_reg": loss_box / count}

    def detect(
        self, features: dict[str, Tensor], proposals: Proposals, sizes: Tensor
    ) -> DetectionBatch:
        """The best D boxes of each image, still without masks."""
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
