"""`store lineage`: where rows come from, and which runs may have drawn a clip."""

import hashlib
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from store import Store, View
from store.lineage.answers import write_record
from store.lineage.trained_on import hashes
from tests.store.conftest import Run


@pytest.fixture
def store(filled: View, tmp_path: Path) -> Store:
    """A store of 11 clips; c6 has failed and c9 is absent in view net."""
    store = Store.open(tmp_path / "store")
    with store.lock():
        store.catalog("clips").update(
            pl.DataFrame({"key": ["c0"], "video": ["a.mp4"], "start": [1.5]})
        )
    store.tag("v1")
    return store


def make_run(folder: Path, clips: list[str] | None, **more: object) -> Path:
    """Make the record of a run that was trained on these clips."""
    folder.mkdir(parents=True)
    record: dict[str, object] = {"reads": {}, "init": None, **more}
    if clips is not None:
        save_file({"clips": np.sort(hashes(clips))}, folder / "trained_on.safetensors")
        sha256 = hashlib.sha256((folder / "trained_on.safetensors").read_bytes()).hexdigest()
        counts = {"clips": len(clips), "videos": 0, "names": 0}
        record["trained_on"] = {"sha256": sha256, **counts, "unrecorded": []}
    write_record(folder, record)
    return folder


def test_a_row_says_where_it_comes_from(store: Store, run: Run) -> None:
    (row,) = run("lineage", store.path, "c0", "--json").json["rows"]
    (view,) = row["views"]
    assert (row["row"], row["metadata"]) == (0, {"video": "a.mp4", "start": 1.5})
    assert (view["view"], view["status"], view["provenance"]["encoder"]) == ("net", "ok", "net")
    assert view["written"]["device"] == "cpu" and len(view["written"]["date"]) == 10
    assert (row["snapshots"], row["trained"], row["unknown"]) == (["v1"], [], [])
    out = run("lineage", store.path, "c0", "c6", "c9").out
    assert "c0: row 0 of clips" in out and "video: a.mp4" in out and "weights 000000000000" in out
    assert "view net: failed (no video)" in out and "view net: absent" in out
    run("forget", store.path, "c0", "--reason", "asked to")
    out = run("lineage", store.path, "c0").out
    assert (
        "forgotten: asked to" in out and "in snapshots: v1" in out and "view net: forgotten" in out
    )
    run("forget", store.path, "c1")
    assert (
        "forgotten: no reason given\n  view net: forgotten\n"
        in run("lineage", store.path, "c1").out
    )
    then = run("lineage", f"{store.path}@v1", "c1").out
    assert "view net: ok" in then and "forgotten" not in then


def test_a_row_of_a_snapshot_says_what_wrote_it_then(store: Store, run: Run) -> None:
    view, rows = store.view("clips", "net"), np.array([0])
    with store.lock():
        view.withdraw(rows)
        features = {
            name: np.ones((1, *form.shape), np.float32) for name, form in view.features.items()
        }
        view.write_shard(0, rows, features, {}, {"device": "another"})
    now, then = (run("lineage", path, "c0").out for path in (store.path, f"{store.path}@v1"))
    assert "device another" in now and "another" not in then and "device cpu" in then


def test_runs_that_may_have_drawn_a_clip_are_named(store: Store, tmp_path: Path, run: Run) -> None:
    make_run(tmp_path / "a", ["c0", "c1"])
    make_run(tmp_path / "seed1" / "b", ["c1"])
    make_run(tmp_path / "elsewhere" / "deep" / "deeper" / "c", ["c0"])  # too deep to be store
    rows = run("lineage", store.path, "c0", "c1", "c2", "--json").json["rows"]
    trained = [
        [Path(name).relative_to(tmp_path).as_posix() for name in row["trained"]] for row in rows
    ]
    assert trained == [["a"], ["a", "seed1/b"], []]
    record = run(
        "lineage", store.path, "c0", "--heads", tmp_path / "elsewhere" / "deep", "--json"
    ).out
    assert len(json.loads(record)["rows"][0]["trained"]) == 1


def test_a_head_without_a_whole_record_is_listed_as_unknown(
    store: Store, tmp_path: Path, run: Run
) -> None:
    make_run(tmp_path / "a", None)
    path = make_run(tmp_path / "b", ["c0"]) / "trained_on.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    (make_run(tmp_path / "c", ["c0"]) / "lineage.json").write_text("{")
    (row,) = run("lineage", store.path, "c0", "--json").json["rows"]
    assert row["trained"] == [] and len(row["unknown"]) == 3
    assert ["states no clips", "missing or damaged", "missing or damaged"] == [
        next(text for text in ("states no clips", "missing or damaged") if text in line)
        for line in row["unknown"]
    ]


def test_a_head_says_what_it_read(store: Store, tmp_path: Path, run: Run) -> None:
    made = store.view("clips", "net").provenance.as_dict()
    read = {"path": str(store.path), "at": "v1", "commits": {"clips/net": "0123456789abcdef"}}
    init = {"run": "warm", "init": {"run": "first", "init": None}}
    run_of = make_run(
        tmp_path / "a",
        ["c0"],
        store=read,
        init=init,
        data={"qa.jsonl": "f" * 64},
        reads={"clips": made},
    )
    out = run("lineage", store.path, run_of).out
    for text in (
        "a head",
        "snapshot v1; commit clips/net 0123456789abcdef",
        "encoder net",
        "qa.jsonl (ffffffffffff)",
    ):
        assert text in out
    assert "clips that may have trained it: 1" in out and "starts from: warm <- first" in out
    (head,) = run("lineage", store.path, run_of, "--json").json["heads"]
    assert head["store"] == read and head["starts_from"] == ["warm", "first"]
