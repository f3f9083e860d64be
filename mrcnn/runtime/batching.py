"""Grouping of items into batches, and preparing them in a background thread."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_END = object()


def bucket_by(items: Iterable[T], key: Callable[[T], Hashable], size: int) -> Iterator[list[T]]:
    """Yield lists of up to `size` items with equal keys.

    A list is yielded once it is full, or once 2 * `size` items have followed its first item.
    Therefore no more items than that wait.
    """
    buckets: dict[Hashable, list[T]] = {}  # in the order of their first items
    first: dict[Hashable, int] = {}  # position of the first item of each bucket
    for position, item in enumerate(items):
        item_key = key(item)
        buckets.setdefault(item_key, []).append(item)
        first.setdefault(item_key, position)
        oldest = next(iter(first))
        for due in dict.fromkeys((oldest, item_key)):
            if len(buckets[due]) == size or position - first[due] >= 2 * size:
                del first[due]
                yield buckets.pop(due)
    yield from buckets.values()


def prefetch(items: Iterable[T]) -> Iterator[T]:
    """Yield the items while a background thread prepares the next one."""
    iterator = iter(items)
    with ThreadPoolExecutor(1) as thread:
        pending = thread.submit(next, iterator, _END)
        while (item := pending.result()) is not _END:
            pending = thread.submit(next, iterator, _END)
            yield item  # type: ignore[misc]
