"""Withdrawn rows are absent at once, and an open reader never reads them as zeros. Columns of selected rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from common.errors import StepDiffError
from store import Feature, Provenance, Store, View
from store.verbs.verify import verify

Make = Callable[..., Any]


def test_withdrawn_rows_are_absent_and_no_other_row_changes(tmp_path: Path, filled: View, fill: Make) -> None:
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
    with pytest.raises(StepDiffError, match="c4 is absent"):
        view.read("tokens", np.array([4]))
    fill(filled, np.array([2, 4, 6, 9]), seed=1)
    assert (filled.status() == 1).all() and verify(store) == []
    np.testing.assert_array_equal(filled.read("tokens", kept), before)


def test_withdrawing_rows_requires_the_lock_of_the_store(filled: View) -> None:
    with pytest.raises(StepDiffError, match="only under the store's lock"):
        filled.withdraw(np.array([0]))
    assert filled.status()[0] == 1


@pytest.mark.parametrize("remote", [False, True])
def test_an_open_view_does_not_read_a_withdrawn_row_as_zeros(
    request: pytest.FixtureRequest, tmp_path: Path, provenance: Provenance, features: dict[str, Feature], fill: Make,
    remote: bool,
) -> None:  # fmt: skip
    path = f"{request.getfixturevalue('bucket')}/store" if remote else tmp_path / "store"
    store = Store.open(path, create=True)
    store.catalog("clips").append(pl.DataFrame({"key": [f"c{i}" for i in range(4)]}))
    with store.lock():
        view = store.create_view("clips", "net", provenance, features, 4)
    fill(view, np.arange(3))
    reader = Store.open(path).view("clips", "net")
    first = reader.read("tokens", np.arange(3))
    with store.lock():
        view.withdraw(np.array([1]))
    fill(view, np.array([3]))  # the shard is rewritten without row 1
    np.testing.assert_array_equal(reader.read("tokens", np.array([2, 0])), first[[2, 0]])
    with pytest.raises(StepDiffError, match="c1 is absent"):
        reader.read("tokens", np.arange(3))


def test_columns_of_selected_rows_are_read_from_the_parts_that_contain_them(tmp_path: Path) -> None:
    catalog = Store.open(tmp_path / "store", create=True).catalog("clips")
    like = pl.DataFrame(schema={"start": pl.Float64, "split": pl.String})
    assert catalog.select(np.array([-1]), like).rows() == []
    catalog.append(pl.DataFrame({"key": ["b", "a"], "start": [1, 2]}))
    catalog.append(pl.DataFrame({"key": ["c"], "split": ["val"]}))
    catalog.append(pl.DataFrame({"key": ["d"]}))
    catalog.parts()[2].write_bytes(b"damaged")
    assert catalog.select(np.array([2, -1, 1]), like).rows() == [(1, 2.0, None), (2, None, "val")]
