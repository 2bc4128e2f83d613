"""The clips nearest to chosen clips, or to a text, in any view. An index stays open until it or the view's rows change.

Guarantees
- neighbours are those of `retrieval query`, among the clips that pass the filter
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from retrieval.index.index import Index, open_index
from retrieval.index.index_card import card_path
from retrieval.queries.live import encodes
from retrieval.queries.search import Query, check_space, compute, of_clips, of_text, resolve
from retrieval.vectors import normalised
from stepdiff.app.explore.live import LiveTexts
from stepdiff.app.site import Site, UnknownError
from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.tables import short
from stepdiff.common.streams import generator
from store import Store, View, text_key
from store.view import OK

MOST = 200
"""neighbours of a query"""
AVERAGED = 1000
"""clips whose average is a query, at most; of more, a seeded sample"""


@dataclass(frozen=True)
class Hits:
    """The nearest clips, best first."""

    rows: Int64[np.ndarray, " hits"]
    similarities: Float32[np.ndarray, " hits"]
    """cosines"""
    title: str
    """of what they are the nearest"""


class Searcher:
    """Searches in the views of a site."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._lock = threading.Lock()
        self._live = LiveTexts(site)
        self._indexes: dict[str, tuple[Any, Index]] = {}  # view -> identity of its card and rows, index

    def of_clips(self, view: View, keys: list[str], k: int, among: Int64[np.ndarray, " some"] | None) -> Hits:
        """Return the clips nearest to the average of some clips. StepDiffError as `retrieval query`."""
        rows = self._site.store.catalog("clips").rows(keys)
        if unknown := [key for key, row in zip(keys, rows, strict=True) if row < 0]:  # retrieval compares all ids
            raise UnknownError(f"the store has no clip {unknown[0]!r:.200}")
        return self._search(view, lambda store, view, feature: of_clips(store, view, feature, keys), k, among)

    def of_rows(
        self, view: View, rows: Int64[np.ndarray, " rows"], k: int, among: Int64[np.ndarray, " some"] | None
    ) -> Hits:
        """Return the clips nearest to the average of many rows; those without features in the view are left out."""
        there = rows[rows < len(view)]
        there = there[view.status()[there] == OK]
        if not len(there):
            raise StepDiffError(f"none of the {len(rows):,} chosen clips has features in view {view.name}")
        title = f"{len(there):,} clips"
        if len(there) > AVERAGED:
            there = np.sort(generator(0, "averaged clips").choice(there, AVERAGED, replace=False))

        def average(store: Store, view: View, feature: str) -> Query:
            vector = normalised(store, view, feature, there).mean(axis=0)
            length = np.sqrt(np.sum(vector * vector))
            if length == 0:
                raise StepDiffError("the average of the chosen clips is zero: choose fewer")
            return Query(title, (vector / length).astype(np.float32), rows)

        return self._search(view, average, k, among)

    def of_text(self, view: View, text: str, k: int, among: Int64[np.ndarray, " some"] | None) -> Hits:
        """Return the clips nearest to a text, encoded now if the store has no embedding of it.

        StepDiffError says why the view cannot be searched by a text.
        """
        return self._search(view, lambda store, view, feature: self._of_text(store, view, feature, text), k, among)

    def _of_text(self, store: Store, view: View, feature: str, text: str) -> Query:
        row = int(store.catalog("texts").rows([text_key(text)])[0])
        texts = store.view("texts", view.name) if view.name in store.views("texts") else None
        if texts is not None and row >= 0 and texts.status()[row] == OK:
            return of_text(store, view, feature, text)
        if texts is not None:
            check_space(store, view, texts, feature)
        elif not encodes(view, "texts"):
            return of_text(store, view, feature, text)  # which says why not
        return Query(
            f"text {short(text)!r}", self._live.embed(view if texts is None else texts, text), np.empty(0, np.int64)
        )

    def _search(
        self,
        view: View,
        query_of: Callable[[Store, View, str], Query],
        k: int,
        among: Int64[np.ndarray, " some"] | None,
    ) -> Hits:
        search = resolve(self._site.store, view, query_of, among=among, opened=self._opened)
        found = compute(search, min(k, MOST))
        rows = self._site.store.catalog("clips").rows(found["clip"])
        return Hits(rows, found["similarity"].to_numpy().astype(np.float32), search.query.title)

    def _opened(self, store: Store, view: View) -> Index:
        identity = card_path(store, "clips", view.name).identity(), int(np.count_nonzero(view.status() == OK))
        with self._lock:
            if self._indexes.get(view.name, (None,))[0] != identity:
                self._indexes[view.name] = identity, open_index(store, view)
            return self._indexes[view.name][1]
