"""`mrcnn.inference.ray`: a row per image, even if a file is broken or a worker is killed."""

import importlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrcnn import predict as command
from mrcnn.errors import UserError
from tests.helpers import documents, tiny

IMAGES = 600


def test_missing_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "mrcnn.inference.ray", raising=False)
    with pytest.raises(ImportError, match=r"^mrcnn: .*run: pip install 'mrcnn\[ray\]'"):
        importlib.import_module("mrcnn.inference.ray")


@pytest.fixture(scope="module")
def ray():
    """A cluster on this machine: two models, and one core that reads and writes."""
    ray = pytest.importorskip("ray", reason="Ray, the extra `ray`, is not installed")
    pytest.importorskip("ray.data", reason="Ray Data, the extra `ray`, is not installed")
    ray.init(num_cpus=3, include_dashboard=False, object_store_memory=80 * 2**20)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Images of noise, one of them truncated, a run, and the predictions of `mrcnn predict`."""
    folder = tmp_path_factory.mktemp("ray")
    tiny.run(folder / "run")
    (folder / "in").mkdir()
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        pixels = rng.integers(0, 256, (40 + i % 3, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"in/{i:04}.png")
    broken = folder / "in/0100.png"
    broken.write_bytes(broken.read_bytes()[:1000])
    words = [folder / "in", "--weights", folder / "run", "--out", folder / "out", *FLAGS]
    assert command.main([str(word) for word in words]) == 2
    return folder


FLAGS = ("--score-threshold", "0.3", "--no-overlays", "--device", "cpu")


def predicted(folder: Path) -> dict[str, list[tuple]]:
    """Return category, score and mask of the objects in each image."""
    content = json.loads((folder / "out/predictions.json").read_text())
    found: dict[str, list[tuple]] = {image["file_name"]: [] for image in content["images"]}
    names = {image["id"]: image["file_name"] for image in content["images"]}
    for entry in content["annotations"]:
        mask = entry["segmentation"]["counts"]
        found[names[entry["image_id"]]].append((entry["category_id"], entry["score"], mask))
    return found


def objects_of(rows: list[dict]) -> dict[str, list[tuple]]:
    """Return the same from rows without an error; each image has one row."""
    assert len({row["path"] for row in rows}) == len(rows)
    return {
        row["path"]: [
            (tiny.CONFIG.category_ids[label], score, mask)
            for label, score, mask in zip(row["labels"], row["scores"], row["counts"], strict=True)
        ]
        for row in rows
        if row["error"] is None
    }


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, directly and indirectly."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *descendants(child)]
    return found


def model_workers() -> list[int]:
    """Return the processes of Ray that have a model."""
    return [
        pid
        for pid in descendants(os.getpid())
        if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::MapWorker")
    ]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes as on Linux")
def test_a_killed_worker_loses_no_rows(ray, folder, tmp_path, capsys):
    parquet = pytest.importorskip("pyarrow.parquet")
    from mrcnn.inference.ray import SCHEMA, predict

    paths = sorted(str(path) for path in (folder / "in").iterdir())
    found = predict(paths, str(folder / "run"), score_threshold=0.3, models=2, batch_size=1)
    writing = threading.Thread(target=found.write_parquet, args=(str(tmp_path / "found"),))
    began = time.monotonic()
    writing.start()
    while len(written := [*tmp_path.glob("found/*.parquet")]) < 3:
        assert writing.is_alive()
        time.sleep(0.01)
    victim, _ = model_workers()
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic() - began
    assert writing.is_alive()
    writing.join()
    with capsys.disabled():
        print(f"\nkilled after {killed:.1f} s, with {len(written)} files written; "
              f"{IMAGES} images in {time.monotonic() - began:.1f} s")  # fmt: skip
    table = parquet.read_table(tmp_path / "found")
    assert table.schema.names == SCHEMA.names
    rows = table.to_pylist()
    assert len(rows) == IMAGES
    assert objects_of(rows) == predicted(folder)
    (failed,) = (row for row in rows if row["error"])
    assert "0100.png: cannot be read" in failed["error"]
    assert (failed["height"], failed["boxes"], failed["counts"]) == (None, [], [])
    row = next(row for row in rows if row["path"].endswith("0001.png"))
    assert (row["height"], row["width"]) == (41, 60)
    assert np.array(row["boxes"]).shape == (len(row["scores"]), 4)
    assert set(row["names"]) <= {"cat", "dog"}


@pytest.mark.slow
@pytest.mark.parametrize("read", ["read_binary_files", "read_images"])
def test_bytes_and_images(ray, folder, read):
    from mrcnn.inference.ray import predict

    paths = [str(folder / f"in/{i:04}.png") for i in range(90, 100)]
    if read == "read_binary_files":
        paths.append(str(folder / "in/0100.png"))
    images = getattr(ray.data, read)(paths, include_paths=True)
    rows = predict(
        images, str(folder / "run"), models=1, score_threshold=0.3, batch_size=1
    ).take_all()
    assert sorted(row["path"] for row in rows) == paths
    expected = predicted(folder)
    assert objects_of(rows) == {path: expected[path] for path in paths[:10]}


@pytest.mark.slow
def test_docs(ray, folder, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    (code,) = documents.blocks("predict.md", "python")
    for name, stand_in in {
        "s3://bucket/photos": folder / "in",
        "s3://bucket/found": tmp_path / "found",
        "runs/1": folder / "run",
    }.items():
        code = code.replace(f'"{name}"', repr(str(stand_in)))
    exec(code.replace('"cuda"', '"cpu"'), {})
    rows = parquet.read_table(tmp_path / "found").to_pylist()
    assert objects_of(rows).keys() == predicted(folder).keys()


@pytest.mark.slow
def test_errors(ray, folder):
    from mrcnn.inference.ray import predict

    path = str(folder / "in/0000.png")
    with pytest.raises(UserError, match="runs/9: does not exist"):
        predict([path], "runs/9")
    with pytest.raises(UserError, match="the model has no class 'cow'"):
        predict([path], str(folder / "run"), class_thresholds={"cow": 0.5})
    nameless = ray.data.read_binary_files([path])
    with pytest.raises(Exception, match="a column path, got bytes; pass include_paths=True"):
        predict(nameless, str(folder / "run"), models=1).take_all()
