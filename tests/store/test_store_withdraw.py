"""Rows that are withdrawn, and columns of some rows of a catalog."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from store import Store, StoreError, View
from store.verify import verify

Make = Callable[..., Any]


def test_rows_that_are_withdrawn_are_absent_and_no_other_row_changes(tmp_path: Path, filled: View, fill: Make) -> None:
    kept = np.array([0, 1, 3, 5, 7, 8, 10])
    before = filled.read("tokens", kept)
    store = Store.open(tmp_path / "store")
    view = store.view("clips", "net")
    assert len(view.read("tokens", np.array([2, 4]))) == 2
    with store.lock():
        assert view.withdraw(np.array([6, 2, 4, 9, 2, -1, 99])) == 2
    assert filled.status().tolist() == [1, 1, 0, 1, 0, 1, 0, 1, 1, 0, 1]
    assert not filled.failures().height and verify(store) == []
    np.testing.assert_array_equal(filled.read("tokens", kept), before)
    with pytest.raises(StoreError, match="c4 is absent"):
        view.read("tokens", np.array([4]))
    fill(filled, np.array([2, 4, 6, 9]), seed=1)
    assert (filled.status() == 1).all() and verify(store) == []
    np.testing.assert_array_equal(filled.read("tokens", kept), before)


def test_rows_are_withdrawn_under_the_stores_lock_only(filled: View) -> None:
    with pytest.raises(StoreError, match="under the store's lock only"):
        filled.withdraw(np.array([0]))
    assert filled.status()[0] == 1


def test_columns_of_some_rows_come_from_the_parts_that_hold_them(tmp_path: Path) -> None:
    catalog = Store.open(tmp_path / "store", create=True).catalog("clips")
    like = pl.DataFrame(schema={"start": pl.Float64, "split": pl.String})
    assert catalog.select(np.array([-1]), like).rows() == []
    catalog.append(pl.DataFrame({"key": ["b", "a"], "start": [1, 2]}))
    catalog.append(pl.DataFrame({"key": ["c"], "split": ["val"]}))
    catalog.append(pl.DataFrame({"key": ["d"]}))
    catalog.parts()[2].write_bytes(b"damaged")
    assert catalog.select(np.array([2, -1, 1]), like).rows() == [(1, 2.0, None), (2, None, "val")]
