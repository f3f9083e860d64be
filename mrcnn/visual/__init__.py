"""Overlays of detections and ground truth, sheets of overlays, and plots."""

from mrcnn.visual.draw import FILL, draw_instances, draw_marked, instance_colours
from mrcnn.visual.sheets import draw_targets, mosaic

__all__ = ["FILL", "draw_instances", "draw_marked", "draw_targets", "instance_colours", "mosaic"]
