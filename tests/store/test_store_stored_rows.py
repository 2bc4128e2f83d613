"""Conversion of rows to their stored form, and the threads that do it."""

import threading
import time
from collections.abc import Callable
from typing import Any

import google_crc32c
import numpy as np
import pytest

from common.threads import AHEAD, ahead, cores
from store import Feature, Store
from store.format.quantise import quantise
from store.format.rows import StoredRows, stored_rows
from store.verbs.verify import verify

Make = Callable[..., Any]
FEATURES = {"a": Feature((4, 70), "int8"), "b": Feature((3,), "float32"), "c": Feature((2, 5), "float16")}


@pytest.fixture
def given() -> dict[str, np.ndarray]:
    dice = np.random.default_rng(0)
    return {name: dice.normal(size=(9, *feature.shape)).astype(np.float16) for name, feature in FEATURES.items()}


@pytest.mark.parametrize("part_bytes", [1, 1500, 2**20])
def test_every_valid_row_is_yielded_once_in_stored_form(
    given: dict[str, np.ndarray], part_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.format.rows._PART_BYTES", part_bytes)
    given["a"][3, 2, 69], given["c"][3, 0, 0], given["c"][8, 1, 1] = np.nan, np.inf, -np.inf
    slots = np.array([0, 1, 2, 5, 6, 7, 8, 12, 40])
    parts = list(stored_rows(slots, given, FEATURES))
    good = [0, 1, 2, 4, 5, 6, 7]
    assert np.concatenate([part.slots for part in parts]).tolist() == slots[good].tolist()
    assert {slot: why for part in parts for slot, why in part.reasons.items()} == {
        5: "a holds NaN",
        40: "c holds infinity",
    }
    levels, scale = quantise(given["a"][good])
    expected = {"a": levels, "scale": scale, "b": given["b"][good].astype(np.float32), "c": given["c"][good]}
    for name, rows in expected.items():
        assert np.array_equal(np.concatenate([part.arrays[name] for part in parts]), rows)
        sums = [google_crc32c.value(row.tobytes()) for row in rows]
        assert np.concatenate([part.sums[name] for part in parts]).tolist() == sums
    assert (len(parts) > 1) == (part_bytes < 2**20)


def test_threads_convert_rows_while_earlier_rows_are_written(
    given: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.format.rows._PART_BYTES", 1)
    makers = []

    def watched(values: np.ndarray, threads: int) -> Any:
        makers.append(threading.current_thread())
        return quantise(values, threads)

    monkeypatch.setattr("store.format.rows.quantise", watched)
    rows = stored_rows(np.arange(9), given, FEATURES)
    first: StoredRows = next(rows)
    assert first.slots.tolist() == [0]
    deadline = time.monotonic() + 20
    while len(makers) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(makers) >= 2 and threading.current_thread() not in makers


def test_converted_rows_come_in_order_and_few_are_prepared_ahead() -> None:
    begun: list[int] = []

    def slow_at_first(number: int) -> int:
        begun.append(number)
        time.sleep(0.05 if number == 0 else 0)
        return number**2

    made = ahead(slow_at_first, range(100))
    assert next(made) == 0
    time.sleep(0.05)
    assert len(begun) <= AHEAD * cores() + 1
    assert [0, *made] == [n**2 for n in range(100)]
    assert list(ahead(slow_at_first, [7])) == [49] and not list(ahead(slow_at_first, []))


def test_an_error_in_a_thread_is_raised_for_the_row_that_failed() -> None:
    made = ahead(lambda number: 6 // number, [3, 2, 1, 0, 1])
    assert [next(made) for _ in range(3)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(made)


@pytest.mark.parametrize("early", [[5], [4, 7], [5, 6], [4, 5, 6]])
@pytest.mark.parametrize("part_bytes", [1, 2**20])
def test_kept_and_new_rows_are_ordered_by_slot_in_the_file(
    make_view: Make, fill: Make, values: Make, early: list[int], part_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.format.rows._PART_BYTES", part_bytes)
    view = make_view()
    fill(view, np.array(early))
    every = np.array([7, 4, 6, 5])
    view.write_shard(1, every, values(view, every, seed=1), {})
    rows = np.arange(4, 8)
    expected = values(view, rows, seed=1)
    for name, kept in values(view, np.array(early)).items():
        expected[name][np.array(early) - 4] = kept
        stored = expected[name].astype(view.features[name].dtype)
        assert np.array_equal(view.read(name, rows), stored)
        path = view.paths.shard(name, 1, 1 + len(view.features[name].shape))
        assert path.read_bytes().startswith(stored.tobytes())


def test_a_shard_with_only_unfit_rows_is_committed_and_verifies(make_view: Make, fill: Make, values: Make) -> None:
    view = make_view()
    rows = np.arange(4, 8)
    given = values(view, rows)
    given["embedding"][:, 0] = np.nan
    view.write_shard(1, rows, given, {})
    assert view.status().tolist() == [0] * 4 + [2] * 4 + [0] * 3
    assert set(view.failures()["reason"]) == {"embedding holds NaN"}
    assert not verify(Store.open(view.paths.store))
    fill(view, rows)  # retried
    assert np.array_equal(view.read("embedding", rows), values(view, rows)["embedding"])
