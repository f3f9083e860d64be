"""Weights in files: checkpoints of mrcnn, detectors of other frameworks, and backbones."""

from mrcnn.checkpoints.checkpoint import PROGRAM, find, load, save
from mrcnn.checkpoints.download import PUBLISHED, Published
from mrcnn.checkpoints.foreign.convert import Checkpoint
from mrcnn.checkpoints.initialize import (
    PretrainedWeights,
    config_to_train,
    fitting_models,
    load_backbone,
    load_pretrained,
    read_pretrained,
)

__all__ = [
    "PROGRAM",
    "PUBLISHED",
    "Checkpoint",
    "PretrainedWeights",
    "Published",
    "config_to_train",
    "find",
    "fitting_models",
    "load",
    "load_backbone",
    "load_pretrained",
    "read_pretrained",
    "save",
]
