"""Commits: order of files, shards completed later, failures."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from common.errors import StepDiffError
from common.io import local as commit_files
from store import Feature, Provenance, Store, View

Make = Callable[..., Any]


def row_bytes(view: View, array: str, rows: np.ndarray) -> list[bytes]:
    return [row.tobytes() for row in view.read(array, rows)]


def test_each_shard_is_one_commit_and_its_status_is_written_last(
    make_view: Make, values: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = make_view()
    written: list[str] = []
    replace = os.replace

    def spy(source: Path, target: Path) -> None:
        written.append(str(Path(target).relative_to(view.paths.store)))
        if "status" not in written[-1]:
            assert not view.status().any(), "no row is ok before its status is written"
        replace(source, target)

    monkeypatch.setattr(commit_files.os, "replace", spy)
    rows = np.array([4, 5, 7])
    view.write_shard(1, rows, values(view, rows), {6: "no video"})
    assert written == [
        "arrays.zarr/clips/net/tokens/c/1/0/0",
        "arrays.zarr/clips/net/embedding/c/1/0",
        "arrays.zarr/clips/net/checksum/c/1/0",
        "failures/clips/net/1.parquet",
        "shards/clips/net/1.json",
        "arrays.zarr/clips/net/status/c/1",
    ]
    assert view.status().tolist() == [0, 0, 0, 0, 1, 1, 2, 1, 0, 0, 0]


def test_completing_a_shard_keeps_the_bytes_of_its_ok_rows(make_view: Make, fill: Make, values: Make) -> None:
    view = make_view()
    early = np.array([5, 7])
    fill(view, early)
    before = {name: row_bytes(view, name, early) for name in view.features}
    sums = view.paths.checksum(1).read_bytes()[8:16]
    every = np.arange(4, 8)
    view.write_shard(1, every, values(view, every, seed=1), {})  # other values for rows 5 and 7 too
    assert {name: row_bytes(view, name, early) for name in view.features} == before
    assert view.paths.checksum(1).read_bytes()[8:16] == sums
    late = np.array([4, 6])
    assert (view.read("embedding", late) == values(view, late, seed=1)["embedding"]).all()
    assert view.status()[4:8].tolist() == [1, 1, 1, 1]


def test_rows_added_to_the_catalog_complete_the_last_shard(make_view: Make, fill: Make) -> None:
    view = make_view()
    fill(view)
    reader = Store.open(view.paths.store).view("clips", "net")  # stays open meanwhile
    assert len(reader.status()) == 11
    before = row_bytes(view, "tokens", np.arange(11))
    store = Store.open(view.paths.store)
    store.catalog("clips").append(pl.DataFrame({"key": [f"d{i}" for i in range(4)]}))
    assert reader.status().tolist() == [1] * 11 + [0] * 4, "an array shorter than the catalog reads as absent"
    with pytest.raises(StepDiffError, match="d0 is absent"):
        reader.read("tokens", np.array([11]))
    with pytest.raises(StepDiffError, match=r"takes rows 8 to 10, got 11 to 11: call resize\(\)"):
        fill(view, np.array([11]))
    with store.lock():
        view.resize()
    fill(view, np.arange(11, 15))
    assert row_bytes(view, "tokens", np.arange(11)) == before
    assert reader.status().tolist() == [1] * 15, "an open view sees rows that others add"
    assert reader.read("tokens", np.arange(15)).any(axis=(1, 2)).all()


def test_arrays_grow_only_under_the_planners_lock(make_view: Make, provenance: Provenance) -> None:
    view = make_view()
    with pytest.raises(StepDiffError, match="only under the store's lock"):
        view.resize()
    with pytest.raises(StepDiffError, match="only under the store's lock"):
        Store.open(view.paths.store).create_view("clips", "other", provenance, view.features)


@pytest.mark.parametrize(
    ("bad", "dtype", "reason"),
    [
        (np.nan, "float16", "tokens holds NaN"),
        (np.inf, "float16", "tokens holds infinity"),
        (-np.inf, "float32", "tokens holds infinity"),
        (-7e4, "float16", "tokens holds 7e+04, a magnitude past float16"),
        (7e4, "int8", "tokens holds 7e+04, a magnitude past float16"),
        (np.nan, "int8", "tokens holds NaN"),
    ],
)
def test_only_the_row_that_does_not_fit_fails(
    make_view: Make, values: Make, bad: float, dtype: str, reason: str
) -> None:
    view = make_view({"tokens": Feature((3, 5), dtype), "embedding": Feature((7,), "float32")})
    rows = np.arange(4, 8)
    given = values(view, rows)
    given["tokens"][2, 1, 3] = bad
    view.write_shard(1, rows, given, {})
    assert view.status()[4:8].tolist() == [1, 1, 2, 1]
    assert view.failures().rows() == [("c6", reason)]
    assert (view.read("embedding", np.array([4, 7])) == given["embedding"][[0, 3]]).all()


def test_the_largest_float16_is_stored(make_view: Make, values: Make) -> None:
    view = make_view()
    given = values(view, np.array([0, 1]))
    given["tokens"][0, 0, 0], given["tokens"][1, 0, 0] = 65519, 65520  # rounds down, rounds to infinity
    view.write_shard(0, np.array([0, 1]), given, {})
    assert view.status()[:2].tolist() == [1, 2]
    assert view.read("tokens", np.array([0]))[0, 0, 0] == 65504


def test_a_failure_that_succeeds_on_retry_is_removed_from_the_list(make_view: Make, values: Make) -> None:
    view = make_view()
    rows = np.array([4])
    view.write_shard(1, rows, values(view, rows), {5: "no video", 6: "no frames", 7: "too short"})
    view.write_shard(1, np.array([5]), values(view, np.array([5])), {6: "still no frames"})
    assert view.failures().rows() == [("c6", "still no frames"), ("c7", "too short")]
    on_file = pl.read_parquet(view.paths.failures(1))
    assert on_file.sort("key").rows() == [("c6", "still no frames"), ("c7", "too short")]


def test_a_shard_with_only_failures_is_committed(make_view: Make) -> None:
    view = make_view()
    view.write_shard(2, np.array([], np.int64), {}, {8: "a", 9: "b", 10: "c"})
    assert view.status().tolist() == [0] * 8 + [2] * 3


def test_writing_the_same_rows_again_changes_no_file(make_view: Make, fill: Make) -> None:
    view = make_view()
    fill(view)
    files = {p: p.stat().st_mtime_ns for p in view.paths.store.rglob("*") if p.is_file() and p.suffix != ".lock"}
    fill(view, seed=1)
    assert files == {p: p.stat().st_mtime_ns for p in files}


@pytest.mark.parametrize(
    ("rows", "failures", "message"),
    [
        ([3], {}, "takes rows 4 to 7, got 3 to 3"),
        ([4, 4], {}, "a row is given twice"),
        ([4], {4: "x"}, "a row is given twice, or both"),
    ],
)
def test_rows_outside_the_shard_are_refused(
    make_view: Make, values: Make, rows: list[int], failures: dict[int, str], message: str
) -> None:
    view = make_view()
    with pytest.raises(StepDiffError, match=message):
        view.write_shard(1, np.array(rows), values(view, np.array(rows)), failures)


def test_features_that_do_not_fit_the_view_are_refused(make_view: Make, values: Make) -> None:
    view = make_view()
    given = values(view, np.array([4]))
    with pytest.raises(StepDiffError, match=r"takes \['embedding', 'tokens'\], got \['tokens'\]"):
        view.write_shard(1, np.array([4]), {"tokens": given["tokens"]}, {})
    with pytest.raises(StepDiffError, match=r"tokens is \(1, 3, 4\), needs \(1, 3, 5\)"):
        view.write_shard(1, np.array([4]), {**given, "tokens": given["tokens"][..., :4]}, {})


def test_a_view_refuses_another_provenance_and_reports_the_difference(
    make_view: Make, provenance: Provenance, features: dict[str, Feature]
) -> None:
    view = make_view()
    store = Store.open(view.paths.store)
    other = Provenance(**{**provenance.as_dict(), "weights": "1" * 64, "layer": "first"})
    with store.lock():
        assert store.create_view("clips", "net", provenance, features).rows_per_shard == 4
        with pytest.raises(
            StepDiffError, match=f"weights '{'0' * 64}' against '{'1' * 64}', layer 'last' against 'first'"
        ):
            store.create_view("clips", "net", other, features)
        with pytest.raises(StepDiffError, match="was made differently: features"):
            store.create_view("clips", "net", provenance, {"tokens": Feature((3, 6), "float16")})
        assert store.create_view("clips", "net2", other, features).provenance == other


@pytest.mark.parametrize("name", ["a/b", "..", "a.b", "", "-a", "__a", "é", "a b", "x" * 101])
def test_an_unusable_name_is_refused(make_view: Make, provenance: Provenance, name: str) -> None:
    view = make_view()
    store = Store.open(view.paths.store)
    with store.lock():
        with pytest.raises(StepDiffError, match="is refused"):
            store.create_view("clips", name, provenance, view.features)
        with pytest.raises(StepDiffError, match="is refused"):
            store.create_view("clips", "fine", provenance, {name: Feature((3,), "float16")})
    for ask in (store.catalog, store.views):
        with pytest.raises(StepDiffError, match="no entity"):
            ask(name)


def test_reserved_names_and_sizes_are_refused(make_view: Make, provenance: Provenance) -> None:
    store = Store.open(make_view().paths.store)
    with store.lock():
        for features in ({}, {"scale": Feature((3,), "float16")}, dict.fromkeys("ab", Feature((3,), "int8"))):
            with pytest.raises(StepDiffError):
                store.create_view("clips", "fine", provenance, features)
        with pytest.raises(StepDiffError, match="power of two"):
            store.create_view("clips", "fine", provenance, {"a": Feature((3,), "int8")}, rows_per_shard=3)
    for shape, dtype in (((), "float16"), ((0, 3), "float16"), ((3,), "float64")):
        with pytest.raises(StepDiffError):
            Feature(shape, dtype)
    assert store.views("clips") == ["net"]


def test_a_missing_view_is_refused_and_the_message_lists_the_views(make_view: Make) -> None:
    with pytest.raises(StepDiffError, match="no view 'clip' of clips in .*: there is net"):
        Store.open(make_view().paths.store).view("clips", "clip")


def test_a_folder_that_is_not_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StepDiffError, match="no feature store in"):
        Store.open(tmp_path / "absent")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    with pytest.raises(StepDiffError, match="holds other files"):
        Store.open(tmp_path / "photos", create=True)
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(StepDiffError, match="is a file"):
        Store.open(tmp_path / "file", create=True)
    store = Store.open(tmp_path / "store", create=True)
    for text, message in (
        ('{"format": "stepdiff-store", "version": 99}', "has format version 99, this program reads up to 1"),
        ('{"format": "other"}', "is no feature store"),
        ("{", "is damaged"),
        ("[]", "is not as it was written"),
    ):
        (store.path / "store.json").write_text(text)
        with pytest.raises(StepDiffError, match=message):
            Store.open(store.path)
