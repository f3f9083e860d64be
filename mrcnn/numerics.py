"""Numerical differences between the frameworks, all in one dataclass.

Weights give their published AP only with the numerics of the framework they were trained in.

Sources: Detectron2 `modeling` and `structures`; torchvision 0.29 `models/detection`; MMDetection 2
`core` and `models`; maskrcnn-benchmark `modeling` and `structures`, which keep the conventions of
Detectron 1. There a box covers the pixels x1 to x2, both included. With x2 and y2 increased by 1,
areas, overlaps, deltas, and clipping at the right and bottom are the same as here. `Numerics` holds
the remaining differences.

Not reproduced:

- Detectron2 divides the losses of the RPN by the number of samples that is asked for, even if an
  image has fewer anchors to sample. MMDetection and torchvision divide by those sampled, as here.
- Detectron2 resizes a bitmap mask to the image by nearest neighbour before it draws the targets of
  the mask head. Here they are drawn from the file's own pixels, so about 1 % of their cells differ.
- MMDetection selects the pyramid level by log2(side / 56 + 1e-6), so a box up to 6e-5 pixels below
  the size of a level belongs to it. It never shrinks a side below 16 / 1000 in one step. A resized
  side that is exactly half a pixel may be rounded the other way.
- maskrcnn-benchmark clips boxes to the pixels 0 to W - 1, so boxes outside the image keep a pixel
  at its border. Its NMS on CPU also removes boxes whose IoU equals the threshold. Its masks contain
  pixels above 0.5, not from 0.5 on. Its RPN does not train on anchors that cross the border. Its
  mask targets are drawn on whole pixels. Its C4 models use adaptive sampling.
- Several frameworks rank by score after the sigmoid, where large logits tie.
"""

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Numerics:
    """Choices that change numbers but not shapes. A checkpoint names the set that it needs."""

    # Size of a resized image. "round" rounds both sides to whole pixels, "cut" truncates both.
    # "shorter" rounds the shorter side if the longer one limits it; the longer one is computed from
    # it and truncated.
    size_rule: Literal["round", "cut", "shorter"]
    # "pillow" is bilinear with antialiasing, rounded to 8 bits; "opencv" bilinear with weights of
    # 11 bits, rounded to 8 bits; "float" bilinear, not rounded.
    resize_filter: Literal["pillow", "opencv", "float"]

    # Rounding of an anchor to whole pixels: none; its corners; or the sides of a box with the area
    # of one cell, which is then scaled and centred on the cell instead of on the cell's corner.
    anchor_rounding: Literal["none", "corners", "sides"]
    anchors_by_ratio: bool  # order in a cell: all sizes of the first ratio first, or the reverse
    strides_from_grid: bool  # distance of anchors is padded size // cells, not the level's stride

    roi_aligned: bool  # shift RoIs by half a pixel, so that cell centres are at + 0.5
    roi_sampling_ratio: int  # samples per bin and axis; 0 adapts to the size of the bin
    canonical_side: float  # side in pixels of the smallest square pooled from the map of stride 16
    last_pixel: bool  # boxes are pooled, rescaled and pasted up to their last pixel, at x2 - 1

    min_proposal_side: float  # proposals must be wider and higher than this, in pixels
    min_detection_side: float  # the same for detections
    clip_results: bool  # clip detections again to the original image and remove empty ones
    whole_pixel_paste: bool  # masks are pasted into boxes truncated to whole pixels

    # In training, batch norm in frozen stages uses its stored statistics and leaves them alone.
    fixes_frozen_norms: bool
    rpn_smooth_l1_beta: float  # 0 is the plain L1 loss
    box_smooth_l1_beta: float


_DETECTRON2 = Numerics(
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
    fixes_frozen_norms=True,
    rpn_smooth_l1_beta=0.0,
    box_smooth_l1_beta=0.0,
)
NUMERICS = {
    "detectron2": _DETECTRON2,
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
        fixes_frozen_norms=False,
        rpn_smooth_l1_beta=1 / 9,
        box_smooth_l1_beta=1 / 9,
    ),
    "mmdetection": replace(
        _DETECTRON2, resize_filter="opencv", anchors_by_ratio=True, clip_results=False
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
        fixes_frozen_norms=True,
        rpn_smooth_l1_beta=1 / 9,
        box_smooth_l1_beta=1.0,
    ),
}
