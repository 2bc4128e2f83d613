"""Each benchmark at its smallest size runs, compares with its peers and prints its result as the last line."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import evaluate, featurize, metrics, negatives, scale, search, start, train_step
from benchmarks.catalog import build, look_up
from benchmarks.harness import GIB, Measured, apart, watched
from benchmarks.pages import annotate
from benchmarks.scale import MOST_GIB, Options, run
from benchmarks.search import compare
from benchmarks.store import read, remote, write
from benchmarks.train_step import World
from featurize.staging import Spent
from heads.data.clips import Features
from stepdiff.common.errors import StepDiffError
from stepdiff.weights import resolve
from tests.featurize.conftest import tiny_clip

pytestmark = pytest.mark.full
__all__ = ["tiny_clip"]  # a fixture


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return the record that a benchmark prints last."""
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def races(record: dict[str, Any]) -> set[tuple[str, str]]:
    """Return the cases of a record, and what each is compared with."""
    return {(race["case"], race["compared with"]) for race in record["races"]}


def test_store_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--mib", "16", "--cold-mib", "16", "--repeats", "1", "--folder", str(tmp_path)]
    assert read.main(small) == 0  # compares the rows of all formats
    record = last_line(capsys)
    formats = {row["format"] for row in record["rows"] if row["warm MB/s"]}
    assert formats >= {"store", "store, direct", "tensorstore", "h5py", "h5py contiguous", "lance", "memmap"}
    assert ("96 KiB int8, cold, store, direct", "O_DIRECT ceiling") in races(record)
    assert ("4 MiB float16, warm", "memmap") in races(record)
    assert list(tmp_path.iterdir()) == []


def test_store_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert write.main(["--mib", "8", "--repeats", "1", "--folder", str(tmp_path)]) == 0
    record = last_line(capsys)
    assert races(record) == {(case, "raw file + fsync") for case in {row["case"] for row in record["rows"]}}
    assert len(record["races"]) == 4 and list(tmp_path.iterdir()) == []


def test_store_remote(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (
        "ENDPOINT_URL",
        "REGION",
        "ACCESS_KEY_ID",
        "SECRET_ACCESS_KEY",
        "CONFIG_FILE",
        "SHARED_CREDENTIALS_FILE",
    ):
        monkeypatch.setenv(f"AWS_{name}", "")  # set by the benchmark, and set back at the end
    assert remote.main(["--mib", "16", "--batch", "2", "--repeats", "1", "--delays", "[1]"]) == 0
    peers = {peer for _, peer in races(last_line(capsys))}
    assert peers == {"zarr-python, row by row", "tensorstore", "one request"}


def test_pages_annotate(capsys: pytest.CaptureFixture[str]) -> None:
    with ThreadPoolExecutor(1) as pool:  # a browser of another test keeps an event loop in this thread
        assert pool.submit(annotate.main, ["--people", "2", "--seconds", "2"]).result() == 0
    (row,) = last_line(capsys)["rows"]
    assert row["saves"] == 4 and row["refused"] == 0


def test_the_catalog_is_compared_with_its_peers(tmp_path: Path) -> None:
    assert build(tmp_path / "store", 3000)["indexes"] == 1
    figures = look_up(tmp_path / "store", 3000, 1, True)  # asserts that all give the same rows
    lmdb = figures.pop("lmdb_ms")
    assert (lmdb is None) == (find_spec("lmdb") is None)
    assert all(value is not None and value >= 0 for name, value in figures.items() if name.endswith("ms"))


def test_evaluate(tiny_lm: str, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--language_model", tiny_lm, "--pairs", "1", "--texts", "[2, 8]", "--rounds", "1"]
    assert evaluate.main(small) == 0
    record = last_line(capsys)
    assert record["benchmark"] == "evaluate" and 0 < record["scores_apart"] <= 1e-4
    assert [row["texts a pair"] for row in record["rows"]] == [2] * 4 + [8] * 4
    peers = {"one by one", "in batches of 8", "each token once"}
    assert {row["way"] for row in record["rows"]} == peers | {"pair by pair, ours"}
    assert {peer for _, peer in races(record)} == peers


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
    assert ("featurize, one long video", "forward + decode") in races(record)
    assert ("decoding, kitchen videos", "seek a clip, PyAV") in races(record)


def test_where_the_time_of_a_gpu_goes() -> None:
    spent = Spent()
    spent.waiting.update(upload=2.0, forward=1.0, download=3.0, write=0.5)
    spent.working.update(upload=0.5, forward=4.0, write=1.0)
    row = featurize.stages("videos", 100, 2, spent, seconds=5.0, forward=2.0)
    assert (row["clips/s"], row["of forward"], row["waits for decoding"], row["copy back"]) == (20.0, 0.4, 10.0, 0.0)
    assert (row["forward"], row["forward waits"], row["write"], row["waits for writing"]) == (20.0, 5.0, 5.0, 2.5)


@pytest.mark.full
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
    assert races(record) >= {("6 clips", start.LOOP), ("6 clips, with search", start.LANCE)}


def test_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    assert metrics.main(["--rows", "40", "--references", "2", "--rankings", "30", "--rounds", "2"]) == 0
    record = last_line(capsys)
    assert record["benchmark"] == "metrics" and record["captions"] == 40
    assert record["relative_difference"].keys() == {"BLEU", "CIDEr", "ROUGE-L", "tau"}
    assert all(value <= 1e-12 for value in record["relative_difference"].values())
    assert all(row["seconds"] > 0 for row in record["rows"])
    assert {peer for _, peer in races(record)} >= {"the published stack", "splitting into words"}


SMALL = "--pairs 60 --clips 90 --differences 300 --dim 16 --naive 20 --rounds 1"


def test_negatives(capsys: pytest.CaptureFixture[str]) -> None:
    assert negatives.main(SMALL.split()) == 0
    record = last_line(capsys)
    assert record["benchmark"] == "negatives" and record["pairs"] == 60
    assert [row["variant"] for row in record["rows"]] == ["V1", "V2", "V3"]
    assert all(row["questions"] > 0 and row["seconds"] > 0 for row in record["rows"])
    assert sum(row["equal questions"] for row in record["rows"]) > 150


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


def test_the_fit_is_a_line_through_two_sizes() -> None:
    measured = [Measured(seconds, 0, round(gib * GIB), 0, None) for seconds, gib in ((1.0, 1.0), (3.0, 1.5))]
    fit = scale.fit("query", [1000, 2000], measured, 4000)
    assert (fit["GiB"], fit["seconds"], fit["base GiB"]) == (2.5, 7, 0.5)


def held() -> dict[str, float]:
    """Hold 64 MiB for a while."""
    block = bytearray(b"x" * 2**26)
    time.sleep(0.2)  # the memory is looked at every 20 ms
    return {"bytes": len(block)}


def test_the_memory_of_a_work_is_watched() -> None:
    # In a new process: the heap of this one may have 64 MiB to spare, which its memory already counts.
    taken = apart(held)
    assert taken.result == {"bytes": 2**26}
    assert 2**26 < taken.private - taken.before < 2**28
    assert taken.resident >= taken.private


def test_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--rows 2000 --approximate [1200,2000] --dim 16 --queries [1,8] --asked 16 --rounds 1 --folder".split()
    assert search.main([*words, str(tmp_path)]) == 0
    record = last_line(capsys)
    assert [row["queries"] for row in record["rows"]] == [1] * 4 + [8] * 4
    for rows in (1200, 2000):
        table = [row for row in record["approximate"] if row["rows"] == rows]
        assert {row["search"] for row in table} >= {"ours: HNSW32,SQfp16", "faiss IVF,SQfp16", "faiss HNSW32"}
        assert all(row["recall@10"] >= table[0]["recall@10"] > 0 and row["queries/s"] > 0 for row in table)
    expected = {("8 queries at once", "faiss flat"), ("1,200 rows, approximate, at its recall", "faiss HNSW32,SQfp16")}
    assert expected <= races(record)


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
