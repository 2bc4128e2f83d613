"""Rows are listed by status, forgotten and recalled."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from common.errors import StepDiffError
from common.io import local
from store import Batches, Feature, Provenance, Store, View
from store.__main__ import main
from store.catalog.forgotten import read_forgotten
from store.verbs.verify import verify

Make = Callable[..., Any]


@pytest.fixture
def store(tmp_path: Path, filled: View) -> Path:
    """A store of 11 clips; c6 has failed and c9 is absent in view net."""
    return tmp_path / "store"


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    status = main([str(word) for word in words])
    return status, *capsys.readouterr()


def test_failures_are_listed_with_their_reasons(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert json.loads(run(capsys, "failures", store, "--json")[1])["rows"] == [
        {"view": "net", "key": "c6", "reason": "no video"}
    ]
    out = run(capsys, "failures", store)[1]
    assert "1 rows of" in out and "c6" in out and "no video" in out
    assert run(capsys, "failures", store, "--out", tmp_path / "all.csv")[0] == 0
    assert (tmp_path / "all.csv").read_text() == "view,key,reason\nnet,c6,no video\n"
    assert run(capsys, "failures", store, "--entity", "texts") == (2, "", f"error: {store} has no texts\n")
    assert run(capsys, "failures", store, "--view", "none")[0] == 2


def test_no_text_of_a_csv_is_a_formula(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "forget", store, "c2", "--reason", "=HYPERLINK(1)")
    assert run(capsys, "rows", store, "--status", "forgotten", "--out", tmp_path / "rows.csv")[0] == 0
    assert (tmp_path / "rows.csv").read_text() == "row,key,net,reason\n2,c2,forgotten,'=HYPERLINK(1)\n"


@pytest.mark.parametrize(
    ("status", "keys"),
    [
        ("ok", [f"c{n}" for n in (0, 1, 3, 4, 5, 7, 8, 10)]),
        ("failed", ["c6"]),
        ("absent", ["c9"]),
        ("forgotten", ["c2"]),
    ],
)
def test_a_row_has_one_status_in_each_view(
    store: Path, capsys: pytest.CaptureFixture[str], status: str, keys: list[str]
) -> None:
    run(capsys, "forget", store, "c2", "--reason", "asked for")
    rows = json.loads(run(capsys, "rows", store, "--status", status, "--json")[1])["rows"]
    assert [row["key"] for row in rows] == keys and {row["net"] for row in rows} == {status}
    assert [row.get("reason") for row in rows] == ["asked for" if status == "forgotten" else None] * len(keys)
    every = json.loads(run(capsys, "rows", store, "--json")[1])["rows"]
    assert [row["row"] for row in every] == list(range(11))
    out = run(capsys, "rows", store, "--limit", 2)[1]
    assert "c1" in out and "c3" not in out and "... and 9 more" in out


def test_a_forgotten_row_is_absent_in_every_view(
    store: Path, fill: Make, features: dict[str, Feature], provenance: Provenance, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = Store.open(store)
    with opened.lock():
        second = opened.create_view("clips", "second", provenance, features, 8)
        second.resize()
    fill(second)
    reader = opened.view("clips", "net")
    kept = reader.read("tokens", keys=["c1", "c3"])
    (store / "indexes" / "clips").mkdir(parents=True)
    (store / "indexes" / "clips" / "net.json").write_text("{}")
    status, out, _ = run(capsys, "forget", store, "c2", "c6", "c9", "--reason", "takedown")
    assert status == 0 and "3 clips of" in out and "view net: 1 finished rows" in out and "view second: 3" in out
    assert "net.json is stale" in out
    (store / "indexes" / "clips" / "net.json").unlink()
    for view in (opened.view("clips", "net"), opened.view("clips", "second")):
        assert view.status(np.array([2, 6, 9])).tolist() == [0, 0, 0]
        assert not {2, 6, 9} & set(Batches(view, "tokens", batch_size=2).rows.tolist())
        with pytest.raises(StepDiffError, match="c2 of clips was forgotten: leave it out, or recall it"):
            view.read("tokens", keys="c2")
    np.testing.assert_array_equal(reader.read("tokens", keys=["c1", "c3"]), kept)
    assert read_forgotten(opened.path, "clips").rows() == [(n, f"c{n}", "takedown") for n in (2, 6, 9)]
    assert verify(opened) == [] and len(opened.catalog("clips")) == 11
    assert "11 clips (3 forgotten)" in run(capsys, "info", store)[1]
    assert main(["compact", str(store)]) == 0 and len(read_forgotten(opened.path, "clips")) == 3
    assert main(["requantise", str(store), "--view", "second", "--to", "small", "--dtype", "int8"]) == 0
    assert opened.view("clips", "small").status()[[2, 6, 9]].tolist() == [0, 0, 0]


def test_a_forgotten_row_is_not_written(
    store: Path, filled: View, fill: Make, values: Make, provenance: Provenance, features: dict[str, Feature],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run(capsys, "forget", store, "c2", "c3")
    with pytest.raises(StepDiffError, match="c2 of clips was forgotten"):
        fill(filled, np.array([1, 2]))
    with pytest.raises(StepDiffError, match="c3 of clips was forgotten"):
        filled.write_shard(0, np.empty(0, np.int64), {}, {3: "reason"})
    opened = Store.open(store)
    with opened.writer("clips", "net", provenance, features) as writer:
        assert writer.missing(["c1", "c2", "c9", "new"]) == ["c9", "new"]
    assert filled.status()[[2, 3]].tolist() == [0, 0]
    status, out, _ = run(capsys, "forget", store, "c2", "c1", "--undo")
    assert status == 0 and "1 clips of" in out and "recalled, 1 not forgotten" in out
    fill(filled, np.array([2]))
    assert filled.status()[[1, 2, 3]].tolist() == [1, 1, 0]


def test_an_unknown_key_is_refused_before_anything_changes(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "forget", store, "c2", "c99")
    assert (status, out) == (2, "") and "no key 'c99' among the clips" in err and "nothing was changed" in err
    assert Store.open(store).view("clips", "net").status()[2] == 1 and not (store / "forgotten").exists()
    with Store.open(store).lock():
        assert run(capsys, "forget", store, "c2")[0] == 2


def test_a_kill_at_any_step_leaves_other_rows_as_they_are(
    store: Path, filled: View, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kill before each rename; then the same command completes the rest."""
    rename, steps, kept = local.os.rename, 0, [0, 1, 3, 5, 7, 8, 10]
    replace, before = local.os.replace, filled.read("tokens", np.array(kept))
    for step in range(12):
        done: list[str] = []

        def dies(source: Any, target: Any, move: Any = rename, step: int = step, done: list[str] = done) -> None:
            if len(done) == step:
                raise KeyboardInterrupt
            done.append(str(target))
            move(source, target)

        monkeypatch.setattr(local.os, "rename", dies)
        monkeypatch.setattr(local.os, "replace", lambda a, b, dies=dies: dies(a, b, move=replace))
        try:
            assert main(["forget", str(store), "c2", "c4"]) == 0
        except KeyboardInterrupt:
            steps += 1
        finally:
            monkeypatch.setattr(local.os, "rename", rename)
            monkeypatch.setattr(local.os, "replace", replace)
        again = Store.open(store)
        listed = set(read_forgotten(again.path, "clips")["row"].to_list())
        assert verify(again) == [] and listed in (set(), {2, 4})
        assert (again.view("clips", "net").status()[kept] == 1).all()
        if listed:
            break
    assert steps >= 2 and main(["forget", str(store), "c2", "c4"]) == 0
    view = Store.open(store).view("clips", "net")
    assert view.status()[[2, 4]].tolist() == [0, 0] and verify(Store.open(store)) == []
    np.testing.assert_array_equal(view.read("tokens", np.array(kept)), before)


def test_verify_finds_a_damaged_list_and_features_of_forgotten_rows(
    store: Path, filled: View, capsys: pytest.CaptureFixture[str]
) -> None:
    status = filled.paths.status(0)
    old = Path(str(status)).read_bytes()
    run(capsys, "forget", store, "c2")
    Path(str(status)).write_bytes(old)  # as if a copy of the view had been restored
    (found,) = verify(Store.open(store))
    assert found.path == "forgotten/clips.parquet" and found.clips == ("c2",) and "view net has features" in found.what
    assert run(capsys, "forget", store, "c2")[0] == 0 and verify(Store.open(store)) == []
    path = store / "forgotten" / "clips.parquet"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(bytes(data))
    (found,) = verify(Store.open(store))
    assert found.path == "forgotten/clips.parquet" and "is refused" in found.what


def test_texts_are_forgotten_by_their_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Provenance("net", "0" * 64, "last", "none", "all tokens", {"embedding": "float32"})
    opened = Store.open(tmp_path / "texts", create=True)
    with opened.writer("texts", "net", made, {"embedding": Feature((2,), "float32")}) as writer:
        writer.write(pl.DataFrame({"key": ["k0", "k1"], "text": ["a", "b"]}), {"embedding": np.ones((2, 2))})
    assert run(capsys, "forget", tmp_path / "texts", "k1", "--entity", "texts")[0] == 0
    assert opened.view("texts", "net").status().tolist() == [1, 0]


def test_rows_of_a_remote_store_are_forgotten(bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = Provenance("net", "0" * 64, "last", "8", "centre", {"embedding": "float32"})
    opened = Store.open(f"{bucket}/store", create=True)
    with opened.writer("clips", "net", made, {"embedding": Feature((2,), "float32")}) as writer:
        writer.write(["a", "b"], {"embedding": np.ones((2, 2))})
    assert run(capsys, "forget", f"{bucket}/store", "a", "--reason", "asked for")[0] == 0
    again = Store.open(f"{bucket}/store")
    assert again.view("clips", "net").status().tolist() == [0, 1] and verify(again) == []
    rows = json.loads(run(capsys, "rows", f"{bucket}/store", "--status", "forgotten", "--json")[1])["rows"]
    assert rows == [{"row": 0, "key": "a", "net": "forgotten", "reason": "asked for"}]
    with pytest.raises(StepDiffError, match="a of clips was forgotten"):
        again.view("clips", "net").write_shard(0, np.array([0]), {"embedding": np.ones((1, 2))}, {})
