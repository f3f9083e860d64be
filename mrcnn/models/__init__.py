"""The network: backbones, region proposals, heads, and their assembly."""

from mrcnn.models.build import build
from mrcnn.models.mask_rcnn import MaskRCNN
from mrcnn.models.resnet import ResNet

__all__ = ["MaskRCNN", "ResNet", "build"]
