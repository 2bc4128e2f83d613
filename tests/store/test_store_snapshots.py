"""Snapshots: made whole, read from anywhere, kept by writers, listed, deleted, and what they refuse."""

import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io import local
from stepdiff.common.io.sealed import BLANK
from store import Batches, Feature, Provenance, Store, View
from store.__main__ import main
from store.format.layout import write_json
from store.snapshots.manifest import names, read_snapshot, snapshots
from store.snapshots.rows_then import figures_of
from store.snapshots.tag import tag
from store.verbs.verify import verify

ROOT = Path(__file__).parents[2]
Make = Callable[..., Any]


@pytest.fixture
def store(filled: View, tmp_path: Path) -> Store:
    """A store of 11 clips; c6 has failed and c9 is absent in view net, and snapshot v1 says so."""
    found = Store.open(tmp_path / "store")
    with found.lock():
        found.catalog("clips").update(pl.DataFrame({"key": ["c0", "c1"], "step": ["fry", "boil"]}))
    tag(found, "v1", "the first")
    return found


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    status = main([str(word) for word in words])
    return status, *capsys.readouterr()


def rewrite(store: Store, values: Make, rows: list[int], seed: int = 1) -> None:
    """Withdraw rows and compute them again, with other values."""
    view, wanted = store.view("clips", "net"), np.array(rows)
    with store.lock():
        view.withdraw(wanted)
        for shard in np.unique(wanted // view.rows_per_shard).tolist():
            here = wanted[wanted // view.rows_per_shard == shard]
            view.write_shard(shard, here, values(view, here, seed), {}, {"device": "cpu"})


def test_a_row_that_a_snapshot_names_keeps_its_bytes_whatever_happens_to_it_afterwards(
    store: Store, values: Make
) -> None:
    rows = np.array([0, 1, 2, 3, 4, 5, 7, 8, 10])
    before = store.view("clips", "net").read("tokens", rows)
    for seed in (1, 2, 3):
        rewrite(store, values, [0, 2, 4], seed)
    then = Store.open(store.path, at="v1").view("clips", "net")
    assert np.array_equal(then.read("tokens", rows), before)
    now = store.view("clips", "net").read("tokens", rows)
    assert (now != before).any(axis=(1, 2)).tolist() == [True, False, True, False, True, False, False, False, False]
    assert len(list((store.path / "kept" / "clips" / "net").iterdir())) == 2  # shards; versions 2 and 3 have no name
    assert verify(store) == []


def test_metadata_are_those_of_the_snapshot_whatever_was_updated_appended_or_merged_since(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    before = store.catalog("clips").frame()
    store.catalog("clips").append(pl.DataFrame({"key": ["later"], "step": ["cut"], "cook": ["me"]}))
    with store.lock():
        store.catalog("clips").update(pl.DataFrame({"key": ["c1", "c2"], "step": ["bake", "stir"]}))
    assert run(capsys, "compact", store.path)[0] == 0
    then = Store.open(store.path, at="v1").catalog("clips")
    assert then.frame().equals(before) and len(then) == 11
    assert then.rows(["c10", "later", "none"]).tolist() == [10, -1, -1]
    assert then.keys(np.array([1, 10])) == ["c1", "c10"]
    with pytest.raises(StepDiffError, match="no row 11 among the 11 clips of snapshot v1"):
        then.keys(np.array([11]))
    like = pl.DataFrame(schema={"key": pl.String, "step": pl.String})
    assert pl.concat(then.blocks(like)).equals(before.select("row", "key", "step"))
    assert then.select(np.array([1, 11]), like).rows() == [(1, "c1", "boil")]
    assert store.catalog("clips").select(np.array([1]), like)["step"].to_list() == ["bake"]


def test_rows_have_the_status_that_they_had(store: Store, values: Make, capsys: pytest.CaptureFixture[str]) -> None:
    before = store.view("clips", "net").status().tolist()
    rewrite(store, values, [9])
    with store.lock():
        store.view("clips", "net").write_shard(0, np.array([], np.int64), {}, {})
    assert run(capsys, "forget", store.path, "c2", "--reason", "asked")[0] == 0
    then = Store.open(store.path, at="v1").view("clips", "net")
    assert then.status().tolist() == before
    assert then.failures().rows() == [("c6", "no video")]
    with pytest.raises(StepDiffError, match="c9 was absent in view net of clips at snapshot v1: leave it out"):
        then.read("tokens", keys=["c0", "c9"])
    with pytest.raises(StepDiffError, match="c6 was failed in view net"):
        then.read("tokens", keys="c6")
    then.read("tokens", keys="c2")  # forgotten afterwards
    tag(store, "v2")
    later = Store.open(store.path, at="v2")
    with pytest.raises(StepDiffError, match="c2 was absent"):
        later.view("clips", "net").read("tokens", keys="c2")
    assert json.loads(run(capsys, "rows", f"{store.path}@v1", "--status", "forgotten", "--json")[1])["rows"] == []
    gone = json.loads(run(capsys, "rows", f"{store.path}@v2", "--status", "forgotten", "--json")[1])["rows"]
    assert [(row["key"], row["net"], row["reason"]) for row in gone] == [("c2", "forgotten", "asked")]
    assert run(capsys, "forget", store.path, "c2", "--undo")[0] == 0
    assert later.forgotten("clips").rows() == [(2, "c2", "asked")]
    assert "11 clips (1 forgotten)" in run(capsys, "info", later.location)[1]
    assert "11 clips\n" in run(capsys, "info", f"{store.path}@v1")[1]


def test_a_list_of_forgotten_rows_that_is_damaged_or_lost_is_found(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "forget", store.path, "c2")[0] == 0
    tag(store, "v2")
    path = store.path / "snapshots/v2/clips/forgotten.parquet"
    path.write_bytes(path.read_bytes()[:-9] + b"x" * 9)
    assert "snapshots/v2/snapshot.json names what is damaged or gone (" in run(capsys, "verify", store.path)[1]
    shutil.copy(store.path / "forgotten/clips.parquet", path)
    assert run(capsys, "verify", store.path)[0] == 0
    assert run(capsys, "forget", store.path, "c3")[0] == 0
    shutil.copy(store.path / "forgotten/clips.parquet", path)
    with pytest.raises(StepDiffError, match="forgotten.parquet has 2 rows, its snapshot 1: restore the file"):
        Store.open(store.path, at="v2").forgotten("clips")


def test_a_snapshot_of_an_earlier_version_has_no_list_of_forgotten_rows(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "forget", store.path, "c2")[0] == 0
    tag(store, "v2")
    path = store.path / "snapshots/v2/snapshot.json"
    old = json.loads(path.read_bytes())
    assert old["catalogs"]["clips"].pop("forgotten") == 1
    path.unlink()
    write_json(path, {**old, "seal": BLANK})
    assert len(Store.open(store.path, at="v2").forgotten("clips")) == 0
    assert run(capsys, "verify", store.path)[0] == 0


def test_a_row_that_is_recalled_and_computed_while_a_snapshot_is_made_is_not_in_its_list(
    store: Store, values: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "forget", store.path, "c2", "c9")[0] == 0

    def recalled(*given: Any) -> Any:
        assert run(capsys, "forget", store.path, "c2", "--undo")[0] == 0
        rewrite(store, values, [2])
        return figures_of(*given)

    monkeypatch.setattr("store.snapshots.tag.figures_of", recalled)
    tag(store, "v2")
    assert Store.open(store.path, at="v2").forgotten("clips")["key"].to_list() == ["c9"]


def test_a_snapshot_is_opened_by_its_name_after_the_path_and_travels_to_processes(store: Store) -> None:
    rows = np.array([0, 3])
    expected = store.view("clips", "net").read("tokens", rows)
    then = Store.open(f"{store.path}@v1")
    view = pickle.loads(pickle.dumps(then.view("clips", "net")))
    assert np.array_equal(view.read("tokens", rows), expected)
    assert pickle.loads(pickle.dumps(then)).at == "v1" and store.at is None
    batches = list(Batches(then.view("clips", "net"), "tokens", batch_size=4))
    assert sorted(row for batch in batches for row in batch.rows.tolist()) == [0, 1, 2, 3, 4, 5, 7, 8, 10]
    store.tag("v2", "the second")
    assert store.snapshots() == ["v1", "v2"]
    assert repr(then).endswith("clips: 11 rows; views: net")


@pytest.mark.parametrize("name", ["none", "../store", "", "a b"])
def test_an_unknown_or_impossible_name_is_refused_in_one_line(store: Store, name: str) -> None:
    with pytest.raises(StepDiffError, match="no snapshot 'none' .* there is v1|is refused"):
        Store.open(store.path, at=name)


def test_a_snapshot_cannot_be_changed(
    store: Store, provenance: Provenance, features: dict[str, Feature], capsys: pytest.CaptureFixture[str]
) -> None:
    then = Store.open(store.path, at="v1")
    view, frame = then.view("clips", "net"), pl.DataFrame({"key": ["x"]})
    for change in (
        lambda: then.lock(),
        lambda: then.writer("clips", "net", provenance, features),
        lambda: then.create_view("clips", "other", provenance, features),
        lambda: view.resize(),
        lambda: view.withdraw(np.array([0])),
        lambda: view.write_shard(0, np.array([0]), {}, {}),
        lambda: then.catalog("clips").append(frame),
        lambda: then.catalog("clips").update(frame),
        lambda: Store.open(store.path, create=True, at="v1"),
        lambda: Store.open(f"{store.path}@v1", create=True),
    ):
        with pytest.raises(StepDiffError, match="snapshot v1.* cannot be changed"):
            change()
    for verb, *more in (["forget", "c0"], ["compact"], ["tag", "v2"], ["tag", "v1", "--delete"], ["verify"], ["log"]):
        assert run(capsys, verb, f"{store.path}@v1", *more)[0] == 2


def test_a_name_is_given_once(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, error = run(capsys, "tag", store.path, "v1")
    assert status == 2 and "snapshot v1 of" in error and "exists: give another name, or delete it" in error


def test_a_snapshot_exists_completely_or_not_at_all(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real, left = local.LocalPath.put, [0]

    def failing(self: local.LocalPath, *given: Any, **named: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise StepDiffError("no space")
        real(self, *given, **named)

    monkeypatch.setattr(local.LocalPath, "put", failing)
    for puts in range(10):
        left[0] = puts
        try:
            tag(store, "v2")
            break
        except StepDiffError:
            assert names(store.path) == (["v1"], False)
    assert 1 < puts < 9 and names(store.path) == (["v1", "v2"], False)


def test_while_a_snapshot_is_being_made_writers_keep_whatever_it_might_name(store: Store, values: Make) -> None:
    shutil.rmtree(store.path / "snapshots" / "v1")
    (store.path / "snapshots" / "v2").mkdir()
    rewrite(store, values, [0])
    with store.lock():
        store.catalog("clips").update(pl.DataFrame({"key": ["c0"], "step": ["cut"]}))
    kept = {path.name for path in (store.path / "kept").rglob("*") if path.is_file()}
    assert kept == {"tokens", "embedding", "checksum", "status", "000000000000.parquet"}


def test_without_snapshots_nothing_is_kept(filled: View, values: Make, tmp_path: Path) -> None:
    rewrite(Store.open(tmp_path / "store"), values, [0, 1])
    assert not (tmp_path / "store" / "kept").exists()


def test_compact_deletes_what_no_snapshot_names_any_more_and_nothing_else(
    store: Store, values: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    tag(store, "v2")
    rewrite(store, values, [0])
    with store.lock():
        store.catalog("clips").update(pl.DataFrame({"key": ["c0"], "step": ["cut"]}))
    tag(store, "v3")
    rewrite(store, values, [0], 2)
    kept = {path for path in (store.path / "kept").rglob("*") if path.is_file()}
    for name, left in (("v2", len(kept)), ("v1", 4), ("v3", 0)):
        assert run(capsys, "tag", store.path, name, "--delete")[0] == 0
        assert run(capsys, "compact", store.path)[0] == 0
        assert len([path for path in (store.path / "kept").rglob("*") if path.is_file()]) == left
        for one in snapshots(store.path):
            Store.open(store.path, at=one.name).view("clips", "net").read("tokens", [0, 1])
    assert run(capsys, "tag", store.path, "v1", "--delete")[0] == 2


def test_a_row_that_a_snapshot_names_and_that_no_longer_has_its_bytes_anywhere_is_found(
    store: Store, values: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(store, values, [0, 5])
    (version,) = (store.path / "kept" / "clips" / "net").glob("0-*")
    data = bytearray((version / "tokens").read_bytes())
    data[3] ^= 1
    (version / "tokens").write_bytes(data)
    status, out, _ = run(capsys, "verify", store.path)
    assert status == 1 and "names rows of view net whose features of then are gone or damaged" in out and ": c0" in out
    with pytest.raises(StepDiffError, match="tokens is not as it was written"):
        Store.open(store.path, at="v1").view("clips", "net").read("tokens", [0])
    shutil.rmtree(store.path / "kept")
    assert ": c0, c5" in run(capsys, "verify", store.path)[1]
    with pytest.raises(StepDiffError, match="c5 of view net of clips is not as snapshot v1 names it, and its features"):
        Store.open(store.path, at="v1").view("clips", "net").read("tokens", [4, 5])
    assert len(Store.open(store.path, at="v1").view("clips", "net").read("tokens", [4, 7])) == 2


def test_a_row_is_read_while_a_writer_has_replaced_the_features_and_not_yet_their_checksums(
    store: Store, values: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    before = store.view("clips", "net").read("tokens", [0, 1])
    sums = store.path / "arrays.zarr/clips/net/checksum/c/0/0"
    old, status = sums.read_bytes(), (store.path / "arrays.zarr/clips/net/status/c/0").read_bytes()
    rewrite(store, values, [0])
    sums.write_bytes(old)  # as a writer that was killed between the renames leaves them
    then = Store.open(store.path, at="v1").view("clips", "net")
    assert np.array_equal(then.read("tokens", [0, 1]), before) and len(status) == 8
    with store.lock():
        store.view("clips", "net").withdraw(np.array([0]))
    assert run(capsys, "verify", store.path)[0] == 0
    shutil.rmtree(store.path / "kept")
    with pytest.raises(StepDiffError, match="c0: stored tokens of view net of clips is not as snapshot v1 names it"):
        Store.open(store.path, at="v1").view("clips", "net").read("tokens", [0, 1])
    assert "names rows of view net whose features of then are gone or damaged" in run(capsys, "verify", store.path)[1]


def test_rows_whose_checksums_are_damaged_are_kept_by_their_bytes(store: Store, values: Make) -> None:
    before = store.view("clips", "net").read("tokens", [0, 1, 2, 3])
    sums = store.path / "arrays.zarr/clips/net/checksum/c/0/0"
    sums.write_bytes(b"x" + sums.read_bytes()[1:])
    rewrite(store, values, [0, 1, 2, 3])
    assert np.array_equal(Store.open(store.path, at="v1").view("clips", "net").read("tokens", [0, 1, 2, 3]), before)


def test_a_damaged_or_impossible_snapshot_is_refused_in_one_line(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    path = store.path / "snapshots" / "v1" / "snapshot.json"
    path.write_bytes(path.read_bytes().replace(b'"ok": 9', b'"ok": 8'))
    with pytest.raises(StepDiffError, match=r"snapshot.json is no snapshot .*: restore it, or delete it"):
        read_snapshot(store.path, "v1")
    assert "snapshots/v1/snapshot.json is refused" in run(capsys, "verify", store.path)[1]
    assert run(capsys, "log", store.path)[0] == 2


def test_a_view_that_a_snapshot_names_is_not_dropped(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, error = run(capsys, "drop", store.path, "--view", "net", "--yes")
    assert status == 2 and "view net of clips" in error and "is in snapshot v1: delete that first" in error
    assert run(capsys, "tag", store.path, "v1", "--delete")[0] == 0
    (store.path / "snapshots" / "begun").mkdir()
    assert "may be in a snapshot that is being made" in run(capsys, "drop", store.path, "--view", "net", "--yes")[2]
    (store.path / "snapshots" / "begun").rmdir()
    assert run(capsys, "drop", store.path, "--view", "net", "--yes")[0] == 0


def test_a_view_that_is_dropped_while_a_snapshot_is_made_ends_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from store.snapshots import tag as module

    real = module.write_group

    def write(*given: Any) -> None:
        real(*given)
        shutil.rmtree(store.path / "arrays.zarr" / "clips" / "net")  # by a command that saw no snapshot

    monkeypatch.setattr(module, "write_group", write)
    with pytest.raises(StepDiffError, match="view net of clips in .* was dropped"):
        tag(store, "v2")
    assert names(store.path) == (["v1"], False)


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
def test_a_snapshot_is_read_where_nothing_may_be_written(store: Store, values: Make) -> None:
    rewrite(store, values, [0])
    done = subprocess.run(["chmod", "-R", "a-w", str(store.path)])
    assert done.returncode == 0
    assert Store.open(store.path, at="v1").catalog("clips").rows(["c3"]).tolist() == [3]
    subprocess.run(["chmod", "-R", "u+w", str(store.path)], check=True)
