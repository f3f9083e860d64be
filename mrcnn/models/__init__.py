"""The network: backbones, region proposals, heads, and how they are put together."""

from mrcnn.models.build import build
from mrcnn.models.mask_rcnn import MaskRCNN

__all__ = ["MaskRCNN", "build"]
