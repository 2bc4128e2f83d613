"""Each benchmark at its smallest size runs, compares with its peers and prints its result as the last line."""

import json
import os
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from benchmarks import annotate, evaluate, featurize, metrics, negatives, pairs, scale, search, train_step
from benchmarks.catalog import ask, build, plan_all
from benchmarks.harness.memory import GIB, Measured, Peak, apart
from benchmarks.scale import MOST_GIB, Options, run
from benchmarks.search import clustered, compare
from benchmarks.train_step import World
from heads.data.clips import Features
from stepdiff.common.errors import StepDiffError
from stepdiff.weights import resolve
from store import Store

pytestmark = pytest.mark.full


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return the record that a benchmark prints last."""
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_every_stage_has_its_figures(tiny_lm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.open(tmp_path / "features", create=True)
    clips = [f"v_{i}_1" for i in range(9)]
    with store.lock():
        store.catalog("clips").append(pl.DataFrame({"key": clips, "narration": [None, *["we whisk"] * 8]}))
    command = ["--store", str(store.path), "--llm", tiny_lm, "--clips", "5", "--pairs", "3", "--device", "cpu"]
    assert annotate.main([*command, "--sampling.max_tokens", "6"]) == 0
    record = last_line(capsys)
    assert [(row["stage"], row["of"]) for row in record["rows"]] == [("describe", "clips"), ("pairqa", "pairs")]
    for row, count in zip(record["rows"], (5, 3), strict=True):
        assert row["a second"] == pytest.approx(count / row["seconds"], rel=0.5) and 0 < row["busy"] <= 1
        assert row["failed"] == 0
    assert [line["line"] for line in record["lines"]] == [">= 0.95 of the time"] * 2
    assert not (store.path / "annotations").exists()  # type: ignore[union-attr]


def test_the_catalog_is_compared_with_its_peers(tmp_path: Path) -> None:
    built = build(tmp_path / "store", 3000)
    assert built["indexes"] == 1
    asked = ask(tmp_path / "store", 3000, 1, True)  # asserts that all give the same rows
    lmdb = asked.pop("lmdb_ms")
    assert (lmdb is None) == (find_spec("lmdb") is None)
    assert None not in asked.values() and all(value >= 0 for name, value in asked.items() if name.endswith("ms"))
    assert set(plan_all(tmp_path / "store", 3000)) == {"rows_of_all_s", "plan_s", "plan_gib"}


def test_evaluate(tiny_lm: str, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--language_model", tiny_lm, "--pairs", "1", "--texts", "[2, 8]", "--rounds", "1"]
    assert evaluate.main(small) == 0
    record = last_line(capsys)
    assert record["benchmark"] == "evaluate" and 0 < record["scores_apart"] <= 1e-4
    assert [row["texts a pair"] for row in record["rows"]] == [2] * 3 + [8] * 3
    assert {row["way"] for row in record["rows"]} == {"one by one", "in batches of 8", "pair by pair, ours"}
    assert [line["line"] for line in record["lines"]][::3] == [">= 1.0 of one by one", ">= 3.0 of one by one"]


def test_featurize(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        resolve("efficientnet-lite0")
    except StepDiffError as problem:
        pytest.skip(str(problem))
    cores = os.sched_getaffinity(0)
    try:
        assert featurize.main(["--clips", "3", "--rounds", "1", "--gop", "50", "--folder", str(tmp_path)]) == 0
    finally:
        os.sched_setaffinity(0, cores)
    record = last_line(capsys)
    assert record["benchmark"] == "featurize" and record["encoder"] == "efficientnet-lite0"
    ways = {row["way"] for row in record["rows"]}
    assert {"featurize", "bare forward", "bare decode", "featurize's decoding", "seek a clip, PyAV"} <= ways
    assert all(row["ms a clip"] > 0 and row["CPU ms a clip"] > 0 for row in record["rows"])
    assert {line["case"].split(",")[0] for line in record["lines"]} >= {"featurize", "speed of decoding"}


def test_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    assert metrics.main(["--rows", "40", "--references", "2", "--rankings", "30", "--rounds", "2"]) == 0
    record = last_line(capsys)
    assert record["benchmark"] == "metrics" and record["captions"] == 40
    assert record["relative_difference"].keys() == {"BLEU", "CIDEr", "ROUGE-L", "tau"}
    assert all(value <= 1e-12 for value in record["relative_difference"].values())
    assert all(row["seconds"] > 0 for row in record["rows"])
    assert {line["case"] for line in record["lines"]} == {"scoring", "the same by CPU time"}


SMALL = "--pairs 60 --clips 90 --differences 300 --dim 16 --naive 20 --rounds 1"


def test_negatives(capsys: pytest.CaptureFixture[str]) -> None:
    assert negatives.main(SMALL.split()) == 0
    record = last_line(capsys)
    assert record["benchmark"] == "negatives" and record["pairs"] == 60
    assert [row["variant"] for row in record["rows"]] == ["V1", "V2", "V3"]
    assert all(row["questions"] > 0 and row["seconds"] > 0 for row in record["rows"])
    assert record["compared_questions"] > 150


def test_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    assert pairs.main(["--clips", "6000", "--steps", "300", "--cap", "5"]) == 0
    record = last_line(capsys)
    assert record["benchmark"] == "pairs" and record["lines"] == []
    (row,) = record["rows"]
    assert row["clips"] == 6000 and row["seconds"] > 0 < row["peak GiB"]
    assert row["held out"] == 600 * 2 and 300 * 4 < row["pairs"] <= 300 * 5


def here(work: Callable[..., dict[str, float]], *arguments: Any) -> Measured:
    """Measure `work` in this process."""
    return Measured(1.0, Peak(2 * GIB, 3 * GIB, GIB), work(*arguments))


def test_every_work_is_measured_fitted_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "apart", here)
    record = run(Options(clips=(20_000, 30_000), to=60_000, clips_per_second=2.0, workers=3, folder=str(tmp_path)))
    names = {row["work"] for row in record["rows"]}
    assert names == {*MOST_GIB, "build", "query"} == {row["work"] for row in record["fit"]}
    assert all(abs(row["bytes per clip"]) < 1 and row["GiB"] == 2.0 for row in record["fit"])
    assert all(one["met"] for one in record["lines"]) and len(record["lines"]) == 6
    assert json.loads(json.dumps(record)) == record
    with pytest.raises(StepDiffError, match="a line needs two sizes"):
        run(Options(clips=(3000,)))
    assert {row["dtype"]: row["hours"] for row in record["plan"]}["int8"] == round(60_000 / 2 / 3600 / 3, 1)
    assert list(tmp_path.iterdir()) == []


def held() -> dict[str, float]:
    """Hold 64 MiB for a while."""
    block = bytearray(b"x" * 2**26)
    time.sleep(0.2)  # the memory is looked at every 20 ms
    return {"bytes": len(block)}


def test_the_memory_of_a_work_is_watched() -> None:
    # In a new process: the heap of this one may have 64 MiB to spare, which its memory already counts.
    taken = apart(held)
    assert taken.times == {"bytes": 2**26}
    assert 2**26 < taken.peak.private - taken.peak.before < 2**28
    assert taken.peak.resident >= taken.peak.private


def test_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clustered(tmp_path / "real", 200, 16)
    words = "--rows 2000 --approximate [1200,2000] --dim 16 --queries [1,8] --asked 16 --rounds 1 --store".split()
    assert search.main([*words, str(tmp_path / "real"), "--folder", str(tmp_path)]) == 0
    record = last_line(capsys)
    assert record["benchmark"] == "search"
    assert {(row["features"], row["queries"]) for row in record["rows"]} == {
        ("clips", 1), ("clips", 8), ("clips/clustered", 1), ("clips/clustered", 17),
    }  # fmt: skip
    for rows, factory in ((1200, "HNSW32,SQfp16"), (2000, "HNSW32,SQfp16")):
        table = [row for row in record["approximate"] if row["rows"] == rows]
        assert {row["search"] for row in table} >= {f"ours: {factory}", "faiss IVF,SQfp16", "faiss HNSW32"}
        assert all(row["recall@10"] >= table[0]["recall@10"] > 0 and row["queries/s"] > 0 for row in table)
    cases = {line["case"] for line in record["lines"]}
    assert cases >= {"clips, 8 queries at once", "clips, 1,200 rows: queries/s of auto at its recall"}


def test_different_answers_end_the_benchmark() -> None:
    vectors = np.eye(4, dtype=np.float32)
    queries = vectors[:1]
    assert compare(np.array([[0, 1]]), np.array([[0, 2]]), np.arange(4), vectors, queries) == 1  # they tie
    with pytest.raises(AssertionError, match="is not"):
        compare(np.array([[1]]), np.array([[0]]), np.arange(4), vectors, queries)


def test_raw_video_gives_the_tokens_of_the_store_and_the_last_line_is_json(
    tmp_path: Path, tiny_lm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--videos", "4", "--steps", "1", "--rounds", "1", "--folder", str(tmp_path), "--language_model", tiny_lm]
    assert train_step.main(small) == 0
    record = last_line(capsys)
    assert record["benchmark"] == "train_step"
    assert [row["step"] for row in record["rows"]] == [
        "batch in memory", "from the store", "from raw video", "loader alone",
    ]  # fmt: skip
    assert all(row["ms a step"] > 0 for row in record["rows"])
    assert len(record["lines"]) == 4
    world = World(tmp_path, 4, "cpu")
    keys = list(world.raw.clips)[:5]
    cached, raw = Features(world.store, "efficientnet-lite0", "tokens").read(keys), world.raw.read(keys)
    torch.testing.assert_close(cached, raw, rtol=1e-3, atol=1e-3 * float(raw.abs().max()))
