"""Neighbours of many rows at once, for training: hard pairs out of a view.

Guarantees:
- never_itself: a row is not its own neighbour.
- nearest_first: neighbours stand by falling cosine, those of equal cosine by their place.
- within_a_step: with `same`, a neighbour has the same value in that column of the catalog.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int64

from common.errors import StepDiffError
from retrieval.exact.best import Best
from retrieval.index.index import open_index
from retrieval.known import known
from retrieval.vectors import filled_rows, normalised
from store import Store, View

BLOCK = 1024  # queries at a time

Neighbours = tuple[Int64[np.ndarray, "rows k"], Float32[np.ndarray, "rows k"]]


def neighbours(
    store: Store,
    view: View,
    rows: Int64[np.ndarray, " rows"],
    k: int,
    same: str | None = None,
    feature: str = "embedding",
) -> Neighbours:
    """The k nearest filled rows of each of `rows`, and their cosines, best first.

    `same` names a catalog column, e.g. `step`: only rows with an equal value in it are neighbours
    then, found exactly, and a row whose value is null has none. Without it the view's index
    answers. Where there are fewer than k, the row is -1 and the cosine -inf.
    StepDiffError: a row without features, an unknown column, an index absent or stale.
    """
    empty = np.flatnonzero(~np.isin(rows, filled_rows(view)))
    if len(empty):
        keys = store.catalog(view.entity).keys(rows[empty[:1]])
        raise StepDiffError(
            f"{keys[0]} and {len(empty) - 1} more rows have no features in "
            f"{view.entity}/{view.name}: leave them out, or run `python -m featurize` for them"
        )
    if same is None:
        return _of_all(store, view, rows, k)
    return _of_the_same(store, view, rows, k, same, feature)


def nearest(
    vectors: Float32[np.ndarray, "vectors dim"], asked: Int64[np.ndarray, " asked"], k: int
) -> tuple[Int64[np.ndarray, "asked k"], Float32[np.ndarray, "asked k"]]:
    """The k other vectors nearest to each of those at the places `asked`, and their cosines, best first, found exactly.

    `vectors` have length 1. Where there are fewer than k, the place is -1 and the cosine -inf.
    """
    found, places = Best.none(len(asked), k), np.arange(len(vectors))
    found.see(vectors[asked], asked, vectors, places, places)
    return found.rows, found.cosines


def _of_all(store: Store, view: View, rows: Int64[np.ndarray, " rows"], k: int) -> Neighbours:
    index = open_index(store, view)
    found = _none(len(rows), k)
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK]
        queries = normalised(store, view, index.card["feature"], part).astype(np.float32)
        for at, (hits, cosines) in enumerate(zip(*index.search(queries, k + 1), strict=True)):
            others = np.flatnonzero((hits >= 0) & (hits != part[at]))[:k]
            _put(found, start + at, hits[others], cosines[others])
    return found


def _of_the_same(
    store: Store, view: View, rows: Int64[np.ndarray, " rows"], k: int, same: str, feature: str
) -> Neighbours:
    frame = known(store, view.entity, ["row", same])
    found = _none(len(rows), k)
    groups = frame.filter(frame[same].is_not_null()).partition_by(same)
    filled = filled_rows(view)
    for group in groups:
        members = np.intersect1d(group["row"].to_numpy(), filled)
        asked = np.flatnonzero(np.isin(rows, members))
        if not len(asked):
            continue
        vectors = normalised(store, view, feature, members).astype(np.float32)
        places, cosines = nearest(vectors, np.searchsorted(members, rows[asked]), k)
        found[0][asked] = np.where(places < 0, -1, members[places])
        found[1][asked] = cosines
    return found


def _none(rows: int, k: int) -> Neighbours:
    return np.full((rows, k), -1, np.int64), np.full((rows, k), -np.inf, np.float32)


def _put(
    found: Neighbours,
    at: int,
    rows: Int64[np.ndarray, " hits"],
    cosines: Float32[np.ndarray, " hits"],
) -> None:
    found[0][at, : len(rows)] = rows
    found[1][at, : len(rows)] = cosines
