"""Each benchmark at its smallest size runs, compares with its peers and prints its result as the
last line."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import compare, featurize, read, search, start, train_step, write
from featurize.staging import Spent
from heads.data.clips import Features
from tests.conftest import fetched
from tests.featurize.conftest import tiny_clip

pytestmark = pytest.mark.full
__all__ = ["tiny_clip"]  # a fixture


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return the record that a benchmark prints last."""
    return json.loads(capsys.readouterr().out.splitlines()[-1])


RUNS: dict[
    str, tuple[Callable[[list[str]], int], str, set[str], Callable[[dict[str, Any]], bool]]
] = {
    "read": (
        read.main,
        "--mib 16 --cold-mib 16 --repeats 1 --folder TMP",
        {"O_DIRECT ceiling", "memmap"},
        lambda record: (
            {row["format"] for row in record["rows"]}
            >= {"store", "tensorstore", "h5py", "zarr-python"}
        ),
    ),
    "write": (
        write.main,
        "--mib 8 --repeats 1 --folder TMP",
        {"raw file + fsync"},
        lambda record: len(record["races"]) == 4,
    ),
    "featurize": (
        featurize.main,
        "--clips 3 --rounds 1 --gop 50 --folder TMP",
        {"forward + decode", "seek a clip, PyAV"},
        lambda record: all(
            row["ms a clip"] > 0 and row["CPU ms a clip"] > 0 for row in record["rows"]
        ),
    ),
    "compare": (
        compare.main,
        "--rounds 1 --max-tokens 4 --folder TMP",
        {"transformers"},
        lambda record: all(row["seconds"] >= 0 for row in record["rows"]),
    ),
    "search": (
        search.main,
        "--rows 2000 --approximate [1200,2000] --dim 16 --queries [1,8] --asked 9 --rounds 1 "
        "--folder TMP",
        {"faiss flat", "faiss HNSW32,SQfp16"},
        lambda record: all(
            row["recall@10"] > 0 and row["queries/s"] > 0 for row in record["approximate"]
        ),
    ),
}
"""benchmarks at their smallest sizes: peers that each is compared with, and what its record
shows"""


@pytest.mark.parametrize("name", RUNS)
def test_a_benchmark_runs_and_is_compared_with_its_peers(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main, words, peers, right = RUNS[name]
    if name == "featurize":
        fetched("efficientnet-lite0")
    cores = os.sched_getaffinity(0)
    try:
        assert main(words.replace("TMP", str(tmp_path)).split()) == 0
    finally:
        os.sched_setaffinity(0, cores)
    record = last_line(capsys)
    assert peers <= {race["compared with"] for race in record["races"]} and right(record)
    assert name not in ("read", "write") or list(tmp_path.iterdir()) == []


def test_where_the_time_of_a_gpu_goes() -> None:
    spent = Spent()
    spent.waiting.update(upload=2.0, forward=1.0, download=3.0, write=0.5)
    spent.working.update(upload=0.5, forward=4.0, write=1.0)
    row = featurize.stages("videos", 100, 2, spent, seconds=5.0, forward=2.0)
    assert (row["clips/s"], row["of forward"], row["waits for decoding"], row["copy back"]) == (
        20.0,
        0.4,
        10.0,
        0.0,
    )
    assert (row["forward"], row["forward waits"], row["write"], row["waits for writing"]) == (
        20.0,
        5.0,
        5.0,
        2.5,
    )


@pytest.mark.timeout(900)  # sixteen processes that import transformers
def test_start(
    tmp_path: Path,
    tiny_clip: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("lancedb")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # set by the benchmark, and set back at the end
    allowed = os.sched_getaffinity(0)
    small = [
        "--clips",
        "6",
        "--rounds",
        "1",
        "--threads",
        "1",
        "--weights",
        str(tiny_clip),
        "--folder",
        str(tmp_path),
    ]
    try:
        assert start.main(small) == 0
    finally:
        os.sched_setaffinity(0, allowed)
    record = last_line(capsys)
    names = [start.OURS, start.QUERY, start.LOOP, start.LANCE]
    assert [row["way"] for row in record["rows"]] == 2 * names
    assert 0 < record["vectors_apart"] <= start.TOLERANCE
    assert {race["compared with"] for race in record["races"]} == {start.LOOP, start.LANCE}


def test_different_answers_end_the_benchmark() -> None:
    vectors = np.eye(4, dtype=np.float32)
    queries = vectors[:1]
    assert search.compare(np.array([[0, 1]]), np.array([[0, 2]]), vectors, queries) == 1  # they tie
    with pytest.raises(AssertionError, match="is not"):
        search.compare(np.array([[1]]), np.array([[0]]), vectors, queries)


def test_raw_video_gives_the_tokens_of_the_store(
    tmp_path: Path, tiny_lm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    small = [
        "--videos",
        "4",
        "--steps",
        "1",
        "--rounds",
        "1",
        "--folder",
        str(tmp_path),
        "--language_model",
        tiny_lm,
    ]
    assert train_step.main(small) == 0
    record = last_line(capsys)
    assert record["benchmark"] == "train_step"
    assert [row["way"] for row in record["rows"]] == [
        "batch in memory", "from the store", "from raw video", "loader alone",
    ]  # fmt: skip
    assert all(row["ms a step"] > 0 for row in record["rows"])
    assert len(record["races"]) == 4
    world = train_step.World(tmp_path, 4, "cpu")
    keys = list(world.sources)[:5]
    cached, raw = Features(world.store, "efficientnet-lite0", "tokens").read(keys), world.read(keys)
    torch.testing.assert_close(cached, raw, rtol=1e-3, atol=1e-3 * float(raw.abs().max()))
