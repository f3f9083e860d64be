"""A stage of Ray Data: the objects of more images than one machine looks at, a row an image.

    import ray
    from mrcnn.ray import predict

    images = ray.data.read_binary_files("s3://bucket/photos", include_paths=True)
    predict(images, "runs/1", device="cuda").write_parquet("s3://bucket/found")

A worker that dies is replaced, and its images are looked at again: Ray repeats what did not end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.data.images import read_image
from mrcnn.errors import UserError
from mrcnn.pictures import Picture
from mrcnn.predictor import Options, load
from mrcnn.results import Result

try:
    import pyarrow as pa
    import ray
    import ray.data
except ImportError as error:
    raise ImportError(
        f"mrcnn: mrcnn.ray needs Ray Data ({error}); run: pip install 'mrcnn[ray]'"
    ) from error

if TYPE_CHECKING:  # in typing itself since Python 3.11
    from typing_extensions import Unpack

SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "height": pa.int32(),  # of the upright image, pixels; null beside an error
        "width": pa.int32(),
        "boxes": pa.list_(pa.list_(pa.float32())),  # (D, 4) xyxy
        "scores": pa.list_(pa.float32()),
        "labels": pa.list_(pa.int64()),  # in [0, C)
        "names": pa.list_(pa.string()),  # of these classes
        "counts": pa.list_(pa.string()),  # COCO run lengths of masks of [height, width]
        "error": pa.string(),  # what is wrong with the file; null where nothing is
    }
)


def predict(
    images: ray.data.Dataset | Sequence[str],
    weights: str,
    *,
    device: str = "cpu",
    models: int | None = None,
    score_threshold: float = 0.5,
    class_thresholds: Mapping[str, float] = {},
    amp: bool = False,
    **options: Unpack[Options],
) -> ray.data.Dataset:
    """The objects of images, found by many models at once; computed when it is written or read.

    Args:
        images: paths that every worker can read; or a data set with a column `path` and, where
            `path` is no such file, one of `bytes` (`ray.data.read_binary_files`) or of `image`, (h,
            w, 3) RGB or (h, w) grey uint8 (`ray.data.read_images`, which itself ends at a broken
            file). Both readers give `path` with `include_paths=True`.
        weights: what `mrcnn.load` takes, where every worker finds it.
        device: "cpu", a model a core, or "cuda", a model a GPU.
        models: how many work at once; by default one for every GPU of the cluster, or for every
            core but one, which reads and writes.
        score_threshold, class_thresholds, options: as of `Predictor.predict`.
        amp: compute convolutions and matrix products in bfloat16.
    Returns:
        A row an image, in any order, with the columns of `SCHEMA`; D objects, best first. A file
        that cannot be read is a row with an `error` and no objects.
    Raises:
        UserError: if the weights cannot be read, or the model has no class of a name.
    """
    load(weights).thresholds(score_threshold, class_thresholds)  # told here, not by each worker
    if not isinstance(images, ray.data.Dataset):
        images = ray.data.from_items([{"path": str(path)} for path in images])
    on_gpu = device.startswith("cuda")
    if models is None:
        there = ray.cluster_resources()
        models = int(there.get("GPU", 0) if on_gpu else there["CPU"] - 1)
    return images.map_batches(
        _Finder,
        fn_constructor_args=(weights, device, score_threshold, class_thresholds, amp, options),
        batch_size=options.get("batch_size", 4),
        compute=ray.data.ActorPoolStrategy(size=max(models, 1)),
        num_cpus=1,
        num_gpus=int(on_gpu),
    )


class _Finder:
    """A model in a process of its own."""

    def __init__(
        self,
        weights: str,
        device: str,
        score_threshold: float,
        class_thresholds: Mapping[str, float],
        amp: bool,
        options: Options,
    ) -> None:
        lowest = min(score_threshold, *class_thresholds.values(), 1)
        self.predictor = load(weights, device, amp=amp, score_threshold=lowest)
        self.thresholds = score_threshold, class_thresholds
        self.options = options

    def __call__(self, batch: dict[str, NDArray[Any]]) -> pa.Table:
        if "path" not in batch:
            raise ValueError(
                f"mrcnn.ray.predict: images must have a column path, got {', '.join(batch)}; give "
                "include_paths=True to the reader of ray.data"
            )
        pictures = [_picture(batch, i) for i in range(len(batch["path"]))]
        sound = [picture for picture in pictures if not isinstance(picture, UserError)]
        found = self.predictor.attempts(sound, *self.thresholds, **self.options)
        outcomes = [p if isinstance(p, UserError) else next(found) for p in pictures]
        rows = [_row(str(path), one) for path, one in zip(batch["path"], outcomes, strict=True)]
        return pa.Table.from_pylist(rows, schema=SCHEMA)


def _picture(batch: dict[str, NDArray[Any]], i: int) -> Picture | UserError:
    """An image of a batch, or what is wrong with it."""
    path = Path(str(batch["path"][i]))
    if "image" in batch:
        return np.ascontiguousarray(batch["image"][i])
    if "bytes" not in batch:
        return path
    try:
        return read_image(path, batch["bytes"][i])
    except UserError as error:
        return error


def _row(path: str, found: Result | UserError) -> dict[str, Any]:
    """What `SCHEMA` asks for."""
    if isinstance(found, UserError):
        lists: dict[str, Any] = {field.name: [] for field in SCHEMA if pa.types.is_list(field.type)}
        return {"path": path, **lists, "error": str(found)}
    height, width = found.image.shape[:2]
    return {
        "path": path,
        "height": height,
        "width": width,
        "boxes": found.boxes.tolist(),
        "scores": found.scores.tolist(),
        "labels": found.labels.tolist(),
        "names": found.names,
        "counts": [rle["counts"] for rle in found.rles],
    }
