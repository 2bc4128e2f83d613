"""Snapshots: made whole, kept while the store changes, listed, deleted, and what they refuse."""

import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from stepdiff_core.errors import StepDiffError
from store import Batches, Feature, Provenance, Store, View
from store.__main__ import main
from store.snapshots.snapshot import figures_of, names, tag
from store.verbs.verify import verify
from tests.store.conftest import Run
from tests.stores import write_view

FINISHED = [0, 1, 2, 3, 4, 5, 7, 8, 10]
Make = Callable[..., Any]


@pytest.fixture
def store(filled: View, tmp_path: Path) -> Store:
    """A store of 11 clips; c6 has failed and c9 is absent in view net, and snapshot v1 says so."""
    store = Store.open(tmp_path / "store")
    with store.lock():
        store.catalog("clips").update(pl.DataFrame({"key": ["c0", "c1"], "step": ["fry", "boil"]}))
    store.tag("v1", "the first")
    return store


def rewrite(store: Store, values: Make, rows: list[int], seed: int = 1) -> None:
    """Withdraw rows and compute them again, with other values but for seed 0."""
    view, numbers = store.view("clips", "net"), np.array(rows)
    with store.lock():
        view.withdraw(numbers)
        for shard in np.unique(numbers // view.rows_per_shard).tolist():
            here = numbers[numbers // view.rows_per_shard == shard]
            view.write_shard(shard, here, values(view, here, seed), {}, {"device": "cpu"})


def test_a_snapshot_keeps_its_bytes_and_takes_no_space(
    store: Store, values: Make, run: Run
) -> None:
    folder = store.path / "snapshots/v1"
    links = [path for path in folder.rglob("*") if path.is_file() and path.name != "about.json"]
    assert len(links) > 20 and all(
        path.samefile(store.path / path.relative_to(folder)) for path in links
    )
    view, frame = store.view("clips", "net"), store.catalog("clips").frame()
    before = {name: view.read(name, FINISHED) for name in view.features}
    for seed in (1, 2):
        rewrite(store, values, [0, 2, 4], seed)
    with store.lock():
        store.catalog("clips").append(
            pl.DataFrame({"key": ["later"], "step": ["cut"], "cook": ["me"]})
        )
        store.catalog("clips").update(pl.DataFrame({"key": ["c1", "c2"], "step": ["bake", "stir"]}))
    assert run("compact", store.path).status == 0
    then = Store.open(store.path, at="v1")
    for name, expected in before.items():
        assert np.array_equal(then.view("clips", "net").read(name, FINISHED), expected)
    changed = (store.view("clips", "net").read("tokens", FINISHED) != before["tokens"]).any(
        axis=(1, 2)
    )
    assert np.flatnonzero(changed).tolist() == [0, 2, 4]
    assert then.catalog("clips").frame().equals(frame)
    assert then.catalog("clips").rows(["c10", "later", "none"]).tolist() == [10, -1, -1]
    assert verify(store) == []


def test_rows_have_the_status_that_they_had(store: Store, values: Make, run: Run) -> None:
    before = store.view("clips", "net").status().tolist()
    rewrite(store, values, [9])
    assert run("forget", store.path, "c2", "--reason", "asked").status == 0
    then = Store.open(store.path, at="v1").view("clips", "net")
    assert then.status().tolist() == before
    assert then.failures().rows() == [("c6", "no video")]
    with pytest.raises(
        StepDiffError, match="c9 was absent in view net of clips at snapshot v1: leave it out"
    ):
        then.read("tokens", keys=["c0", "c9"])
    with pytest.raises(StepDiffError, match="c6 was failed in view net"):
        then.read("tokens", keys="c6")
    then.read("tokens", keys="c2")  # forgotten afterwards
    store.tag("v2")
    later = Store.open(store.path, at="v2")
    with pytest.raises(StepDiffError, match="c2 was absent"):
        later.view("clips", "net").read("tokens", keys="c2")
    assert run("rows", f"{store.path}@v1", "--status", "forgotten", "--json").json["rows"] == []
    gone = run("rows", f"{store.path}@v2", "--status", "forgotten", "--json").json["rows"]
    assert [(row["key"], row["net"], row["reason"]) for row in gone] == [
        ("c2", "forgotten", "asked")
    ]
    assert run("forget", store.path, "c2", "--undo").status == 0
    assert later.forgotten("clips").rows() == [(2, "c2", "asked")]
    assert "11 clips (1 forgotten)" in run("info", later.location).out
    assert "@v1: 11 clips\n" in run("info", f"{store.path}@v1").out


def test_a_snapshot_is_opened_by_name_or_folder_and_pickled(store: Store) -> None:
    expected = store.view("clips", "net").read("tokens", [0, 3])
    then = Store.open(f"{store.path}@v1")
    view = pickle.loads(pickle.dumps(then.view("clips", "net")))
    assert np.array_equal(view.read("tokens", [0, 3]), expected)
    assert pickle.loads(pickle.dumps(then)).at == "v1" and store.at is None
    assert Store.open(store.path / "snapshots/v1").location == then.location
    batches = list(Batches(then.view("clips", "net"), "tokens", batch_size=4))
    assert sorted(row for batch in batches for row in batch.rows.tolist()) == FINISHED
    with store.lock():
        store.create_view("clips", "another", view.provenance, view.features)
    for name in ("b", "a"):  # within one second
        store.tag(name)
    assert Store.open(store.path, at="a").views("clips") == ["another", "net"]
    assert store.snapshots() == ["v1", "b", "a"]
    assert repr(then) == f"Store({store.path}@v1)\n  clips: 11 rows; views: net"


@pytest.mark.parametrize("name", ["none", "../store", "", "a b"])
def test_an_unknown_or_impossible_name_is_refused_in_one_line(store: Store, name: str) -> None:
    with pytest.raises(StepDiffError, match="no snapshot 'none' .* there is v1|is refused"):
        Store.open(store.path, at=name)


def test_a_snapshot_cannot_be_changed(
    store: Store, provenance: Provenance, features: dict[str, Feature], run: Run
) -> None:
    then, frame = Store.open(store.path, at="v1"), pl.DataFrame({"key": ["x"]})
    before = {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()}
    for change in (
        lambda: then.lock().__enter__(),
        lambda: then.writer("clips", "net", provenance, features).__enter__(),
        lambda: then.create_view("clips", "other", provenance, features),
        lambda: then.tag("v2"),
        lambda: then.view("clips", "net").write_shard(0, np.array([0]), {}, {}),
        lambda: then.catalog("clips").append(frame),
        lambda: then.catalog("clips").update(frame),
        lambda: Store.open(store.path, create=True, at="v1"),
        lambda: Store.open(f"{store.path}@v1", create=True),
        lambda: Store.open(store.path / "snapshots/v1", create=True),
    ):
        with pytest.raises(
            StepDiffError, match="snapshot v1.* cannot be changed: give the store without it"
        ):
            change()
    for change in (
        lambda: then.view("clips", "net").resize(),
        lambda: then.view("clips", "net").withdraw(np.array([0])),
    ):
        with pytest.raises(StepDiffError, match="only under the store's lock"):
            change()
    for verb, *more in (
        ["forget", "c0"],
        ["compact"],
        ["tag", "v2"],
        ["tag", "v1", "--delete"],
        ["verify"],
        ["log"],
    ):
        assert run(verb, f"{store.path}@v1", *more).status == 2
    assert "v1 of" in run("tag", store.path, "v1").errors, "a name is given once"
    error = run("tag", store.path, "now").errors
    assert error.endswith(
        "name now is refused: store log calls the current state so; give another name\n"
    )
    assert before == {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()}


def test_files_that_cannot_have_more_links_are_copied(
    filled: View, values: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of another user, or with 65,000 links in ext4."""

    def refuse(*arguments: Any, **named: Any) -> None:
        raise OSError(errno.EMLINK, "too many links")

    store = Store.open(tmp_path / "store")
    with monkeypatch.context() as patched:
        patched.setattr(os, "link", refuse)
        tag(store.path, "v1")
    before = filled.read("tokens", FINISHED)
    rewrite(store, values, [0, 10])
    assert np.array_equal(
        Store.open(store.path, at="v1").view("clips", "net").read("tokens", FINISHED), before
    )
    assert verify(store) == []


@pytest.mark.parametrize("change", ["metadata", "forgotten", "compacted"])
def test_a_tag_begins_again_where_the_store_changed_meanwhile(
    store: Store, values: Make, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """A snapshot never has the features of one video with the metadata of another, nor a forgotten
    row."""
    link, calls = os.link, list[Any]()

    def other() -> None:
        if change == "metadata":
            rewrite(store, values, [0])
            with store.lock():
                store.catalog("clips").update(pl.DataFrame({"key": ["c0"], "step": ["bake"]}))
        elif change == "forgotten":
            assert main(["forget", str(store.path), "c0"]) == 0
        else:
            store.catalog("clips").append(pl.DataFrame({"key": ["new"]}))
            assert main(["compact", str(store.path)]) == 0

    def once(source: Any, target: Any, **named: Any) -> None:
        link(source, target, **named)
        if "/tokens/c/2/" in str(source) and not calls:
            calls.append(source)
            other()

    monkeypatch.setattr(os, "link", once)
    store.tag("v2")
    assert calls
    then = Store.open(store.path, at="v2")
    assert then.catalog("clips").frame().equals(store.catalog("clips").frame())
    assert then.forgotten("clips").equals(store.forgotten("clips"))
    assert figures_of(then.view("clips", "net")) == figures_of(store.view("clips", "net"))
    assert verify(store) == []


def test_deleting_a_snapshot_frees_what_it_alone_has(store: Store, values: Make, run: Run) -> None:
    rewrite(store, values, [0])
    status, _, error = run("drop", store.path, "--view", "net", "--yes")
    assert (
        status == 2
        and "view net of clips" in error
        and "is in snapshot v1: delete that first" in error
    )
    assert run("tag", store.path, "v1", "--delete") == (
        0,
        f"snapshot v1 of {store.path} deleted\n",
        "",
    )
    assert (
        not list((store.path / "snapshots").iterdir())
        and run("tag", store.path, "v1", "--delete").status == 2
    )
    assert all(path.stat().st_nlink == 1 for path in store.path.rglob("*") if path.is_file())
    assert run("drop", store.path, "--view", "net", "--yes").status == 0


def test_withdrawn_damage_stays_in_a_snapshot(store: Store, values: Make, run: Run) -> None:
    file = "arrays.zarr/clips/net/tokens/c/0/0/0"
    with open(store.path / file, "r+b") as damaged:  # in place, under all names of the file
        byte = os.pread(damaged.fileno(), 1, 9)[0]
        os.pwrite(damaged.fileno(), bytes([byte ^ 1]), 9)
    assert [one.path for one in verify(store)] == [file], "shards that both have are read once"
    status, out, _ = run("verify", store.path, "--withdraw")
    assert status == 1 and "damaged files: 2, clips: 1; withdrawn: 1 files" in out
    rewrite(store, values, [0], 0)
    assert [one.path for one in verify(store)] == [f"snapshots/v1/{file}"]


def test_what_is_lost_or_damaged_in_a_snapshot_is_found(
    store: Store, values: Make, run: Run
) -> None:
    rewrite(store, values, [0])
    folder = store.path / "snapshots/v1"
    for path, message in (
        (
            "arrays.zarr/clips/net/tokens/c/0/0/0",
            "tokens/c/0/0/0 has 1 rows that are not as they were written: c0\n",
        ),
        # keys are lost too
        ("catalog/clips/000000000000.parquet", "parquet is not as it was written: row 0, row 1"),
        ("about.json", "snapshots/v1/about.json is refused ("),
    ):
        data = (folder / path).read_bytes()
        (folder / path).unlink()  # the link alone
        (folder / path).write_bytes(data[:9] + bytes([data[9] ^ 1]) + data[10:])
        status, out, _ = run("verify", store.path)
        assert (
            status == 1
            and message in out
            and f"python -m store tag {store.path} v1 --delete" in out
        )
        (folder / path).write_bytes(data)
    (folder / "arrays.zarr/clips/net/status/c/0").rename(store.path / "elsewhere")
    assert (
        "about.json names rows of view net that are lost or changed"
        in run("verify", store.path).out
    )


def test_the_log_says_what_changed(store: Store, values: Make, run: Run) -> None:
    rewrite(store, values, [9])
    store.tag("v2")
    with store.lock():
        store.view("clips", "net").withdraw(np.array([0, 1]))
    entries = run("log", store.path, "--json").json["entries"]
    figures = [(one["name"], one["ok"], one["failed"], one["new"]) for one in entries]
    assert figures == [("now", 8, 1, -2), ("v2", 10, 1, 1), ("v1", 9, 1, 9)]
    commits = [one["commit"] for one in entries]
    assert len(set(commits)) == 3 and commits[0] == figures_of(store.view("clips", "net")).commit
    rewrite(store, values, [2])  # the same rows are finished
    again = run("log", store.path, "--json").json["entries"]
    assert [one["commit"] for one in again[1:]] == commits[1:] and again[0]["commit"] != commits[0]
    out = run("log", store.path).out
    assert "the first" in out and "+1" in out and "-2" in out and commits[2] in out


@pytest.mark.parametrize("remote", [pytest.param("bucket", marks=pytest.mark.full), "memory"])
def test_an_object_store_has_copies(
    request: pytest.FixtureRequest,
    provenance: Provenance,
    features: dict[str, Feature],
    values: Make,
    remote: str,
    run: Run,
) -> None:
    root = (
        request.getfixturevalue("bucket") if remote == "bucket" else f"memory://{request.node.name}"
    )
    store = Store.open(f"{root}/features", create=True)
    before = write_view(
        store, 6, features, failures={"c6": "no video"}, by=provenance, shard=4
    ).read("tokens", range(6))
    store.tag("v1")
    rewrite(store, values, [0, 5])
    then = Store.open(f"{store.path}@v1").view("clips", "net")
    assert np.array_equal(then.read("tokens", range(6)), before)
    assert then.failures().rows() == [("c6", "no video")] and verify(store) == []
    (store.path / "snapshots" / "v2" / "begun.json").put([b"{}"])  # as a killed process leaves it
    assert (
        "another name, or delete it with store tag --delete v2"
        in run("tag", store.path, "v2").errors
    )
    assert (
        f"left it: python -m store tag {store.path} v2 --delete removes it"
        in run("log", store.path).out
    )
    assert run("tag", store.path, "v2", "--delete").status == 0 and names(store.path) == (
        ["v1"],
        [],
    )
    assert run("compact", store.path).status == 0 and store.snapshots() == ["v1"]
