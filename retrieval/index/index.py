"""A FAISS index over one view of a store, opened and searched.

On disk, in the store: indexes/ENTITY/VIEW.json (the card) and the files that it names (see index_card.py, sample.py).
An exact index has only a card: the store itself is searched.

Guarantees
- ids_are_store_rows: a hit is a row of the store, also where other rows failed or are missing
- an_index_of_changed_rows_is_refused: an index of changed rows, of another provenance, without its card or with a
  damaged byte is refused; the error gives the reason and the command that rebuilds it
- similarities_are_exact: hits of an approximate index are compared again by the store's own vectors, so a similarity is
  always the cosine
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Int64

from common.errors import StepDiffError
from retrieval.exact.search import SPARE, compared, search_exactly
from retrieval.index.files import DamagedIndex, check_ids, read_faiss
from retrieval.index.index_card import INDEX, Card, build_command, card_path, damaged, file_of, read_card, stale
from retrieval.vectors import filled_rows
from store import Store, View

if TYPE_CHECKING:
    import faiss

AGAIN = 10  # hits of product-quantised codes compared exactly per requested hit


@dataclass(frozen=True)
class Index:
    """An index that matches its store."""

    store: Store
    view: View
    card: Card
    faiss: faiss.Index | None
    """None for an exact index: the store itself is searched"""

    def __len__(self) -> int:
        return int(self.card["rows"])

    def search(
        self, queries: Float32[np.ndarray, "queries dim"], k: int, among: Int64[np.ndarray, " rows"] | None = None
    ) -> tuple[Int64[np.ndarray, "queries k"], Float32[np.ndarray, "queries k"]]:
        """Return the k nearest rows of each query and their cosines, best first.

        Where the index finds fewer, the row is -1 and the cosine -inf.

        `queries` are normalised; `among` limits the rows. Raises StepDiffError if this kind of index cannot do that.
        """
        feature = self.card["feature"]
        if self.faiss is None:
            rows = filled_rows(self.view) if among is None else among
            return search_exactly(self.store, self.view, feature, rows, queries, k)
        only = None if among is None else selecting(self.faiss, among)
        more = max(k * AGAIN, 100) if "PQ" in self.card["factory"] else k + SPARE
        try:
            _, rows = self.faiss.search(queries, more, params=only)
        except RuntimeError as error:
            raise StepDiffError(
                f"FAISS cannot search only some rows of an index {self.card['factory']!r}: "
                "build one with --factory auto"
            ) from error
        cosines = compared(self.store, self.view, feature, queries, rows)
        order = np.lexsort((rows, -cosines))[:, :k]
        found = np.take_along_axis(cosines, order, axis=1).astype(np.float32)
        return np.take_along_axis(rows, order, axis=1), found


def selecting(index: Any, rows: Int64[np.ndarray, " rows"]) -> Any:
    """Return search parameters that select `rows`; fewer rows mean more probed lists of an IVF index."""
    faiss: Any = import_module("faiss")  # its stubs lack the selectors
    chosen = np.zeros(int(rows.max(initial=0)) + 1, bool)
    chosen[rows] = True
    only = faiss.IDSelectorBitmap(np.packbits(chosen, bitorder="little"))
    if isinstance(index, faiss.IndexIVF):
        lists = math.ceil(index.nprobe * index.ntotal / max(len(rows), 1))
        return faiss.SearchParametersIVF(sel=only, nprobe=min(lists, index.nlist))
    inner = faiss.downcast_index(index.index)
    if isinstance(inner, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(sel=only, efSearch=inner.hnsw.efSearch)
    return faiss.SearchParameters(sel=only)


def open_index(store: Store, view: View) -> Index:
    """Return the index of `view`. Raises StepDiffError if it does not exist or is stale."""
    path = card_path(store, view.entity, view.name)
    if not path.exists():
        raise StepDiffError(
            f"view {view.entity}/{view.name} of {store.path} has no index: run {build_command(store, view, None)}"
        )
    card = read_card(path)
    if isinstance(card, str):
        raise StepDiffError(f"the index of {path} is stale, {card}: run {build_command(store, view, None)}")
    reason = stale(store, view, card)
    if reason is None:
        try:
            index = read_files(store, view, card)
            if index is not None:
                check_ids(index, file_of(card, INDEX), filled_rows(view))
            return Index(store, view, card, index)
        except DamagedIndex as error:
            reason = str(error)
    raise StepDiffError(f"the index of {path} is stale, {reason}: run {build_command(store, view, card)}")


def read_files(store: Store, view: View, card: Card) -> faiss.Index | None:
    """Return the FAISS index of a card, None for an exact one. Raises DamagedIndex if a file has changed."""
    home = card_path(store, view.entity, view.name).parent
    if not card["files"]:
        return None
    with home.fetched(list(card["files"])) as folder:
        if damaged(card, folder):
            raise DamagedIndex("its file is damaged or of another build")
        index = read_faiss(folder / file_of(card, INDEX), card["dim"], card["rows"], mapped=folder == home)
    probe(index, card["probes"])
    return index


def probe(index: faiss.Index, lists: int) -> None:
    """Set the number of lists that an IVF index probes; other indexes have none."""
    if (ivf := ivf_of(index)) is not None:
        ivf.nprobe = lists


def ivf_of(index: faiss.Index) -> faiss.IndexIVF | None:
    """Return the IVF index that an index is or wraps, or None."""
    import faiss

    return faiss.try_extract_index_ivf(index)


@contextmanager
def cluster_on_gpu(ivf: faiss.IndexIVF | None) -> Iterator[None]:
    """Train the centroids of an IVF index on all GPUs within this block, if FAISS has GPUs (`pip install '.[gpu]'`)."""
    import faiss

    if ivf is None or not faiss.get_num_gpus():
        yield
        return
    ivf.clustering_index = faiss.index_cpu_to_all_gpus(faiss.IndexFlatIP(ivf.d))
    yield
    ivf.clustering_index = None
