"""A FAISS index over one view of a store: its files, checked before memory is allocated for them,
and its search.

On disk, in the store: indexes/ENTITY/VIEW.json (the card) and the file that it names (see
index_card.py). An exact index has only a card: the store itself is searched.

Guarantees
- an index of changed rows, of another provenance, without its card or with a damaged byte is
  refused; the error gives the reason and the command that rebuilds it
- hits of an approximate index are compared again by the store's own vectors, so a similarity is
  always the cosine
- a file that declares more than it holds is refused before memory is allocated
"""

from __future__ import annotations

import math
import re
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Float64, Int64
from numpy.lib.stride_tricks import as_strided

from retrieval.exact import Found, check_directions, cosines, cosines_in, search_exactly
from retrieval.index.device import MOST, Device, device_for, on_device
from retrieval.index.index_card import (
    Card,
    build_command,
    card_path,
    damaged,
    index_file,
    read_card,
    stale,
)
from retrieval.vectors import Queries, Rows, block_rows, filled_rows, width
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.direct_io import fill_memory
from stepdiff_core.io.files import local_files
from store import Store, View
from store.view import OK

if TYPE_CHECKING:
    import faiss

FLAT = "Flat"  # factory of an exact index: the store itself is searched
# rows that are searched exactly if they have no index, or a condition selects them
FLAT_BELOW = 100_000
# kind, dimension, vectors, two unused numbers, is trained, metric
_HEADER = struct.Struct("<4siqqq?i")
_LEAST_BYTES = 9  # of a vector in a file: one byte of code and its row number
_DERIVED = 64 * 2**20  # bytes of tables that FAISS computes from small codebooks while it reads
_QUERY_BY_QUERY = 3  # of FAISS's parallel modes
_limits = threading.Lock()  # FAISS's limits apply to the whole process


class DamagedIndex(StepDiffError):
    """A file of an index that differs from what was written; the message begins with the fault."""


def read_faiss(path: Path, dim: int, count: int, mapped: bool = False) -> faiss.Index:
    """Return the FAISS index in a file of `count` vectors of `dim` channels, or raise DamagedIndex.

    `mapped` leaves the inverted lists in the mapped file.
    """
    import faiss

    size = path.stat().st_size
    with open(path, "rb") as file:
        header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise DamagedIndex(f"{path.name} is damaged: it ends within its header")
    _, d, vectors, _, _, _, metric = _HEADER.unpack(header)
    if (d, vectors, metric) != (
        dim,
        count,
        faiss.METRIC_INNER_PRODUCT,
    ) or vectors * _LEAST_BYTES > size:
        raise DamagedIndex(
            f"{path.name} is damaged: {size:,} bytes that declare {vectors:,} vectors of {d:,} "
            f"channels, but the index has {count:,} of {dim:,}"
        )
    flags = faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE  # only L2 distances need that table
    try:
        with _limited(size):
            index = faiss.read_index(str(path), flags | (faiss.IO_FLAG_MMAP if mapped else 0))
    except (RuntimeError, MemoryError) as error:
        reason = (str(error).strip().splitlines() or ["out of memory"])[-1]
        raise DamagedIndex(f"{path.name} is damaged: FAISS cannot read it ({reason})") from error
    ivf = ivf_of(index)
    lists = None if ivf is None else faiss.downcast_InvertedLists(ivf.invlists)
    if isinstance(lists, faiss.OnDiskInvertedLists):
        # 32 threads a search: they take longer than the search of lists in memory
        lists.prefetch_nthread = 0
    if (index.d, index.ntotal) != (dim, count):  # a wrapper may declare other numbers than it holds
        raise DamagedIndex(
            f"{path.name} is damaged: it holds {index.ntotal:,} vectors of {index.d:,} channels"
        )
    return index


@contextmanager
def _limited(size: int) -> Iterator[None]:
    """Limit the memory of each array that FAISS reads to what a file of `size` bytes can fill.

    FAISS has these limits since 1.14.2. faiss-gpu-cu12 is older: there only the header is checked.
    """
    import faiss

    if not hasattr(faiss, "set_deserialization_vector_byte_limit"):
        yield
        return
    with _limits:
        before = (
            faiss.get_deserialization_vector_byte_limit(),
            faiss.get_deserialization_loop_limit(),
        )
        faiss.set_deserialization_vector_byte_limit(size + _DERIVED)
        faiss.set_deserialization_loop_limit(size)
        try:
            yield
        finally:
            faiss.set_deserialization_vector_byte_limit(before[0])
            faiss.set_deserialization_loop_limit(before[1])


def check_ids(index: faiss.Index, name: str, filled: Rows) -> None:
    """Raise DamagedIndex unless the numbers in an index are the filled rows of its view, each
    exactly once."""
    rows, there = rows_of(index), np.zeros(int(filled.max(initial=0)) + 1, bool)
    valid = (
        len(rows) == len(filled) and rows.min(initial=0) >= 0 and rows.max(initial=0) < len(there)
    )
    if valid:
        there[rows] = True
    if not valid or not there[filled].all():
        raise DamagedIndex(f"{name} is damaged: its numbers are not the rows of its view")


def rows_of(index: faiss.Index) -> Rows:
    """Return the row numbers in an index, list by list."""
    import faiss

    ivf = ivf_of(index)
    if ivf is None:
        outer = faiss.downcast_index(index)
        held = [faiss.vector_to_array(outer.id_map)] if isinstance(outer, faiss.IndexIDMap) else []
    else:
        sizes = enumerate(map(ivf.invlists.list_size, range(ivf.nlist)))
        held = [faiss.rev_swig_ptr(ivf.invlists.get_ids(n), size) for n, size in sizes if size]
    return np.concatenate([np.empty(0, np.int64), *held])


_NOWHERE = np.iinfo(np.int64).min  # the place of a run that is not mapped


def _address(array: Float32[np.ndarray, "run dim"]) -> int:
    """Return the address of the first byte of an array."""
    return int(array.__array_interface__["data"][0])


OFTEN = 32  # rows of a run that are compared before it is mapped, and before another try


class RowComparer:
    """Compares filled rows of one feature with queries. Safe to share between threads.

    Reading a row by itself costs more than finding it in an index. So runs of consecutive rows that
    are often compared stay mapped, if main memory holds them, and are compared in place; rows that
    were written again are mapped again. Other rows are read from the store.
    """

    def __init__(self, view: View, feature: str, filled: Rows) -> None:
        self._view, self._feature = view, feature
        # powers of two: a run belongs to one shard
        size = min(block_rows(view, feature), view.rows_per_shard)
        first = np.flatnonzero((np.diff(filled, prepend=-2) > 1) | (filled % size == 0))
        self._starts, self._ends = filled[first], filled[[*first[1:] - 1, -1]] + 1
        self._compared = np.zeros(len(first), np.int64)  # since the run was mapped, or could not be
        # version of its file, vectors
        self._mapped: dict[int, tuple[Any, Float32[np.ndarray, "run dim"]]] = {}
        self._in_place = view.features[feature].dtype == "float32" and not view.paths.store.remote
        self._fits = not fill_memory(len(view) * view.features[feature].shape[0] * 4)

    def cosines(
        self, queries: Queries, rows: Int64[np.ndarray, "queries k"]
    ) -> Float64[np.ndarray, "queries k"]:
        """Return the float64 cosine of each normalised query to each of its own rows; -inf where
        the row is -1.

        Raises StepDiffError for a row without a direction, or one that can no longer be read.
        """
        exact = np.full(rows.shape, -np.inf)
        query, rank = np.nonzero(rows >= 0)
        compared = rows[query, rank]
        out, mapped = np.empty(len(compared)), np.zeros(len(compared), bool)
        if self._in_place and len(compared):
            run_of = np.searchsorted(self._starts, compared, side="right") - 1
            counts, versions = np.bincount(run_of, minlength=len(self._starts)), dict[int, Any]()
            runs = np.flatnonzero(counts)
            # this list keeps the files mapped while their memory is compared
            vectors = [self._vectors(run, int(counts[run]), versions) for run in runs.tolist()]
            if arrays := [array for array in vectors if array is not None]:
                base = min(arrays, key=_address)
                first = np.full(len(counts), _NOWHERE)
                first[runs] = [
                    _NOWHERE if array is None else (_address(array) - _address(base)) // 4
                    for array in vectors
                ]
                mapped = first[run_of] != _NOWHERE
                run = run_of[mapped]
                dim = queries.shape[1]
                starts = first[run] + (compared[mapped] - self._starts[run]) * dim
                # from the first of the mapped runs to the end of the last: nothing between is read
                memory = as_strided(base.ravel(), (int(starts.max()) + dim,), (4,), writeable=False)
                out[mapped] = cosines_in(memory, starts, queries, query[mapped])
                check_directions(self._view, self._feature, compared[mapped], out[mapped])
        rest = ~mapped
        out[rest] = cosines(self._view, self._feature, queries, query[rest], compared[rest])
        exact[query, rank] = out
        return exact

    def _vectors(
        self, run: int, count: int, versions: dict[int, Any]
    ) -> Float32[np.ndarray, "run dim"] | None:
        """Return a mapped run, or None; `count` of its rows are compared. `versions`: of shards, in
        this search."""
        view, feature = self._view, self._feature
        shard = int(self._starts[run]) // view.rows_per_shard
        if shard not in versions:
            versions[shard] = view.paths.shard(feature, shard, 2).identity()
        version, vectors = self._mapped.get(run, (None, None))
        if vectors is not None and version == versions[shard]:
            return vectors
        self._compared[run] += count
        if self._compared[run] < OFTEN:
            return None
        self._compared[run] = 0
        rows = np.arange(self._starts[run], self._ends[run])
        vectors = view.in_place(feature, rows)
        if vectors is None and self._fits:
            view.read(feature, rows)  # into memory
            vectors = view.in_place(feature, rows)
        if vectors is not None and not vectors.flags.aligned:
            return None  # a shard of another writer: its rows have no places in whole floats
        if vectors is not None:
            self._mapped[run] = versions[shard], vectors
        return vectors


AGAIN = 10  # hits of product-quantised codes compared exactly per requested hit
SPARE = 22  # hits of other codes compared exactly beyond k
NEAR = 2  # the same of codes that order hits as the vectors do, but for near ties
_FINE = re.compile(r"(IVF\d+(_HNSW\d+)?|HNSW\d+),(SQfp16|Flat)")


@dataclass(frozen=True)
class Index:
    """An index that matches its store."""

    view: View
    card: Card
    faiss: faiss.Index | None  # None for an exact index: the store itself is searched
    device: Device = "cpu"  # of searches in all rows; those in some rows are on the CPU

    @cached_property
    def hits(self) -> RowComparer:
        return RowComparer(self.view, self.card["feature"], filled_rows(self.view))

    @cached_property
    def unmapped(self) -> tuple[Any, Rows | None]:
        """The index without its wrapper, and the row of each of its numbers; None: they are rows.

        The wrapper translates numbers by all threads. On busy cores a search of one query waits 7
        ms for them.
        """
        faiss: Any = import_module("faiss")
        outer = faiss.downcast_index(self.faiss)
        wraps = isinstance(outer, faiss.IndexIDMap)
        return (faiss.downcast_index(outer.index), rows_of(outer)) if wraps else (outer, None)

    @cached_property
    def placed(self) -> Any:  # a faiss.Index; the field hides the module
        """The index without its wrapper, on the card if it may be there."""
        return on_device(self.unmapped[0], self.device)

    def __len__(self) -> int:
        return int(self.card["rows"])

    def search(self, queries: Queries, k: int, among: Rows | None = None) -> Found:
        """Return the k nearest rows of each normalised query and their cosines, best first; -1 and
        -inf after the last.

        `among` limits the rows. Raises StepDiffError if this kind of index cannot do that.
        """
        feature = self.card["feature"]
        if self.faiss is None:
            rows = filled_rows(self.view) if among is None else among
            return search_exactly(self.view, feature, rows, queries, k)
        spare = NEAR if _FINE.fullmatch(self.card["factory"]) else SPARE
        more = max(k * AGAIN, 100) if "PQ" in self.card["factory"] else k + spare
        try:
            if among is None:
                index, ids = self.unmapped
                _, rows = (self.placed if more <= MOST else index).search(queries, more)
                rows = rows if ids is None else np.where(rows < 0, -1, ids[rows])
            else:
                _, rows = self.faiss.search(queries, more, params=selecting(self.faiss, among))
        except RuntimeError as error:
            raise StepDiffError(
                f"FAISS cannot search only some rows of an index {self.card['factory']!r}: "
                "build one with --factory auto"
            ) from error
        exact = self.hits.cosines(queries, rows)
        order = np.lexsort((rows, -exact))[:, :k]
        return np.take_along_axis(rows, order, axis=1), np.take_along_axis(
            exact, order, axis=1
        ).astype(np.float32)


def selecting(index: Any, rows: Rows) -> Any:
    """Return search parameters that select `rows`; of fewer rows, more of the index is visited."""
    faiss: Any = import_module("faiss")  # its stubs lack the selectors
    chosen = np.zeros(int(rows.max(initial=0)) + 1, bool)
    chosen[rows] = True
    only = faiss.IDSelectorBitmap(np.packbits(chosen, bitorder="little"))
    more = index.ntotal / max(len(rows), 1)
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(
            sel=only, nprobe=min(math.ceil(index.nprobe * more), index.nlist)
        )
    if (graph := graph_of(index)) is not None:
        return faiss.SearchParametersHNSW(
            sel=only, efSearch=min(math.ceil(graph.efSearch * more), index.ntotal)
        )
    return faiss.SearchParameters(sel=only)


def exact_index(view: View, feature: str) -> Index:
    """Return an index of a view that has none: the store itself is searched. StepDiffError: no such
    embedding."""
    width(view, feature)
    return Index(
        view, {"feature": feature, "rows": int(np.count_nonzero(view.status() == OK))}, None
    )


def check_feature(index: Index, feature: str | None) -> None:
    """Raise StepDiffError if an index is not of the embedding that a user named."""
    compared = index.card["feature"]
    if feature not in (None, compared):
        raise StepDiffError(
            f"the index of {index.view.entity}/{index.view.name} compares {compared}, not "
            f"{feature}: leave --feature out, or build one with --feature {feature}"
        )


def open_index(store: Store, view: View, device: Device = "cpu") -> Index:
    """Return the index of `view`. Raises StepDiffError if it does not exist or is stale.

    device: of FAISS's searches in an IVF index: `cuda`, or `auto` for a GPU if there is one and the
    index is large. The first search copies the index to it, which is worth it for many queries.
    """
    path = card_path(store, view.entity, view.name)
    if not path.exists():
        raise StepDiffError(
            f"view {view.entity}/{view.name} of {store.path} has no index: run "
            f"{build_command(store, view, None)}"
        )
    card = read_card(path)
    if isinstance(card, str):
        raise StepDiffError(
            f"the index of {path} is stale, {card}: run {build_command(store, view, None)}"
        )
    reason = stale(view, card)
    if reason is None:
        try:
            if card["exact"]:
                return Index(view, card, None)
            place = device_for(device, card["rows"])
            index = read_files(store, view, card, mapped=place == "cpu")
            check_ids(index, index_file(card), filled_rows(view))
            return Index(view, card, index, place)
        except DamagedIndex as error:
            reason = str(error)
    if store.at is not None:
        raise StepDiffError(
            f"the index of {path} is not of snapshot {store.at} ({reason}): an index is of the "
            f"store as it is now, so give the store without @{store.at}"
        )
    raise StepDiffError(
        f"the index of {path} is stale, {reason}: run {build_command(store, view, card)}"
    )


def read_files(store: Store, view: View, card: Card, mapped: bool = True) -> faiss.Index:
    """Return the FAISS index of a card that is not exact. Raises DamagedIndex if a file has
    changed.

    `mapped` leaves the inverted lists in the file, if it is on this machine.
    """
    home = card_path(store, view.entity, view.name).parent
    with local_files(home, card["files"]) as folder:
        if damaged(card, folder):
            raise DamagedIndex("its file is damaged or of another build")
        index = read_faiss(
            folder / index_file(card), card["dim"], card["rows"], mapped and folder == home
        )
    set_effort(index, card["probes"])
    return index


def set_effort(index: faiss.Index, effort: int) -> None:
    """Set the number of lists that an IVF index probes, or of candidates that a graph keeps; others
    have none.

    Threads take a query at a time: as many queries for each, FAISS's default, take a fifth longer
    in all.
    """
    if (ivf := ivf_of(index)) is not None:
        ivf.nprobe, ivf.parallel_mode = effort, _QUERY_BY_QUERY
    elif (graph := graph_of(index)) is not None:
        graph.efSearch = effort if effort > 1 else 34  # 34 is in the file of a graph


def ivf_of(index: faiss.Index) -> faiss.IndexIVF | None:
    """Return the IVF index that an index is or wraps, or None."""
    import faiss

    return faiss.try_extract_index_ivf(index)


def graph_of(index: Any) -> Any:
    """Return the HNSW graph of an index, or None."""
    faiss: Any = import_module("faiss")
    inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexIDMap) else index
    return inner.hnsw if isinstance(inner, faiss.IndexHNSW) else None
