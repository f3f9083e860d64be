"""Every place where the frameworks compute differently, in one dataclass.

Sources: Detectron2 `modeling` and `structures`; torchvision 0.29 `models/detection`; MMDetection 2
`core` and `models`; maskrcnn-benchmark `modeling` and `structures`, which keep the conventions of
Detectron 1. There a box counts the pixels x1 to x2, both included; with our x2 one higher, areas,
overlaps, deltas and clipping at the right and bottom are ours, and what is left is below.

Not reproduced:

- MMDetection decides the pyramid level by log2(side / 56 + 1e-6), so that boxes up to 6e-5 pixels
  short of a level belong to it; no side shrinks to less than 16 / 1000 in one step; and a resized
  side that ends on exactly half a pixel may be rounded the other way.
- maskrcnn-benchmark clips boxes to the pixels 0 to W - 1, so that those beyond the image keep a
  pixel at its border; its NMS on CPU also removes boxes whose IoU equals the threshold; its masks
  hold pixels above, not from, 0.5; its RPN does not train on anchors that cross the border; its
  mask targets are drawn on whole pixels; its C4 models sample adaptively.
- Several frameworks choose the best by score after the sigmoid, where large logits tie.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Numerics:
    """Choices that change numbers but not shapes; a checkpoint names the set it needs."""

    # Of a resized image: both sides rounded to whole pixels; both cut; or the shorter rounded where
    # the longer limits it, and the longer computed from it and cut.
    size_rule: Literal["round", "cut", "shorter"]
    # A filter that widens where images shrink, rounded to 8 bits; 4 taps with weights of 11 bits,
    # rounded to 8 bits; or 4 taps, not rounded.
    resize_filter: Literal["pillow", "opencv", "float"]

    # What of an anchor is rounded to whole pixels: nothing; its corners; or the sides of a box of
    # one cell's area, which is then scaled, and lies at the middle of the cell, not at its corner.
    anchor_rounding: Literal["none", "corners", "sides"]
    anchors_by_ratio: bool  # a cell's anchors: all sizes of the first ratio first, not vice versa
    strides_from_grid: bool  # anchors a level lie padded size // cells apart, not its stride

    roi_aligned: bool  # shift RoIs by half a pixel, so that cell centres lie at + 0.5
    roi_sampling_ratio: int  # samples per bin and axis; 0 adapts to the size of the bin
    canonical_side: float  # a square this wide is pooled from the map of stride 16, pixels
    last_pixel: bool  # boxes are pooled, rescaled and pasted up to their last pixel, at x2 - 1

    min_proposal_side: float  # proposals must be wider and higher than this, in pixels
    min_detection_side: float  # the same for detections
    clip_results: bool  # detections are clipped once more to the image as read; the empty go
    whole_pixel_paste: bool  # masks are pasted into boxes cut to whole pixels

    rpn_smooth_l1_beta: float  # 0 is the plain L1 loss
    box_smooth_l1_beta: float


NUMERICS = {
    "detectron2": Numerics(
        size_rule="round",
        resize_filter="pillow",
        anchor_rounding="none",
        anchors_by_ratio=False,
        strides_from_grid=False,
        roi_aligned=True,
        roi_sampling_ratio=0,
        canonical_side=224.0,
        last_pixel=False,
        min_proposal_side=0.0,
        min_detection_side=-1.0,
        clip_results=True,
        whole_pixel_paste=False,
        rpn_smooth_l1_beta=0.0,
        box_smooth_l1_beta=0.0,
    ),
    "torchvision": Numerics(
        size_rule="cut",
        resize_filter="float",
        anchor_rounding="corners",
        anchors_by_ratio=True,
        strides_from_grid=True,
        roi_aligned=False,
        roi_sampling_ratio=2,
        canonical_side=224.0 * 2**-1e-6,  # 1e-6 is added to the logarithm
        last_pixel=False,
        min_proposal_side=1e-3,
        min_detection_side=1e-2,
        clip_results=False,
        whole_pixel_paste=True,
        rpn_smooth_l1_beta=1 / 9,
        box_smooth_l1_beta=1 / 9,
    ),
    "mmdetection": Numerics(
        size_rule="round",
        resize_filter="opencv",
        anchor_rounding="none",
        anchors_by_ratio=True,
        strides_from_grid=False,
        roi_aligned=True,
        roi_sampling_ratio=0,
        canonical_side=224.0,  # 56 for the map of stride 4
        last_pixel=False,
        min_proposal_side=0.0,
        min_detection_side=-1.0,
        clip_results=False,
        whole_pixel_paste=False,
        rpn_smooth_l1_beta=0.0,
        box_smooth_l1_beta=0.0,
    ),
    "maskrcnn_benchmark": Numerics(
        size_rule="shorter",
        resize_filter="pillow",
        anchor_rounding="sides",
        anchors_by_ratio=True,
        strides_from_grid=False,
        roi_aligned=False,
        roi_sampling_ratio=2,
        canonical_side=224.0,
        last_pixel=True,
        min_proposal_side=-1.0,
        min_detection_side=-1.0,
        clip_results=False,
        whole_pixel_paste=True,
        rpn_smooth_l1_beta=1 / 9,
        box_smooth_l1_beta=1.0,
    ),
}
