"""Alignment next to a naive recursion and a shortest path of scipy; moments of a real store; one
line for bad input."""

from functools import cache

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra

from retrieval import Moments, StepDiffError, align, read_moments
from retrieval.alignment import cheapest_path
from store import Feature, Provenance, Store, View

COSTS = arrays(
    np.float64,
    array_shapes(min_dims=2, max_dims=2, max_side=7),
    elements=st.integers(0, 20).map(float),
)
ACTIONS = np.eye(5)


def clip(actions: str, seconds: float = 1.0, clip: str = "clip") -> Moments:
    """Return moments that show one action each, `seconds` apart."""
    return Moments(
        ACTIONS[["abcde".index(action) for action in actions]],
        np.arange(len(actions)) * seconds,
        clip,
    )


@settings(max_examples=25, deadline=None)
@given(COSTS)
def test_the_path_is_whole_and_the_cheapest(costs: np.ndarray) -> None:
    @cache
    def naive(row: int, column: int) -> float:
        if row < 0 or column < 0:
            return np.inf
        if row == column == 0:
            return costs[0, 0]
        return costs[row, column] + min(
            naive(row - 1, column - 1), naive(row - 1, column), naive(row, column - 1)
        )

    path = cheapest_path(costs)
    assert (path[0] == 0).all() and (path[-1] == np.array(costs.shape) - 1).all()
    assert {tuple(step) for step in np.diff(path, axis=0).tolist()} <= {(0, 1), (1, 0), (1, 1)}
    assert costs[tuple(path.T)].sum() == naive(costs.shape[0] - 1, costs.shape[1] - 1)

    number = np.arange(costs.size).reshape(costs.shape)
    steps = [
        (number[:-1], number[1:]),
        (number[:, :-1], number[:, 1:]),
        (number[:-1, :-1], number[1:, 1:]),
    ]
    start, end = (np.concatenate([step[side].ravel() for step in steps]) for side in (0, 1))
    # scipy takes 0 for no edge; so small a cost leaves sums of integers as they are
    graph = coo_array((costs.ravel()[end] + 1e-9, (start, end)), shape=(costs.size, costs.size))
    assert costs[tuple(path.T)].sum() == pytest.approx(
        costs[0, 0] + dijkstra(graph, indices=0)[-1], abs=1e-6
    )


def test_what_one_clip_lacks_and_the_times_that_go_together() -> None:
    alignment = align(clip("aabbccccdd"), clip("aaaaccdddd", 0.5))
    assert alignment.only_first == [(1.5, 3.5)] and alignment.only_second == []
    assert alignment.warp([0, 1, 4, 7, 8, 9]).tolist() == pytest.approx(
        [0.75, 0.75, 2.25, 2.25, 3.75, 3.75], abs=0.75
    )
    assert alignment.mean_cost == pytest.approx(alignment.cost.mean()) and not alignment.warning
    back = align(clip("aaaaccdddd", 0.5), clip("aabbccccdd"))
    assert back.only_second == alignment.only_first and back.only_first == []


def test_a_clip_is_aligned_with_itself_and_at_half_speed() -> None:
    vectors = np.random.default_rng(0).normal(size=(12, 6))
    same = Moments(vectors, np.arange(12.0))
    alignment = align(same, same)
    times = np.linspace(0, 11, 45)
    np.testing.assert_allclose(alignment.warp(times), times)
    assert alignment.only_first == alignment.only_second == [] and alignment.mean_cost < 1e-12

    slow = Moments(np.repeat(vectors, 2, axis=0), 100 + np.arange(24.0))
    alignment = align(same, slow)
    np.testing.assert_allclose(alignment.warp(times), 100.5 + 2 * times)
    np.testing.assert_allclose(
        alignment.warp_back(alignment.warp(times[2:-2])), times[2:-2], atol=0.5
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12))
def test_warp_never_goes_back_and_clips_can_be_exchanged(seed: int, t: int, u: int) -> None:
    random = np.random.default_rng(seed)
    one, other = (
        Moments(random.normal(size=(count, 4)), np.cumsum(random.random(count) + 0.1))
        for count in (t, u)
    )
    alignment, back = align(one, other), align(other, one)
    times = np.linspace(-1, 15, 50)
    assert (np.diff(alignment.warp(times)) >= 0).all() and (
        np.diff(alignment.warp_back(times)) >= 0
    ).all()
    assert back.path[:, ::-1].tolist() == alignment.path.tolist()
    assert (back.only_first, back.only_second) == (alignment.only_second, alignment.only_first)
    np.testing.assert_allclose(back.warp(times), alignment.warp_back(times))
    assert bool(alignment.warning) == (min(t, u) < 8)


@pytest.fixture
def view(store: Store) -> View:
    """Clips of two videos, with 8 frames of 2 tokens; d has no times, e overlaps c."""
    random = np.random.default_rng(0)
    made_by = Provenance(
        "net", "0" * 64, "last", "8 at linspace(0, n - 1) truncated", "crop", {"tokens": "float32"}
    )
    features = {"tokens": Feature((16, 4), "float32"), "embedding": Feature((4,), "float32")}
    tokens = random.normal(size=(5, 16, 4)).astype(np.float32)
    with store.lock():
        columns = {
            "video": [*"vvwww"],
            "start": [4.0, 0.0, 0.0, None, 1.0],
            "end": [6.0, 4.0, 2.0, None, 3.0],
        }
        store.catalog("clips").append(pl.DataFrame({"key": list("abcde"), **columns}))
        view = store.create_view("clips", "net", made_by, features, 8)
        view.resize()
        view.write_shard(0, np.arange(5), {"tokens": tokens, "embedding": tokens.mean(axis=1)}, {})
    return view


def test_moments_of_frames_and_of_the_clips_of_a_video(view: View) -> None:
    frames = read_moments(view, "a")
    tokens = view.read("tokens", keys="a")[0]
    np.testing.assert_allclose(frames.vectors, (tokens[0::2] + tokens[1::2]) / 2, rtol=1e-6)
    assert frames.seconds.tolist() == pytest.approx(np.linspace(4, 6, 8).tolist())
    video = read_moments(view, ["a", "b"])
    np.testing.assert_array_equal(video.vectors[8:], frames.vectors)
    assert video.seconds.tolist() == pytest.approx([*np.linspace(0, 4, 8), *np.linspace(4, 6, 8)])
    windows = read_moments(view, ["a", "b"], "embedding")
    np.testing.assert_array_equal(windows.vectors, view.read("embedding", keys=["b", "a"]))
    assert windows.seconds.tolist() == [2.0, 5.0]
    assert (
        align(frames, windows).warning == "too few moments to rely on: b to a has 2, of 8 or more"
    )


def test_bad_input_is_one_line(view: View) -> None:
    refusals = {
        "v has no moments, but an array .0, 3.": lambda: Moments(
            np.empty((0, 3)), np.empty(0), "v"
        ),
        "2 moments and 3 times": lambda: Moments(np.eye(2), np.arange(3.0)),
        "times of clip go back": lambda: Moments(np.eye(2), np.array([1.0, 0.0])),
        "moment 1 of v holds NaN": lambda: Moments(
            np.array([[1.0], [np.nan]]), np.arange(2.0), "v"
        ),
        "moment 0 of v is all zeros": lambda: Moments(
            np.array([[0.0], [1.0]]), np.arange(2.0), "v"
        ),
        "clip has 5 channels and w 2": lambda: align(
            clip("ab"), Moments(np.eye(2), np.arange(2.0), "w")
        ),
        "no start and end of d": lambda: read_moments(view, "d"),
        "are of several videos": lambda: read_moments(view, ["a", "c"]),
        "times of c to e go back": lambda: read_moments(view, ["c", "e"]),
        "no clip is given": lambda: read_moments(view, []),
        "no key 'f'": lambda: read_moments(view, "f"),
    }
    for message, call in refusals.items():
        with pytest.raises(StepDiffError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
