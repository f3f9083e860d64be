"""Overlays of detections and ground truth, sheets of overlays, and plots."""

from mrcnn.visual.draw import (
    FILL,
    Colors,
    chosen_colours,
    draw_instances,
    draw_marked,
    instance_colours,
)
from mrcnn.visual.sheets import draw_targets, mosaic

__all__ = [
    "FILL", "Colors", "chosen_colours", "draw_instances", "draw_marked", "draw_targets",
    "instance_colours", "mosaic",
]  # fmt: skip
