"""Distributed inference: a stage of Ray Data that gives a row per image.

    import ray
    from mrcnn.inference.ray import predict

    images = ray.data.read_binary_files("s3://bucket/photos", include_paths=True)
    predict(images, "runs/1", device="cuda").write_parquet("s3://bucket/found")

A worker that dies is replaced. Ray repeats the batches that it did not finish.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mrcnn.data.images import read_image
from mrcnn.errors import UserError
from mrcnn.inference.inputs import ImageLike
from mrcnn.inference.load import load
from mrcnn.inference.predictor import Options, Predictor
from mrcnn.inference.results import Result

try:
    import pyarrow as pa
    import ray
    import ray.data
except ImportError as error:
    raise ImportError(
        f"mrcnn: mrcnn.inference.ray needs Ray Data ({error}); run: pip install 'mrcnn[ray]'"
    ) from error

if TYPE_CHECKING:  # in typing itself since Python 3.11
    from typing_extensions import Unpack

SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "height": pa.int32(),  # of the upright image, pixels; null if there is an error
        "width": pa.int32(),
        "boxes": pa.list_(pa.list_(pa.float32())),  # (D, 4) xyxy
        "scores": pa.list_(pa.float32()),
        "labels": pa.list_(pa.int64()),  # in [0, C)
        "names": pa.list_(pa.string()),  # of these classes
        "counts": pa.list_(pa.string()),  # COCO RLE of masks of size [height, width]
        "error": pa.string(),  # why the file cannot be read, or null
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
    """Detect the objects of images with many models in parallel.

    The result is lazy: it is computed when it is written or read.

    Args:
        images: paths that every worker can read, or a dataset with a column `path`. If the workers
            cannot read `path`, the dataset also needs a column `bytes` or `image`.
            `ray.data.read_binary_files` gives `bytes`. `ray.data.read_images` gives `image`, (h, w,
            3) RGB or (h, w) grey uint8, but stops at a broken file. Both give `path` with
            `include_paths=True`.
        weights: path for `mrcnn.load`, readable by every worker.
        device: "cpu" for a model per core, or "cuda" for a model per GPU.
        models: number of models. By default one per GPU of the cluster, or one per core except
            one, which reads and writes.
        score_threshold: as for `Predictor.predict`.
        class_thresholds: as for `Predictor.predict`.
        amp: compute convolutions and matrix products in bfloat16.
        **options: as for `Predictor.predict`.

    Returns:
        A row per image, in any order, with the columns of `SCHEMA`; D objects, best first. A file
        that cannot be read gives a row with an `error` and no objects.

    Raises:
        UserError: if the weights cannot be read, or a class name is unknown.
    """
    thresholds = score_threshold, class_thresholds
    load(weights).thresholds(*thresholds)  # fails early, outside the workers
    lowest = min(score_threshold, *class_thresholds.values(), 1)
    load_model = partial(load, weights, device, amp=amp, score_threshold=lowest)
    if not isinstance(images, ray.data.Dataset):
        images = ray.data.from_items([{"path": str(path)} for path in images])
    on_gpu = device.startswith("cuda")
    if models is None:
        resources = ray.cluster_resources()
        models = int(resources.get("GPU", 0) if on_gpu else resources["CPU"] - 1)
    return images.map_batches(
        _Worker,
        fn_constructor_args=(load_model, thresholds, options),
        batch_size=options.get("batch_size", 4),
        compute=ray.data.ActorPoolStrategy(size=max(models, 1)),
        num_cpus=1,
        num_gpus=int(on_gpu),
    )


class _Worker:
    """A model in its own process."""

    def __init__(
        self,
        load_model: Callable[[], Predictor],
        thresholds: tuple[float, Mapping[str, float]],
        options: Options,
    ) -> None:
        self.predictor, self.thresholds, self.options = load_model(), thresholds, options

    def __call__(self, batch: dict[str, NDArray[Any]]) -> pa.Table:
        if "path" not in batch:
            raise ValueError(
                "mrcnn.inference.ray.predict: images must have a column path, "
                f"got {', '.join(batch)}; pass include_paths=True to the reader of ray.data"
            )
        images = [_image(batch, i) for i in range(len(batch["path"]))]
        readable = [image for image in images if not isinstance(image, UserError)]
        results = self.predictor.try_stream(readable, *self.thresholds, **self.options)
        rows = [
            _row(str(path), image if isinstance(image, UserError) else next(results))
            for path, image in zip(batch["path"], images, strict=True)
        ]
        return pa.Table.from_pylist(rows, schema=SCHEMA)


def _image(batch: dict[str, NDArray[Any]], i: int) -> ImageLike | UserError:
    """Return image i of a batch, or the error of an unreadable file."""
    path = Path(str(batch["path"][i]))
    if "image" in batch:
        return np.ascontiguousarray(batch["image"][i])
    if "bytes" not in batch:
        return path
    try:
        return read_image(path, batch["bytes"][i])
    except UserError as error:
        return error


def _row(path: str, result: Result | UserError) -> dict[str, Any]:
    """Return the columns of `SCHEMA` for one image."""
    error = result if isinstance(result, UserError) else result.error
    if isinstance(result, UserError) or error:
        lists: dict[str, Any] = {field.name: [] for field in SCHEMA if pa.types.is_list(field.type)}
        return {"path": path, **lists, "error": str(error)}
    height, width = result.image.shape[:2]
    return {
        "path": path,
        "height": height,
        "width": width,
        "boxes": result.boxes.tolist(),
        "scores": result.scores.tolist(),
        "labels": result.labels.tolist(),
        "names": result.names,
        "counts": [rle["counts"] for rle in result.rles],
    }
