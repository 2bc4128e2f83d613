"""Each benchmark at its smallest size runs, compares with its peers and prints its result as the last line."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import evaluate, featurize, metrics, scale, search, start, train_step
from benchmarks.catalog import build, look_up
from benchmarks.harness import apart, watched
from benchmarks.pages import annotate
from benchmarks.scale import MOST_GIB, Options, run
from benchmarks.search import compare
from benchmarks.store import read, write
from benchmarks.train_step import World
from featurize.staging import Spent
from heads.data.clips import Features
from stepdiff.common.errors import StepDiffError
from tests.conftest import fetched
from tests.featurize.conftest import tiny_clip

pytestmark = pytest.mark.full
__all__ = ["tiny_clip"]  # a fixture


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return the record that a benchmark prints last."""
    return json.loads(capsys.readouterr().out.splitlines()[-1])


RUNS: dict[str, tuple[Callable[[list[str]], int], str, set[str], Callable[[dict[str, Any]], bool]]] = {
    "store.read": (
        read.main, "--mib 16 --cold-mib 16 --repeats 1 --folder TMP", {"O_DIRECT ceiling", "memmap"},
        lambda record: {row["format"] for row in record["rows"]} >= {"store", "tensorstore", "h5py", "zarr-python"},
    ),
    "store.write": (
        write.main, "--mib 8 --repeats 1 --folder TMP", {"raw file + fsync"}, lambda record: len(record["races"]) == 4
    ),
    "evaluate": (
        evaluate.main, "--language_model LM --pairs 1 --texts [2,8] --rounds 1",
        {"one by one", "in batches of 8", "each token once"}, lambda record: 0 < record["scores_apart"] <= 1e-4,
    ),
    "featurize": (
        featurize.main, "--clips 3 --rounds 1 --gop 50 --folder TMP", {"forward + decode", "seek a clip, PyAV"},
        lambda record: all(row["ms a clip"] > 0 and row["CPU ms a clip"] > 0 for row in record["rows"]),
    ),
    "metrics": (
        metrics.main, "--rows 40 --references 2 --rankings 30 --rounds 2",
        {"the published stack", "splitting into words"},
        lambda record: max(record["relative_difference"].values()) <= 1e-12,
    ),
    "search": (
        search.main, "--rows 2000 --approximate [1200,2000] --dim 16 --queries [1,8] --asked 9 --rounds 1 --folder TMP",
        {"faiss flat", "faiss HNSW32,SQfp16"},
        lambda record: all(row["recall@10"] > 0 and row["queries/s"] > 0 for row in record["approximate"]),
    ),
}  # fmt: skip
"""benchmarks at their smallest sizes: peers that each is compared with, and what its record shows"""


@pytest.mark.parametrize("name", RUNS)
def test_a_benchmark_runs_and_is_compared_with_its_peers(
    name: str, tmp_path: Path, tiny_lm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main, words, peers, right = RUNS[name]
    if name == "featurize":
        fetched("efficientnet-lite0")
    cores = os.sched_getaffinity(0)
    try:
        assert main(words.replace("TMP", str(tmp_path)).replace("LM", tiny_lm).split()) == 0
    finally:
        os.sched_setaffinity(0, cores)
    record = last_line(capsys)
    assert peers <= {race["compared with"] for race in record["races"]} and right(record)
    assert not name.startswith("store") or list(tmp_path.iterdir()) == []


def test_pages_annotate(capsys: pytest.CaptureFixture[str]) -> None:
    assert annotate.main(["--people", "2", "--seconds", "2"]) == 0
    (row,) = last_line(capsys)["rows"]
    assert row["saves"] == 4 and row["refused"] == 0


def test_the_catalog_is_compared_with_its_peers(tmp_path: Path) -> None:
    assert build(tmp_path / "store", 3000)["indexes"] == 1
    seconds, figures = look_up(tmp_path / "store", 3000, 1)  # asserts that all give the same rows
    assert set(seconds) == {"lookup", "join", "dict", "sqlite3", "parquet"} and min(figures.values()) >= 0


def test_where_the_time_of_a_gpu_goes() -> None:
    spent = Spent()
    spent.waiting.update(upload=2.0, forward=1.0, download=3.0, write=0.5)
    spent.working.update(upload=0.5, forward=4.0, write=1.0)
    row = featurize.stages("videos", 100, 2, spent, seconds=5.0, forward=2.0)
    assert (row["clips/s"], row["of forward"], row["waits for decoding"], row["copy back"]) == (20.0, 0.4, 10.0, 0.0)
    assert (row["forward"], row["forward waits"], row["write"], row["waits for writing"]) == (20.0, 5.0, 5.0, 2.5)


@pytest.mark.timeout(900)  # sixteen processes that import transformers
def test_start(
    tmp_path: Path, tiny_clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lancedb")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # set by the benchmark, and set back at the end
    allowed = os.sched_getaffinity(0)
    small = ["--clips", "6", "--rounds", "1", "--threads", "1", "--weights", str(tiny_clip), "--folder", str(tmp_path)]
    try:
        assert start.main(small) == 0
    finally:
        os.sched_setaffinity(0, allowed)
    record = last_line(capsys)
    names = [start.OURS, start.QUERY, start.LOOP, start.LANCE]
    assert [row["way"] for row in record["rows"]] == 2 * names
    assert 0 < record["vectors_apart"] <= start.TOLERANCE
    assert {race["compared with"] for race in record["races"]} == {start.LOOP, start.LANCE}


def test_every_work_is_measured_and_fitted_and_its_files_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale, "apart", lambda work, *arguments: watched(work, arguments))  # without new processes
    record = run(Options(clips=(20_000, 30_000), to=60_000, folder=tmp_path))
    names = {row["work"] for row in record["rows"]}
    assert names == {*MOST_GIB, "pairs", "build", "query"} == {row["work"] for row in record["fit"]}
    assert len(record["races"]) == len(MOST_GIB) + 2
    assert json.loads(json.dumps(record)) == record
    with pytest.raises(StepDiffError, match="a line needs two sizes"):
        run(Options(clips=(3000,)))
    assert list(tmp_path.iterdir()) == []


def held(size: int) -> dict[str, float]:
    """Hold so many bytes for a while."""
    block = bytearray(b"x" * size)
    time.sleep(0.2)  # the memory is looked at every 20 ms
    return {"bytes": len(block)}


def test_the_memory_of_a_work_is_watched() -> None:
    # In new processes: the heap of this one may have 64 MiB to spare, which its memory already counts. Both import
    # this module, whose libraries take more than the block.
    taken, idle = apart(held, 2**26), apart(held, 0)
    assert taken.result == {"bytes": 2**26}
    assert 2**25 < taken.peak - idle.peak < 2**28


def test_different_answers_end_the_benchmark() -> None:
    vectors = np.eye(4, dtype=np.float32)
    queries = vectors[:1]
    assert compare(np.array([[0, 1]]), np.array([[0, 2]]), vectors, queries) == 1  # they tie
    with pytest.raises(AssertionError, match="is not"):
        compare(np.array([[1]]), np.array([[0]]), vectors, queries)


def test_raw_video_gives_the_tokens_of_the_store_and_the_last_line_is_json(
    tmp_path: Path, tiny_lm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--videos", "4", "--steps", "1", "--rounds", "1", "--folder", str(tmp_path), "--language_model", tiny_lm]
    assert train_step.main(small) == 0
    record = last_line(capsys)
    assert record["benchmark"] == "train_step"
    assert [row["way"] for row in record["rows"]] == [
        "batch in memory", "from the store", "from raw video", "loader alone",
    ]  # fmt: skip
    assert all(row["ms a step"] > 0 for row in record["rows"])
    assert len(record["races"]) == 4
    world = World(tmp_path, 4, "cpu")
    keys = list(world.sources)[:5]
    cached, raw = Features(world.store, "efficientnet-lite0", "tokens").read(keys), world.read(keys)
    torch.testing.assert_close(cached, raw, rtol=1e-3, atol=1e-3 * float(raw.abs().max()))
