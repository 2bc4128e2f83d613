"""Build of a view's index: choose, train, fill (IVF part by part), measure, commit.

An IVF index is trained once, filled in parallel from runs of rows (here, or by workers on Ray), and
merged on disk: a folder holds trained.faiss (without rows) and the inverted lists of each part. A
worker holds one part in memory, the merge the whole index.

Guarantees
- an index is written under its own name, then its card; an interrupted build keeps the old index,
  and resumes: existing parts are not computed again, and the index equals an uninterrupted build's
- newer rows are added to the existing index, which is neither trained nor read again
- every row is compared with its stored checksum when it is read into an index
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from retrieval.exact import search_exactly, without_itself
from retrieval.index.device import Device, device_for, on_cpu, on_device
from retrieval.index.index import (
    FLAT,
    NEAR,
    DamagedIndex,
    Index,
    check_ids,
    graph_of,
    ivf_of,
    read_faiss,
    read_files,
    rows_of,
    set_effort,
)
from retrieval.index.index_card import (
    INDEX,
    VERSION,
    Card,
    card_path,
    described,
    digest,
    index_file,
    read_card,
    remove_others,
    write_card,
)
from retrieval.vectors import Rows, checked_norms, command, compact, filled_rows, raw_blocks, width
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import Place, local, make_folder, whole
from stepdiff_core.io.locks import locked
from stepdiff_core.progress import Advance, progress
from stepdiff_core.streams import generator
from stepdiff_core.workers.cluster import connected
from stepdiff_core.workers.pool import WorkerPool, pool_size
from store import Store, View

if TYPE_CHECKING:
    import faiss

METRIC = "inner product of L2-normalised rows"
INDEXED_FROM = 10_000  # rows for which an index that is built is approximate
GRAPH_TO = 1_000_000  # rows; a graph is built by one machine
HALVES_TO = 10_000_000  # rows; beyond, half floats no longer fit the memory of one machine
GRAPH = "HNSW32,SQfp16"
PIECES = 64  # bytes of a product-quantised row, at most
RECALL = 0.95  # share of the K nearest rows that an index finds, if no other is given
REBUILD_FROM = 0.3  # share of rows added after training from which a rebuild is recommended
PART_ROWS = 2**18  # of a part, about
# rows of the view whose nearest are searched to measure the recall, and how many of them
QUERIES, K = 256, 10
EQUAL = 1e-6  # difference up to which two cosines are the same neighbour
MOST_CANDIDATES = 4096  # of a graph
TRAINING_ROWS_A_LIST = 64
CONSTRUCTION = 80  # candidates that a graph compares for a new node


@dataclass(frozen=True)
class IndexOptions:
    """How an index is built."""

    factory: str = "auto"
    """FAISS factory string; "auto" depends on the number of rows"""
    least_recall: float = RECALL
    """share of the K nearest rows to find: a search visits as little of the index as that takes"""
    rebuild: bool = False
    """train again; otherwise newer rows are added to an existing index"""
    workers: int | None = None
    """processes that fill parts of an IVF index on Ray, by default one per CPU; 1 fills them
    here"""
    address: str | None = None
    """Ray cluster; by default a local one"""
    part_rows: int = PART_ROWS
    device: Device = "auto"
    """where an IVF index is trained and filled; `auto` is a GPU if FAISS has one and the view is
    large. A GPU fills all parts from this process"""


def build_index(store: Store, view: View, feature: str = "embedding", **options: Any) -> Card:
    """Index the filled rows of a view and return the card.

    Args:
        store: The store of the view.
        view: Of clips or texts.
        feature: Its embedding to compare.
        options: Of `IndexOptions`.

    Raises:
        StepDiffError: No such embedding, no rows, a row without a direction, an unusable factory,
            no such device, or a snapshot.
    """
    if store.at is not None:
        raise StepDiffError(
            f"snapshot {store.at} of {store.path} is not indexed: an index is of the store as it "
            f"is now, so give the store without @{store.at}"
        )
    start, how = time.monotonic(), IndexOptions(**options)
    dim, rows = width(view, feature), filled_rows(view)
    if not len(rows):
        raise StepDiffError(
            f"view {view.entity}/{view.name} of {store.path} has no features yet: fill it first "
            f"with {command('python', '-m', 'featurize', '--help')}"
        )
    if how.factory == "auto":
        how = replace(how, factory=factory_for(len(rows), dim))
    path = card_path(store, view.entity, view.name)
    make_folder(path.parent)
    with locked(path.parent / f".{view.name}.lock", wait=False):
        build = _Build(
            store, view, feature, replace(how, device=device_for(how.device, len(rows))), rows
        )
        card = build.exact() if how.factory == FLAT else build.approximate()
        card["seconds"] = round(time.monotonic() - start, 3)
        write_card(path, card)
        remove_others(path, card)
    build.work.remove()
    return card


def factory_for(rows: int, dim: int) -> str:
    """Return the factory string of an index: exact search, a graph or lists of half floats, product
    quantisation."""
    if rows < INDEXED_FROM:
        return FLAT
    if rows <= GRAPH_TO:
        return GRAPH
    # 256 queries of 200,000 rows take 33, 34, 39 ms with 1, 2, 4 sqrt(rows) lists; building takes
    # 5, 13, 38 s.
    lists = round(2 * math.sqrt(rows))
    if rows <= HALVES_TO:
        return f"IVF{lists},SQfp16"
    return f"IVF{lists},PQ{max(pieces for pieces in range(1, PIECES + 1) if dim % pieces == 0)}"


class _Build:
    def __init__(
        self, store: Store, view: View, feature: str, how: IndexOptions, rows: Rows
    ) -> None:
        self.store, self.view, self.feature, self.how, self.rows = store, view, feature, how, rows
        self.path = card_path(store, view.entity, view.name)
        self.work = self.path.parent / f"{view.name}.building"
        self.checked = store.view(view.entity, view.name, check="always")
        self.digest = digest(view, rows)
        drawn = generator(0, "recall queries").choice(rows, min(QUERIES, len(rows)), replace=False)
        self.sample = np.sort(drawn)

    def exact(self) -> Card:
        """Check that every row has a direction; an exact index has no files."""
        with progress("checked rows", len(self.rows)) as advance:
            for rows, vectors in raw_blocks(self.checked, self.feature, self.rows):
                checked_norms(self.view, self.feature, rows, vectors)
                advance(len(rows))
        return self._card(FLAT) | {"recall": 1.0, "bytes": 0}

    def approximate(self) -> Card:
        """Train or take the existing index, add the rows that it lacks, and measure."""
        how, device, part_rows = self.how, self.how.device, self.how.part_rows
        old = None if how.rebuild else self._extendable()
        factory, trained_rows = how.factory, len(self.rows)
        if old is None:
            index = new_index(width(self.view, self.feature), factory, len(self.rows))
        else:
            card, index = old
            factory, trained_rows = card["factory"], card["trained_rows"]
        held = np.sort(rows_of(index))
        new = np.setdiff1d(self.rows, held, assume_unique=True)
        if old is not None and not len(new):  # the effort for another recall is found again
            return self._measured(card)
        same = (
            f"{VERSION} {faiss_version()} {factory} {self.feature} {self.digest} {len(held)} "
            f"{part_rows}"
        )
        folder = self.work / hashlib.sha256(same.encode()).hexdigest()[:16]
        if not folder.is_dir():  # what is there belongs to another build
            self.work.remove()
            make_folder(folder)
        trained, features = folder / "trained.faiss", (self.checked, self.feature)
        with progress("indexed rows", len(new)) as advance:
            if ivf_of(index) is None:  # its rows cannot be divided into parts
                trained_rows, index = len(self.rows), on_device(index, device)
                train(*features, factory, index, self.rows, device)
                for count in add(*features, factory, index, new):
                    advance(count)
            else:
                # whole shards
                runs = new // (
                    self.view.rows_per_shard * max(part_rows // self.view.rows_per_shard, 1)
                )
                rows = np.split(new, np.flatnonzero(np.diff(runs)) + 1) if len(new) else []
                parts = [IndexPart(*features, factory, trained, some, device) for some in rows]
                missing = [part for part in parts if not part.lists.exists()]
                advance(len(new) - sum(len(part.rows) for part in missing))
                if not trained.exists():
                    train(*features, factory, index, self.rows, device)
                    index.reset()
                    with whole(trained) as temporary:
                        write_index(index, temporary)
                fill_all(missing, how.workers if device == "cpu" else 1, how.address, advance)
                with naming(folder), ExitStack() as stack:
                    lists = {
                        stack.enter_context(local(part.lists)): len(part.rows) for part in parts
                    }
                    if old is None:
                        index = read_faiss(stack.enter_context(local(trained)), index.d, 0)
                    else:
                        index = read_files(self.store, self.view, card, mapped=False)
                    merge(index, lists)
        set_effort(index, 1)
        file = self.path.parent / f"{self.path.stem}.{os.urandom(4).hex()}{INDEX}"
        with whole(file) as temporary:
            write_index(index, temporary)
            entry = described(temporary)
        share = round((len(self.rows) - trained_rows) / len(self.rows), 4)
        more = {"trained_rows": trained_rows, "new_share": share, "rebuild": share > REBUILD_FROM}
        with naming(folder):
            return self._measured(self._card(factory) | {"files": {file.name: entry}} | more)

    def _extendable(self) -> tuple[Card, faiss.Index] | None:
        """Return the existing card and index if they lack only newer rows."""
        card = read_card(self.path)
        if isinstance(card, str) or not card["files"] or card["feature"] != self.feature:
            return None
        kinds = {
            re.sub(r"^IVF\d+,", "IVF,", factory) for factory in (card["factory"], self.how.factory)
        }
        # for more rows, `auto` chooses more lists of the same kind: those that exist are filled
        if len(kinds) > 1:
            return None
        if card["provenance"] != self.view.provenance.as_dict():
            return None
        try:
            index = read_files(self.store, self.view, card, mapped=False)
        except DamagedIndex:
            return None
        held = np.sort(rows_of(index))
        lost = len(np.setdiff1d(held, self.rows, assume_unique=True))
        return None if lost or digest(self.view, held) != card["digest"] else (card, index)

    def _measured(self, card: Card) -> Card:
        """Find the least effort (lists, candidates) that reaches the recall; returns the card with
        the measurements."""
        least_recall = self.how.least_recall
        index = read_files(self.store, self.view, card)
        check_ids(index, index_file(card), self.rows)
        opened = Index(self.view, card, index)
        queries = compact(self.view, self.feature, self.sample)
        nearest = search_exactly(self.view, self.feature, self.rows, queries, K + 1)
        true = without_itself(nearest, self.sample, K)[1]

        def reached(effort: int) -> float:
            set_effort(index, effort)
            return recall(without_itself(opened.search(queries, K + 1), self.sample, K)[1], true)

        few, effort, most = 0, 1, 1  # `few` finds too little
        if (ivf := ivf_of(index)) is not None:
            most = ivf.nlist
        elif graph_of(index) is not None:
            few, effort, most = K + NEAR, K + 1 + NEAR, MOST_CANDIDATES
        while (share := reached(effort)) < least_recall and effort < most:
            few, effort = effort, min(effort * 2, most)
        while share >= least_recall and effort - few > 1:
            middle = (few + effort) // 2
            if (enough := reached(middle)) >= least_recall:
                effort, share = middle, enough
            else:
                few = middle
        set_effort(index, effort)
        figures = {
            "probes": effort,
            "recall": round(share, 4),
            "recall_queries": len(queries),
            "recall_k": K,
        }
        return card | figures | {"bytes": sum(file["bytes"] for file in card["files"].values())}

    def _card(self, factory: str) -> Card:
        return {
            "version": VERSION,
            "entity": self.view.entity,
            "view": self.view.name,
            "feature": self.feature,
            "provenance": self.view.provenance.as_dict(),
            "factory": factory,
            "exact": factory == FLAT,
            "metric": METRIC,
            "rows": len(self.rows),
            "dim": width(self.view, self.feature),
            "digest": self.digest,
            "files": {},
            "probes": 1,
            "faiss": faiss_version(),
        }


def faiss_version() -> str:
    """Return the version of the installed FAISS."""
    import faiss

    return str(faiss.__version__)


def recall(
    cosines: Float32[np.ndarray, "queries k"], true: Float32[np.ndarray, "queries k"]
) -> float:
    """Return the share of true neighbours that were found; rows with equal cosines are
    interchangeable."""
    sought = np.isfinite(true)
    worst = np.min(np.where(sought, true, np.inf), axis=1, keepdims=True)
    hits = np.minimum(np.sum(cosines >= worst - EQUAL, axis=1), np.sum(sought, axis=1))
    return float(np.sum(hits) / max(np.sum(sought), 1))


@contextmanager
def naming(folder: Place) -> Iterator[None]:
    """Convert a DamagedIndex raised within the block into an error that names the folder to
    delete."""
    try:
        yield
    except DamagedIndex as error:
        raise StepDiffError(f"{error}; delete {folder} and run the same command again") from error


class IndexPart(NamedTuple):
    """A run of rows to index. Picklable."""

    view: View  # compares each row that is read with its checksum
    feature: str
    factory: str
    trained: Place  # file of the index without rows
    rows: Rows
    device: Device

    @property
    def shard(self) -> int:
        """Return its first row, which identifies it in the worker pool."""
        return int(self.rows[0])

    @property
    def failures(self) -> tuple[()]:
        return ()

    @property
    def lists(self) -> Place:
        return self.trained.parent / f"{self.rows[0]}-{self.rows[-1] + 1}.faiss"


class Filled(NamedTuple):
    """The outcome of a part."""

    shard: int
    error: str | None = None  # the reason if it was not filled


def new_index(dim: int, factory: str, rows: int) -> faiss.Index:
    """Return an empty index. Raises StepDiffError if FAISS has no such index."""
    import faiss

    with _refusing(factory, rows, dim):
        # an IVF index in such a wrapper has other numbers than rows
        without_ids = re.sub("^IDMap2?,", "", factory)
        index = faiss.index_factory(dim, without_ids, faiss.METRIC_INNER_PRODUCT)
        if ivf_of(index) is None:  # it stores no row numbers by itself
            index = faiss.IndexIDMap(index)
        if (graph := graph_of(index)) is not None:
            graph.efConstruction = CONSTRUCTION
        return index


def train(
    view: View, feature: str, factory: str, index: faiss.Index, rows: Rows, device: Device
) -> None:
    """Train an index that is not yet on a seeded sample of `rows`. Raises StepDiffError if these do
    not suit it."""
    import faiss

    if index.is_trained:
        return
    ivf = ivf_of(index)
    with _refusing(factory, len(rows), index.d):
        most = TRAINING_ROWS_A_LIST * (ivf.nlist if ivf is not None else 1024)
        chosen = generator(0, "index training rows").permutation(len(rows))[:most]
        vectors = compact(view, feature, rows[np.sort(chosen)])
        if ivf is None or device == "cpu":
            index.train(vectors)
        else:
            # the index does not own it
            ivf.clustering_index = centroids = on_device(faiss.IndexFlatIP(ivf.d), device)
            index.train(vectors)
            del centroids
            ivf.clustering_index = None


@contextmanager
def _refusing(factory: str, rows: int, dim: int) -> Iterator[None]:
    """Convert an error of FAISS within the block into one line."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise StepDiffError(
            f"FAISS cannot build {factory!r} over {rows} rows of {dim} channels ({reason}): "
            f"choose another --factory, or auto"
        ) from error


def add(view: View, feature: str, factory: str, index: faiss.Index, rows: Rows) -> Iterator[int]:
    """Add rows to an index block by block, and yield the number of rows of each block.

    Raises StepDiffError if the index takes no row numbers.
    """
    for block, vectors in raw_blocks(view, feature, rows):
        norms = checked_norms(view, feature, block, vectors)
        with _refusing(factory, len(rows), index.d):
            index.add_with_ids((vectors / norms[:, None]).astype(np.float32), block)
        yield len(block)


def fill(part: IndexPart) -> None:
    """Add the rows of a part to its own lists."""
    with naming(part.trained.parent), local(part.trained) as file:
        index = read_faiss(file, width(part.view, part.feature), 0)
    index = on_device(index, part.device)
    for _ in add(part.view, part.feature, part.factory, index, part.rows):
        pass
    with whole(part.lists) as temporary:
        write_index(on_cpu(index, part.device), temporary)


def merge(index: faiss.Index, lists: Mapping[Path, int]) -> None:
    """Add the rows of the index files `lists`, each with its number of rows. Raises DamagedIndex
    for another file."""
    for path, count in lists.items():
        part = read_faiss(path, index.d, count)
        try:
            index.merge_from(part, 0)
        except RuntimeError as error:
            raise DamagedIndex(f"{path.name} is damaged: it is not a part of this index") from error


def write_index(index: faiss.Index, path: Path) -> None:
    """Write an index file. Raises StepDiffError if the disk is full."""
    import faiss

    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        raise StepDiffError(
            f"cannot write {path}: make room on its disk, and run it again"
        ) from error


class FillWorker:
    """A worker that fills parts; no embedding travels through Ray."""

    outcome = Filled

    def __init__(self, options: SimpleNamespace) -> None:
        pass

    def run(self, part: IndexPart) -> Filled:
        fill(part)
        return Filled(part.shard)

    def finished(self) -> int:
        """Return 0: rows count once their part is written."""
        return 0


def fill_all(
    parts: Sequence[IndexPart], workers: int | None, address: str | None, advance: Advance
) -> None:
    """Fill every part. One part, or `workers` of 1, needs no Ray.

    Raises StepDiffError for the first part that fails, or whose workers die repeatedly.
    """
    if workers == 1 or (len(parts) < 2 and address is None):
        for part in parts:
            fill(part)
            advance(len(part.rows))
        return
    with connected(address, "retrieval") as joined:
        options = SimpleNamespace(cpus=1)
        pool = WorkerPool(FillWorker, options, False, joined=joined)
        count, _ = pool_size(workers, options.cpus, False, joined)
        for filled in pool.run(parts, min(count, len(parts)), advance):
            if filled.error:
                raise StepDiffError(filled.error)
