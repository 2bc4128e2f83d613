"""A FAISS index over one view of a store, and the card that says what it was built from.

On disk, in the store: indexes/ENTITY/VIEW.json (the card) and the files it names (see card.py, sample.py). An exact
index is its card alone: it searches the store itself.

Guarantees:
- ids_are_store_rows: a hit is a row of the store, whatever rows failed or are not there yet.
- stale_is_refused: an index of rows that have changed since, of another provenance, without its
  card, or damaged in any byte is not searched; the error says why and how to build it anew.
- similarities_are_exact: hits of an index that approximates are compared again by the store's own
  vectors, so a similarity is always the cosine.

GPUs, where FAISS has any (`pip install -e '.[gpu]'`): training there takes minutes where it takes hours
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

AGAIN = 10  # hits of product-quantised codes compared exactly, for each one asked for


@dataclass(frozen=True)
class Index:
    """An index that was found true to its store."""

    store: Store
    view: View
    card: Card
    faiss: faiss.Index | None
    """None is exact: the store itself is searched"""

    def __len__(self) -> int:
        return int(self.card["rows"])

    def search(
        self, queries: Float32[np.ndarray, "queries dim"], k: int, among: Int64[np.ndarray, " rows"] | None = None
    ) -> tuple[Int64[np.ndarray, "queries k"], Float32[np.ndarray, "queries k"]]:
        """The k nearest rows of each normalised query and their cosines, best first; with `among`, of those rows.

        Where there are fewer, or an approximate index finds fewer, the row is -1 and the cosine -inf. StepDiffError:
        an index of a kind that cannot leave rows out.
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
                f"FAISS cannot search some rows alone in an index {self.card['factory']!r}: "
                "build one with --factory auto"
            ) from error
        cosines = compared(self.store, self.view, feature, queries, rows)
        order = np.lexsort((rows, -cosines))[:, :k]
        found = np.take_along_axis(cosines, order, axis=1).astype(np.float32)
        return np.take_along_axis(rows, order, axis=1), found


def selecting(index: Any, rows: Int64[np.ndarray, " rows"]) -> Any:
    """What makes a search of `index` look at `rows` alone: the fewer they are, the more lists of an IVF index."""
    faiss: Any = import_module("faiss")  # whose stubs know no selection
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
    """The index of `view`. StepDiffError where there is none, or where it is stale."""
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
    """The FAISS index of a card, None of an exact one. DamagedIndex where a file is not as it was written."""
    beside = card_path(store, view.entity, view.name).parent
    if not card["files"]:
        return None
    with beside.fetched(list(card["files"])) as folder:
        if damaged(card, folder):
            raise DamagedIndex("its file is damaged or of another build")
        index = read_faiss(folder / file_of(card, INDEX), card["dim"], card["rows"], mapped=folder == beside)
    probe(index, card["probes"])
    return index


def probe(index: faiss.Index, lists: int) -> None:
    """Let an IVF index look at so many lists for a query; another index has none."""
    if (ivf := ivf_of(index)) is not None:
        ivf.nprobe = lists


def ivf_of(index: faiss.Index) -> faiss.IndexIVF | None:
    """The inverted lists that an index is or wraps, None where it has none."""
    import faiss

    return faiss.try_extract_index_ivf(index)


if TYPE_CHECKING:
    import faiss


@contextmanager
def cluster_on_gpu(ivf: faiss.IndexIVF | None) -> Iterator[None]:
    """Let the centroids of an IVF index be trained on all GPUs within this block; without GPUs nothing changes."""
    import faiss

    if ivf is None or not faiss.get_num_gpus():
        yield
        return
    ivf.clustering_index = faiss.index_cpu_to_all_gpus(faiss.IndexFlatIP(ivf.d))
    yield
    ivf.clustering_index = None
