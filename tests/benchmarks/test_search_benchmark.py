"""The search benchmark at its smallest size runs, compares and prints its result as the last line."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.search import clustered, compare, main


def test_the_last_line_is_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clustered(tmp_path / "real", 200, 16)
    words = "--rows 2000 --approximate [1200,2000] --dim 16 --queries [1,8] --asked 16 --rounds 1 --store".split()
    assert main([*words, str(tmp_path / "real"), "--folder", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["benchmark"] == "search"
    assert {(row["features"], row["queries"]) for row in found["rows"]} == {
        ("clips", 1), ("clips", 8), ("clips/clustered", 1), ("clips/clustered", 17),
    }  # fmt: skip
    for rows, factory in ((1200, "HNSW32,SQfp16"), (2000, "HNSW32,SQfp16")):
        table = [row for row in found["approximate"] if row["rows"] == rows]
        assert {row["search"] for row in table} >= {f"ours: {factory}", "faiss IVF,SQfp16", "faiss HNSW32"}
        assert all(row["recall@10"] >= table[0]["recall@10"] > 0 and row["queries/s"] > 0 for row in table)
    cases = {line["case"] for line in found["lines"]}
    assert cases >= {"clips, 8 queries at once", "clips, 1,200 rows: queries/s of auto at its recall"}


def test_different_answers_end_the_benchmark() -> None:
    vectors = np.eye(4, dtype=np.float32)
    queries = vectors[:1]
    assert compare(np.array([[0, 1]]), np.array([[0, 2]]), np.arange(4), vectors, queries) == 1  # they tie
    with pytest.raises(AssertionError, match="is not"):
        compare(np.array([[1]]), np.array([[0]]), np.arange(4), vectors, queries)
