"""The list of snapshots: their order, what changed, and what a killed `store tag` left."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stepdiff.common.io.sealed import BLANK
from store import Store, View
from store.__main__ import main
from store.format.layout import write_json
from store.snapshots.manifest import names, read_snapshot
from store.snapshots.rows_then import figures_of
from store.snapshots.tag import tag

ROOT = Path(__file__).parents[2]
Make = Callable[..., Any]


@pytest.fixture
def store(filled: View, tmp_path: Path) -> Store:
    """A store of 11 clips; c6 has failed and c9 is absent in view net, and snapshot v1 says so."""
    found = Store.open(tmp_path / "store")
    tag(found, "v1", "the first")
    return found


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    status = main([str(word) for word in words])
    return status, *capsys.readouterr()


def compute(store: Store, values: Make, row: int) -> None:
    """Withdraw a row and compute it again, with other values."""
    withdraw(store, row)
    view = store.view("clips", "net")
    view.write_shard(row // view.rows_per_shard, np.array([row]), values(view, np.array([row]), 1), {}, {})


def withdraw(store: Store, *rows: int) -> None:
    with store.lock():
        store.view("clips", "net").withdraw(np.array(rows))


def test_the_log_says_what_changed(store: Store, values: Make, capsys: pytest.CaptureFixture[str]) -> None:
    compute(store, values, 9)
    tag(store, "v2")
    withdraw(store, 0, 1)
    record = json.loads(run(capsys, "log", store.path, "--json")[1])
    figures = [(one["name"], one["ok"], one["failed"], one["new"]) for one in record["entries"]]
    assert figures == [("now", 8, 1, -2), ("v2", 10, 1, 1), ("v1", 9, 1, 9)]
    commits = [one["commit"] for one in record["entries"]]
    assert len(set(commits)) == 3
    assert commits[0] == figures_of(store.view("clips", "net"))[0].commit
    compute(store, values, 2)  # the same rows are finished
    again = json.loads(run(capsys, "log", store.path, "--json")[1])["entries"]
    assert [one["commit"] for one in again[1:]] == commits[1:] and again[0]["commit"] != commits[0]
    out = run(capsys, "log", store.path)[1]
    assert "the first" in out and "+1" in out and "-2" in out and commits[2] in out


def rename(store: Store, name: str, to: str, **changes: str) -> None:
    """Give a snapshot another name and other fields, as an earlier version wrote them."""
    path = store.path / "snapshots" / name / "snapshot.json"
    made = json.loads(path.read_bytes())
    path.unlink()
    write_json(path, {**made, "name": to, **changes, "seal": BLANK})
    path.parent.rename(path.parent.with_name(to))


def test_snapshots_of_one_second_are_in_the_order_in_which_they_were_made(store: Store) -> None:
    for name in ("b", "a", "c"):
        tag(store, name)
    assert store.snapshots() == ["v1", "b", "a", "c"]
    rename(store, "c", "c", created=read_snapshot(store.path, "a").created[:19] + "+00:00")
    assert store.snapshots().index("c") < store.snapshots().index("a"), "of an earlier version: a whole second"


def test_a_snapshot_that_is_called_now_is_refused_and_an_earlier_one_is_listed_by_itself(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, error = run(capsys, "tag", store.path, "now")
    assert status == 2 and error == (
        "error: snapshot name now is refused: store log calls the current state so; give another name\n"
    )
    rename(store, "v1", "now")
    withdraw(store, 0)
    lines = [line.split() for line in run(capsys, "log", store.path)[1].splitlines() if line.strip().startswith("now")]
    assert ["-1" in line for line in lines] == [True, False] and ["first" in line for line in lines] == [False, True]
    assert run(capsys, "tag", store.path, "now", "--delete")[0] == 0


TAG = """
import os, signal, sys
from stepdiff.common.io import local
from stepdiff.common.io.sealed import BLANK
from store import Store
from store.snapshots.tag import tag
real = local.LocalPath.put
def put(self, *given, **named):
    real(self, *given, **named)
    if self.name == "snapshot.json":
        os.kill(os.getpid(), signal.SIGKILL)
local.LocalPath.put = put
tag(Store.open(sys.argv[1]), "v2")
"""


def test_what_a_killed_tag_leaves_is_no_snapshot_and_compact_removes_it_as_the_log_says(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    done = subprocess.run([sys.executable, "-c", TAG, str(store.path)], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL and names(store.path) == (["v1"], True)
    advice = f"made, or a killed process left it: python -m store compact {store.path} removes it once its process has"
    assert advice in run(capsys, "log", store.path)[1]
    assert run(capsys, "compact", store.path)[0] == 0
    assert names(store.path) == (["v1"], False) and "killed" not in run(capsys, "log", store.path)[1]
    tag(store, "v2")


def test_a_snapshot_that_was_begun_under_its_name_is_deleted_as_the_log_says(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """In an object store the folder has its name from the beginning."""
    (store.path / "snapshots" / "v2").mkdir()
    (store.path / "snapshots" / "v2" / "begun.json").write_text("{}")
    out = run(capsys, "log", store.path)[1]
    assert f"killed process left it: python -m store tag {store.path} v2 --delete removes it" in out
    assert run(capsys, "tag", store.path, "v2", "--delete")[0] == 0
    assert "killed" not in run(capsys, "log", store.path)[1]
