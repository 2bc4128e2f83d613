"""Compaction: at every moment each row and each failure is readable once; committed data is
unchanged."""

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.locks import locked
from store import Store, View
from store.verbs.compact import compact
from store.verbs.options import CompactOptions
from store.verbs.verify import verify
from tests.store.conftest import Run

Make = Callable[..., Any]
ROWS = 40


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder where the first test leaves its store for the others to copy."""
    return tmp_path_factory.mktemp("template") / "store"


@pytest.fixture
def view(template: Path, tmp_path: Path, make_view: Make, fill: Make) -> View:
    """A view of 40 rows in 8 parts of the catalog; every fifth row has failed; shard 9 is
    absent."""
    if template.exists():
        shutil.copytree(template, tmp_path / "store")
        return Store.open(tmp_path / "store").view("clips", "net")
    view = make_view(rows=5)
    for first in range(5, ROWS, 5):
        more = {"start": [float(n) for n in range(5)]} if first % 2 else {"step": ["stir"] * 5}
        view.catalog.append(pl.DataFrame({"key": [f"c{first + n}" for n in range(5)], **more}))
    with Store.open(view.paths.store).lock():
        view.resize()
    for shard in range(9):
        rows = np.arange(shard * 4, shard * 4 + 4)
        bad = {row: f"bad {row}" for row in rows.tolist() if row % 5 == 0}
        view.write_shard(shard, np.array([], np.int64), {}, bad)
        fill(view, np.array([row for row in rows.tolist() if row % 5]))
    shutil.copytree(view.paths.store, template)
    return view


def compacted(view: View) -> dict[str, Any]:
    return compact(CompactOptions(str(view.paths.store)))


def content(path: Path) -> tuple[Any, ...]:
    """Return everything that a reader can see in a newly opened store."""
    store = Store.open(path)
    view = store.view("clips", "net")
    ok = np.flatnonzero(view.status() == 1)
    arrays = [view.read(name, ok).tobytes() for name in view.features]
    return (
        store.catalog("clips").frame().rows(),
        view.status().tolist(),
        view.failures().rows(),
        arrays,
    )


def test_parts_and_failures_are_merged_and_no_row_moves(view: View) -> None:
    before, path = content(view.paths.store), view.paths.store
    done = compacted(view)
    assert (done["catalog_parts"], done["failure_files"], done["orphans"]) == (8, 8, 0)
    merged = {f"000000000000-000000000040.{suffix}" for suffix in ("parquet", "keys")}
    assert {file.name for file in (path / "catalog" / "clips").iterdir()} == merged
    assert [file.name for file in view.paths.beside[0].iterdir()] == ["merged-0.parquet"]
    assert [file.name for file in view.paths.beside[1].iterdir()] == ["merged-0.json"]
    assert done["records"] == done["locks"] > 8
    assert content(path) == before and verify(Store.open(path)) == []
    files = {
        file: file.stat().st_mtime_ns
        for file in path.rglob("*")
        if file.is_file() and file.name != "lock.json"
    }
    done = compacted(view)
    assert (done["catalog_parts"], done["failure_files"], done["orphans"]) == (0, 0, 0)
    assert files == {file: file.stat().st_mtime_ns for file in files}, "there is nothing to do"


def test_open_readers_see_every_row_once(view: View) -> None:
    path = view.paths.store
    store = Store.open(path)
    reader, expected = store.view("clips", "net"), content(path)
    keys = [f"c{n}" for n in range(ROWS)]
    assert reader.catalog.rows(keys).tolist() == list(range(ROWS))
    compacted(view)
    assert reader.catalog.frame().rows() == expected[0] and reader.failures().rows() == expected[2]
    view.catalog.append(pl.DataFrame({"key": ["late"]}))
    assert (
        reader.catalog.rows([*keys, "late"]).tolist() == list(range(ROWS + 1))
        and len(reader.catalog) == ROWS + 1
    )
    assert reader.catalog.keys(np.array([ROWS, 3])) == ["late", "c3"]


@pytest.mark.full
def test_every_row_is_readable_once_at_every_moment(view: View, fill: Make) -> None:
    """Read repeatedly while parts and failures are merged."""
    path = view.paths.store
    expected = content(path)
    reader = Store.open(path).view("clips", "net")
    stop, wrong = threading.Event(), []

    def look() -> None:
        looks = 0
        while not stop.is_set() or not looks:
            looks += 1
            fresh = content(path)
            rows = reader.catalog.frame()["key"].to_list()
            if (
                fresh[0][:ROWS] != expected[0]
                or fresh[2] != expected[2]
                or rows[:ROWS] != [r[0] for r in expected[0]]
            ):
                wrong.append(fresh)
            if any(
                damage.path.startswith(("catalog", "failures"))
                for damage in verify(Store.open(path))
            ):
                wrong.append(verify(Store.open(path)))

    watcher = threading.Thread(target=look)
    watcher.start()
    for n in range(25):
        view.catalog.append(pl.DataFrame({"key": [f"new{n}"]}))
        compacted(view)
    stop.set()
    watcher.join()
    assert not wrong and len(view.catalog) == ROWS + 25


def test_only_orphans_are_deleted(view: View, run: Run) -> None:
    path = view.paths.store
    before = content(path)
    compacted(view)
    kept = {file for file in path.rglob("*") if file.is_file()}
    orphans = [
        path / ".tmp.elsewhere.1.00" / "left.bin",  # of a host that no longer exists: a day old
        view.paths.shard("tokens", 9, 3),  # written but never committed
        view.paths.checksum(9),
        view.paths.failures(9),
        path / "failures" / "clips" / "dropped" / "0.parquet",
        path / "shards" / "texts" / "dropped" / "0.json",
    ]
    mine = [
        path / "notes.txt",
        path / "indexes" / "clips" / "net.faiss",
        view.paths.group.parent / "half" / "c",
    ]
    for file in (*orphans, *mine):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"0123456789")
    old = time.time() - 3 * 24 * 3600
    os.utime(orphans[0].parent, (old, old))
    record = run("compact", path, "--json").json
    assert (record["orphans"], record["orphan_bytes"]) == (6, 60)
    locks = {view.paths.lock(9)}
    assert {file for file in path.rglob("*") if file.is_file()} - locks == kept | set(mine)
    shutil.rmtree(mine[2].parent)
    assert content(path) == before and verify(Store.open(path)) == []


def test_a_shard_whose_writer_still_runs_is_unchanged(view: View) -> None:
    view.paths.checksum(9).parent.mkdir(parents=True, exist_ok=True)
    view.paths.checksum(9).write_bytes(b"of a commit")
    with locked(view.paths.lock(9), wait=False), locked(view.paths.lock(3), wait=False):
        done = compacted(view)
    assert view.paths.checksum(9).exists() and view.paths.failures(3).exists()
    assert (done["failure_files"], done["orphans"]) == (7, 0)
    assert verify(Store.open(view.paths.store)) == []
    assert (compacted(view)["failure_files"], view.paths.checksum(9).exists()) == (1, False)


def test_damage_stops_compaction_before_anything_is_deleted(view: View, run: Run) -> None:
    path = view.paths.store
    part = view.catalog.parts()[3]
    good = part.read_bytes()
    part.write_bytes(good[:-9])
    files = {file for file in path.rglob("*") if file.is_file()}
    status, _, error = run("compact", path)
    assert status == 2 and "000000000015.parquet is not as it was written" in error
    assert files == {file for file in path.rglob("*") if file.is_file()}
    part.write_bytes(good)
    compacted(view)
    merged = view.catalog.parts()[0]
    (merged.parent / part.name).write_bytes(good)  # as after a kill
    merged.write_bytes(merged.read_bytes()[:-9])
    with pytest.raises(StepDiffError, match="is not as it was written"):
        compacted(view)
    assert (merged.parent / part.name).exists(), "the hidden files may be the only copy"
