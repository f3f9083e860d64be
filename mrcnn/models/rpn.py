"""Region proposal network (Faster R-CNN, section 3.1).

Features are (N, channels, H_l, W_l) per level, fine to coarse. Each cell has A anchors, so logits
are (N, A, H_l, W_l) and deltas (N, 4 A, H_l, W_l) per level.

N images, L levels, A anchors per cell, P proposals and S sampled anchors per image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mrcnn.models.anchors import grid_anchors, make_cell_anchors
from mrcnn.models.layers import Conv, check_choice, conv
from mrcnn.models.losses import BOX_LOSSES, Normalizer, binary_loss, box_loss, local_count
from mrcnn.models.sampling import draw_samples, take
from mrcnn.numerics import NUMERICS, Numerics
from mrcnn.ops import match_boxes, select_proposals
from mrcnn.ops.fused import linear
from mrcnn.structures import Proposals, Targets

GIOU_WEIGHT = 2.0  # of the box loss, as in Detectron2's mask_rcnn_R_50_FPN_1x_giou
POSITIVE_IOU, NEGATIVE_IOU, POSITIVE_FRACTION, NMS_IOU = 0.7, 0.3, 0.5, 0.7  # Faster R-CNN, 3.1.2


class RPN(nn.Module):
    """A small convolutional head that scores and refines the anchors of every level.

    Args:
        channels: number of channels of the features.
        convs: number of 3 x 3 convolutions before the two outputs.
        strides: per level, pixels per cell.
        anchor_sizes: per level, square roots of the anchor areas in pixels.
        anchor_ratios: height / width.
        samples: anchors per image that the losses sample.
        box_loss: one of `BOX_LOSSES`.
        pre_nms_top_k: boxes per level that enter NMS; twice as many in training.
        post_nms_top_k: proposals per image in inference.
        training_post_nms_top_k: proposals per image in training.
        numerics: sets the rounding of anchors, the smallest side of proposals, and the beta of
            the box loss.
    """

    cell_anchors: Tensor  # (L, A, 4)

    def __init__(
        self,
        channels: int,
        *,
        convs: int = 1,
        strides: Sequence[int],
        anchor_sizes: Sequence[Sequence[float]],
        anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        samples: int = 256,
        box_loss: str = "smooth_l1",
        pre_nms_top_k: int = 1000,
        post_nms_top_k: int = 1000,
        training_post_nms_top_k: int = 1000,
        numerics: Numerics = NUMERICS["detectron2"],
    ) -> None:
        super().__init__()
        self.strides, self.samples, self.numerics = list(strides), samples, numerics
        check_choice("RPN: box_loss", box_loss, BOX_LOSSES)
        self.box_loss = box_loss
        self.pre_nms_top_k, self.post_nms_top_k = pre_nms_top_k, post_nms_top_k
        self.training_post_nms_top_k = training_post_nms_top_k
        cell_anchors = make_cell_anchors(anchor_sizes, anchor_ratios, self.strides, numerics)
        self.register_buffer("cell_anchors", cell_anchors, persistent=False)
        anchors = cell_anchors.shape[1]
        self.convs = nn.ModuleList(Conv(channels, channels, 3) for _ in range(convs))
        self.objectness_logits = nn.Conv2d(channels, anchors, 1)
        self.deltas = nn.Conv2d(channels, 4 * anchors, 1)
        for layer in (*self.convs, self.objectness_logits, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, features: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the objectness logits and the deltas of every level."""
        hidden = list(features.values())
        for layer in self.convs:
            hidden = [conv(x, layer, relu=True) for x in hidden]
        # One matrix product over the cells computes both 1 x 1 convolutions. So each map is read
        # once, and in training its gradient is written once.
        layers = (self.objectness_logits, self.deltas)
        weight = torch.cat([layer.weight for layer in layers]).flatten(1)
        bias = torch.cat([layer.bias for layer in layers])  # type: ignore[misc]
        logits, deltas = [], []
        for x in hidden:
            cells = x.permute(0, 2, 3, 1)  # (N, H_l, W_l, channels)
            both = linear(cells.reshape(-1, x.shape[1]), weight, bias)
            both = both.view(*cells.shape[:3], len(bias)).permute(0, 3, 1, 2)
            anchors = self.objectness_logits.out_channels
            logits.append(both[:, :anchors])
            deltas.append(both[:, anchors:])
        return logits, deltas

    def propose(
        self, logits: list[Tensor], deltas: list[Tensor], sizes: Tensor, training: bool
    ) -> Proposals:
        """Return the P highest-scoring boxes of each image after NMS per level.

        Boxes are clipped to `sizes`, (N, 2) (height, width) of the images before padding. They
        carry no gradients.
        """
        boxes, scores = select_proposals(
            logits,
            deltas,
            self.cell_anchors,
            self._anchor_strides(logits),
            sizes,
            pre_nms_top_k=self.pre_nms_top_k * (2 if training else 1),
            post_nms_top_k=self.training_post_nms_top_k if training else self.post_nms_top_k,
            nms_threshold=NMS_IOU,
            min_side=self.numerics.min_proposal_side,
        )
        return Proposals(boxes, scores)

    def _anchor_strides(self, logits: list[Tensor]) -> list[tuple[int, int]]:
        """Return the (y, x) distance between neighbouring anchors of every level, in pixels."""
        if not self.numerics.strides_from_grid:
            return [(stride, stride) for stride in self.strides]
        # The finest level divides the padded image exactly. Coarser ones may be rounded up.
        height, width = (cells * self.strides[0] for cells in logits[0].shape[2:])
        return [(height // x.shape[2], width // x.shape[3]) for x in logits]

    def losses(
        self,
        logits: list[Tensor],
        deltas: list[Tensor],
        targets: Targets,
        normalizer: Normalizer = local_count,
    ) -> dict[str, Tensor]:
        """Return the objectness and box losses, each a mean over the sampled anchors (3.1.2)."""
        shapes = [(x.shape[2], x.shape[3]) for x in logits]
        anchors = grid_anchors(self.cell_anchors, self._anchor_strides(logits), shapes)
        flat_logits = _flatten(logits, 1)[..., 0]  # (N, anchors)
        flat_deltas = _flatten(deltas, 4)  # (N, anchors, 4)
        # role: 1 positive, 0 negative, -1 neither. `low_quality` also makes the best anchor of each
        # object positive, so that every object trains some anchor.
        matched, role = match_boxes(
            anchors,
            targets.boxes,
            targets.labels >= 0,
            low_threshold=NEGATIVE_IOU,
            high_threshold=POSITIVE_IOU,
            low_quality=True,
        )
        index, role = draw_samples(role, self.samples, POSITIVE_FRACTION, targets.seeds)  # (N, S)
        count = normalizer((role >= 0).sum())
        loss_objectness = binary_loss(flat_logits.gather(1, index), role == 1, role >= 0)

        positives = max(int(index.shape[1] * POSITIVE_FRACTION), 1)  # positives come first
        index, role = index[:, :positives], role[:, :positives]
        loss_box = box_loss(
            take(flat_deltas, index),
            take(anchors.expand(len(index), -1, -1), index),
            take(targets.boxes, matched.gather(1, index)),
            role == 1,
            kind=self.box_loss,
            beta=self.numerics.rpn_smooth_l1_beta,
            giou_weight=GIOU_WEIGHT,
        )
        return {"loss_objectness": loss_objectness / count, "loss_rpn_box_reg": loss_box / count}


def _flatten(maps: list[Tensor], values: int) -> Tensor:
    """Turn maps (N, A * values, H_l, W_l) into (N, anchors, values), ordered as the anchors."""
    images = len(maps[0])
    return torch.cat([x.permute(0, 2, 3, 1).reshape(images, -1, values) for x in maps], dim=1)
