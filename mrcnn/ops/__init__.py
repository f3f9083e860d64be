"""The performance-critical ops; of one name with torchvision.ops, of one meaning."""

from mrcnn.ops.match_boxes import match_boxes
from mrcnn.ops.nms import batched_nms, nms, segmented_nms
from mrcnn.ops.roi_align import multiscale_roi_align, roi_align
from mrcnn.ops.selection import select_detections, select_proposals

__all__ = [
    "batched_nms",
    "match_boxes",
    "multiscale_roi_align",
    "nms",
    "roi_align",
    "segmented_nms",
    "select_detections",
    "select_proposals",
]
