"""Loading of trained models for inference."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mrcnn import checkpoints
from mrcnn.checkpoints.weights import check_fits
from mrcnn.config import ModelConfig
from mrcnn.errors import UserError
from mrcnn.exporting.saved import load_program
from mrcnn.inference.advice import OPTIONS, advice
from mrcnn.inference.predictor import Predictor
from mrcnn.models import build
from mrcnn.runtime.device import find_device


def load(
    path: str | os.PathLike[str],
    device: str = "cpu",
    *,
    amp: bool = False,
    capture: bool = False,
    bgr: bool | None = None,
    trust: bool = False,
    **config: Any,
) -> Predictor:
    """Load a trained model.

    Args:
        path: a checkpoint, a run folder, the name of a published model, or a file of another
            framework. A model of another framework computes as it did there, and the `notes` of the
            predictor list what was assumed about it. A program written by `mrcnn export` (.pt2)
            runs with the settings it was exported with. The content of a file decides what it is.
        device: "cpu", "cuda" or "cuda:1".
        amp: compute convolutions and matrix products in bfloat16.
        capture: run as CUDA graphs, one for each padded size and number of images. GPUs only.
        bgr: whether a model of another framework expects blue, green, red; by default, that
            framework's order.
        trust: load a program. It is code: set this only for files from people you trust. No other
            file runs code.
        **config: fields of `ModelConfig` that replace those of the file, such as `score_threshold`
            and `max_detections`, or fields that files of other frameworks lack (`norm_eps`,
            `stride_in_1x1`, `pixel_std`, `class_names`).

    Raises:
        UserError: if the checkpoint cannot be read, or the device does not exist.

    Example:
        >>> model = mrcnn.load("runs/1", device="cuda", score_threshold=0.2)
        >>> result = model.predict("street.jpg")
    """
    for name in config.keys() - ModelConfig.__dataclass_fields__.keys() & OPTIONS.keys():
        raise UserError(f"load: has no option {name!r}{advice(name, (), OPTIONS)}")
    target = find_device(device)
    if capture and target.type != "cuda":
        raise UserError(f"capture=True requires a CUDA device, got {device}; omit it")
    file = checkpoints.find(Path(path))  # once: a published file is hashed on every call
    kind = checkpoints.kind_or_none(file)
    if kind == "program":
        if not trust:
            raise UserError(
                f"{path}: is a program, which can run any code on this machine; if you trust where "
                "it comes from, add --trust (in Python: trust=True), otherwise use its checkpoint"
            )
        fixed = {"amp": amp or None, "capture": capture or None, "bgr": bgr}
        program = load_program(file, target, **fixed, **config)
        return Predictor(program, program.config)
    checkpoint = checkpoints.load(file, bgr=bgr, **config)
    is_set = any(value is not None for value in config.values())
    fix = "leave out the fields you set" if is_set else "was it written by another mrcnn?"
    check_fits(file, checkpoint.state, checkpoint.config, fix)
    model = build(checkpoint.config)
    model.load_state_dict(checkpoint.state)
    notes = () if kind == "checkpoint" else checkpoint.extra["notes"]
    return Predictor(model.to(target).eval(), checkpoint.config, amp, notes, capture)
