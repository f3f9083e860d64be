"""Work of fixed shapes as CUDA graphs: all its kernels in one launch, with no host in between."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import fields, is_dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
U = TypeVar("U")

WARM_UP = 3  # calls in which libraries choose their kernels and memory is found


class Graphs(Generic[T, U]):
    """A function of tensors that runs as a CUDA graph, one for each set of shapes.

    Shapes that come once `limit` graphs are there, and those that no graph can be made for, run as
    they are; a warning says so.

    Args:
        function: of tensors, or of dataclasses, tuples and dicts of them; and so is its result. It
            may read no value on the host, and its shapes may depend on shapes alone.
        changed: tensors that it changes, as gradients that it adds to; making a graph calls it
            several times, and leaves them as they were.
        limit: graphs to keep.
    """

    def __init__(
        self, function: Callable[[T], U], changed: Sequence[Tensor] = (), limit: int = 8
    ) -> None:
        self.function, self.changed, self.limit = function, changed, limit
        self.replays: dict[Any, Callable[[T], U] | None] = {}

    def __call__(self, inputs: T) -> U:
        """The result is that of the function; the next call may overwrite it."""
        shapes = tuple((tensor.shape, tensor.dtype) for tensor in tensors(inputs))
        if shapes not in self.replays:
            self.replays[shapes] = self._make(inputs)
        return (self.replays[shapes] or self.function)(inputs)

    def clear(self) -> None:
        """Forget all graphs, and free their memory."""
        self.replays.clear()

    def _make(self, inputs: T) -> Callable[[T], U] | None:
        shape = " x ".join(map(str, tensors(inputs)[0].shape))
        if sum(replay is not None for replay in self.replays.values()) == self.limit:
            warnings.warn(
                f"no CUDA graph for {shape}: there are {self.limit} already", stacklevel=3
            )
            return None
        before = [tensor.clone() for tensor in self.changed]
        try:
            return record(self.function, inputs)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            warnings.warn(f"no CUDA graph for {shape}: {reason}", stacklevel=3)
            return None
        finally:
            for tensor, value in zip(self.changed, before, strict=True):
                tensor.copy_(value)


def record(function: Callable[[T], U], inputs: T) -> Callable[[T], U]:
    """What copies its inputs to where the graph of this call has them, and launches the graph.

    Raises:
        RuntimeError: of CUDA, if the call cannot be captured or memory runs out.
    """
    own = deepcopy(inputs)
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            function(own)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function(own)

    def replay(inputs: T) -> U:
        for place, value in zip(tensors(own), tensors(inputs), strict=True):
            place.copy_(value, non_blocking=True)
        graph.replay()
        return result

    return replay


def tensors(values: Any) -> list[Tensor]:
    """All tensors of a dataclass, tuple or dict, and of those within it, in order."""
    if isinstance(values, Tensor):
        return [values]
    if is_dataclass(values):
        values = [getattr(values, field.name) for field in fields(values)]
    elif isinstance(values, dict):
        values = list(values.values())
    elif not isinstance(values, list | tuple):
        return []
    return [tensor for value in values for tensor in tensors(value)]
