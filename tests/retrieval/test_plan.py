"""Plans: sizes equal those of a built index."""

import json
from collections.abc import Callable

import numpy as np
import pytest

from retrieval.__main__ import main
from retrieval.index.builder import build_index
from retrieval.index.factory import memory_bytes
from store import Store, View

Fill = Callable[..., View]


@pytest.mark.parametrize("factory", ["HNSW32,SQfp16", "IVF40,SQfp16", "IVF40,SQ8", "IVF40,PQ2"])
def test_planned_sizes_equal_those_of_a_built_index(store: Store, fill: Fill, factory: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(3000, 64)).astype(np.float32)
    view = fill(store, vectors, [f"c{at}" for at in range(3000)], shard=1024)
    card = build_index(store, view, factory=factory, workers=1)
    assert memory_bytes(factory, 3000, 64) == pytest.approx(card["bytes"], rel=0.01)


def test_the_command_prints_a_table_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--clips", "136e6", "--dim", "96"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("136,000,000 rows of 96 channels: IVF23324,PQ48 (136,000,000 rows are more than")
    assert main(["plan", "--clips", "5e6", "--dim", "96", "--max-memory", "600MB", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["rows"], plan["factory"]) == (5_000_000, "IVF4472,SQ8")
    assert list(plan["bytes"]) == ["Flat", "HNSW32,SQfp16", "IVF4472,SQfp16", "IVF4472,SQ8", "IVF4472,PQ48"]


def test_no_clips_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--clips", "0"]) == 2
    assert capsys.readouterr().err == "error: --clips 0 is not a number of rows: give 1 or more, e.g. 136e6\n"
