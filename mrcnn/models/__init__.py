"""The network: backbones, region proposals, heads, how they are put together, and the weights that
others published."""

from mrcnn.models.build import build
from mrcnn.models.mask_rcnn import MaskRCNN
from mrcnn.models.published import PUBLISHED, Published

__all__ = ["PUBLISHED", "MaskRCNN", "Published", "build"]
