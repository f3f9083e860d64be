"""Grouping of items into batches, and prefetching by a thread."""

import random
import threading

import pytest

from mrcnn.runtime.batching import bucket_by, prefetch


@pytest.mark.parametrize("seed", range(20))
def test_buckets_hold_equal_keys(seed):
    """All items come once, alike in a group, in order of their kind; none waits for long."""
    rng = random.Random(seed)
    size, kinds = rng.randint(1, 5), rng.randint(1, 6)
    items = [(number, rng.randrange(kinds)) for number in range(60)]
    taken = []

    def source():
        for item in items:
            taken.append(item)
            yield item

    seen = []
    for group in bucket_by(source(), lambda item: item[1], size):
        assert 1 <= len(group) <= size
        assert len({kind for _, kind in group}) == 1
        if len(taken) < len(items):
            assert len(taken) - group[0][0] <= 2 * size + kinds
        seen += group
    assert sorted(seen) == items
    for kind in range(kinds):
        assert [i for i in seen if i[1] == kind] == [i for i in items if i[1] == kind]


def test_equal_items_fill_groups():
    assert list(bucket_by(range(7), lambda _: 0, 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(bucket_by([], lambda _: 0, 3)) == []


def test_prefetch_stays_one_item_ahead():
    made, threads = [], set()

    def source():
        for number in range(5):
            made.append(number)
            threads.add(threading.get_ident())
            yield number

    for number in prefetch(source()):
        assert len(made) <= number + 2
    assert made == [0, 1, 2, 3, 4]
    assert threading.get_ident() not in threads


def test_an_error_arrives_where_it_belongs():
    def source():
        yield 1
        raise KeyError("two")

    items = prefetch(source())
    assert next(items) == 1
    with pytest.raises(KeyError, match="two"):
        next(items)


def test_prefetch_can_be_left():
    before = threading.active_count()
    items = prefetch(iter(range(5)))
    assert next(items) == 0
    items.close()
    assert threading.active_count() == before
