"""Nearest neighbours of many rows at once, for training on hard pairs.

Guarantees
- a_row_is_never_its_own_neighbour: a row is not its own neighbour
- the_nearest_rows_come_first: neighbours are sorted by falling cosine, then by position
- neighbours_can_be_restricted_to_the_same_step: with `same`, a neighbour has the same value in that catalog column
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int64

from common.errors import StepDiffError
from retrieval.exact.best import Best
from retrieval.index.index import open_index
from retrieval.queries.catalog import columns
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
    """Return the k nearest filled rows of each of `rows` and their cosines, best first.

    Where fewer rows exist, the row is -1 and the cosine -inf.

    Args:
        same: Catalog column, e.g. `step`: only rows with an equal value are neighbours, found exactly; a row without a
            value has none. By default the view's index is searched.
        feature: Embedding to compare with `same`; an index has its own.

    Raises:
        StepDiffError: A row without features, an unknown column, or a missing or stale index.
    """
    empty = np.flatnonzero(~np.isin(rows, filled_rows(view)))
    if len(empty):
        keys = store.catalog(view.entity).keys(rows[empty[:1]])
        raise StepDiffError(
            f"{keys[0]} and {len(empty) - 1} more rows have no features in "
            f"{view.entity}/{view.name}: leave them out, or run `python -m featurize` for them"
        )
    found = np.full((len(rows), k), -1, np.int64), np.full((len(rows), k), -np.inf, np.float32)
    if same is None:
        _from_index(store, view, rows, found)
    else:
        _within_groups(store, view, rows, same, feature, found)
    return found


def nearest(
    vectors: Float32[np.ndarray, "vectors dim"], asked: Int64[np.ndarray, " asked"], k: int
) -> tuple[Int64[np.ndarray, "asked k"], Float32[np.ndarray, "asked k"]]:
    """Return the positions of the k other vectors nearest to each vector at `asked`, and their cosines, best first.

    `vectors` have length 1. The search is exact. Where fewer exist, the position is -1 and the cosine -inf.
    """
    found, places = Best.none(len(asked), k), np.arange(len(vectors))
    found.see(vectors[asked], asked, vectors, places, places)
    return found.rows, found.cosines


def _from_index(store: Store, view: View, rows: Int64[np.ndarray, " rows"], found: Neighbours) -> None:
    index, k = open_index(store, view), found[0].shape[1]
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK]
        queries = normalised(store, view, index.card["feature"], part).astype(np.float32)
        for at, (hits, cosines) in enumerate(zip(*index.search(queries, k + 1), strict=True)):
            others = np.flatnonzero((hits >= 0) & (hits != part[at]))[:k]
            found[0][start + at, : len(others)] = hits[others]
            found[1][start + at, : len(others)] = cosines[others]


def _within_groups(
    store: Store, view: View, rows: Int64[np.ndarray, " rows"], same: str, feature: str, found: Neighbours
) -> None:
    frame = columns(store, view.entity, ["row", same])
    filled = filled_rows(view)
    for group in frame.filter(frame[same].is_not_null()).partition_by(same):
        members = np.intersect1d(group["row"].to_numpy(), filled)
        asked = np.flatnonzero(np.isin(rows, members))
        if not len(asked):
            continue
        vectors = normalised(store, view, feature, members).astype(np.float32)
        places, cosines = nearest(vectors, np.searchsorted(members, rows[asked]), found[0].shape[1])
        found[0][asked] = np.where(places < 0, -1, members[places])
        found[1][asked] = cosines
