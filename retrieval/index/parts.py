"""An index in parts: trained once, filled in parallel from runs of rows (here, or by workers on Ray), merged on disk.

A folder holds trained.faiss (without rows) and the inverted lists of each part. Each file appears complete or not at
all.

Guarantees
- a killed build resumes: existing parts are not computed again, and the index equals that of an uninterrupted build
- a worker holds one part in memory, and the merge the whole index
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Int64

from retrieval.index.index import DamagedIndex, cluster_on_gpu, graph_of, ivf_of, read_faiss
from retrieval.vectors import checked_norms, compact, raw_blocks, width
from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import Place, local, whole
from stepdiff.common.progress import Advance
from stepdiff.common.streams import generator
from stepdiff.common.workers.cluster import connected
from stepdiff.common.workers.pool import WorkerPool, pool_size
from store import Store, View

if TYPE_CHECKING:
    import faiss

TRAINING_ROWS_A_LIST = 64
CONSTRUCTION = 80  # candidates that a graph compares for a new node


@dataclass(frozen=True)
class Job:
    """An index to build. Picklable."""

    store: Place
    entity: str
    view: str
    feature: str
    folder: Place  # of the parts

    def opened(self) -> tuple[Store, View]:
        """Open the store and the view; each row read is compared with its checksum."""
        store = Store.open(self.store)
        return store, store.view(self.entity, self.view, check="always")

    @property
    def trained(self) -> Place:
        return self.folder / "trained.faiss"

    @contextmanager
    def naming_folder(self) -> Iterator[None]:
        """Convert a DamagedIndex raised within the block into an error that names the folder to delete."""
        try:
            yield
        except DamagedIndex as error:
            raise StepDiffError(f"{error}; delete {self.folder} and run the same command again") from error


class Part(NamedTuple):
    """A run of rows of a job."""

    job: Job
    rows: Int64[np.ndarray, " rows"]

    @property
    def shard(self) -> int:
        """Return its first row, which identifies it in the worker pool."""
        return int(self.rows[0])

    @property
    def failures(self) -> tuple[()]:
        return ()

    @property
    def lists(self) -> Place:
        return self.job.folder / f"{self.rows[0]}-{self.rows[-1] + 1}.faiss"


class Filled(NamedTuple):
    """The outcome of a part."""

    error: str | None = None  # the reason if it was not filled


def parts_of(job: Job, rows: Int64[np.ndarray, " rows"], rows_per_shard: int, size: int) -> list[Part]:
    """Split `rows` into parts of whole shards, about `size` rows each."""
    runs = rows // (rows_per_shard * max(size // rows_per_shard, 1))
    return [Part(job, part) for part in np.split(rows, np.flatnonzero(np.diff(runs)) + 1)]


def new_index(dim: int, factory: str, rows: int) -> faiss.Index:
    """Return an empty index. Raises StepDiffError if FAISS has no such index."""
    import faiss

    with _refusing(factory, rows, dim):
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
        if ivf_of(index) is None:  # it stores no row numbers by itself
            index = faiss.IndexIDMap(index)
        if (graph := graph_of(index)) is not None:
            graph.efConstruction = CONSTRUCTION
        return index


def train(job: Job, factory: str, index: faiss.Index, rows: Int64[np.ndarray, " rows"]) -> None:
    """Train an empty index on a seeded sample of `rows`. Raises StepDiffError if these do not suit it."""
    store, view = job.opened()
    ivf = ivf_of(index)
    with _refusing(factory, len(rows), index.d):
        if not index.is_trained:
            most = TRAINING_ROWS_A_LIST * (ivf.nlist if ivf is not None else 1024)
            chosen = generator(0, "index training rows").permutation(len(rows))[:most]
            vectors = compact(store, view, job.feature, rows[np.sort(chosen)])
            with cluster_on_gpu(ivf):
                index.train(vectors)


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


def add(index: faiss.Index, job: Job, rows: Int64[np.ndarray, " rows"]) -> Iterator[int]:
    """Add rows to an index block by block, and yield the number of rows of each block."""
    store, view = job.opened()
    for block, vectors in raw_blocks(view, job.feature, rows):
        norms = checked_norms(store, view, job.feature, block, vectors)
        index.add_with_ids((vectors / norms[:, None]).astype(np.float32), block)
        yield len(block)


def fill(part: Part) -> None:
    """Add the rows of a part to its own lists."""
    job = part.job
    with job.naming_folder(), local(job.trained) as file:
        index = read_faiss(file, width(job.opened()[1], job.feature), 0)
    for _ in add(index, job, part.rows):
        pass
    with whole(part.lists) as temporary:
        write_index(index, temporary)


def merge(index: faiss.Index, lists: Mapping[Path, int]) -> None:
    """Add the rows of the index files `lists`, each with its number of rows. Raises DamagedIndex for another file."""
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
        raise StepDiffError(f"cannot write {path}: make room on its disk, and run it again") from error


class FillWorker:
    """A worker that fills parts; no embedding travels through Ray."""

    def __init__(self, options: SimpleNamespace) -> None:
        pass

    def run(self, part: Part) -> Filled:
        try:
            fill(part)
        except StepDiffError as error:
            return Filled(str(error))
        return Filled()

    def finished(self) -> int:
        """Return 0: rows count once their part is written."""
        return 0


def fill_all(parts: Sequence[Part], workers: int | None, address: str | None, advance: Advance) -> None:
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
        pool = WorkerPool(FillWorker, options, False, lambda _, why: Filled(why), joined=joined)
        count, _ = pool_size(workers, options.cpus, False, joined)
        for filled in pool.run(parts, min(count, len(parts)), advance):
            if filled.error:
                raise StepDiffError(filled.error)
