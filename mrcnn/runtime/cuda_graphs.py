"""CUDA graphs: all kernels of a function in one launch, for inputs of fixed shapes."""

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

WARM_UP = 3  # calls in which libraries choose kernels and memory is allocated


class Graphs(Generic[T, U]):
    """A function of tensors that runs as a CUDA graph, one graph per set of input shapes.

    The function runs without a graph, with a warning, if `limit` graphs exist already or if no
    graph can be captured.

    Args:
        function: takes and returns tensors, or dataclasses, tuples and dicts of them. It must not
            read values on the host, and its shapes must depend on shapes alone.
        changed: tensors that the function changes in place, such as gradients. Capturing calls it
            several times and restores them.
        limit: number of graphs to keep.
    """

    def __init__(
        self, function: Callable[[T], U], changed: Sequence[Tensor] = (), limit: int = 8
    ) -> None:
        self.function, self.changed, self.limit = function, changed, limit
        self.replays: dict[Any, Callable[[T], U] | None] = {}

    def __call__(self, inputs: T) -> U:
        """Return the result of the function. The next call may overwrite it."""
        shapes = tuple((tensor.shape, tensor.dtype) for tensor in tensors(inputs))
        if shapes not in self.replays:
            self.replays[shapes] = self._make(inputs)
        return (self.replays[shapes] or self.function)(inputs)

    def clear(self) -> None:
        """Discard all graphs and free their memory."""
        self.replays.clear()

    def _make(self, inputs: T) -> Callable[[T], U] | None:
        shape = " x ".join(map(str, tensors(inputs)[0].shape))
        if sum(replay is not None for replay in self.replays.values()) == self.limit:
            warnings.warn(f"no CUDA graph for {shape}: {self.limit} exist already", stacklevel=3)
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
    """Capture a call in a CUDA graph; return a function that launches it with new inputs.

    Raises:
        RuntimeError: from CUDA, if the call cannot be captured or memory runs out.
    """
    static_inputs = deepcopy(inputs)
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            function(static_inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function(static_inputs)

    def replay(inputs: T) -> U:
        for static, value in zip(tensors(static_inputs), tensors(inputs), strict=True):
            static.copy_(value, non_blocking=True)
        graph.replay()
        return result

    return replay


def tensors(values: Any) -> list[Tensor]:
    """Return all tensors of a dataclass, tuple or dict, nested ones included, in order."""
    if isinstance(values, Tensor):
        return [values]
    if is_dataclass(values):
        values = [getattr(values, field.name) for field in fields(values)]
    elif isinstance(values, dict):
        values = list(values.values())
    elif not isinstance(values, list | tuple):
        return []
    return [tensor for value in values for tensor in tensors(value)]
