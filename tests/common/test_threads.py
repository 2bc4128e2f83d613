"""Guarantees of common.threads."""

import threading
import time
from collections.abc import Iterator

import pytest

from common.threads import prefetched


def test_prefetched_items_come_in_order_and_are_few() -> None:
    made: list[int] = []

    def things() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            yield number

    taken = []
    for number in prefetched([things()], waiting=2):
        time.sleep(0.005)
        taken.append(number)
        assert len(made) <= len(taken) + 3  # two wait, one is being made
    assert taken == list(range(20))


def test_making_goes_on_while_one_is_used() -> None:
    """Ten things of 20 ms, each used for 20 ms, take far less than 400 ms."""

    def things() -> Iterator[int]:
        for number in range(10):
            time.sleep(0.02)
            yield number

    begin = time.monotonic()
    for _ in prefetched([things()]):
        time.sleep(0.02)
    assert time.monotonic() - begin < 0.36


def test_an_error_reaches_the_caller() -> None:
    def things() -> Iterator[int]:
        yield 1
        raise KeyError("two")

    left = prefetched([things()])
    assert next(left) == 1
    with pytest.raises(KeyError, match="two"):
        next(left)


def test_a_caller_who_stops_early_stops_the_threads() -> None:
    before = threading.active_count()
    left = prefetched([iter(range(1000))])
    assert next(left) == 0
    left.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_items_of_many_sources_come_once() -> None:
    sources = [range(10 * n, 10 * n + 10) for n in range(7)]
    assert sorted(prefetched(sources, threads=3)) == list(range(70))
