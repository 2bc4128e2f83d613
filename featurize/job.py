"""A run: the requested rows, the missing ones, the workers that compute them, and the summary.

A manifest is compared with the store and planned window by window, while workers compute the rows
of earlier windows. A window that is refused ends the run after those rows.

Guarantees
- invalid options, and a command that can compute nothing, are refused before anything is written
- a repeated run computes only missing rows, and without any starts neither Ray nor encoder; a row
  that became absent gets the bits of its first time
- the manifest overrides the catalog's metadata for existing clips; another file or interval of a
  clip that has features is refused, or replaces them with `--replace` (see changes.py)
"""

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl

from featurize.changes import Changes, compare
from featurize.encoders import digest, find_weights, proper_name, split, statistics_in, view_name
from featurize.manifest import Windows, as_manifest, cut, one_window, read_windows, unreadable
from featurize.options import Options
from featurize.plan import (
    BATCH,
    FORGOTTEN,
    UNASKED,
    Plan,
    Shards,
    known_status,
    shards_of,
    tasks,
    todo,
    together,
)
from stepdiff_core.cli.options import at_least, incomplete
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import place
from stepdiff_core.progress import progress, say
from stepdiff_core.threads import cores
from stepdiff_core.workers.cluster import connected, refuse_relative
from stepdiff_core.workers.pool import Here, WorkerPool, has_gpu, is_alone, pool_size
from store import Store, View
from store.feature_store import shard_rows
from store.format.pool import pool_of
from store.view import ABSENT, FAILED, OK

CPUS = {"clips": 1, "texts": 8}
"""of a worker without a GPU, at most. Clips fill many shards, and one thread an encoder beats
threads that wait for each other (2 cores shared with others: 30 s against 78 s); texts fill one
shard"""
FEW = {"clips": 64, "texts": 4096}
"""rows that this process computes by itself by default: less than a minute's work, where Ray takes
10 s to start"""
# shards that a worker with a GPU gets at once, so that it computes the next while one is written
IN_A_ROW = 4
SHOWN = 5  # reasons that the words of a summary give
MOST_FAILURES = 10_000  # reasons that its figures give


@dataclass(frozen=True)
class Summary:
    """The summary of a run. Counts are of the rows asked for."""

    entity: str
    view: str
    store: str
    asked: int
    done: int  # done by this run
    already: int  # there already
    failed: int  # failed, by this run or an earlier one
    absent: int = 0  # not done, because their shard could not be written
    forgotten: int = 0  # left out, because they were forgotten
    repeated: int = 0  # clips of this run that show fewer frames than the encoder sees
    truncated: int = 0  # texts of this run of more tokens than the encoder sees
    seconds: float = 0.0
    errors: list[str] = field(default_factory=list)  # why shards could not be written
    # key and reason of what failed, of the first 10,000
    failures: list[dict[str, str]] = field(default_factory=list)
    failures_in: str = ""  # folder of all reasons

    def status(self, allow_failed: bool = False) -> int:
        """Return the exit status: 1 if anything asked for is not there."""
        return incomplete({"absent": self.absent, "failed": self.failed, "allowed": allow_failed})

    def lines(self) -> list[str]:
        """Return the summary for people."""
        what = f"{self.entity} in view {self.view} of {self.store}"
        if not self.done and not self.absent and not self.seconds:
            lines = [f"nothing to do: {self.already} {what} are there already"]
        else:
            rate = f" ({self.done / self.seconds:.1f} {self.entity}/s)" if self.seconds else ""
            lines = [
                f"{self.done} {what} done in {self.seconds:.0f} s{rate}, {self.already} there "
                "already"
            ]
        if self.repeated:
            lines.append(
                f"{self.repeated} clips show fewer frames than the encoder sees: some were repeated"
            )
        if self.forgotten:
            lines.append(
                f"{self.forgotten} {self.entity} were forgotten and left out; recall them with "
                "python -m store forget --undo"
            )
        if self.truncated:
            lines.append(
                f"{self.truncated} texts are longer than the encoder sees: their ends were left out"
            )
        lines += [f"error: {error}" for error in self.errors]
        if self.absent:
            lines.append(
                f"{self.absent} of {self.asked} {self.entity} are not done: run the same command "
                "again"
            )
        if self.failed:
            lines += [f"{self.failed} of {self.asked} {self.entity} failed:"]
            lines += [
                f"  {failure['key']}: {failure['reason']}" for failure in self.failures[:SHOWN]
            ]
            lines += [f"  ... and {self.failed - SHOWN} more"] if self.failed > SHOWN else []
            lines.append(
                f"  all reasons: {self.failures_in}; correct the cause, then run it again with "
                "--retry-failed"
            )
        return lines


def requested(options: Options) -> Windows:
    """Return the rows that the options ask for. StepDiffError: they or the manifest are
    unusable."""
    if (options.manifest is None) == (not options.videos):
        raise StepDiffError("give either --manifest FILE or video files")
    if options.workers == 0 and options.address is not None:
        raise StepDiffError(
            "--workers 0 is this process, which joins no cluster: leave --address out"
        )
    at_least(
        options, frames=1, pool=1, window=1, pixels=1, shard_size=1, workers=0, workers_per_gpu=1
    )
    if options.batch_size != "auto":
        at_least(options, batch_size=1)
    if options.device == "cpu":
        _check_shared(options, gpu=False)
    named = [("video", video) for video in options.videos]
    if not place(options.store).remote:
        named.append(("--store", options.store))
    if options.manifest is not None:
        named.append(("--manifest", options.manifest))
    refuse_relative(named)
    if options.manifest is None:
        windows = one_window(
            as_manifest([Path(video).expanduser() for video in options.videos], options.id_from)
        )
    elif options.id_from != "stem":
        raise StepDiffError(
            "--id-from is for video files: the clips of a manifest have their own ids"
        )
    else:
        windows = read_windows(Path(options.manifest).expanduser(), options.column)
    of_clips = {
        "--replace": options.replace,
        "--compile": options.compile,
        "--statistics": bool(options.statistics),
    }
    for name, is_given in of_clips.items():
        if is_given and windows.entity != "clips":
            raise StepDiffError(f"{name} is for clips: {options.manifest} is one of texts")
    return windows if options.windows is None else cut(windows, options.windows)


def run(options: Options, source: Windows) -> Summary:
    """Featurize the missing rows of `source`. StepDiffError: encoder, store, cluster or weights
    cannot be used."""
    options = resolved(options)
    weights = find_weights(options.encoder, options.weights)
    where = place(options.store).expanduser().absolute()  # workers start in another folder
    if source.entity == "clips" and not (where / "store.json").exists():
        _refuse_hopeless(None, options, source)
    store = Store.open(where, create=True)
    with store.lock(options.wait):
        windows = (compare(store, window, quiet=number > 0) for number, window in enumerate(source))
        view = _known_view(store, options, source.entity, weights)
        if view is not None:
            options = replace(options, statistics=statistics_in(view.provenance))
        plan = None if view is None else Plan(view, source.rows, options.retry_failed)
        for changes in windows:
            changes.refuse(options.replace)
            if plan is None or changes.changed.height or not plan.is_finished(changes.window):
                break
            changes.write(store)
            plan.add(changes.window)
        else:
            assert plan is not None  # a manifest has a window
            return _summary(store, plan, Computed())
        if source.entity == "clips":
            _refuse_hopeless(store, options, source, changes)
        with workers_of(options, source.entity, source.rows) as (pool, count, cpus, in_a_row):
            view = _described_view(store, options, pool, source, count)
            plan = plan or Plan(view, source.rows, options.retry_failed)
            planned = plan.rows(changes, windows, store, options.replace)
            first, total, gpu = next(planned), source.rows, in_a_row > 1
            if changes.window.last:
                shards = sum(1 for _ in shards_of(first, view.rows_per_shard))
                if shards < min(count, first.height):
                    idle = f"{count - shards} of {count} workers have no work"
                    more = (
                        f"a shard has up to {view.rows_per_shard}, a new view with a smaller "
                        "--shard-size fewer"
                    )
                    say(
                        f"shards with {first.height} {source.entity} to compute: {shards}, so "
                        f"{idle}; {more}"
                    )
                total, count = first.height, min(count, shards)
                in_a_row = min(in_a_row, max(shards // max(count, 1), 1))
            batch, as_before = options.batch_size, options.batch_size == "auto"
            if batch == "auto":
                batch = BATCH[source.entity]
                if gpu and source.entity == "clips":
                    batch = pool.call("batch_size", min(view.rows_per_shard, source.rows))
                    say(f"the GPU has memory for batches of {batch} clips")
            jobs = (
                job
                for rows in chain([first], planned)
                for job in together(tasks(view, rows, batch, max(cpus - 1, 1), as_before), in_a_row)
            )
            done = compute(
                pool,
                jobs,
                count,
                f"{proper_name(options.encoder)} on {source.entity}",
                total,
                source.entity,
            )
        if plan.refused:
            raise plan.refused
        return _summary(store, plan, done)


def resolved(options: Options) -> Options:
    """Return options whose encoder and weights are apart (`hf:ID`), with the name of the view."""
    name, weights = split(options.encoder, options.weights)
    view = options.view or view_name(options.encoder, options.weights)
    return replace(options, encoder=name, weights=weights, view=view)


def _known_view(store: Store, options: Options, entity: str, weights: Path | None) -> View | None:
    """Return the view if it is as the options request it; None also if only the encoder can
    tell."""
    name = str(options.view)
    if any(choice is not None for choice in options.choices().values()) or name not in store.views(
        entity
    ):
        return None
    view = store.view(entity, name)
    return view if made_by(view, options, weights) else None


def made_by(view: View, options: Options, weights: Path | None) -> bool:
    """Return whether encoder, weights, dtype and --pool equal a view's; other options are not
    compared."""
    provenance = view.provenance
    return (
        (provenance.encoder, provenance.weights)
        == (proper_name(options.encoder), digest(options.encoder, weights))
        and provenance.dtypes.get("tokens", options.dtype) == options.dtype
        and pool_of(provenance) == options.pool
    )


def _described_view(
    store: Store, options: Options, pool: WorkerPool | Here, source: Windows, count: int
) -> View:
    """Return the view that the encoder of a pool fills, made if there is none. StepDiffError: it
    is another one."""
    provenance, features = pool.call("describe", source.entity, options.dtype)
    name = str(options.view)
    size = shard_rows(features, options.shard_size, source.rows, count)
    view = store.create_view(source.entity, name, provenance, features, size)
    if options.shard_size is not None and view.rows_per_shard != size:
        raise StepDiffError(
            f"view {view.name} has {view.rows_per_shard} rows per shard, this --shard-size would "
            f"be {size}: leave it out, or give a new view another name"
        )
    return view


@contextmanager
def workers_of(
    options: Options, entity: str, rows: int
) -> Iterator[tuple[WorkerPool | Here, int, int, int]]:
    """Yield a pool whose first worker has started, how many workers to use, the CPUs of each, and
    shards of a task."""
    # imports torch, which a run with nothing to do needs not
    from featurize.shard import Worker, WorkerOptions

    weights, lighter = options.weights, "try a smaller --batch-size"
    if weights is not None and Path(weights).expanduser().exists():
        weights = str(Path(weights).expanduser().absolute())  # workers start elsewhere
    options = replace(options, weights=weights, videos=())

    workers = 1 if options.workers is None and rows <= FEW[entity] else options.workers
    if workers == 0 or is_alone(workers, CPUS[entity], options.address, options.workers_per_gpu):
        import torch

        threads = torch.get_num_threads()
        gpu = (options.device or "cuda").startswith("cuda") and torch.cuda.is_available()
        cpus = threads if workers == 0 else min(threads, CPUS[entity])
        if gpu:
            cpus = max(cores() // torch.cuda.device_count(), 1)
        _check_shared(options, gpu)
        try:
            yield (
                Here(Worker, WorkerOptions(options, cpus), lighter),
                1,
                cpus,
                IN_A_ROW if gpu else 1,
            )
        finally:
            torch.set_num_threads(threads)  # of what this process does next
        return
    with connected(options.address, "featurize") as joined:
        gpu = has_gpu(options.device, joined)
        _check_shared(options, gpu)
        per_gpu = options.workers_per_gpu if gpu else 0
        count, cpus = pool_size(options.workers, CPUS[entity], per_gpu, joined)
        lighter += ", or fewer --workers on one node"
        how = WorkerOptions(options, cpus)
        pool = WorkerPool(Worker, how, per_gpu, lighter, joined=joined, unit=entity)
        yield pool, count, cpus, IN_A_ROW if per_gpu else 1


def _check_shared(options: Options, gpu: bool) -> None:
    """Raise StepDiffError if workers shall share a GPU and have none."""
    if options.workers_per_gpu > 1 and not gpu:
        raise StepDiffError(
            f"--workers-per-gpu {options.workers_per_gpu}, but no worker has a GPU: leave it out"
        )


@dataclass
class Computed:
    """The outcome of the shards that a run computed."""

    repeated: int = 0
    truncated: int = 0
    # the fewest of a forward pass; infinite if no GPU ran out of memory
    forward_rows: float = math.inf
    errors: list[str] = field(default_factory=list)
    seconds: float = 0.0


def compute(
    pool: WorkerPool | Here, jobs: Iterable[Shards], count: int, what: str, total: int, entity: str
) -> Computed:
    """Give `jobs` to `count` workers; the progress line says `what` and counts `total` rows."""
    done, begin = Computed(), time.monotonic()
    with progress(what, total, entity) as advance:
        for outcome in pool.run(jobs, count, advance):
            done.repeated += outcome.repeated
            done.truncated += outcome.truncated
            if (rows := outcome.forward_rows or math.inf) < done.forward_rows:
                done.forward_rows = rows
                say(
                    f"a GPU has no memory for a whole batch: from now on at most {rows} {entity} "
                    "at once"
                )
            if outcome.error:
                done.errors.append(outcome.error)
                say(f"error: {outcome.error}")
    done.seconds = time.monotonic() - begin
    return done


def _summary(store: Store, plan: Plan, done: Computed) -> Summary:
    view = plan.view
    now = view.status()
    before = plan.before[: len(now)]
    is_requested = before != UNASKED
    failed = np.flatnonzero(is_requested & (now == FAILED))
    return Summary(
        entity=view.entity,
        view=view.name,
        store=str(store.path),
        asked=int(is_requested.sum()),
        done=int((is_requested & (now == OK) & (before != OK)).sum()),
        already=int((before == OK).sum()),
        failed=len(failed),
        absent=int((is_requested & (now == ABSENT) & (before != FORGOTTEN)).sum()),
        forgotten=int((is_requested & (before == FORGOTTEN)).sum()),
        repeated=done.repeated,
        truncated=done.truncated,
        seconds=round(done.seconds, 3),
        errors=done.errors,
        failures=view.failures(failed[:MOST_FAILURES]).to_dicts(),
        failures_in=str(store.path / "failures" / view.entity / view.name),
    )


def _refuse_hopeless(
    store: Store | None, options: Options, source: Windows, changes: Changes | None = None
) -> None:
    """Raise StepDiffError if no missing clip can be computed and the view has none of the requested
    clips.

    changes: changes of the first window that is not finished.
    """
    name, count, first, why = str(options.view), 0, "", cache(unreadable)
    for window in source:
        keys = window.rows["key"]
        if store is not None and name in store.views("clips"):
            status = known_status(store.view("clips", name), store.catalog("clips").rows(keys))
            if changes is not None:
                status[keys.is_in(changes.changed["key"].implode()).to_numpy()] = ABSENT
            if (status == OK).any():
                return
            keys = keys.filter(pl.Series(todo(status, options.retry_failed)))
        count += len(keys)
        for key, video in (
            window.rows.filter(pl.col("key").is_in(keys.implode()))
            .select("key", "video")
            .iter_rows()
        ):
            reason = window.failures.get(key) or why(window.paths[video])
            if reason is None:
                return
            first = first or reason
    if count:
        raise StepDiffError(
            f"none of {count} clips can be computed; the first: {first}" if count > 1 else first
        )
