"""A search of one query: resolved to the view, the index and the eligible rows, then computed.

Guarantees
- a_row_is_never_its_own_neighbour: a clip is not its own neighbour, even if others have the same features
- a_filter_is_applied_before_the_search: the k nearest are those among the clips that the condition selects
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Int64

from common.errors import StepDiffError
from retrieval.exact.search import search_exactly
from retrieval.index.factory import FLAT_BELOW
from retrieval.index.index import Index, open_index
from retrieval.index.index_card import card_path
from retrieval.queries.catalog import rows_where
from retrieval.queries.sources import Query
from retrieval.vectors import filled_rows
from store import Store, View


@dataclass(frozen=True)
class Search:
    """A query and the rows among which its neighbours are searched."""

    store: Store
    view: View
    feature: str
    query: Query
    rows: Int64[np.ndarray, " rows"]
    """eligible rows: filled, selected by the condition, and not the query's own"""
    index: Index | None
    """None: the store is searched exactly"""
    selects: bool
    """whether a condition selects rows"""


def resolve(
    store: Store,
    view: View,
    query_of: Callable[[Store, View, str], Query],
    where: str | None = None,
    feature: str | None = None,
) -> Search:
    """Choose the index, the embedding and the eligible rows of a search.

    The index is used if there is one and no condition, or if more than FLAT_BELOW rows are eligible. `query_of` makes
    the query from the store, the view and the name of the embedding: `feature`, or that of the index, or "embedding".

    Raises StepDiffError for a missing or stale index, or one of another embedding, and for an invalid condition.
    """
    rows = filled_rows(view)
    if where is not None:
        rows = np.intersect1d(rows, rows_where(store, "clips", where))
    indexed = card_path(store, "clips", view.name).exists()
    exact = len(rows) <= FLAT_BELOW and (where is not None or not indexed)
    index = None if exact else open_index(store, view)
    compared = "embedding" if index is None else index.card["feature"]
    if index is not None and feature not in (None, compared):
        raise StepDiffError(
            f"the index of clips/{view.name} compares {compared}, not {feature}: leave --feature out, or "
            f"build one with --feature {feature}"
        )
    feature = feature or compared
    query = query_of(store, view, feature)
    return Search(store, view, feature, query, np.setdiff1d(rows, query.rows), index, where is not None)


def compute(search: Search, k: int) -> pl.DataFrame:
    """Return the k nearest clips, best first: rank, similarity, clip and the catalog's columns.

    There are fewer if fewer rows are eligible, or if an approximate index finds fewer.
    """
    k = min(k, len(search.rows))
    query, vector = search.query, search.query.vector[None]
    if k == 0:
        found, cosines = np.empty(0, np.int64), np.empty(0, np.float32)
    elif search.index is None:
        rows, similarities = search_exactly(search.store, search.view, search.feature, search.rows, vector, k)
        found, cosines = rows[0], similarities[0]
    else:
        among = search.rows if search.selects else None
        rows, similarities = search.index.search(vector, k + len(query.rows), among)
        keep = np.flatnonzero((rows[0] >= 0) & ~np.isin(rows[0], query.rows))[:k]
        found, cosines = rows[0][keep], similarities[0][keep]
    frame = search.store.catalog("clips").frame()[found].drop("row").rename({"key": "clip"})
    ranks = pl.int_range(1, frame.height + 1, eager=True).alias("rank")
    return frame.select(ranks, pl.Series("similarity", cosines.astype(float)), "clip", pl.exclude("clip"))
