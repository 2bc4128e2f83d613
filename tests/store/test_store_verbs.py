"""Commands that change views and rows: drop, requantise, pool, forget, and rows that are withdrawn
or listed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from stepdiff_core.errors import StepDiffError
from store import Batches, Catalog, Feature, Provenance, Store, View
from store.__main__ import main
from store.catalog.catalog import read_forgotten
from store.format.pool import pool_of, pooled, pooled_view, square_grids, unpooled
from store.format.quantise import dequantise, quantise
from store.verbs.derive import requantise
from store.verbs.options import RequantiseOptions
from store.verbs.verify import verify
from tests.store.conftest import Run, flip, opened

Make = Callable[..., Any]
FRAMES = 8  # as the provenance of tests says
SHAPE = (FRAMES * 4 * 4, 5)


def bad_options(view: View) -> list[tuple[list[str], str]]:
    """Return commands that are refused, and a part of the line that says why."""
    path = str(view.paths.store)
    plan = ["plan", "--clips", "5", "--like", f"{path}/net"]
    requantise = ["requantise", path, "--view", "net", "--to", "small", "--dtype"]
    return [
        (["drop", path, "--view", "gone", "--yes"], "no view 'gone' of clips"),
        ([*requantise, "float32"], "was made differently"),
        (
            [*requantise[:3], "small", "--to", "other", "--dtype", "int8"],
            "tokens of view small is int8 already",
        ),
        ([*requantise[:3], "gone", "--to", "other", "--dtype", "int8"], "no view 'gone'"),
        (["pool", path, "--view", "net", "--to", "pooled", "--pool", "2"], "no square grids"),
        (
            ["pool", path, "--view", "net", "--to", "pooled", "--pool", "1"],
            "--pool 1 is too small: give 2 or more",
        ),
        (["failures", path, "--entity", "texts"], "has no texts"),
        (["failures", path, "--view", "none"], "no view 'none'"),
        (["forget", path, "c2", "c99"], "no key 'c99' among the clips"),
        (["lineage", path, "c0", "nope"], "'nope' is no key of the clips of"),
        (["info", f"{path}/no"], "no feature store in"),
        (["plan", "--clips", "5"], "give either --encoder"),
        ([*plan, "--encoder", "mpnet-base"], "give either --encoder"),
        (["plan", "--clips", "1.5", *plan[3:]], "is not a whole number"),
        (["plan", "--clips", "0", *plan[3:]], "is not a whole number"),
        (["plan", "--clips", "5", "--encoder", "resnet"], "encoder 'resnet' is not known"),
        (["plan", "--clips", "5", "--like", f"{path}/gone"], "no view 'gone'"),
        (
            ["plan", "--clips", "5", "--encoder", "efficientnet-lite0", "--pool", "2"],
            "does not divide 7 x 7",
        ),
        (
            ["import", "f", "--store", path, "--view", "v", "--weights-sha256", "12"],
            "--weights-sha256 expects",
        ),
        ([*plan, "--clips-per-second", "0"], "--clips-per-second"),
        ([*plan, "--read-mb-per-second", "inf"], "--read-mb-per-second"),
        ([*plan, "--workers", "0"], "--workers 0 is too small: give 1 or more"),
        ([*plan, "--shard-size", "0"], "--shard-size 0B is too small"),
        ([*plan, "--measured-in", path], "has no measured rate of net on clips"),
    ]


def test_impossible_commands_are_one_line_and_change_nothing(filled: View, run: Run) -> None:
    path = filled.paths.store
    assert run("requantise", path, "--view", "net", "--to", "small", "--dtype", "int8").status == 0
    files = {
        file: file.stat().st_mtime_ns
        for file in path.rglob("*")
        if file.is_file() and file.name != "lock.json"
    }
    for words, why in bad_options(filled):
        status, out, errors = run(*words)
        assert status == 2 and out == "" and errors.startswith("error: ") and why in errors, (
            words,
            errors,
        )
        assert errors.count("\n") == 1
    with Store.open(path).lock():
        for words in (
            ["requantise", path, "--view", "net", "--to", "other", "--dtype", "float32"],
            ["drop", path, "--view", "small", "--yes"],
            ["forget", path, "c2"],
            ["compact", path],
        ):
            assert run(*words).status == 2
    assert files == {file: file.stat().st_mtime_ns for file in files}


def requantised(old: View, dtype: str = "int8", to: str = "small") -> tuple[dict[str, Any], View]:
    done = requantise(RequantiseOptions(str(old.paths.store), old.name, to, dtype))  # type: ignore[arg-type]
    return done, Store.open(old.paths.store).view("clips", to)


def test_a_requantised_view_has_the_values_of_the_quantiser(filled: View) -> None:
    done, small = requantised(filled)
    assert (done["done"], done["already"], done["failed"], done["feature"]) == (9, 0, 1, "tokens")
    rows = np.flatnonzero(filled.status() == 1)
    levels, scale = quantise(filled.read("tokens", rows).astype(np.float32))
    stored = small.read_quantised("tokens", rows)
    assert (stored[0] == levels).all() and (stored[1] == scale).all()
    assert small.read("embedding", rows).tobytes() == filled.read("embedding", rows).tobytes()
    assert small.status().tolist() == filled.status().tolist()
    assert small.failures().rows() == filled.failures().rows() == [("c6", "no video")]
    _, back = requantised(small, "float32", "back")
    assert (back.read("tokens", rows) == dequantise(levels, scale)).all()
    assert verify(Store.open(filled.paths.store)) == []


def test_the_provenance_of_a_requantised_view_names_its_source(
    filled: View, provenance: Provenance
) -> None:
    _, small = requantised(filled)
    assert small.provenance.dtypes == {"tokens": "int8 from float16", "embedding": "float32"}
    assert (
        requantised(small, "float16", "back")[1].provenance.dtypes["tokens"]
        == "float16 from int8 from float16"
    )
    direct = replace(provenance, dtypes={"tokens": "int8", "embedding": "float32"})
    store = Store.open(filled.paths.store)
    with store.lock(), pytest.raises(StepDiffError, match="was made differently: dtypes"):
        store.create_view("clips", "small", direct, small.features)


def test_a_later_run_adds_the_new_rows_of_the_source(filled: View, fill: Make) -> None:
    requantised(filled)
    filled.catalog.append(pl.DataFrame({"key": ["d0", "d1"]}))
    with Store.open(filled.paths.store).lock():
        filled.resize()
    fill(filled, np.array([6, 9, 11, 12]))  # 6 had failed
    done, new = requantised(filled)
    assert (done["done"], done["already"], done["failed"]) == (4, 9, 0)
    assert (new.status() == 1).all() and not len(new.failures())


def files(filled: View) -> list[Path]:
    return [
        path
        for folder in (filled.paths.group, *filled.paths.beside)
        for path in folder.rglob("*")
        if path.is_file()
    ]


def test_without_yes_nothing_is_removed(filled: View, run: Run) -> None:
    before = files(filled)
    status, out, _ = run("drop", filled.paths.store, "--view", "net")
    assert status == 1 and "would drop view net of clips in" in out and "give --yes" in out
    assert files(filled) == before and verify(Store.open(filled.paths.store)) == []


def test_drop_removes_every_file_of_the_view(filled: View, run: Run) -> None:
    store = filled.paths.store
    index = store / "indexes" / "clips" / "net.faiss"
    index.parent.mkdir(parents=True)
    index.write_bytes(b"index")
    (index.parent / "net2.faiss").write_bytes(b"of another")
    count = len(files(filled))
    record = run("drop", store, "--view", "net", "--yes", "--json").json
    assert record["dropped"] and record["files"] == count and record["stale"] == [str(index)]
    assert not any(folder.exists() for folder in (filled.paths.group, *filled.paths.beside))
    assert Store.open(store).views("clips") == [] and len(Store.open(store).catalog("clips")) == 11
    assert not list(store.glob(".tmp*")) and verify(Store.open(store)) == []


def test_an_open_view_that_was_dropped_is_not_read_or_written(
    filled: View, provenance: Provenance, fill: Make, run: Run
) -> None:
    reader, rows = opened(filled), np.array([0, 1])
    reader.read("tokens", rows)
    assert run("drop", filled.paths.store, "--view", "net", "--yes").status == 0
    with pytest.raises(StepDiffError, match="view net of clips in .* was dropped: open it again"):
        reader.read("tokens", rows)
    store = Store.open(filled.paths.store)
    with store.lock():
        again = store.create_view(
            "clips", "net", replace(provenance, weights="f" * 64), filled.features, 4
        )
    with pytest.raises(StepDiffError, match="was dropped: open it again"):
        fill(filled)
    assert not again.status().any()
    fill(again, np.array([4]))
    with pytest.raises(StepDiffError, match="was dropped: open it again"):
        reader.read("tokens", rows)


@pytest.mark.parametrize(
    ("grids", "side"), [((FRAMES, 4, 4), 2), ((FRAMES, 4, 4), 4), ((FRAMES // 2, 4, 8), 3)]
)
def test_a_pooled_token_is_the_mean_of_neighbouring_patches(
    grids: tuple[int, int, int], side: int
) -> None:
    """Of one row and frame; at the edges of a grid, of fewer patches."""
    tokens = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
    frames, height, width = grids[0], -(-grids[1] // side), -(-grids[2] // side)
    means = pooled(tokens, grids, side)
    assert means.shape == (3, frames * height * width, 5) and means.dtype == np.float32
    grid, small = tokens.reshape(3, *grids, 5), means.reshape(3, frames, height, width, 5)
    for frame, y, x in np.ndindex(frames, height, width):
        patches = grid[:, frame, side * y : side * (y + 1), side * x : side * (x + 1)]
        np.testing.assert_allclose(
            small[:, frame, y, x], patches.mean((1, 2)), rtol=1e-5, atol=1e-6
        )
    assert pooled(tokens[1:2], grids, side).tobytes() == means[1].tobytes(), "of the row only"


def test_tokens_that_cannot_be_pooled_are_refused_in_one_line(provenance: Provenance) -> None:
    of_frames = replace(provenance, frames="8 at linspace")
    for shape, frames, side, message in (
        ((8 * 257, 4), "8 at linspace", 2, "2056 tokens of 8 frames are no square grids"),
        ((392, 4), "8 at linspace", 2, "--pool 2 does not divide 7 x 7 patches: give 7"),
        (
            (8 * 144, 4),
            "8 at linspace",
            5,
            "does not divide 12 x 12 patches: give 2 or 3 or 4 or 6 or 12",
        ),
        ((392, 4), "all frames", 7, "'all frames' does not begin with one"),
        ((392, 4), "8 at linspace", 0, "--pool 0 is too small"),
    ):
        with pytest.raises(StepDiffError) as error:
            pooled_view(
                replace(of_frames, frames=frames), {"tokens": Feature(shape, "float16")}, side
            )
        assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_pooled_view_is_made_from_an_existing_one(
    make_view: Make, fill: Make, dtype: str, run: Run
) -> None:
    view = make_view({"tokens": Feature(SHAPE, dtype), "embedding": Feature((7,), "float32")})
    view.write_shard(1, np.array([], np.int64), {}, {6: "no video"})
    fill(view, np.array([0, 1, 2, 3, 4, 5, 7, 8, 10]))
    grids = square_grids(SHAPE[0], view.provenance.frames)
    command = ["pool", str(view.paths.store), "--view", view.name, "--to", "small", "--pool", "2"]
    assert run(*command).status == 0
    new = Store.open(view.paths.store).view("clips", "small")
    assert new.status().tolist() == view.status().tolist()
    assert new.failures().rows() == view.failures().rows()
    rows = np.flatnonzero(view.status() == 1)
    assert new.read("embedding", rows).tobytes() == view.read("embedding", rows).tobytes()
    expected = pooled(view.read("tokens", rows, dtype="float32"), grids, 2)
    if dtype == "int8":
        np.testing.assert_allclose(new.read("tokens", rows, dtype="float32"), expected, atol=0.05)
    else:
        assert new.read("tokens", rows).tobytes() == expected.astype(dtype).tobytes()
    assert verify(Store.open(view.paths.store)) == []
    assert "0 clips of" in run(*command).out
    assert (pool_of(new.provenance), pool_of(view.provenance)) == (2, 1) and unpooled(
        new.provenance
    ) != new.provenance


def test_withdrawn_rows_are_absent_and_no_other_row_changes(filled: View, fill: Make) -> None:
    others = np.array([0, 1, 3, 5, 7, 8, 10])
    before, store = filled.read("tokens", others), Store.open(filled.paths.store)
    view = store.view("clips", "net")
    assert len(view.read("tokens", np.array([2, 4]))) == 2
    with store.lock():
        assert view.withdraw(np.array([6, 2, 4, 9, 2, -1, 99])) == 2
    assert filled.status().tolist() == [1, 1, 0, 1, 0, 1, 0, 1, 1, 0, 1]
    assert not filled.failures().height and verify(store) == []
    with pytest.raises(StepDiffError, match="c4 is absent"):
        view.read("tokens", np.array([4]))
    fill(filled, np.array([2, 6, 9]), seed=1)  # shard 0 and 1 are rewritten without row 4
    np.testing.assert_array_equal(view.read("tokens", others), before)
    with pytest.raises(StepDiffError, match="c4 is absent"):
        view.read("tokens", np.array([3, 4]))
    fill(filled, np.array([4]), seed=1)
    assert (filled.status() == 1).all() and verify(store) == []
    np.testing.assert_array_equal(filled.read("tokens", others), before)


@pytest.fixture
def store(tmp_path: Path, filled: View) -> Path:
    """A store of 11 clips; c6 has failed and c9 is absent in view net."""
    return tmp_path / "store"


def test_failures_are_listed_with_their_reasons(store: Path, tmp_path: Path, run: Run) -> None:
    assert run("failures", store, "--json").json["rows"] == [
        {"view": "net", "key": "c6", "reason": "no video"}
    ]
    out = run("failures", store).out
    assert "1 rows of" in out and "c6" in out and "no video" in out
    assert run("failures", store, "--out", tmp_path / "all.csv").status == 0
    assert (tmp_path / "all.csv").read_text() == "view,key,reason\nnet,c6,no video\n"


def test_no_text_of_a_csv_is_a_formula(store: Path, tmp_path: Path, run: Run) -> None:
    run("forget", store, "c2", "--reason", "=HYPERLINK(1)")
    assert run("rows", store, "--status", "forgotten", "--out", tmp_path / "rows.csv").status == 0
    assert (
        tmp_path / "rows.csv"
    ).read_text() == "row,key,net,reason\n2,c2,forgotten,'=HYPERLINK(1)\n"


def test_a_row_has_one_status_in_each_view(
    store: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("forget", store, "c2", "--reason", "asked for")
    statuses = {"ok": [0, 1, 3, 4, 5, 7, 8, 10], "failed": [6], "absent": [9], "forgotten": [2]}
    for status, numbers in statuses.items():
        rows = run("rows", store, "--status", status, "--json").json["rows"]
        reason = {"reason": "asked for"} if status == "forgotten" else {}
        assert rows == [{"row": n, "key": f"c{n}", "net": status, **reason} for n in numbers]
    read_keys, counts = Catalog.keys, list[int]()
    monkeypatch.setattr(
        Catalog, "keys", lambda self, rows: counts.append(len(rows)) or read_keys(self, rows)
    )
    out = run("rows", store, "--limit", 2).out
    assert "c1" in out and "c3" not in out and "11 rows of" in out and "... and 9 more" in out
    assert counts == [2], "keys of rows that are not printed are not read"


def test_a_forgotten_row_is_absent_in_every_view(
    store: Path, fill: Make, features: dict[str, Feature], provenance: Provenance, run: Run
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
    status, out, _ = run("forget", store, "c2", "c6", "c9", "--reason", "takedown")
    assert (
        status == 0
        and "3 clips of" in out
        and "view net: 1 finished rows" in out
        and "view second: 3" in out
    )
    assert "net.json is stale" in out
    (store / "indexes" / "clips" / "net.json").unlink()
    for view in (opened.view("clips", "net"), opened.view("clips", "second")):
        assert view.status(np.array([2, 6, 9])).tolist() == [0, 0, 0]
        assert not {2, 6, 9} & {
            row for batch in Batches(view, "tokens", batch_size=2) for row in batch.rows.tolist()
        }
        with pytest.raises(
            StepDiffError, match="c2 of clips was forgotten: leave it out, or recall it"
        ):
            view.read("tokens", keys="c2")
    np.testing.assert_array_equal(reader.read("tokens", keys=["c1", "c3"]), kept)
    assert read_forgotten(opened.path, "clips").rows() == [
        (n, f"c{n}", "takedown") for n in (2, 6, 9)
    ]
    assert verify(opened) == [] and len(opened.catalog("clips")) == 11
    assert "11 clips (3 forgotten)" in run("info", store).out
    assert main(["compact", str(store)]) == 0 and len(read_forgotten(opened.path, "clips")) == 3
    assert (
        main(["requantise", str(store), "--view", "second", "--to", "small", "--dtype", "int8"])
        == 0
    )
    assert opened.view("clips", "small").status()[[2, 6, 9]].tolist() == [0, 0, 0]


def test_a_forgotten_row_is_not_written(
    store: Path,
    filled: View,
    fill: Make,
    values: Make,
    provenance: Provenance,
    features: dict[str, Feature],
    run: Run,
) -> None:
    run("forget", store, "c2", "c3")
    with pytest.raises(StepDiffError, match="c2 of clips was forgotten"):
        fill(filled, np.array([1, 2]))
    with pytest.raises(StepDiffError, match="c3 of clips was forgotten"):
        filled.write_shard(0, np.empty(0, np.int64), {}, {3: "reason"})
    opened = Store.open(store)
    with opened.writer("clips", "net", provenance, features) as writer:
        assert writer.missing(["c1", "c2", "c9", "new"]) == ["c9", "new"]
    assert filled.status()[[2, 3]].tolist() == [0, 0]
    status, out, _ = run("forget", store, "c2", "c1", "--undo")
    assert status == 0 and "1 clips of" in out and "recalled, 1 not forgotten" in out
    fill(filled, np.array([2]))
    assert filled.status()[[1, 2, 3]].tolist() == [1, 1, 0]


def test_verify_finds_features_of_forgotten_rows(store: Path, filled: View, run: Run) -> None:
    status = filled.paths.status(0)
    old = Path(str(status)).read_bytes()
    run("forget", store, "c2")
    Path(str(status)).write_bytes(old)  # as if a copy of the view had been restored
    (damage,) = verify(Store.open(store))
    assert (
        damage.path == "forgotten/clips.parquet"
        and damage.clips == ("c2",)
        and "view net has features" in damage.what
    )
    assert run("forget", store, "c2").status == 0 and verify(Store.open(store)) == []
    flip(store / "forgotten" / "clips.parquet", 40)
    (damage,) = verify(Store.open(store))
    assert damage.path == "forgotten/clips.parquet" and "is refused" in damage.what
