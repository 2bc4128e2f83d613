"""Neighbours of many rows at once."""

from collections.abc import Callable

import numpy as np
import pytest

from common.errors import StepDiffError
from retrieval import build_index, nearest, neighbours
from store import Store, View

Fill = Callable[..., View]


def test_the_nearest_rows_come_first(store: Store, clips: View) -> None:
    build_index(store, clips)
    rows = np.array([5, 0, 28, 6])
    found, cosines = neighbours(store, clips, rows, 30)
    assert found.shape == cosines.shape == (4, 30)
    assert (found[:, 26:] == -1).all() and np.isneginf(cosines[:, 26:]).all()
    everyone = set(np.flatnonzero(clips.status() == 1))
    for row, own in zip(rows, found, strict=True):
        assert set(own[:26]) == everyone - {row}
    assert (found[0, 0], found[3, 0]) == (6, 5)
    assert (np.diff(cosines[:, :26]) <= 0).all()


def test_neighbours_can_be_restricted_to_the_same_step(store: Store, clips: View) -> None:
    rows = np.array([5, 0, 28, 6, 0])
    found, cosines = neighbours(store, clips, rows, 9, same="step")  # needs no index
    filled = np.flatnonzero(clips.status() == 1)
    vectors = clips.read("embedding", np.arange(30)[filled], dtype="float32")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for row, own, near in zip(rows, found, cosines, strict=True):
        alike = [other for other in filled if other % 3 == row % 3 and other != row]
        own_vector = vectors[filled == row][0]
        order = sorted(alike, key=lambda at: -float(vectors[filled == at][0] @ own_vector))  # noqa: B023
        assert own[: len(alike)].tolist() == order[:9]
        assert (own[len(alike) :] == -1).all()
        expected = [vectors[filled == at][0] @ own_vector for at in order[:9]]
        np.testing.assert_allclose(near[: len(alike)], expected, atol=1e-6)


def test_neighbours_are_sorted_by_decreasing_cosine_without_the_vector_itself() -> None:
    vectors = np.random.default_rng(0).standard_normal((30, 8)).astype(np.float32)
    vectors[7] = vectors[3]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    asked = np.array([3, 29, 0])
    places, cosines = nearest(vectors, asked, 4)
    for own, found, values in zip(asked, places, cosines, strict=True):
        others = [place for place in range(30) if place != own]
        others.sort(key=lambda place: -float(vectors[own] @ vectors[place]))
        assert found.tolist() == others[:4]
        np.testing.assert_allclose(values, vectors[found] @ vectors[own], rtol=1e-5)
    few, none = nearest(vectors[:2], np.array([1]), 3)
    assert few.tolist() == [[0, -1, -1]] and np.isneginf(none[0, 1:]).all()


def test_unusable_neighbours_requests_are_refused(store: Store, clips: View) -> None:
    with pytest.raises(StepDiffError, match="video_8_0_9 and 1 more rows have no features"):
        neighbours(store, clips, np.array([1, 8, 3]), 2, same="step")
    with pytest.raises(StepDiffError, match="clips have no column 'stop': the catalog has key"):
        neighbours(store, clips, np.array([1]), 2, same="stop")
    with pytest.raises(StepDiffError, match="has no index"):
        neighbours(store, clips, np.array([1]), 2)


def test_a_row_without_a_step_has_no_neighbours(store: Store, fill: Fill) -> None:
    vectors = np.eye(4, dtype=np.float32) + 1
    view = fill(store, vectors, list("abcd"), columns={"step": ["x", None, "x", None]})
    found, _ = neighbours(store, view, np.arange(4), 1, same="step")
    assert found.tolist() == [[2], [-1], [0], [-1]]
