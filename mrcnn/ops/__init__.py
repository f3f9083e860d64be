"""Detection operators.

Those that share a name with `torchvision.ops` are drop-in replacements.
"""

from mrcnn.ops.boxes import box_iou
from mrcnn.ops.mask_targets import mask_targets
from mrcnn.ops.match_boxes import match_boxes
from mrcnn.ops.nms import batched_nms, nms, segmented_nms
from mrcnn.ops.paste_masks import paste_masks, paste_masks_packed, paste_masks_rle
from mrcnn.ops.roi_align import multiscale_roi_align, roi_align
from mrcnn.ops.roi_pool import roi_pool
from mrcnn.ops.select_detections import select_detections
from mrcnn.ops.select_proposals import select_proposals

__all__ = [
    "batched_nms",
    "box_iou",
    "mask_targets",
    "match_boxes",
    "multiscale_roi_align",
    "nms",
    "paste_masks",
    "paste_masks_packed",
    "paste_masks_rle",
    "roi_align",
    "roi_pool",
    "segmented_nms",
    "select_detections",
    "select_proposals",
]
