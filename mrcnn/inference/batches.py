"""Batches of images of equal padded size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mrcnn.config import ModelConfig
from mrcnn.data.images import empty_batch, network_size, unpadded_views, write_view
from mrcnn.inference.inputs import ImageLike, InputImage, read_inputs
from mrcnn.runtime.batching import bucket_by
from mrcnn.structures import ImageBatch


def read_batches(
    images: Iterable[ImageLike], config: ModelConfig, batch_size: int
) -> Iterator[tuple[list[int], list[InputImage], ImageBatch | None]]:
    """Read images, and prepare those of equal padded size together.

    Yields:
        Positions in `images`, the images, and their batch; None if they cannot be read.
    """
    multiple = config.size_multiple

    def padded_size(item: tuple[int, InputImage]) -> tuple[int, ...]:
        if item[1].error:
            return ()
        return tuple(-(-side // multiple) for side in network_size(*item[1].size, config))

    for group in bucket_by(enumerate(read_inputs(images, config)), padded_size, batch_size):
        positions, inputs = [position for position, _ in group], [image for _, image in group]
        if inputs[0].error:
            yield positions, inputs, None
            continue
        sizes = [network_size(*image.size, config) for image in inputs]
        batch = empty_batch(sizes, multiple)
        for image, view in zip(inputs, unpadded_views(batch), strict=True):
            height, width = image.size
            write_view(image.pixels, (0, 0, width, height), view, config)
        yield positions, inputs, batch
