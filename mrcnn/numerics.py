"""Every place where the two frameworks compute differently, in one dataclass.

Sources: torchvision 0.29 `models/detection`, Detectron2 `modeling` and `structures`.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Numerics:
    """Choices that change numbers but not shapes; a checkpoint names the set it needs."""

    roi_aligned: bool  # shift RoIs by half a pixel, so that cell centres lie at + 0.5
    roi_sampling_ratio: int  # samples per bin and axis; 0 adapts to the size of the bin
    # What of an anchor is rounded to whole pixels: nothing; its corners; or the sides of a box of
    # one cell's area, which is then scaled, and lies at the middle of the cell, not at its corner.
    anchor_rounding: Literal["none", "corners", "sides"]
    anchors_by_ratio: bool  # a cell's anchors: all sizes of the first ratio first, not vice versa
    min_proposal_side: float  # proposals must be wider and higher than this, in pixels
    min_detection_side: float  # the same for detections
    smooth_l1_beta: float  # 0 is the plain L1 loss
    strides_from_grid: bool  # anchors a level lie padded size // cells apart, not its stride
    antialias: bool  # images shrink by a filter that widens, in 8 bits; else by 4 taps, in floats
    round_sizes: bool  # of resized images, else cut to whole pixels
    whole_pixel_paste: bool  # masks are pasted into boxes cut to whole pixels


NUMERICS = {
    "detectron2": Numerics(
        roi_aligned=True,
        roi_sampling_ratio=0,
        anchor_rounding="none",
        anchors_by_ratio=False,
        min_proposal_side=0.0,
        min_detection_side=-1.0,
        smooth_l1_beta=0.0,
        strides_from_grid=False,
        antialias=True,
        round_sizes=True,
        whole_pixel_paste=False,
    ),
    "torchvision": Numerics(
        roi_aligned=False,
        roi_sampling_ratio=2,
        anchor_rounding="corners",
        anchors_by_ratio=True,
        min_proposal_side=1e-3,
        min_detection_side=1e-2,
        smooth_l1_beta=1 / 9,
        strides_from_grid=True,
        antialias=False,
        round_sizes=False,
        whole_pixel_paste=True,
    ),
}
