"""Products in bfloat16: how far off they are, and that nothing near is left behind for it."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.exact import bfloat16 as rough
from retrieval.exact import search as exact
from retrieval.exact.bfloat16 import Rough, worth_it
from retrieval.exact.kernels import keep_best, keep_best_rough
from retrieval.exact.search import search_exactly
from retrieval.vectors import filled_rows
from store import Store, View

Fill = Callable[..., View]


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def as_float(bits: np.ndarray) -> np.ndarray:
    """Bits of bfloat16 as float32."""
    return (bits.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    dim=st.integers(1, 900),
    scale=st.sampled_from([1e-37, 1e-20, 1.0, 1e20, 1e34]),
    kind=st.sampled_from(["normal", "equal", "outlier"]),
)
def test_never_farther_off_than_slack(seed: int, dim: int, scale: float, kind: str) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(40, dim))
    if kind == "equal":  # all channels are rounded the same way, nearly as far as can be
        values = np.sign(values) * rng.uniform(1, 1.02, size=(40, 1))
    elif kind == "outlier":
        values[:, 0] *= 1000
    rows, queries = (values[:30] * scale / np.sqrt(dim)).astype(np.float32), unit(values[30:] + 0.1 * values[:10])
    asked = Rough(queries)
    squares = asked.take(rows)
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    np.testing.assert_allclose(squares, lengths**2, rtol=1e-12)
    cosines = rows.astype(np.float64) @ queries.astype(np.float64).T / lengths[:, None]
    scores = asked.scores(0, 10).copy()
    assert np.abs(as_float(scores) - cosines).max() <= asked.slack < 0.0125
    np.testing.assert_array_equal(asked.scores(3, 5), scores[:, 3:5])


def test_the_slack_is_less_than_three_times_the_worst_that_is_seen() -> None:
    """Of two channels both may be rounded the worst way, here and there."""
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(2000, 2)).astype(np.float32), unit(rng.normal(size=(200, 2)))
    asked = Rough(queries)
    asked.take(vectors)
    cosines = unit(vectors).astype(np.float64) @ queries.astype(np.float64).T
    assert np.abs(as_float(asked.scores(0, 200)) - cosines).max() > asked.slack / 3


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6), rows=st.integers(1, 400), queries=st.integers(1, 300), kept=st.integers(1, 30),
    middle=st.sampled_from([-0.5, 0.0, 0.5]),
)  # fmt: skip
def test_what_is_kept_of_rough_scores_is_what_is_kept_of_float32(
    seed: int, rows: int, queries: int, kept: int, middle: float
) -> None:
    rng = np.random.default_rng(seed)
    bits = (rng.normal(middle, 0.2, size=(rows, queries)).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    bits[rng.random(bits.shape) < 0.1] = rng.choice(np.array([0, 0x8000], np.uint16))  # 0 and -0
    scores, numbers = as_float(bits), np.arange(rows) * 3
    first = int(rng.integers(queries))
    mine, theirs = (
        (np.full((queries, kept), -1, np.int64), np.full((queries, kept), -np.inf, np.float32)) for _ in range(2)
    )
    half = rows // 2
    for part in (slice(0, half), slice(half, rows)):  # as blocks come
        keep_best_rough(bits[part].view(np.int16), numbers[part], first, queries, *mine)
        keep_best(scores[part], np.ones(rows, np.float32)[part], numbers[part], first, queries, *theirs)
    np.testing.assert_array_equal(mine[0], theirs[0])
    np.testing.assert_array_equal(mine[1], theirs[1])


def test_where_rough_scores_leave_it_open_float32_decides(
    store: Store, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More rows are within the slack of the nearest than are kept: bfloat16 cannot tell them apart."""
    rng = np.random.default_rng(0)
    values = np.ones((600, 64)) + 1e-3 * rng.normal(size=(600, 64))
    view = fill(store, values.astype(np.float32), [f"c{at}" for at in range(600)], shard=128)
    passes: list[bool] = []
    passing = exact.Passing.__init__

    def told(self: exact.Passing, queries: np.ndarray, kept: int, rough: bool = False) -> None:
        passes.append(rough)
        passing(self, queries, kept, rough)

    monkeypatch.setattr(exact.Passing, "__init__", told)
    monkeypatch.setattr(exact, "worth_it", lambda *work: True)
    rows, asked = filled_rows(view), unit(values[:60])
    found, cosines = search_exactly(store, view, "embedding", rows, asked, 5)
    assert passes[:2] == [True, False]
    monkeypatch.setattr(exact, "worth_it", lambda *work: False)
    expected = search_exactly(store, view, "embedding", rows, asked, 5)
    np.testing.assert_array_equal(found, expected[0])
    np.testing.assert_array_equal(cosines, expected[1])


def test_threads_of_our_own(store: Store, fill: Fill, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was forked off after a search searches too."""
    values = np.random.default_rng(0).normal(size=(900, 64)).astype(np.float32)
    view = fill(store, values, [f"c{at}" for at in range(900)], shard=512)
    monkeypatch.setattr(exact, "worth_it", lambda *work: True)
    rows, asked = filled_rows(view), unit(values[:60])
    expected = search_exactly(store, view, "embedding", rows, asked, 5)[0]
    child = os.fork()
    if not child:
        os._exit(0 if (search_exactly(store, view, "embedding", rows, asked, 5)[0] == expected).all() else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_it_is_worth_it_where_the_processor_multiplies_it_and_there_is_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    much, little = (10**6, 10**3, 10**3), (1000, 100, 768)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "torch")
    for flags, multiplies in (("fpu avx512f avx512_bf16", True), ("fpu avx2 avx512f", False)):
        (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: {flags}\nprocessor : 1\nflags : {flags}\n")
        monkeypatch.setattr(rough, "_CPU", tmp_path / "cpuinfo")
        rough._multiplies_it.cache_clear()
        assert worth_it(*much) is multiplies and not worth_it(*little)
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "torch", sys)
            assert worth_it(*little) is multiplies
    monkeypatch.setattr(rough, "_CPU", tmp_path / "none")
    rough._multiplies_it.cache_clear()
    assert not worth_it(*much)
    monkeypatch.undo()
    rough._multiplies_it.cache_clear()
