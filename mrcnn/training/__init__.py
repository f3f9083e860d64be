"""Training: `train` runs one, `TrainConfig` holds its options."""

from mrcnn.training.config import TrainConfig
from mrcnn.training.loggers import Logger
from mrcnn.training.setup import TrainResult, train

__all__ = ["Logger", "TrainConfig", "TrainResult", "train"]
