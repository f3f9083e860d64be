"""Pictures of what goes in and what comes out: overlays, training batches, curves."""

from mrcnn.visual.curves import curves
from mrcnn.visual.draw import draw_detections, draw_instances, instance_colours
from mrcnn.visual.sheets import draw_targets, mosaic

__all__ = [
    "curves",
    "draw_detections",
    "draw_instances",
    "draw_targets",
    "instance_colours",
    "mosaic",
]
