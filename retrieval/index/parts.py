"""An index in parts: trained once, filled in parallel from runs of rows (here, or by workers on Ray), merged on disk.

A folder holds trained.faiss (without rows), sample.npz (see sample.py) and, for each part, its inverted lists and the
sample's neighbours among its rows, which are written last. Each file appears complete or not at all.

Guarantees
- a_killed_build_resumes: existing parts are not computed again, and the index equals that of an uninterrupted build
- a worker holds the rows of one part in memory; the merge maps files
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Int64

from common.errors import StepDiffError
from common.io.files import Place, local, whole
from common.progress import Advance
from common.streams import generator
from common.workers.cluster import connected
from common.workers.pool import WorkerPool, pool_size
from retrieval.exact import squares
from retrieval.index.factory import TRAINING_ROWS_A_LIST
from retrieval.index.index import DamagedIndex, cluster_on_gpu, ids, read_faiss
from retrieval.index.sample import Sample
from retrieval.vectors import checked_norms, compact, filled_rows, raw_blocks, width
from store import Store, View

if TYPE_CHECKING:
    import faiss


@dataclass(frozen=True)
class Job:
    """An index to build. Picklable."""

    store: Place
    entity: str
    view: str
    feature: str
    folder: Place
    """of the parts"""

    def opened(self) -> tuple[Store, View]:
        """Open the store and the view; each row read is compared with its checksum."""
        store = Store.open(self.store)
        return store, store.view(self.entity, self.view, check="always")

    @property
    def trained(self) -> Place:
        return self.folder / "trained.faiss"

    @property
    def sample(self) -> Place:
        return self.folder / "sample.npz"

    def mergeable(self) -> bool:
        """Return whether parts can be merged: the trained index has inverted lists."""
        import faiss

        with self.naming_folder(), local(self.trained) as file:
            dim = width(self.opened()[1], self.feature)
            return faiss.try_extract_index_ivf(read_faiss(file, dim, 0)) is not None

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
        """Its first row, which identifies it in the worker pool."""
        return int(self.rows[0])

    @property
    def failures(self) -> tuple[()]:
        return ()

    @property
    def name(self) -> str:
        return f"{self.rows[0]}-{self.rows[-1] + 1}"

    @property
    def lists(self) -> Place:
        return self.job.folder / f"{self.name}.faiss"

    @property
    def passed(self) -> Place:
        """The file that is written last: the part is complete."""
        return self.job.folder / f"{self.name}.npz"


class Filled(NamedTuple):
    """Measurements of filling a part."""

    seconds: float
    recall_seconds: float
    """part of them that the sample's true neighbours took"""
    memory: int
    """peak bytes of the process"""
    error: str | None = None
    """the reason if it was not filled"""


def parts_of(job: Job, rows: Int64[np.ndarray, " rows"], rows_per_shard: int, size: int) -> list[Part]:
    """Split `rows` into parts of whole shards, about `size` rows each."""
    runs = rows // (rows_per_shard * max(size // rows_per_shard, 1))
    return [Part(job, part) for part in np.split(rows, np.flatnonzero(np.diff(runs)) + 1)]


def train(job: Job, factory: str, rows: Int64[np.ndarray, " rows"]) -> None:
    """Train an empty index on a seeded sample of `rows`, and draw the sample queries.

    Raises StepDiffError if FAISS cannot build such an index from these rows.
    """
    import faiss

    store, view = job.opened()
    dim = view.features[job.feature].shape[0]
    try:
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
        ivf = faiss.try_extract_index_ivf(index)
        if ivf is None:  # the index stores no row numbers by itself
            index = faiss.IndexIDMap(index)
        lists = ivf.nlist if ivf is not None else 1024
        if not index.is_trained:
            chosen = generator(0, "index training rows").permutation(len(rows))[: TRAINING_ROWS_A_LIST * lists]
            vectors = compact(store, view, job.feature, rows[np.sort(chosen)])
            with cluster_on_gpu(ivf):
                index.train(vectors)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise StepDiffError(
            f"FAISS cannot build {factory!r} over {len(rows)} rows of {dim} channels ({reason}): "
            f"choose another --factory, or auto"
        ) from error
    sample = Sample.drawn(store, view, job.feature, rows, lists)
    with whole(job.sample) as temporary:
        sample.write(temporary)
    write_index(index, job.trained)


def fill(part: Part) -> Filled:
    """Add the rows of a part to its own lists, and compare them with the sample queries."""
    start, compared = time.perf_counter(), 0.0
    job = part.job
    store, view = job.opened()
    with job.naming_folder(), local(job.trained) as file, local(job.sample) as drawn:
        index = read_faiss(file, width(view, job.feature), 0)
        sample = Sample.read(drawn, filled_rows(view))
    passing = sample.empty()
    for rows, vectors in raw_blocks(view, job.feature, part.rows):
        sums = squares(vectors)
        norms = checked_norms(store, view, job.feature, rows, sums)
        before = time.perf_counter()
        passing.see(rows, vectors, sums)
        compared += time.perf_counter() - before
        index.add_with_ids((vectors / norms[:, None]).astype(np.float32), rows)
    write_index(index, part.lists)
    with whole(part.passed) as temporary:
        Sample.passed(sample.rows, passing).write(temporary)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Filled(time.perf_counter() - start, compared, memory)


def merge(trained: Path, lists: Mapping[Path, int], dim: int, out: Path) -> int:
    """Write the index `trained` with all rows of the index files `lists` as the file `out`; returns their number.

    The output has FAISS's own format, in which the inverted lists come last. It is written list by list, so at most one
    list is in memory.

    Args:
        trained: An index of `dim` channels without rows.
        lists: Index files, and the number of rows of each.
        dim: Channels.
        out: File to write.

    Raises:
        StepDiffError: A damaged file, or a FAISS version with another format.
    """
    import faiss

    empty = read_faiss(trained, dim, 0)
    ivf = faiss.extract_index_ivf(empty)
    opened = [read_faiss(path, dim, count, mapped=True) for path, count in lists.items()]
    parts = []
    for path, one in zip(lists, opened, strict=True):
        inner = faiss.try_extract_index_ivf(one)
        if inner is None or (inner.nlist, inner.code_size) != (ivf.nlist, ivf.code_size):
            raise DamagedIndex(f"{path.name} is damaged: it is not a part of this index")
        parts.append(inner.invlists)
    sizes = np.array([[part.list_size(n) for part in parts] for n in range(ivf.nlist)], "<u8")
    empty.ntotal = ivf.ntotal = int(sizes.sum())
    header = faiss.serialize_index(empty).tobytes()
    what = b"ilar" + np.array([ivf.nlist, ivf.code_size], "<u8").tobytes()
    no_lists = what + b"sprs" + bytes(8)
    if not header.endswith(no_lists):
        raise StepDiffError(f"FAISS {faiss.__version__} stores such an index in another format: use --factory auto")
    with open(out, "wb") as file:
        file.write(header.removesuffix(no_lists))
        file.write(what + b"full" + np.array([ivf.nlist], "<u8").tobytes() + sizes.sum(axis=1, dtype="<u8").tobytes())
        for number, counts in enumerate(sizes.astype(int).tolist()):
            present = [(part, count) for part, count in zip(parts, counts, strict=True) if count]
            for part, count in present:
                file.write(faiss.rev_swig_ptr(part.get_codes(number), count * ivf.code_size).data)
            for part, count in present:
                file.write(faiss.rev_swig_ptr(part.get_ids(number), count).data)
    return int(empty.ntotal)


def emptied(index: faiss.Index) -> faiss.Index:
    """Remove the rows of a trained IVF index and return it."""
    import faiss

    ivf = faiss.extract_index_ivf(index)
    lists = faiss.ArrayInvertedLists(ivf.nlist, ivf.code_size)
    ivf.replace_invlists(lists, True)
    lists.this.disown()
    index.ntotal = ivf.ntotal = 0
    ivf.nprobe = 1
    return index


def rows_in(index: faiss.Index) -> Int64[np.ndarray, " rows"]:
    """Return the row numbers in an IVF index, rising."""
    held = list(ids(index))
    return np.sort(np.concatenate(held)) if held else np.empty(0, np.int64)


def write_index(index: faiss.Index, path: Place) -> None:
    """Write an index file completely or not at all. Raises StepDiffError if the disk is full."""
    import faiss

    with whole(path) as temporary:
        try:
            faiss.write_index(index, str(temporary))
        except RuntimeError as error:
            raise StepDiffError(f"cannot write {path}: make room on its disk, and run it again") from error


@dataclass(frozen=True)
class FillOptions:
    """The options of the workers."""

    cpus: int = 1


class FillWorker:
    """A worker that fills parts; only measurements travel through Ray, never embeddings."""

    def __init__(self, options: FillOptions) -> None:
        pass

    def run(self, part: Part) -> Filled:
        """Fill a part."""
        try:
            return fill(part)
        except StepDiffError as error:
            return failed(part.shard, str(error))

    def finished(self) -> int:
        """Return 0: rows count once their part is written."""
        return 0


def failed(shard: int, why: str) -> Filled:
    """Return the outcome of a part that was not filled."""
    return Filled(0.0, 0.0, 0, why)


def fill_all(parts: Sequence[Part], workers: int | None, address: str | None, advance: Advance) -> Iterator[Filled]:
    """Fill every part and yield its measurements as it ends. One part, or `workers` of 1, needs no Ray.

    Raises StepDiffError for the first part that fails, or whose workers die repeatedly.
    """
    if workers == 1 or (len(parts) < 2 and address is None):
        for part in parts:
            yield fill(part)
            advance(len(part.rows))
        return
    with connected(address, "retrieval") as joined:
        options = FillOptions()
        pool = WorkerPool(FillWorker, options, False, failed, joined=joined)
        count, _ = pool_size(workers, options.cpus, False, joined)
        for filled in pool.run(parts, min(count, len(parts)), advance):
            if filled.error:
                raise StepDiffError(filled.error)
            yield filled
