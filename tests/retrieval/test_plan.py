"""Plans: sizes equal those of a built index, times are work divided by measured rates."""

import json
from collections.abc import Callable

import numpy as np
import pytest

from retrieval.__main__ import main
from retrieval.index.builder import build_index
from retrieval.index.factory import Rates, costs, memory_bytes
from retrieval.index.index_card import INDEX, file_of
from store import Store, View

Fill = Callable[..., View]
RATES = Rates(products=1e11, encoded={"SQfp16": 1e6, "PQ64": 1e5}, passed=1e10, written=1e9, cores=2)


@pytest.mark.parametrize("factory", ["IVF40,SQfp16", "IVF40,SQ8", "IVF40,PQ2"])
def test_planned_sizes_equal_those_of_a_built_index(store: Store, fill: Fill, factory: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(3000, 64)).astype(np.float32)
    view = fill(store, vectors, [f"c{at}" for at in range(3000)], shard=1024)
    card = build_index(store, view, factory=factory, workers=1)
    there = card["files"][file_of(card, INDEX)]["bytes"]
    assert memory_bytes(factory, 3000, 64) == pytest.approx(there, rel=0.01)


def test_planned_times_are_work_divided_by_measured_rates() -> None:
    """136 million rows of 768 channels, computed by hand."""
    rows, dim, lists = 136_000_000, 768, 23_324
    flat, half, product = costs(rows, dim, RATES, 1)
    assert flat.factory == "Flat" and flat.exact_query_seconds == pytest.approx(rows * dim * 4 / 1e10, abs=1e-3)
    assert half.factory == f"IVF{lists},SQfp16" and product.factory == f"IVF{lists},PQ64"
    assert half.bytes == rows * (2 * dim + 8) + lists * (4 * dim + 8)
    assert half.training_hours == pytest.approx(2 * 10 * 64 * lists * lists * dim / 1e11 / 3600)
    assigned, encoded, read = 2 * rows * lists * dim / 1e11, rows / 1e6, rows * dim * 4 / 1e9
    assert half.adding_hours == pytest.approx((assigned + encoded + read + half.bytes / 1e9) / 3600)
    assert half.hours == pytest.approx(half.training_hours + half.adding_hours + half.merging_hours)
    assert product.search_memory < half.search_memory / 15
    shared = costs(rows, dim, RATES, 10)[1]
    assert shared.adding_hours == pytest.approx(half.adding_hours / 10)
    assert shared.training_hours == half.training_hours


def test_the_command_prints_a_table_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--clips", "136e6", "--dim", "96"]) == 0
    printed = capsys.readouterr().out
    assert "IVF23324,PQ48" in printed and "measured on" in printed and "136,000,000 rows" in printed
    assert main(["plan", "--clips", "5e6", "--dim", "96", "--max-memory", "600MB", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["rows"], plan["factory"]) == (5_000_000, "IVF4472,SQ8")
    assert [cost["factory"] for cost in plan["costs"]] == ["Flat", "IVF4472,SQfp16", "IVF4472,SQ8", "IVF4472,PQ48"]
    assert all(rate > 0 for rate in plan["rates"]["encoded"].values())


def test_no_clips_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--clips", "0"]) == 2
    assert capsys.readouterr().err == "error: --clips 0 is not a number of rows: give 1 or more, e.g. 136e6\n"
