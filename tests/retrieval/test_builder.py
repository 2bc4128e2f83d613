"""Building an index: in parts, resumed, extended, and measured against exact search."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from common.errors import StepDiffError
from common.io.locks import locked
from retrieval.__main__ import main
from retrieval.index import builder, parts
from retrieval.index.builder import build_index
from retrieval.index.factory import Budgets, Choice
from retrieval.index.index import open_index
from retrieval.index.index_card import card_path
from retrieval.index.parts import FillOptions, FillWorker
from retrieval.queries.search import compute, of_clips, resolve
from retrieval.vectors import filled_rows, normalised
from store import Store, View

Fill = Callable[..., View]
FACTORY = "IVF16,SQfp16"
PART = 256  # rows


@pytest.fixture
def clustered(store: Store, fill: Fill) -> View:
    """A view of 1,500 rows around 20 centres in shards of 128; every ninth row has failed."""
    return fill(store, clusters(1500, 0), [f"c{at}" for at in range(1500)], failed=range(0, 1500, 9), shard=128)


def clusters(rows: int, seed: int, spread: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(20, 16))
    rng = np.random.default_rng(seed)
    return (centres[rng.integers(20, size=rows)] + spread * rng.normal(size=(rows, 16))).astype(np.float32)


def built(store: Store, view: View, **how: object) -> dict:
    return build_index(store, view, factory=FACTORY, workers=1, part_rows=PART, **how)  # type: ignore[arg-type]


def files(store: Store) -> list[Path]:
    """Return the files of the index without its card."""
    return sorted(Path(str(card_path(store, "clips", "tiny").parent)).glob("tiny.*.*"))


def content(store: Store) -> dict[str, bytes]:
    return {path.suffix: path.read_bytes() for path in files(store)}


def true_recall(store: Store, view: View, k: int = 10) -> float:
    """Return the share of each row's k nearest rows in float64 that the index finds."""
    rows = filled_rows(view)
    unit = normalised(store, view, "embedding", rows)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    best = rows[np.argsort(-cosines, axis=1)[:, :k]]
    found, _ = open_index(store, view).search(unit.astype(np.float32), k + 1)
    return float(np.mean([len(set(f) & set(b)) / k for f, b in zip(found, best, strict=True)]))


def test_recall_is_measured(store: Store, clustered: View) -> None:
    card = built(store, clustered, given=Budgets(recall=0.9))
    assert 0.9 <= card["recall"] <= 1 and card["probes"] < 16
    assert card["recall"] == pytest.approx(true_recall(store, clustered), abs=0.03)  # 256 of 1,333 queries
    few = json.loads(card_path(store, "clips", "tiny").read_text())
    assert few["recall_queries"] == 256 and few["latency"] > 0


def test_higher_recall_probes_more_lists(store: Store, fill: Fill) -> None:
    view = fill(store, clusters(1500, 0, spread=1.0), [f"c{at}" for at in range(1500)], shard=128)
    few = built(store, view, given=Budgets(recall=0.3))
    many = built(store, view, given=Budgets(recall=0.99))
    assert few["probes"] < many["probes"] and few["recall"] < many["recall"]


@pytest.mark.parametrize("factory", [FACTORY, "IVF8,PQ4x4", "PCA8,IVF8,SQ8", "IVF16_HNSW8,Flat", "IVF200,SQ8"])
def test_an_index_built_in_parts_equals_one_built_at_once(
    tmp_path: Path, fill: Fill, factory: str, capfd: pytest.CaptureFixture[str]
) -> None:
    found = []
    for name, size in (("parts", PART), ("whole", 10**6)):
        store = Store.open(tmp_path / name, create=True)
        view = fill(store, clusters(1500, 0), [f"c{at}" for at in range(1500)], shard=128)
        build_index(store, view, factory=factory, workers=1, part_rows=size)
        found.append(
            open_index(store, view).search(normalised(store, view, "embedding", np.arange(99)).astype("f4"), 9)
        )
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])
    assert capfd.readouterr().out == ""


def test_a_killed_build_resumes(store: Store, clustered: View, monkeypatch: pytest.MonkeyPatch) -> None:
    built(store, clustered)
    unbroken = content(store)
    for path in (*files(store), card_path(store, "clips", "tiny")):
        path.unlink()
    script = (
        "import sys, time; from retrieval.index import builder, parts; from store import Store\n"
        "fill = parts.fill\n"
        "def slow(part):\n    done = fill(part); time.sleep(0.3); return done\n"
        "parts.fill = slow; store = Store.open(sys.argv[1])\n"
        f"builder.build_index(store, store.view('clips', 'tiny'), factory={FACTORY!r}, workers=1, part_rows={PART})"
    )
    run = subprocess.Popen([sys.executable, "-c", script, str(store.path)])
    work = store.path / "indexes/clips/tiny.building"
    until = time.monotonic() + 60
    while len(done := list(work.glob("*/*-*.faiss"))) < 2 and time.monotonic() < until:
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL and done
    there = {path.name: path.stat().st_mtime_ns for path in work.glob("*/*-*.faiss")}
    assert not files(store)
    filled: list[str] = []
    fill = parts.fill
    monkeypatch.setattr("retrieval.index.parts.fill", lambda part: filled.append(f"{part.name}.faiss") or fill(part))
    card = built(store, clustered)
    assert filled and not set(filled) & set(there) and len(filled) + len(there) == 6
    assert content(store) == unbroken and card["rows"] == 1333
    assert not work.exists()


def test_a_build_that_is_killed_during_measurement_keeps_the_old_index(
    store: Store, clustered: View, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    built(store, clustered)
    before = content(store)
    with monkeypatch.context() as patched:
        patched.setattr(builder._Build, "_measured", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            built(store, clustered, rebuild=True)
    assert len(open_index(store, clustered)) == 1333 and len(files(store)) == 2
    view = fill(store, clusters(300, 3), [f"new{at}" for at in range(300)], shard=128)
    monkeypatch.setattr(builder, "train", lambda *_: pytest.fail("trained again"))
    assert built(store, view)["trained_rows"] == 1333
    assert content(store) != before and len(files(store)) == 1  # files without a card are removed


def test_new_rows_are_added(store: Store, clustered: View, fill: Fill, monkeypatch: pytest.MonkeyPatch) -> None:
    built(store, clustered)
    added: list[int] = []
    monkeypatch.setattr(builder, "train", lambda *_: pytest.fail("trained again"))
    add = parts.fill
    monkeypatch.setattr("retrieval.index.parts.fill", lambda part: added.extend(part.rows) or add(part))
    with store.lock():  # a failed row in the middle is fixed
        clustered.write_shard(0, np.array([9]), {"embedding": clusters(1, 5)}, {})
    view = fill(store, clusters(300, 3), [f"new{at}" for at in range(300)], shard=128)
    card = built(store, view)
    assert added == [9, *range(1500, 1800)]
    assert (card["rows"], card["trained_rows"], card["new_share"], card["rebuild"]) == (1634, 1333, 0.1842, False)
    assert true_recall(store, view) > 0.9 and card["recall"] >= 0.95
    fill(store, clusters(600, 4), [f"newer{at}" for at in range(600)], shard=128)
    assert built(store, view)["rebuild"] is True
    monkeypatch.undo()
    card = built(store, view, rebuild=True)
    assert (card["trained_rows"], card["new_share"], card["rebuild"]) == (2234, 0.0, False)


def test_new_rows_are_added_to_a_graph(
    store: Store, clustered: View, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph is neither divided into parts nor trained again; the effort of a query is measured as that of lists."""
    card = build_index(store, clustered, factory="HNSW32,SQfp16", given=Budgets(recall=0.99))
    assert card["probes"] > 12 and card["recall"] >= 0.99 and card["rebuild"] is False
    monkeypatch.setattr(builder, "train", lambda *_: pytest.fail("trained again"))
    view = fill(store, clusters(900, 3), [f"new{at}" for at in range(900)], shard=128)
    added: list[int] = []
    add = parts.add
    monkeypatch.setattr(builder, "add", lambda index, job, rows: added.extend(rows) or add(index, job, rows))
    card = build_index(store, view, factory="HNSW32,SQfp16")
    assert added == list(range(1500, 2400)) and (card["rows"], card["rebuild"]) == (2233, False)
    assert card["recall"] == pytest.approx(true_recall(store, view), abs=0.03) and card["recall"] >= 0.95


@pytest.mark.parametrize(
    ("built", "chosen", "kept"),
    [
        ("IVF16,SQfp16", "HNSW32,SQfp16", True),
        ("HNSW8,SQfp16", "IVF20,SQfp16", False),
        ("IVF16,SQ8", "HNSW32,SQfp16", False),
    ],
)
def test_auto_extends_an_index_of_the_same_codes(
    store: Store, clustered: View, monkeypatch: pytest.MonkeyPatch, built: str, chosen: str, kept: bool
) -> None:
    """An older IVF index is kept where `auto` now builds a graph; a graph that became too large is not."""
    build_index(store, clustered, factory=built, workers=1)
    monkeypatch.setattr(builder, "choose", lambda *_: Choice(chosen, "the number of rows"))
    assert build_index(store, clustered, workers=1)["factory"] == (built if kept else chosen)


def test_a_second_build_adds_nothing(store: Store, clustered: View, monkeypatch: pytest.MonkeyPatch) -> None:
    built(store, clustered)
    before = content(store)
    monkeypatch.setattr("retrieval.index.parts.fill", lambda part: pytest.fail("read again"))
    built(store, clustered)
    assert content(store) == before


def test_an_index_of_rewritten_rows_is_not_extended(store: Store, clustered: View, fill: Fill, tmp_path: Path) -> None:
    """The old index belongs to another store, so that all of it is built again."""
    built(store, clustered)
    other = Store.open(tmp_path / "other", create=True)
    view = fill(other, clusters(1500, 8), [f"c{at}" for at in range(1500)], shard=128)
    folder = Path(str(card_path(other, "clips", "tiny").parent))
    folder.mkdir(parents=True)
    for path in (*files(store), card_path(store, "clips", "tiny")):
        (folder / path.name).write_bytes(path.read_bytes())
    with pytest.raises(StepDiffError, match="is stale, "):
        open_index(other, view)
    assert built(other, view)["trained_rows"] == 1500
    assert true_recall(other, view) > 0.9


def test_a_second_builder_is_refused(store: Store, clustered: View) -> None:
    folder = store.path / "indexes/clips"
    folder.mkdir(parents=True)
    with locked(folder / ".tiny.lock", wait=False), pytest.raises(StepDiffError, match="is being written by process"):
        built(store, clustered)


def test_an_exceeded_budget_is_reported(store: Store, clustered: View, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["build", "--store", str(store.path), "--view", "tiny", "--factory", "IVF4,PQ1x2", "--workers", "1"]
    assert main([*common, "--max-latency", "1us", "--max-memory", "1KB", "--min-recall", "0.999", "--json"]) == 1
    printed = capsys.readouterr()
    card = json.loads(printed.out)
    lines = printed.err.splitlines()
    assert [any(word in one for one in lines) for word in ("--max-latency", "--max-memory")] == [True, True]
    assert card["recall"] < 0.999 and any("is below --min-recall 0.999" in one for one in lines)
    assert main([*common[:5], "--min-recall", "0.5"]) == 0
    assert "Flat over 1333 rows" in capsys.readouterr().out


@pytest.mark.slow
def test_ray_fills_parts_in_parallel(store: Store, clustered: View) -> None:
    built(store, clustered)
    here = content(store)
    card = build_index(store, clustered, factory=FACTORY, rebuild=True, workers=2, part_rows=PART)
    assert content(store) == here and card["rows"] == 1333


def test_an_error_in_a_worker_is_one_line(store: Store, fill: Fill) -> None:
    values = clusters(60, 0)
    view = fill(store, values, [f"c{at}" for at in range(60)], shard=64)
    built(store, view)
    fill(store, np.zeros((1, 16), np.float32), ["zeros"], shard=64)
    job = parts.Job(store.path, "clips", "tiny", "embedding", store.path)
    parts.write_index(parts.train(job, "IVF2,SQ8", parts.new_index(16, "IVF2,SQ8", 60), np.arange(60)), job.trained)
    assert "the embedding of zeros in clips/tiny is all zeros" in str(
        FillWorker(FillOptions()).run(parts.Part(job, np.arange(61))).error
    )


def test_a_snapshot_is_not_indexed_and_the_index_of_the_store_stays(store: Store, clips: View) -> None:
    card = build_index(store, clips, factory="Flat")
    path = card_path(store, "clips", clips.name)
    before = path.read_bytes()
    store.tag("v1")
    with store.lock():
        clips.withdraw(np.array([0]))
    then = Store.open(f"{store.path}@v1")
    with pytest.raises(StepDiffError, match="snapshot v1 of .* is not indexed: .* give the store without @v1"):
        build_index(then, then.view("clips", clips.name), factory="Flat")
    assert path.read_bytes() == before and open_index(then, then.view("clips", clips.name)).card == card


def test_an_index_of_other_rows_than_a_snapshot_has_is_not_used_for_it(store: Store, clips: View) -> None:
    store.tag("v1")
    with store.lock():
        clips.withdraw(np.array([0]))
    build_index(store, clips, factory="Flat")
    then = Store.open(f"{store.path}@v1")
    view = then.view("clips", clips.name)
    with pytest.raises(StepDiffError, match="is not of snapshot v1 .* give the store without @v1"):
        open_index(then, view)
    search = resolve(then, view, partial(of_clips, clips=["video_1_0_2"]))
    assert search.index.faiss is None and "video_0_0_1" in compute(search, 27)["clip"].to_list()
