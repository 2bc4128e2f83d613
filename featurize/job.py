"""A run: what is requested, what is missing, the workers that compute it, and the summary.

Guarantees
- invalid options are refused before anything is written
- the store's lock is held for the whole run
- a run repeated does only what is missing, and where nothing is starts neither Ray nor encoder
- a command of which nothing can be computed is refused before Ray starts and before anything is written
- the manifest overrides the catalog's metadata for existing clips (split, path, ...); another file or interval of a
  clip that has features is refused, or replaces them with `--replace` (see changes.py)
- a clip that failed is tried again once its file or interval changed
- a forgotten clip is not computed until it is recalled
- a manifest of any size is planned window by window: the driver's memory has a byte for each row of the catalog and the
  rows of one window. Files of a window are compared when it is planned: one that is refused ends the run after the
  rows of earlier windows are computed
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int64, UInt8

from common.errors import StepDiffError
from common.io.files import place
from common.progress import progress, say
from common.workers.cluster import connected, refuse_relative
from common.workers.pool import WorkerPool, has_gpu, pool_size
from featurize.changes import Changes, compare
from featurize.encoders import digest, find_weights, proper_name, split, view_name
from featurize.manifest import Manifest, as_manifest, unreadable_reason
from featurize.options import Options
from featurize.shard import Worker, WorkerOptions
from featurize.summary import Summary, summarise
from featurize.task import Outcome, Planner, Tally, Task, known_status, pending, shards_of, tasks, todo
from featurize.windows import Windows, one_window, read_windows
from store import Store, View
from store.feature_store import shard_rows
from store.format.pool import pool_of
from store.view import ABSENT, OK

CPUS = {"clips": 1, "texts": 8}
"""of a worker without a GPU, at most. Clips fill many shards, and one thread an encoder beats threads that wait for
each other (2 cores shared with others: 30 s against 78 s); texts fill one shard"""
BATCH = {"clips": 4, "texts": 128}
"""rows of a batch by default"""


def requested(options: Options) -> Windows:
    """Return the rows that the options ask for. StepDiffError: they or the manifest are unusable."""
    if (options.manifest is None) == (not options.videos):
        raise StepDiffError("give either --manifest FILE or video files")
    numbers = {
        "--workers": options.workers,
        "--batch-size": options.batch_size,
        "--frames": options.frames,
        "--pool": options.pool,
        "--window": options.window,
        "--pixels": options.pixels,
        "--shard-size": options.shard_size,
    }
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise StepDiffError(f"{name} {number} is too few: give 1 or more")
    named = [("video", video) for video in options.videos]
    if not place(options.store).remote:
        named.append(("--store", options.store))
    if options.manifest is not None:
        named.append(("--manifest", options.manifest))
    refuse_relative(named)
    if options.manifest is None:
        return one_window(as_manifest([Path(video).expanduser() for video in options.videos], options.id_from))
    if options.id_from != "stem":
        raise StepDiffError("--id-from is for video files: the clips of a manifest have their own ids")
    asked = read_windows(Path(options.manifest).expanduser(), options.column)
    if options.replace and asked.entity != "clips":
        raise StepDiffError(f"--replace is for clips: {options.manifest} is one of texts, which never change")
    return asked


def run(options: Options, asked: Windows) -> Summary:
    """Featurize what is missing of `asked`. StepDiffError: encoder, store, cluster or weights cannot be used."""
    options = resolved(options)
    weights = find_weights(options.encoder, options.weights)
    where = place(options.store).expanduser().absolute()  # workers start in another folder
    if asked.entity == "clips" and not (where / "store.json").exists():
        _refuse_hopeless(None, options, asked)
    store = Store.open(where, create=True)
    with store.lock(options.wait):
        view, tally = None, Tally()
        compared = (compare(store, window, quiet=number > 0) for number, window in enumerate(asked))
        for changes in compared:
            changes.refuse(options.replace)
            found = None if changes.changed.height else _finished_view(store, options, changes.asked, weights)
            if found is None:
                break
            view = found
            changes.write(store)
            _name(tally, view, changes)
        else:
            assert view is not None  # a manifest has a window
            return summarise(store, view, tally)
        if asked.entity == "clips":
            _refuse_hopeless(store, options, asked, changes)
        with connected(options.address, "featurize") as joined:
            return _run(store, options, asked.rows, changes, compared, tally, joined)


def resolved(options: Options) -> Options:
    """Return options whose encoder and weights are apart (`hf:ID`), with the name of the view."""
    name, given = split(options.encoder, options.weights)
    return replace(options, encoder=name, weights=given, view=options.view or view_name(name, given))


def name_of_view(options: Options) -> str:
    """Return the name of the view that the options ask for."""
    return options.view or proper_name(options.encoder)


def _name(tally: Tally, view: View, changes: Changes) -> tuple[Int64[np.ndarray, " rows"], UInt8[np.ndarray, " rows"]]:
    """Return the rows of a window that is in the catalog, and their status; add them to `tally`."""
    view.resize()
    rows = view.catalog.rows(changes.asked.rows["key"])
    status = known_status(view, rows)
    tally.add(rows, status)
    return rows, status


class _Work:
    """The rows to compute, planned window by window while workers compute those of earlier windows."""

    def __init__(
        self, store: Store, view: View, options: Options, first: Changes, later: Iterator[Changes], tally: Tally
    ) -> None:
        """Plan the window `first`, which was accepted, and the `later` ones."""
        self._store, self._view, self._options = store, view, options
        self._first, self._later, self._tally = first, later, tally
        self.refused: StepDiffError | None = None
        """why a later window was refused"""

    def __iter__(self) -> Iterator[pl.DataFrame]:
        """Yield planned rows, shards whole: of each window, and last what is left."""
        planner = Planner(self._view.rows_per_shard)
        for changes in self._accepted():
            changes.write(self._store)
            rows, status = _name(self._tally, self._view, changes)
            wanted = pending(changes.asked, rows, todo(status, self._options.retry_failed))
            yield planner.add(rows, wanted, changes.asked.last)
        yield from planner.rest()

    def _accepted(self) -> Iterator[Changes]:
        yield self._first
        try:
            for changes in self._later:
                changes.refuse(self._options.replace)
                yield changes
        except StepDiffError as error:
            self.refused = error


def _run(
    store: Store,
    options: Options,
    total: int,
    changes: Changes,
    later: Iterator[Changes],
    tally: Tally,
    joined: bool,
) -> Summary:
    """Run on Ray, under the lock.

    Args:
        store: the store.
        options: of the run.
        total: rows of the manifest.
        changes: the first window that is not finished.
        later: the windows after it.
        tally: the rows of the windows before it.
        joined: whether Ray is an existing cluster.
    """
    entity = changes.asked.entity
    pool, count, cpus = start_workers(options, entity, joined)
    provenance, features = pool.call("describe", entity, options.dtype)
    size = shard_rows(features, options.shard_size, total, count)
    view = store.create_view(entity, name_of_view(options), provenance, features, size)
    if options.shard_size is not None and view.rows_per_shard != size:
        raise StepDiffError(
            f"view {view.name} has {view.rows_per_shard} rows per shard, --shard-size {options.shard_size} would be "
            f"{size}: leave it out, or give a new view another name"
        )
    work = _Work(store, view, options, changes, later, tally)
    planned = iter(work)
    first = next(planned)
    if changes.asked.last:
        total, count = first.height, min(count, sum(1 for _ in shards_of(first, view.rows_per_shard)))
    batch = options.batch_size or BATCH[entity]
    jobs = (job for rows in chain([first], planned) for job in tasks(store, view, rows, batch, max(cpus - 1, 1)))
    done = compute(pool, jobs, count, f"{proper_name(options.encoder)} on {entity}", total, entity)
    if work.refused:
        raise work.refused
    return summarise(store, view, tally, done.repeated, done.truncated, done.errors, done.seconds)


def start_workers(options: Options, entity: str, joined: bool) -> tuple[WorkerPool, int, int]:
    """Return a pool whose first worker has started, how many workers to use, and the CPUs of each."""
    gpu = has_gpu(options.device, joined)
    count, cpus = pool_size(options.workers, CPUS[entity], gpu, joined)
    weights = options.weights
    if weights is not None and Path(weights).expanduser().exists():
        weights = str(Path(weights).expanduser().absolute())  # workers start elsewhere
    worker_options = WorkerOptions(
        options.encoder,
        weights,
        options.layer,
        options.device,
        cpus,
        options.frames,
        options.sampling,
        options.pool,
        options.pooling,
        options.window,
        options.pixels,
    )
    lighter = "try a smaller --batch-size, or fewer --workers on one node"
    pool = WorkerPool(
        Worker,
        worker_options,
        gpu,
        lambda shard, why: Outcome(shard, error=why),
        lighter,
        joined=joined,
        unit=entity,
    )
    return pool, count, cpus


@dataclass
class Computed:
    """The outcome of all shards of a run."""

    repeated: int = 0
    """clips that show fewer frames than the encoder sees"""
    truncated: int = 0
    """texts of more tokens than the encoder sees"""
    errors: list[str] = field(default_factory=list)
    """why shards could not be written"""
    seconds: float = 0.0


def compute(pool: WorkerPool, jobs: Iterable[Task], count: int, what: str, total: int, entity: str) -> Computed:
    """Give `jobs` to `count` workers; the progress line says `what` and counts `total` rows."""
    done, begin = Computed(), time.monotonic()
    with progress(what, total, entity) as advance:
        for outcome in pool.run(jobs, count, advance):
            done.repeated += outcome.repeated
            done.truncated += outcome.truncated
            if outcome.error:
                done.errors.append(outcome.error)
                say(f"error: {outcome.error}")
    done.seconds = time.monotonic() - begin
    return done


def _finished_view(store: Store, options: Options, asked: Manifest, weights: Path | None) -> View | None:
    """Return the view if it is as the options request it and nothing is missing."""
    name = name_of_view(options)
    chosen = (options.layer, options.frames, options.sampling, options.pooling, options.window, options.pixels)
    if chosen != (None,) * 6 or name not in store.views(asked.entity):
        return None
    view = store.view(asked.entity, name)
    if not made_by(view, options, weights):
        return None
    rows = store.catalog(asked.entity).rows(asked.rows["key"])
    if (rows < 0).any() or todo(known_status(view, rows), options.retry_failed).any():
        return None
    return view


def made_by(view: View, options: Options, weights: Path | None) -> bool:
    """Return whether encoder, weights, dtype and --pool are those of a view; other options are not compared."""
    made = view.provenance
    return (
        (made.encoder, made.weights) == (proper_name(options.encoder), digest(options.encoder, weights))
        and made.dtypes.get("tokens", options.dtype) == options.dtype
        and pool_of(made) == options.pool
    )


def _refuse_hopeless(store: Store | None, options: Options, asked: Windows, changes: Changes | None = None) -> None:
    """StepDiffError if no missing clip can be computed and the view has none of the requested clips.

    `changes`: those of the first window that is not finished.
    """
    name, count, first = name_of_view(options), 0, ""
    tried: set[str] = set()
    for window in asked:
        keys = window.rows["key"]
        if store is not None and name in store.views("clips"):
            status = known_status(store.view("clips", name), store.catalog("clips").rows(keys))
            if changes is not None:
                status[keys.is_in(changes.changed["key"].implode()).to_numpy()] = ABSENT
            if (status == OK).any():
                return
            keys = keys.filter(pl.Series(todo(status, options.retry_failed)))
        reason = unreadable_reason(window, keys, tried)
        if reason is None:
            return
        count, first = count + len(keys), first or reason
    if count:
        raise StepDiffError(f"none of {count} clips can be computed; the first: {first}" if count > 1 else first)
