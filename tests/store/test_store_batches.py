"""Batches: order, resuming, workers, prefetching, threads and errors."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepdiff_core.errors import StepDiffError
from store import Feature, View
from store.batches import Batch, Batches, _steps

Make = Callable[..., Any]
INT8 = {"tokens": Feature((3, 70), "int8"), "embedding": Feature((7,), "float32")}


@pytest.fixture
def view(make_view: Make, fill: Make) -> View:
    """37 rows, shards of 8, the tokens int8."""
    view = make_view(INT8, rows=37, shard=8)
    fill(view)
    return view


def rows(batches: Batches) -> list[list[int]]:
    return [batch.rows.tolist() for batch in batches]


def flat(parts: list[list[int]]) -> list[int]:
    return [row for part in parts for row in part]


def threads() -> int:
    return sum(thread.name.startswith("store-batches") for thread in threading.enumerate())


def test_an_epoch_reads_every_row_once(view: View) -> None:
    batches = Batches(view, ["tokens", "embedding"], batch_size=5, seed=3)
    first, second = rows(batches), rows(batches)
    assert [len(part) for part in first] == [5] * 7 + [2] and len(batches) == 8
    assert sorted(flat(first)) == sorted(flat(second)) == list(range(37))
    assert first != second and batches.epoch == 2
    batches.set_epoch(0)
    assert rows(batches) == first
    assert rows(Batches(view, "tokens", batch_size=5, seed=4)) != first


def test_seed_and_epoch_determine_the_order(view: View) -> None:
    batches = Batches(view, "embedding", np.arange(8), batch_size=8, seed=1)
    # constants: a run that is resumed with a later numpy must continue in the same order
    assert rows(batches) == [[3, 5, 2, 7, 0, 6, 1, 4]]
    assert rows(Batches(view, "embedding", np.array([5, 2, 9]), batch_size=2, shuffle=False)) == [
        [5, 2],
        [9],
    ]


@pytest.mark.parametrize("keep", [1, 2, None])
def test_batches_contain_the_rows_as_stored(view: View, keep: int | None) -> None:
    for batch in Batches(view, ["tokens", "embedding"], batch_size=6, keep=keep):
        levels, scale = view.read_quantised("tokens", batch.rows)
        assert set(batch.arrays) == {"tokens", "scale", "embedding"}
        assert (batch.arrays["tokens"] == levels).all() and (batch.arrays["scale"] == scale).all()
        assert (batch.arrays["embedding"] == view.read("embedding", batch.rows)).all()


def test_buffers_are_reused_after_keep_further_batches(view: View) -> None:
    batches = Batches(view, "embedding", batch_size=2, ahead=2, keep=3)
    batches_so_far: list[Batch] = []
    for batch in batches:
        batches_so_far.append(batch)
        time.sleep(0.002)  # the reader continues meanwhile
        for held in batches_so_far[-3:]:
            assert (held.arrays["embedding"] == view.read("embedding", held.rows)).all()
    assert len({batch.arrays["embedding"].ctypes.data for batch in batches_so_far}) == 5
    whole = list(Batches(view, "embedding", batch_size=2, keep=None))
    assert all(
        (batch.arrays["embedding"] == view.read("embedding", batch.rows)).all() for batch in whole
    )


def test_a_state_of_other_batches_is_refused(view: View) -> None:
    state = Batches(view, "tokens", batch_size=5, seed=3).state_dict()
    with pytest.raises(StepDiffError, match="differ in seed"):
        Batches(view, "tokens", batch_size=5, seed=4).load_state_dict(state)
    with pytest.raises(StepDiffError, match="differ in crc32c"):
        Batches(view, "tokens", np.arange(37)[::-1], batch_size=5, seed=3).load_state_dict(state)


def test_a_step_that_the_workers_share_in_another_way_is_refused(view: View) -> None:
    """Of 37 rows one is left after nine steps of one worker; two workers need one row each in their
    last step."""
    state = {**Batches(view, "embedding", batch_size=4, seed=3).state_dict(), "position": 9}
    with pytest.raises(StepDiffError, match="differ in batch_size, world"):
        Batches(view, "embedding", batch_size=2, seed=3, world=2).load_state_dict(state)
    Batches(view, "embedding", batch_size=2, seed=3, world=2).load_state_dict(
        {**state, "position": 8}
    )
    with pytest.raises(StepDiffError, match="differ in world"):
        Batches(view, "embedding", batch_size=4, seed=3, world=2).load_state_dict(
            {**state, "position": 0}
        )


@given(st.integers(0, 300), st.integers(1, 9), st.integers(1, 20), st.booleans())
def test_each_row_is_read_by_exactly_one_worker(
    count: int, world: int, size: int, drop_last: bool
) -> None:
    def parts(rank: int) -> list[range]:
        batches = Batches.__new__(Batches)
        batches._bounds, batches.rank, batches.world = bounds, rank, world
        return [range(count)[batches._mine(step)] for step in range(len(batches))]

    try:
        bounds = _steps(count, world, size, drop_last)
    except StepDiffError:
        assert not drop_last and (count < world or size == 1)
        return
    dealt = [parts(rank) for rank in range(world)]
    seen = sorted(row for worker in dealt for part in worker for row in part)
    assert seen == list(range(count // (world * size) * world * size if drop_last else count))
    for step in zip(*dealt, strict=True):  # the same number of batches for every worker
        sizes = [len(part) for part in step]
        assert 1 <= min(sizes) and max(sizes) <= size and max(sizes) - min(sizes) <= 1


def test_a_read_error_is_raised_in_the_consumer(view: View) -> None:
    running = iter(
        Batches(view, "tokens", np.array([0, 1, 2, 40, 3, 4]), batch_size=2, shuffle=False)
    )
    assert next(running).rows.tolist() == [0, 1]
    with pytest.raises(StepDiffError, match="row 40 is absent"):
        next(running)
    assert threads() == 0


def test_an_iteration_that_is_stopped_early_leaves_no_thread(view: View) -> None:
    batches = Batches(view, "tokens", batch_size=2)
    for batch in batches:
        first = batch.rows.tolist()
        break
    running = iter(batches)
    assert next(running).rows.tolist() == first, "the epoch starts again"
    assert threads() == 2, "two batches are read at once"
    del running
    assert threads() == 0


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"features": "pixels"}, "no feature 'pixels'"),
        ({"world": 40}, "too few for 40 workers"),
        ({"batch_size": 0}, "batch_size is 0: give 1 or more"),
        ({"ahead": 0}, "ahead is 0: give 1 or more"),
        ({"keep": 0}, "keep is 0: give 1 or more"),
        ({"stride": -1}, "stride is -1: give 1 or more"),
        ({"seed": -1}, "seed is -1: give 0 or more"),
        (
            {"rank": 2, "world": 2},
            "rank is 2 and world is 2: give a rank of 0 or more, below world",
        ),
    ],
)
def test_invalid_options_are_refused(view: View, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(StepDiffError, match=message):
        Batches(view, **{"features": "tokens", "batch_size": 2, **wrong})
