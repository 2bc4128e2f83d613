"""Guarantees of annotate.ahead."""

import threading
import time
from collections.abc import Iterator

import pytest

from annotate.ahead import ahead


def test_they_come_in_order_and_at_most_so_many_wait() -> None:
    made: list[int] = []

    def things() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            yield number

    taken = []
    for number in ahead(things(), waiting=2):
        time.sleep(0.005)
        taken.append(number)
        assert len(made) <= len(taken) + 3  # two wait, one is in the maker's hand
    assert taken == list(range(20))


def test_making_goes_on_while_one_is_used() -> None:
    """Ten things of 20 ms, each used for 20 ms, take far less than 400 ms."""

    def things() -> Iterator[int]:
        for number in range(10):
            time.sleep(0.02)
            yield number

    begin = time.monotonic()
    for _ in ahead(things()):
        time.sleep(0.02)
    assert time.monotonic() - begin < 0.36


def test_an_error_reaches_whoever_asks_for_the_next_one() -> None:
    def things() -> Iterator[int]:
        yield 1
        raise KeyError("two")

    left = ahead(things())
    assert next(left) == 1
    with pytest.raises(KeyError, match="two"):
        next(left)


def test_whoever_stops_taking_them_stops_the_thread() -> None:
    before = threading.active_count()
    left = ahead(iter(range(1000)))
    assert next(left) == 0
    left.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
