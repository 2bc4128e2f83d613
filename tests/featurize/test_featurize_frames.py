"""Frame sampling, and the plan of missing rows."""

from fractions import Fraction

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from featurize.plan import blocks, shards_of, todo
from featurize.video.frames import Sampling, between, chosen
from store.view import ABSENT, FAILED, OK

STATUS = st.lists(st.sampled_from([ABSENT, OK, FAILED]), min_size=1, max_size=60)


@given(st.integers(1, 5000), st.integers(1, 32))
def test_the_published_sampling_rule(n: int, count: int) -> None:
    expected = [int(x) for x in np.linspace(0, n - 1, count)]
    assert chosen(n, count).tolist() == expected


@given(st.integers(1, 5000), st.integers(1, 32))
def test_centre_sampling_takes_the_middle_of_equal_segments(n: int, count: int) -> None:
    expected = [int(Fraction(2 * i + 1, 2 * count) * n) for i in range(count)]
    assert chosen(n, count, "segment-centres").tolist() == expected
    assert chosen(n, 1, "segment-centres").tolist() == [n // 2]


@given(st.integers(1, 8), st.sampled_from(["linspace", "segment-centres"]))
def test_a_clip_of_few_frames_uses_all_of_them(n: int, sampling: Sampling) -> None:
    assert set(chosen(n, 8, sampling).tolist()) == set(range(n))


@given(st.lists(st.integers(0, 100), unique=True, max_size=30), st.integers(0, 100), st.integers(0, 100))
def test_frames_start_at_the_start_and_stop_before_the_end(ticks: list[int], start: int, end: int) -> None:
    start, end = min(start, end), max(start, end)
    times = np.array(sorted(ticks), np.float64) / 10
    first, behind = between(times, start / 10, end / 10)
    assert times[first:behind].tolist() == [t for t in times if start / 10 <= t < end / 10]


def plan(asked: set[int], status: list[int], size: int, retry_failed: bool = False) -> list[tuple[int, list[int]]]:
    """Return number and rows of each shard to compute."""
    rows = np.array(sorted(asked), np.int64)
    wanted = rows[todo(np.array(status, np.uint8)[rows], retry_failed)]
    return [(number, part["row"].to_list()) for number, part in shards_of(pl.DataFrame({"row": wanted}), size)]


@given(STATUS, st.sampled_from([1, 2, 8, 64]), st.booleans(), st.data())
def test_ok_rows_are_never_planned_again(status: list[int], size: int, retry: bool, data: st.DataObject) -> None:
    asked = data.draw(st.sets(st.integers(0, len(status) - 1), max_size=80))
    shards = plan(asked, status, size, retry)
    wanted = {ABSENT, FAILED} if retry else {ABSENT}
    assert [row for _, rows in shards for row in rows] == sorted(row for row in asked if status[row] in wanted)
    assert all(row // size == number for number, rows in shards for row in rows)
    numbers = [number for number, _ in shards]
    assert numbers == sorted(set(numbers))


def test_a_plan_that_was_computed_by_hand() -> None:
    status = [OK, ABSENT, FAILED, ABSENT, ABSENT, OK]
    assert plan({5, 3, 1, 2}, status, 2) == [(0, [1]), (1, [3])]
    assert plan({5, 3, 1, 2}, status, 2, retry_failed=True) == [(0, [1]), (1, [2, 3])]


@given(st.sets(st.integers(32, 63)), st.integers(1, 9))
def test_batches_are_fixed_ranges_of_a_shard(rows: set[int], size: int) -> None:
    found = blocks(rows, 32, size)
    assert sorted(row for members in found.values() for row in members) == sorted(rows)
    for block, members in found.items():
        assert members and all(32 + block * size <= row < 32 + (block + 1) * size for row in members)
