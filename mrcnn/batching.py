"""Items put into batches of their like, and made while others are used."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_END = object()


def grouped(items: Iterable[T], key: Callable[[T], Hashable], size: int) -> Iterator[list[T]]:
    """Lists of up to `size` items of equal keys.

    A list is given as soon as it is full, or its first item has seen 2 * `size` others come; so no
    more items than that wait.
    """
    waiting: dict[Hashable, list[T]] = {}  # in the order of their first items
    first: dict[Hashable, int] = {}
    for position, item in enumerate(items):
        own = key(item)
        waiting.setdefault(own, []).append(item)
        first.setdefault(own, position)
        oldest = next(iter(first))
        for due in dict.fromkeys((oldest, own)):
            if len(waiting[due]) == size or position - first[due] >= 2 * size:
                del first[due]
                yield waiting.pop(due)
    yield from waiting.values()


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The items; a thread makes the next one while one is used."""
    iterator = iter(items)
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, iterator, _END)
        while (item := coming.result()) is not _END:
            coming = thread.submit(next, iterator, _END)
            yield item  # type: ignore[misc]
