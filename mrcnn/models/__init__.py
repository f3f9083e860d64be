"""The network: backbones, region proposals, heads, and their assembly."""

from mrcnn.models.backbones.resnet import ResNet
from mrcnn.models.build import build
from mrcnn.models.mask_rcnn import MaskRCNN

__all__ = ["MaskRCNN", "ResNet", "build"]
