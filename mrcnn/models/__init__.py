"""The network: backbones, region proposals, heads, and their assembly."""

from mrcnn.models.build import build
from mrcnn.models.mask_rcnn import MaskRCNN
from mrcnn.models.published import PUBLISHED, Published
from mrcnn.models.resnet import ResNet

__all__ = ["PUBLISHED", "MaskRCNN", "Published", "ResNet", "build"]
