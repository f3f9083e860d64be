"""Weights in files: checkpoints of mrcnn, detectors of other frameworks, and backbones."""

from mrcnn.checkpoints.checkpoint import find, load, save
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
from mrcnn.checkpoints.kinds import kind_or_none

__all__ = [
    "PUBLISHED",
    "Checkpoint",
    "PretrainedWeights",
    "Published",
    "config_to_train",
    "find",
    "fitting_models",
    "kind_or_none",
    "load",
    "load_backbone",
    "load_pretrained",
    "read_pretrained",
    "save",
]
