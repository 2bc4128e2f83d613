"""The benchmark of annotate's stages runs and reports the figures that it documents."""

import json
from pathlib import Path

import polars as pl
import pytest

from benchmarks import annotate
from store import Store


def test_every_stage_has_its_figures(tiny_lm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.open(tmp_path / "features", create=True)
    clips = [f"v_{i}_1" for i in range(9)]
    with store.lock():
        store.catalog("clips").append(pl.DataFrame({"key": clips, "narration": [None, *["we whisk"] * 8]}))
    command = ["--store", str(store.path), "--llm", tiny_lm, "--clips", "5", "--pairs", "3", "--device", "cpu"]
    assert annotate.main([*command, "--sampling.max_tokens", "6"]) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(row["stage"], row["of"]) for row in record["rows"]] == [("describe", "clips"), ("pairqa", "pairs")]
    for row, count in zip(record["rows"], (5, 3), strict=True):
        assert row["a second"] == pytest.approx(count / row["seconds"], rel=0.5) and 0 < row["busy"] <= 1
        assert row["failed"] == 0
    assert [line["line"] for line in record["lines"]] == [">= 0.95 of the time"] * 2
    assert not (store.path / "annotations").exists()  # type: ignore[union-attr]
