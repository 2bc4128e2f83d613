"""Requantising a view: source, bits, failures, resuming."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

from common.errors import StepDiffError
from store import Feature, Provenance, Store, View
from store.__main__ import main
from store.format.quantise import dequantise, quantise
from store.verbs.derive import Derived
from store.verbs.options import RequantiseOptions
from store.verbs.requantise import requantise
from store.verbs.verify import verify

Make = Callable[..., Any]


@pytest.fixture
def old(make_view: Make, fill: Make) -> View:
    """A view in which row 6 has failed and row 9 is absent."""
    view = make_view({"tokens": Feature((3, 130), "float16"), "embedding": Feature((7,), "float32")})
    view.write_shard(1, np.array([], np.int64), {}, {6: "no video"})
    fill(view, np.array([0, 1, 2, 3, 4, 5, 7, 8, 10]))
    return view


def made(old: View, dtype: str = "int8", to: str = "small") -> tuple[Derived, View]:
    done = requantise(RequantiseOptions(str(old.paths.store), old.name, to, dtype))  # type: ignore[arg-type]
    return done, Store.open(old.paths.store).view("clips", to)


def test_int8_is_computed_from_the_stored_float16(old: View) -> None:
    done, new = made(old)
    assert (done.done, done.already, done.failed, done.feature) == (9, 0, 1, "tokens")
    rows = np.flatnonzero(old.status() == 1)
    levels, scale = quantise(old.read("tokens", rows).astype(np.float32))
    got = new.read_quantised("tokens", rows)
    assert (got[0] == levels).all() and (got[1] == scale).all()
    assert new.read("embedding", rows).tobytes() == old.read("embedding", rows).tobytes()
    assert new.status().tolist() == old.status().tolist()
    assert verify(Store.open(old.paths.store)) == []


def test_failed_rows_keep_their_reason(old: View) -> None:
    _, new = made(old)
    assert new.failures().rows() == old.failures().rows() == [("c6", "no video")]


def test_the_provenance_names_the_source_view(old: View, provenance: Provenance) -> None:
    _, new = made(old)
    assert new.provenance.dtypes == {"tokens": "int8 from float16", "embedding": "float32"}
    assert new.provenance.difference(old.provenance).startswith("dtypes ")
    _, again = made(new, "float16", "back")
    assert again.provenance.dtypes["tokens"] == "float16 from int8 from float16"
    direct = Provenance(**{**provenance.as_dict(), "dtypes": {"tokens": "int8", "embedding": "float32"}})
    store = Store.open(old.paths.store)
    with store.lock(), pytest.raises(StepDiffError, match="was made differently: dtypes"):
        store.create_view("clips", "small", direct, new.features)


def test_int8_is_dequantised_to_floats(old: View) -> None:
    _, small = made(old)
    _, back = made(small, "float32", "back")
    rows = np.flatnonzero(old.status() == 1)
    assert (back.read("tokens", rows) == dequantise(*small.read_quantised("tokens", rows))).all()


def test_only_the_row_that_does_not_fit_the_dtype_fails(make_view: Make, values: Make) -> None:
    view = make_view({"tokens": Feature((3, 130), "float32")})
    rows = np.array([0, 1, 2])
    given = values(view, rows)
    given["tokens"][1, 0, 0] = 1e6
    view.write_shard(0, rows, given, {})
    done, new = made(view, "float16")
    assert (done.done, done.failed) == (2, 1)
    assert new.failures().rows() == [("c1", "tokens holds 1e+06, a magnitude past float16")]


def test_a_run_that_is_killed_resumes(old: View, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.feature_store._SHARD_BYTES", 390 * 2)  # shards of 2 rows
    write_shard, written = View.write_shard, []

    def dies(view: View, shard: int, *args: Any) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(shard)
        write_shard(view, shard, *args)

    monkeypatch.setattr(View, "write_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        made(old)
    monkeypatch.setattr(View, "write_shard", write_shard)
    done, new = made(old)
    assert (written, done.already, done.done) == ([0, 1, 2], 6, 3)
    _, whole = made(old, to="whole")
    rows = np.flatnonzero(old.status() == 1)
    assert new.rows_per_shard == 2 and new.status().tolist() == whole.status().tolist()
    for ours, theirs in zip(new.read_quantised("tokens", rows), whole.read_quantised("tokens", rows), strict=True):
        assert (ours == theirs).all()


def test_a_later_run_adds_the_new_rows_of_the_source(old: View, fill: Make) -> None:
    made(old)
    old.catalog.append(pl.DataFrame({"key": ["d0", "d1"]}))
    with Store.open(old.paths.store).lock():
        old.resize()
    fill(old, np.array([6, 9, 11, 12]))  # 6 had failed
    done, new = made(old)
    assert (done.done, done.already, done.failed) == (4, 9, 0)
    assert (new.status() == 1).all() and not len(new.failures())


def test_the_command_line(old: View, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(old.paths.store)
    assert main(["requantise", path, "--view", "net", "--to", "small", "--dtype", "int8"]) == 0
    assert "9 clips of view net made into view small, tokens in int8" in capsys.readouterr().out
    assert main(["requantize", path, "--view", "net", "--to", "small", "--dtype", "int8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["already"] == 9
    for view, to, dtype, message in (
        ("small", "net2", "int8", "tokens of view small is int8 already"),
        ("gone", "net2", "int8", "no view 'gone'"),
        ("net", "small", "float32", "was made differently"),
    ):
        assert main(["requantise", path, "--view", view, "--to", to, "--dtype", dtype]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and error.count("\n") == 1
    with Store.open(path).lock():
        assert main(["requantise", path, "--view", "net", "--to", "b", "--dtype", "int8"]) == 2
    assert "is being written by process" in capsys.readouterr().err
