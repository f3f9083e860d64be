"""Workers share the annotations: an epoch does not make a copy in each of them."""

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrcnn.config import ModelConfig
from mrcnn.data.augment.transforms import Augmentation
from mrcnn.data.coco.read import read_coco
from mrcnn.data.loading.loader import train_loader

IMAGES, INSTANCES = 4000, 25  # together 100,000 annotations
BATCH = 8


def memory(pid: int) -> dict[str, int]:
    """KiB that a process alone holds, and those plus its part of what it shares."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return {"unique": sizes["Private_Clean"] + sizes["Private_Dirty"], "proportional": sizes["Pss"]}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc")
def test_workers_do_not_grow_in_an_epoch_of_100_000_annotations(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(4):
        pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    for i in range(4, IMAGES):
        (tmp_path / f"{i}.png").symlink_to(tmp_path / f"{i % 4}.png")
    centres = rng.uniform(16, 48, (IMAGES * INSTANCES, 1, 2))
    rings = (centres + rng.uniform(-16, 16, (IMAGES * INSTANCES, 20, 2))).round(2)
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": 64, "height": 64} for i in range(IMAGES)
        ],
        "annotations": [
            {"id": k, "image_id": k // INSTANCES, "category_id": 1, "segmentation": [ring]}
            for k, ring in enumerate(rings.reshape(len(rings), -1).tolist())
        ],
        "categories": [{"id": 1, "name": "a"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    del content, rings
    dataset = read_coco(tmp_path / "a.json", tmp_path)
    assert len(dataset.boxes) == 100_000

    options = {"batch_size": BATCH, "steps": IMAGES // BATCH, "workers": 2}
    sizes: dict[int, list[dict[str, int]]] = {}
    loader = train_loader(dataset, ModelConfig(scale=1.0), Augmentation(), **options)
    for step, _ in enumerate(loader):
        # Past what a worker takes to get going, and while both are at work.
        if step in (IMAGES // BATCH // 4, IMAGES // BATCH - 20):
            for process in multiprocessing.active_children():
                sizes.setdefault(process.pid, []).append(memory(process.pid))
    assert len(sizes) == 2
    for before, after in sizes.values():
        for name in before:
            print(f"{name}: {before[name] / 1024:.1f} MiB -> {after[name] / 1024:.1f} MiB")
            assert after[name] < 1.1 * before[name]
