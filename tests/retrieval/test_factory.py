"""The choice of the factory string, and its memory and time."""

import pytest

from common.errors import StepDiffError
from retrieval.index.factory import FLAT, Budgets, budgets, choose, memory_bytes


@pytest.mark.parametrize(
    ("rows", "dim", "factory"),
    [
        (9_999, 1280, "Flat"),
        (10_000, 1280, "HNSW32,SQfp16"),
        (1_000_000, 1280, "HNSW32,SQfp16"),
        (1_000_001, 1280, "IVF2000,SQfp16"),
        (10_000_000, 1280, "IVF6325,SQfp16"),
        (10_000_001, 1280, "IVF6325,PQ64"),
        (20_000_000, 50, "IVF8944,PQ50"),
        (136_000_000, 768, "IVF23324,PQ64"),
    ],
)
def test_the_factory_depends_on_the_number_of_rows(rows: int, dim: int, factory: str) -> None:
    assert choose(rows, dim, Budgets()).factory == factory


def test_a_memory_budget_selects_smaller_codes() -> None:
    asked = {memory: choose(10**6, 768, Budgets(memory=memory * 10**6)) for memory in (2000, 1600, 1500, 700, 50)}
    assert [one.factory for one in asked.values()] == [
        "HNSW32,SQfp16", "IVF2000,SQfp16", "IVF2000,SQ8", "IVF2000,PQ64", "IVF2000,PQ32",
    ]  # fmt: skip
    assert all(memory_bytes(one.factory, 10**6, 768) <= memory * 1e6 for memory, one in asked.items())
    assert "SQfp16 would exceed --max-memory" in asked[700].why
    with pytest.raises(StepDiffError, match="the smallest takes 0.02 GB") as caught:
        choose(10**6, 768, Budgets(memory=10**6))
    assert "\n" not in str(caught.value)


def test_a_latency_budget_below_exact_search_selects_an_approximate_index() -> None:
    assert choose(5_000, 768, Budgets(latency=1.0)).factory == FLAT
    assert choose(5_000, 768, Budgets(latency=0.001)).factory == "HNSW32,SQfp16"


def test_a_recall_of_1_selects_exact_search() -> None:
    assert choose(10**7, 768, Budgets(recall=1.0)).factory == FLAT


def test_common_spellings_of_amounts_are_read() -> None:
    assert budgets("20GB", "10ms", 0.9) == Budgets(20 * 10**9, 0.01, 0.9)
    assert budgets("1.5 GiB", "2s", 0.9) == Budgets(3 * 2**29, 2.0, 0.9)
    with pytest.raises(StepDiffError, match="'20 apples' is not a size"):
        budgets("20 apples", None, 0.9)
    for time in ("10", "fast", "-1ms", ""):
        with pytest.raises(StepDiffError, match="is not a time: write for example 10ms"):
            budgets(None, time, 0.9)
