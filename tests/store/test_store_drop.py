"""Dropping a view removes all of it or nothing."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import StepDiffError
from common.io import local as commit_files
from store import Provenance, Store, View
from store.__main__ import main
from store.verbs.compact import compact
from store.verbs.options import CompactOptions
from store.verbs.verify import verify

Make = Callable[..., Any]


@pytest.fixture
def view(make_view: Make, fill: Make) -> View:
    view = make_view()
    view.write_shard(1, np.array([], np.int64), {}, {6: "no video"})
    fill(view, np.array([0, 1, 2, 3, 4, 5, 7]))
    return view


def files(view: View) -> list[Path]:
    return [path for folder in (view.paths.group, *view.paths.beside) for path in folder.rglob("*") if path.is_file()]


def drop(view: View, *more: str) -> int:
    return main(["drop", str(view.paths.store), "--view", view.name, *more])


def test_without_yes_nothing_is_removed(view: View, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(view)
    assert drop(view) == 1
    assert "would drop view net of clips in" in (out := capsys.readouterr().out) and "give --yes" in out
    assert files(view) == before and verify(Store.open(view.paths.store)) == []


def test_drop_removes_every_file_of_the_view(view: View, capsys: pytest.CaptureFixture[str]) -> None:
    store = view.paths.store
    index = store / "indexes" / "clips" / "net.faiss"
    index.parent.mkdir(parents=True)
    index.write_bytes(b"index")
    (index.parent / "net2.faiss").write_bytes(b"of another")
    count = len(files(view))
    assert drop(view, "--yes", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["dropped"] and record["files"] == count and record["stale"] == [str(index)]
    assert not any(folder.exists() for folder in (view.paths.group, *view.paths.beside))
    assert Store.open(store).views("clips") == [] and len(Store.open(store).catalog("clips")) == 11
    assert not list(store.glob(".tmp*")) and verify(Store.open(store)) == []
    assert drop(view, "--yes") == 2
    assert "error: no view 'net' of clips" in capsys.readouterr().err


def test_a_kill_at_any_step_leaves_the_whole_view_or_none(
    view: View, fill: Make, provenance: Provenance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kill before the first rename and before each later one."""
    store, rename = view.paths.store, commit_files.os.rename
    for step in range(3):
        done: list[str] = []

        def dies(source: Path, target: Path, step: int = step, done: list[str] = done) -> None:
            if len(done) == step:
                raise KeyboardInterrupt
            done.append(str(source))
            rename(source, target)

        monkeypatch.setattr(commit_files.os, "rename", dies)
        with pytest.raises(KeyboardInterrupt):  # handled by `common.cli.command`
            drop(view, "--yes")
        monkeypatch.setattr(commit_files.os, "rename", rename)
        again = Store.open(store)
        assert verify(again) == []
        assert again.views("clips") == ([] if step else ["net"])
        if not step:
            continue
        if step == 1:  # a new view of that name starts from nothing
            with again.lock():
                new = again.create_view("clips", "net", provenance, view.features, 4)
            assert not new.status().any() and not len(new.failures())
            new.write_shard(1, np.array([], np.int64), {}, {6: "no video"})
            fill(new, np.array([4, 5]))
            assert verify(again) == []
            view = new
        else:  # compact removes the remaining files
            assert compact(CompactOptions(str(store))).orphans > 0
            assert not any(folder.exists() for folder in view.paths.beside)


def test_an_open_reader_reports_that_the_view_was_dropped(view: View, provenance: Provenance, fill: Make) -> None:
    rows = np.array([0, 1])
    reader = Store.open(view.paths.store).view("clips", "net")
    reader.read("tokens", rows)
    assert drop(view, "--yes") == 0
    with pytest.raises(StepDiffError, match="view net of clips in .* was dropped: open it again"):
        reader.read("tokens", rows)
    store = Store.open(view.paths.store)
    with store.lock():
        fill(store.create_view("clips", "net", provenance, view.features, 4), np.array([4]))
    with pytest.raises(StepDiffError, match="was dropped: open it again"):
        reader.read("tokens", rows)


def test_an_old_writer_does_not_write_into_a_new_view_of_the_same_name(
    view: View, provenance: Provenance, fill: Make
) -> None:
    leftover = Store.open(view.paths.store).view("clips", "net")
    assert drop(view, "--yes") == 0
    store = Store.open(view.paths.store)
    with store.lock():
        made = store.create_view("clips", "net", replace(provenance, weights="f" * 64), view.features, 4)
    with pytest.raises(StepDiffError, match="was dropped: open it again"):
        fill(leftover)
    assert not made.status().any()


def test_a_store_that_is_being_written_is_unchanged(view: View, capsys: pytest.CaptureFixture[str]) -> None:
    with Store.open(view.paths.store).lock():
        assert drop(view, "--yes") == 2
    assert "is being written by process" in capsys.readouterr().err and files(view)
