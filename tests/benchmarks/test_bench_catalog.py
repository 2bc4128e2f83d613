"""The catalog benchmark runs its documented queries and gets the same rows as its peers."""

from importlib.util import find_spec
from pathlib import Path

import polars as pl

from benchmarks.catalog import ask, build, clip_ids, plan_all


def test_the_catalog_is_compared_with_its_peers(tmp_path: Path) -> None:
    built = build(tmp_path / "store", 3000)
    assert built["indexes"] == 1
    asked = ask(tmp_path / "store", 3000, 1, True)  # asserts that all give the same rows
    lmdb = asked.pop("lmdb_ms")
    assert (lmdb is None) == (find_spec("lmdb") is None)
    assert None not in asked.values() and all(value >= 0 for name, value in asked.items() if name.endswith("ms"))
    assert set(plan_all(tmp_path / "store", 3000)) == {"rows_of_all_s", "plan_s", "plan_gib"}


def test_clip_ids_are_unique() -> None:
    assert clip_ids(pl.int_range(100_000, eager=True)).is_unique().all()
