"""A FAISS index over one view of a store: its files, checked before memory is allocated for them, and its search.

On disk, in the store: indexes/ENTITY/VIEW.json (the card) and the files that it names (see index_card.py, sample.py).
An exact index has only a card: the store itself is searched.

Guarantees
- ids_are_store_rows: a hit is a row of the store, also where other rows failed or are missing
- an_index_of_changed_rows_is_refused: an index of changed rows, of another provenance, without its card or with a
  damaged byte is refused; the error gives the reason and the command that rebuilds it
- similarities_are_exact: hits of an approximate index are compared again by the store's own vectors, so a similarity is
  always the cosine
- forged_sizes_allocate_nothing: a file that declares more than it holds is refused before memory is allocated
- ids_that_are_not_ok_rows_are_refused: an index whose numbers are not the filled rows of its view is refused
"""

from __future__ import annotations

import math
import re
import struct
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float32, Int64

from common.errors import StepDiffError
from retrieval.exact import SPARE, search_exactly
from retrieval.index.hits import Hits
from retrieval.index.index_card import INDEX, Card, build_command, card_path, damaged, file_of, read_card, stale
from retrieval.vectors import filled_rows
from store import Store, View

if TYPE_CHECKING:
    import faiss

_HEADER = struct.Struct("<4siqqq?i")  # kind, dimension, vectors, two unused numbers, is trained, metric
_LEAST_BYTES = 9  # of a vector in a file: one byte of code and its row number
_DERIVED = 64 * 2**20  # bytes of tables that FAISS computes from small codebooks while it reads
_QUERY_BY_QUERY = 3  # of FAISS's parallel modes
_limits = threading.Lock()  # FAISS's limits apply to the whole process


class DamagedIndex(StepDiffError):
    """A file of an index that differs from what was written; the message begins with the fault."""


def read_faiss(path: Path, dim: int, count: int, mapped: bool = False) -> faiss.Index:
    """Return the FAISS index in a file of `count` vectors of `dim` channels.

    `mapped` leaves the inverted lists in the mapped file.

    Raises:
        DamagedIndex: The header declares other numbers, or more than the file holds, or FAISS cannot read it.
    """
    import faiss

    size = path.stat().st_size
    with open(path, "rb") as file:
        header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise DamagedIndex(f"{path.name} is damaged: it ends within its header")
    _, d, vectors, _, _, _, metric = _HEADER.unpack(header)
    if (d, vectors, metric) != (dim, count, faiss.METRIC_INNER_PRODUCT) or vectors * _LEAST_BYTES > size:
        raise DamagedIndex(
            f"{path.name} is damaged: {size:,} bytes that declare {vectors:,} vectors of {d:,} channels, "
            f"but the index has {count:,} of {dim:,}"
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
        lists.prefetch_nthread = 0  # 32 threads a search: they take longer than the search of lists in memory
    if (index.d, index.ntotal) != (dim, count):  # a wrapper may declare other numbers than it holds
        raise DamagedIndex(f"{path.name} is damaged: it holds {index.ntotal:,} vectors of {index.d:,} channels")
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
        before = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
        faiss.set_deserialization_vector_byte_limit(size + _DERIVED)
        faiss.set_deserialization_loop_limit(size)
        try:
            yield
        finally:
            faiss.set_deserialization_vector_byte_limit(before[0])
            faiss.set_deserialization_loop_limit(before[1])


def check_ids(index: faiss.Index, name: str, filled: Int64[np.ndarray, " rows"]) -> None:
    """Raise DamagedIndex unless the numbers in an index are the filled rows of its view, each exactly once."""
    found: Bool[np.ndarray, " up_to_last"] = np.zeros(int(filled.max(initial=-1)) + 1, bool)
    total = 0
    for part in ids(index):
        if len(part) and (part.min() < 0 or part.max() >= len(found)):
            break
        found[part] = True
        total += len(part)
    if total != len(filled) or np.count_nonzero(found) != len(filled) or not found[filled].all():
        raise DamagedIndex(f"{name} is damaged: its numbers are not the rows of its view")


def ids(index: faiss.Index) -> Iterator[Int64[np.ndarray, " list"]]:
    """Yield the row numbers of each inverted list that is not empty, or all at once if the index has no lists."""
    import faiss

    ivf = faiss.try_extract_index_ivf(index)
    if ivf is None:
        outer = faiss.downcast_index(index)
        yield faiss.vector_to_array(outer.id_map) if isinstance(outer, faiss.IndexIDMap) else np.empty(0, np.int64)
        return
    lists = ivf.invlists
    for n in range(lists.nlist):
        if size := lists.list_size(n):
            yield faiss.rev_swig_ptr(lists.get_ids(n), size)


def read_arrays(path: Path, forms: Mapping[str, tuple[str, int]]) -> dict[str, np.ndarray]:
    """Return the arrays of an uncompressed .npz file; `forms` gives the type and number of axes of each.

    Raises:
        DamagedIndex: Not such a file, or an array that declares another form or size than it has.
    """
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as file:
            members = {info.filename: info for info in file.infolist()}
            if sorted(members) != sorted(f"{name}.npy" for name in forms) or any(
                info.compress_type != zipfile.ZIP_STORED or info.file_size > size for info in members.values()
            ):
                raise ValueError("it contains other arrays, or compressed ones")
            return {name: _array(file.read(f"{name}.npy"), *form) for name, form in forms.items()}
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, OSError, NotImplementedError, struct.error) as error:
        raise DamagedIndex(f"{path.name} is damaged: it cannot be read ({error})") from error


def _array(data: bytes, kind: str, axes: int) -> np.ndarray:
    """An array from the bytes of a .npy file. Raises ValueError where header and bytes disagree."""
    file = BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"version {version} of an array")
    shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
    start = file.tell()
    if dtype != np.dtype(kind) or len(shape) != axes or math.prod(shape) * dtype.itemsize != len(data) - start:
        raise ValueError(f"{len(data) - start:,} bytes that declare {dtype} {shape}")
    return np.frombuffer(data, dtype, offset=start).reshape(shape, order="F" if by_column else "C").copy()


AGAIN = 10  # hits of product-quantised codes compared exactly per requested hit
_FINE = re.compile(r"IVF\d+(_HNSW\d+)?,(SQfp16|Flat)")  # codes that order hits as the vectors do, but for near ties
NEAR = 2  # hits of such codes compared exactly beyond k; each costs as much as 30 of a list


@dataclass(frozen=True)
class Index:
    """An index that matches its store."""

    store: Store
    view: View
    card: Card
    faiss: faiss.Index | None
    """None for an exact index: the store itself is searched"""

    @cached_property
    def hits(self) -> Hits:
        """The comparison of hits with the store's rows."""
        return Hits(self.store, self.view, self.card["feature"])

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
        spare = NEAR if _FINE.fullmatch(self.card["factory"]) else SPARE
        more = max(k * AGAIN, 100) if "PQ" in self.card["factory"] else k + spare
        try:
            _, rows = self.faiss.search(queries, more, params=only)
        except RuntimeError as error:
            raise StepDiffError(
                f"FAISS cannot search only some rows of an index {self.card['factory']!r}: "
                "build one with --factory auto"
            ) from error
        cosines = self.hits.cosines(queries, rows)
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
    if store.at is not None:
        raise StepDiffError(
            f"the index of {path} is not of snapshot {store.at} ({reason}): an index is of the store as it is now, so "
            f"give the store without @{store.at}"
        )
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
    """Set the number of lists that an IVF index probes; other indexes have none.

    Threads take a query at a time: as many queries for each, FAISS's default, take a fifth longer in all.
    """
    if (ivf := ivf_of(index)) is not None:
        ivf.nprobe, ivf.parallel_mode = lists, _QUERY_BY_QUERY


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
