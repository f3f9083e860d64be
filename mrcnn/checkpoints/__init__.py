"""Weights in files: our own checkpoints, detectors of other frameworks, and backbones."""

from mrcnn.checkpoints.files import PROGRAM, Checkpoint, find, load, save
from mrcnn.checkpoints.weights import (
    Start,
    fill,
    load_backbone,
    load_weights,
    model_for,
    read_start,
)

__all__ = [
    "PROGRAM",
    "Checkpoint",
    "Start",
    "fill",
    "find",
    "load",
    "load_backbone",
    "load_weights",
    "model_for",
    "read_start",
    "save",
]
