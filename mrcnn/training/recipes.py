"""Recipes: presets for a training run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """A preset for a training run."""

    about: str  # a sentence for the help text
    model: str  # a key of `MODELS`, for runs without `--model` and without a pretrained detector
    batch_size: int  # images per step that `steps`, `warmup` and `lr` are defined for
    steps: int
    warmup: int  # steps
    lr: Mapping[str, float]  # learning rate after warm-up, by optimizer
    fields: Mapping[str, Any] = field(default_factory=dict)  # others of `TrainConfig`
    # Fields of `ModelConfig`, for models that are named, not loaded.
    model_fields: Mapping[str, Any] = field(default_factory=dict)


# From scratch, or on few images.
_ADAMW = {"optimizer": "adamw", "schedule": "cosine", "decay_biases": False, "clip_norm": 5.0}
_DETECTRON2 = {
    "optimizer": "sgd",
    "multi_scale": tuple(range(640, 801, 32)),
    "eval_every": 5000,
    "save_every": 2500,
    "workers": 4,
}
_DETECTRON2_MODEL = {"min_size": 800, "max_size": 1333}  # in evaluation
_1X = Recipe(
    "Detectron2's short schedule for COCO: 12 epochs.",
    model="resnet50-fpn",
    batch_size=16,
    steps=90_000,
    warmup=1000,
    lr={"sgd": 0.02, "adamw": 0.0001},
    fields=_DETECTRON2,
    model_fields=_DETECTRON2_MODEL,
)
# Detectron2's "new baselines": large-scale jitter, synchronized batch norm, long schedules.
_LSJ_MODEL = {
    **_DETECTRON2_MODEL,
    "norm": "sync_batch",
    "head_norm": "sync_batch",
    "frozen_stages": 0,
    "rpn_convs": 2,
    "box_head_convs": 4,
    "box_head_layers": 1,
}
_LSJ = {
    "optimizer": "sgd",
    "weight_decay": 4e-5,
    "warmup_factor": 0.067,
    "milestones": (163_889 / 184_375, 177_546 / 184_375),
    "large_scale_jitter": 1024,
    "amp": "bf16",
    "eval_every": 20_000,
    "save_every": 2500,
    "workers": 8,
}
_COCO = 118_000  # images per epoch, as Detectron2 counts them

RECIPES: dict[str, Recipe] = {
    "cpu-demo": Recipe(
        "A small model from scratch, in minutes on two CPU cores.",
        model="small",
        batch_size=2,
        steps=1350,
        warmup=50,
        lr={"adamw": 0.0005, "sgd": 0.01},
        fields=_ADAMW,
    ),
    "finetune": Recipe(
        "Fine-tune a pretrained detector, or an ImageNet backbone, on a few hundred images.",
        model="resnet50-fpn",
        batch_size=4,
        steps=1500,
        warmup=100,
        lr={"adamw": 0.0001, "sgd": 0.005},
        fields={**_ADAMW, "ema": 0.998, "colour_jitter": 0.2, "save_every": 250},
    ),
    "1x": _1X,
    "3x": dataclasses.replace(
        _1X,
        about="Detectron2's standard schedule for COCO: 37 epochs.",
        steps=270_000,
        fields={**_DETECTRON2, "milestones": (7 / 9, 25 / 27)},
    ),
    **{
        name: Recipe(
            f"Large-scale jitter from scratch, {epochs} epochs of COCO.",
            model="resnet50-fpn",
            batch_size=64,
            steps=epochs * _COCO // 64,
            warmup=5 * epochs,  # a fixed fraction of the steps in Detectron2
            lr={"sgd": 0.1, "adamw": 0.0002},
            fields=_LSJ,
            model_fields=_LSJ_MODEL,
        )
        for name, epochs in {"lsj": 100, "lsj-200": 200, "lsj-400": 400}.items()
    },
}
