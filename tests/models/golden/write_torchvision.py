"""Writes torchvision.json: what torchvision computes with random weights, for `test_golden.py`.

Run in the folder `tests`, where torchvision is installed: `python -m golden.write_torchvision`.
"""

import dataclasses
import json
import tempfile
from pathlib import Path

import torch
import torchvision
from torch import Tensor

from mrcnn.config import ModelConfig
from tests.helpers.fixed_samples import objects
from tests.helpers.random_detectors import random_image
from tests.helpers.torchvision_models import (
    BUILDERS,
    deterministic_torchvision,
    mrcnn_predictor,
    recorded,
    torchvision_input,
    torchvision_model,
    torchvision_targets,
)

SEED, CLASSES = 0, 90
SIZES, OBJECTS = [(128, 160), (144, 128)], [3, 1]  # not resized: the shorter side is `min_size`
OPTIONS = {
    "min_size": 128,
    "max_size": 1333,
    "rpn_post_nms_top_n_test": 50,
    "rpn_post_nms_top_n_train": 24,
    "box_batch_size_per_image": 40,
    "box_detections_per_img": 12,
}


def rounded(values: Tensor, digits: int) -> list:
    """Nested lists with so many significant digits."""
    flat = [float(f"{value:.{digits}g}") for value in values.flatten().tolist()]
    return torch.tensor(flat, dtype=torch.float64).reshape(values.shape).tolist()


def feature_digest(x: Tensor) -> dict:
    picked = x.flatten()[torch.linspace(0, x.numel() - 1, 12).long()]
    return {
        "shape": list(x.shape),
        "largest": float(x.abs().max()),
        "mean_of_squares": float(x.double().square().mean()),
        "values": rounded(picked, 7),
    }


def record(name: str) -> dict:
    """All that one detector computes of two pictures."""
    images = [random_image(*size, n) for n, size in enumerate(SIZES)]
    model, factors = torchvision_model(name, images[0], classes=CLASSES + 1, seed=SEED, **OPTIONS)
    with tempfile.TemporaryDirectory() as folder:
        config = mrcnn_predictor(model, Path(folder)).config
    default = ModelConfig()
    fields = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if getattr(config, field.name) != getattr(default, field.name)
        and field.name not in ("class_names", "category_ids")
    }
    pixels = [torchvision_input(image) for image in images]
    with recorded(model) as seen, torch.no_grad():
        found = model(pixels)
    features = [feature_digest(x) for x in seen["features"].values()]
    proposals = [
        {"boxes": rounded(boxes, 7), "scores": rounded(scores, 7)}
        for boxes, scores in seen["proposals"]
    ]
    detections, first = [], 0
    for image in found:
        labels = image["labels"]
        one = {
            "boxes": rounded(image["boxes"], 7),
            "scores": rounded(image["scores"], 7),
            "labels": (labels - 1).tolist(),
        }
        if "masks" in image:
            rows = torch.arange(first, first + len(labels))
            logits = seen["mask_logits"][rows, labels]
            one["mask_logits"] = rounded(logits[:, 3::11, 3::11].flatten(1), 5)
        first += len(labels)
        detections.append(one)
    model.train()
    with deterministic_torchvision(), torch.no_grad():
        losses = model(pixels, torchvision_targets(objects(SIZES, OBJECTS, CLASSES), SIZES))
    return {
        "config": fields,
        "factors": factors,
        "features": features,
        "proposals": proposals,
        "detections": detections,
        "losses": {key: float(loss) for key, loss in losses.items()},
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    content = {
        "torchvision": torchvision.__version__,
        "torch": torch.__version__,
        "seed": SEED,
        "classes": CLASSES,
        "sizes": SIZES,
        "objects": OBJECTS,
        "options": {
            "min_size": OPTIONS["min_size"],
            "max_size": OPTIONS["max_size"],
            "post_nms_top_k": OPTIONS["rpn_post_nms_top_n_test"],
            "training_post_nms_top_k": OPTIONS["rpn_post_nms_top_n_train"],
            "roi_samples": OPTIONS["box_batch_size_per_image"],
            "max_detections": OPTIONS["box_detections_per_img"],
        },
        "models": {name: record(name) for name in BUILDERS},
    }
    path = Path(__file__).with_name("torchvision.json")
    path.write_text(json.dumps(content, separators=(",", ":")).replace('},"', '},\n"') + "\n")
