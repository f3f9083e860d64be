"""An untrained model that is built in milliseconds, and images for it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mrcnn import checkpoints
from mrcnn.config import MODELS, ModelConfig
from mrcnn.models import MaskRCNN, build

CONFIG = dataclasses.replace(
    MODELS["small"],
    class_names=("cat", "dog"),
    category_ids=(3, 7),
    norm="batch",
    fpn_channels=8,
    fpn_levels=2,
    anchor_sizes=(16, 32, 64),
    box_head_width=16,
    mask_head_width=8,
    min_size=64,
    max_size=128,
    post_nms_top_k=50,
    score_threshold=0.0,  # random weights score every box about 1/3
    max_detections=20,
)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return an RGB image (height, width, 3) of noise."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_data(folder: Path) -> None:
    """Write COCO files with one object in one image, the same for training and validation."""
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (64, 48)).save(folder / "images" / "a.png")
    ring = [9, 9, 30, 9, 30, 30]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "segmentation": [ring]}],
    }
    for split in ("train", "val"):
        (folder / f"{split}.json").write_text(json.dumps(content))


def model(config: ModelConfig = CONFIG, seed: int = 0) -> MaskRCNN:
    """Build a model with random weights that depend only on the seed."""
    torch.manual_seed(seed)
    return build(config).eval()


def run(folder: Path, config: ModelConfig = CONFIG) -> Path:
    """Make a run folder with a checkpoint of that model."""
    return saved(folder, model(config), config)


def saved(folder: Path, model: MaskRCNN, config: ModelConfig = CONFIG) -> Path:
    """Make a run folder with a checkpoint of a model."""
    checkpoints.save(folder / "last.safetensors", model.state_dict(), config, {"step": 1})
    return folder
