"""Weights in files: our own checkpoints, and backbones under torchvision's names."""

from mrcnn.checkpoints.files import Checkpoint, find, load, save
from mrcnn.checkpoints.weights import load_backbone, load_weights

__all__ = ["Checkpoint", "find", "load", "load_backbone", "load_weights", "save"]
