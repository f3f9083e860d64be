"""Evaluation: metrics of detections on a data set, their errors, and comparisons."""

from mrcnn.evaluation.evaluation import Evaluation, Protocol
from mrcnn.evaluation.evaluator import evaluate

__all__ = ["Evaluation", "Protocol", "evaluate"]
