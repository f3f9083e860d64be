"""Preprocessing of images in standard ONNX operators: the same steps as in `mrcnn.data.images`.

The nodes are built here and not traced from PyTorch: the new size is computed from the shape, and
`Resize` with these attributes has no counterpart in PyTorch.

N images of one size h x w.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnxscript import ir

from mrcnn.config import ModelConfig

DOUBLE, FLOAT, INT64 = ir.DataType.DOUBLE, ir.DataType.FLOAT, ir.DataType.INT64


class Nodes(ir.tape.Tape):  # type: ignore[misc]
    """A list of nodes that grows with each call."""

    def __call__(self, operator: str, *inputs: Any, **attributes: Any) -> ir.Value:
        """Add an operator by name. Numbers become constants: int64, or float64 for floats."""
        values = [
            value
            if value is None or isinstance(value, ir.Value)
            else self.op("Constant", [], {"value": ir.tensor(np.asarray(value))})
            for value in inputs
        ]
        return self.op(operator, values, attributes)


def prepare(images: ir.Value, config: ModelConfig) -> tuple[dict[str, ir.Value], list[ir.Node]]:
    """Return the inputs of a detector by name, computed from images (N, h, w, 3) uint8 RGB.

    The second value is the list of nodes that compute them.
    """
    op, numerics = Nodes(), config.conventions
    count = op("Shape", images, start=0, end=1)
    original = op("Shape", images, start=1, end=3)
    target = _network_size(op, op("Cast", original, to=DOUBLE), config)

    x = op("Transpose", images, perm=[0, 3, 1, 2])
    size = op("Concat", count, [3], target, axis=0)
    if numerics.resize_filter == "pillow":  # in 8 bits
        x = op("Resize", x, None, None, size, mode="linear", antialias=1, exclude_outside=1)
        x = op("Cast", x, to=FLOAT)
    else:
        x = op("Resize", op("Cast", x, to=FLOAT), None, None, size, mode="linear")
        if numerics.resize_filter == "opencv":
            x = op("Floor", op("Add", x, np.float32(0.5)))
    mean, std = (
        np.array(values, np.float32)[:, None, None]
        for values in (config.pixel_mean, config.pixel_std)
    )
    x = op("Div", op("Sub", x, mean), std)
    if config.size_multiple > 1:
        # Mod has the sign of the divisor.
        missing = op("Mod", op("Neg", target), [config.size_multiple])
        x = op("Pad", x, op("Concat", [0, 0], missing, axis=0), np.float32(0), [2, 3])

    pairs = op("Concat", count, [2], axis=0)
    prepared = {
        "pixels": x,
        "sizes": op("Expand", target, pairs),
        "original_sizes": op("Expand", original, pairs),
    }
    return prepared, list(op.nodes)


def _network_size(op: Nodes, size: ir.Value, config: ModelConfig) -> ir.Value:
    """Compute the size after resizing, (2,) int64, from (height, width), (2,) float64.

    See `mrcnn.data.images.network_size`.
    """
    rule = config.conventions.size_rule
    shorter, longer = (op(f"Reduce{name}", size, keepdims=1) for name in ("Min", "Max"))  # (1,)
    short: Any = [float(config.min_size)]
    long: Any = [float(config.max_size)]
    if config.scale is not None:
        short, long = (op("Mul", side, [config.scale]) for side in (shorter, longer))
    elif rule == "shorter":
        is_long = op("Greater", op("Mul", op("Div", longer, shorter), short), long)
        limited = op("Round", op("Div", op("Mul", long, shorter), longer))
        short = op("Where", is_long, limited, short)
        long = op("Div", op("Mul", short, longer), shorter)
    elif rule == "cut":
        scale = op("Min", op("Div", short, shorter), op("Div", long, longer))
        short, long = (op("Mul", side, scale) for side in (shorter, longer))
    else:
        scaled = op("Mul", op("Div", short, shorter), longer)
        is_long, shrink = op("Greater", scaled, long), op("Div", long, scaled)
        short = op("Where", is_long, op("Mul", short, shrink), short)
        long = op("Where", is_long, op("Mul", scaled, shrink), scaled)
    half = 0.5 if rule == "round" else 0.0
    sides = op("Cast", op("Add", op("Concat", short, long, axis=0), [half]), to=INT64)
    sides = op("Max", sides, [1])  # short, long
    upright = op("Greater", *(op("Slice", size, [i], [i + 1]) for i in (0, 1)))
    return op("Where", upright, op("Slice", sides, [1], [-3], [0], [-1]), sides)
