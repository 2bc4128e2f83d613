"""Cached features by clip id, from a store larger than memory."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from heads.data.clips import Features
from store import Feature, Provenance, Store, View


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_view_larger_than_memory_is_read_with_direct_io(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    store = Store.open(tmp_path / "features", create=True)
    store.catalog("clips").append(pl.DataFrame({"key": ["a", "b", "c"]}))
    given = np.random.default_rng(0).normal(size=(2, 4, 64)).astype(np.float32)
    with store.lock():
        provenance = Provenance("net", "0", "l", "f", "c", {})
        view = store.create_view("clips", "net", provenance, {"tokens": Feature((4, 64), dtype)})
        view.write_shard(0, np.array([0, 2]), {"tokens": given}, {})
    asked: list[bool] = []
    read = View._read

    def watched(self: View, rows: np.ndarray, wanted: dict, direct: bool = False, *check: Any) -> list[np.ndarray]:
        asked.append(direct)
        return read(self, rows, wanted, direct, *check)

    monkeypatch.setattr(View, "_read", watched)
    found = []
    rows = 3 * (4 * 64 * 2 if dtype == "float16" else 4 * 64 + 4 * 2)  # room for the third, which has no features
    for limit in (rows, rows - 1):
        monkeypatch.setattr("store.view.fill_memory", lambda nbytes, limit=limit: nbytes > limit)
        for device in ("cpu", "cpu:0"):
            found.append(Features(store, "net", "tokens").read(["c", "a"], device).numpy())
    assert asked == [False, False, True, True]
    assert all((some == found[0]).all() for some in found)
