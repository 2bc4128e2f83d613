"""A run: what is requested, what is missing, the workers that compute it, and the summary.

Guarantees
- invalid options are refused before anything is written
- the store's lock is held for the whole run
- a run repeated does only what is missing, and where nothing is starts neither Ray nor encoder
- a command of which nothing can be computed is refused before Ray starts and before anything is written
- the manifest overrides the catalog's metadata for existing clips (split, path, ...); another file or interval of a
  clip that has features is refused, or replaces them with `--replace` (see changes.py)
- a clip that failed is tried again once its file or interval changed
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import UInt8

from common.errors import StepDiffError
from common.io.files import place
from common.progress import progress, say
from common.workers.cluster import connected, refuse_relative
from common.workers.pool import WorkerPool, has_gpu, pool_size
from featurize.changes import Changes, compare
from featurize.encoders import deciding, proper_name
from featurize.manifest import Manifest, as_manifest, read_manifest, refuse_all_unreadable
from featurize.options import Options
from featurize.shard import Worker, WorkerOptions
from featurize.task import Outcome, plan, tasks
from store import Store, View
from store.view import ABSENT, FAILED, OK
from weights import NAMES as WEIGHTS
from weights import fingerprint, resolve

SHOWN = 5
"""reasons that the words give"""


@dataclass(frozen=True)
class Summary:
    """Counts are of the rows asked for."""

    entity: str
    view: str
    store: str
    asked: int
    done: int
    """done by this run"""
    already: int
    """there already"""
    failed: int
    """failed, by this run or an earlier one"""
    absent: int = 0
    """not done, because their shard could not be written"""
    repeated: int = 0
    """clips of this run that show fewer frames than the encoder sees"""
    truncated: int = 0
    """texts of this run of more tokens than the encoder sees"""
    seconds: float = 0.0
    """that this run took"""
    errors: list[str] = field(default_factory=list)
    """why shards could not be written"""
    failures: list[dict[str, str]] = field(default_factory=list)
    """key and reason of what failed"""
    failures_in: str = ""
    """folder of all reasons"""

    @property
    def status(self) -> int:
        """The exit status: 1 where anything asked for is not there."""
        return int(self.failed + self.absent > 0)

    def lines(self) -> list[str]:
        """Return the summary for people."""
        what = f"{self.entity} in view {self.view} of {self.store}"
        if not self.done and not self.absent and not self.seconds:
            lines = [f"nothing to do: {self.already} {what} are there already"]
        else:
            rate = f" ({self.done / self.seconds:.1f} {self.entity}/s)" if self.seconds else ""
            lines = [f"{self.done} {what} done in {self.seconds:.0f} s{rate}, {self.already} there already"]
        if self.repeated:
            lines.append(f"{self.repeated} clips show fewer frames than the encoder sees: some were repeated")
        if self.truncated:
            lines.append(f"{self.truncated} texts are longer than the encoder sees: their ends were left out")
        lines += [f"error: {error}" for error in self.errors]
        if self.absent:
            lines.append(f"{self.absent} of {self.asked} {self.entity} are not done: run the same command again")
        if self.failed:
            lines.append(f"{self.failed} of {self.asked} {self.entity} failed:")
            lines += [f"  {failure['key']}: {failure['reason']}" for failure in self.failures[:SHOWN]]
            if self.failed > SHOWN:
                lines.append(f"  ... and {self.failed - SHOWN} more")
            lines.append(f"  all reasons: {self.failures_in}; correct the cause, then run it again with --retry-failed")
        return lines


def summarise(
    store: Store,
    view: View,
    asked: Manifest,
    before: UInt8[np.ndarray, " rows"] | None = None,
    outcomes: Sequence[Outcome] = (),
    seconds: float = 0.0,
) -> Summary:
    """Return the summary of a run; `before` is the status of all rows before it."""
    rows = store.catalog(view.entity).rows(asked.rows["key"])
    status = view.status()
    now = status[rows]
    then = (status if before is None else before)[rows]
    failed = asked.rows.select("key").filter(pl.Series(now == FAILED))
    failures = view.failures().filter(pl.col("key").is_in(failed["key"].implode())) if failed.height else failed
    return Summary(
        entity=view.entity,
        view=view.name,
        store=str(store.path),
        asked=len(rows),
        done=int(((now == OK) & (then != OK)).sum()),
        already=int((then == OK).sum()),
        failed=failed.height,
        absent=int(((now != OK) & (now != FAILED)).sum()),
        repeated=sum(outcome.repeated for outcome in outcomes),
        truncated=sum(outcome.truncated for outcome in outcomes),
        seconds=round(seconds, 3),
        errors=[outcome.error for outcome in outcomes if outcome.error],
        failures=failures.to_dicts(),
        failures_in=str(store.path / "failures" / view.entity / view.name),
    )


CPUS = {"clips": 1, "texts": 8}
"""of a worker without a GPU, at most. Clips fill many shards, and one thread an encoder beats threads that wait for
each other (2 cores shared with others: 30 s against 78 s); texts fill one shard"""
BATCH = {"clips": 4, "texts": 128}
"""rows of a batch by default"""


def requested(options: Options) -> Manifest:
    """Return the manifest of the options. StepDiffError: they or the manifest are unusable."""
    if (options.manifest is None) == (not options.videos):
        raise StepDiffError("give either --manifest FILE or video files")
    numbers = (options.workers, options.batch_size, options.frames)
    for name, number in zip(("--workers", "--batch-size", "--frames"), numbers, strict=True):
        if number is not None and number < 1:
            raise StepDiffError(f"{name} {number} is too few: give 1 or more")
    named = [("video", video) for video in options.videos]
    if not place(options.store).remote:
        named.append(("--store", options.store))
    if options.manifest is not None:
        named.append(("--manifest", options.manifest))
    refuse_relative(named)
    if options.manifest is None:
        return as_manifest([Path(video).expanduser() for video in options.videos], options.id_from)
    if options.id_from != "stem":
        raise StepDiffError("--id-from is for video files: the clips of a manifest have their own ids")
    asked = read_manifest(Path(options.manifest).expanduser(), options.column)
    if options.replace and asked.entity != "clips":
        raise StepDiffError(f"--replace is for clips: {options.manifest} is one of texts, which never change")
    return asked


def run(options: Options, asked: Manifest) -> Summary:
    """Featurize what is missing of `asked`. StepDiffError: encoder, store, cluster or weights cannot be used."""
    weights = _weights(options)
    where = place(options.store).expanduser().absolute()  # workers start in another folder
    if asked.entity == "clips" and not (where / "store.json").exists():
        refuse_all_unreadable(asked, asked.rows["key"].to_list())
    store = Store.open(where, create=True)
    with store.lock(options.wait):
        changes = compare(store, asked)
        changes.refuse(options.replace)
        view = None if changes.changed.height else _finished_view(store, options, asked, weights)
        if view is not None:
            changes.write(store)
            return summarise(store, view, asked)
        if asked.entity == "clips":
            _refuse_hopeless(store, options, changes)
        with connected(options.address, "featurize") as joined:
            return _run(store, options, changes, joined)


def _view_name(options: Options) -> str:
    return options.view or proper_name(options.encoder)


def _run(store: Store, options: Options, changes: Changes, joined: bool) -> Summary:
    """Run on Ray, under the lock; `joined`: on an existing cluster."""
    asked = changes.asked
    gpu = has_gpu(options.device, joined)
    count, cpus = pool_size(options.workers, CPUS[asked.entity], gpu, joined)
    weights = options.weights
    if weights is not None and Path(weights).expanduser().exists():
        weights = str(Path(weights).expanduser().absolute())  # workers start elsewhere
    worker_options = WorkerOptions(
        options.encoder, weights, options.layer, options.device, cpus, options.frames, options.sampling
    )
    pool = WorkerPool(Worker, worker_options, gpu, lambda shard, why: Outcome(shard, error=why))
    provenance, features = pool.call("describe", asked.entity, options.dtype)
    with store.writer(asked.entity, _view_name(options), provenance, features) as writer:
        view = writer.view
        changes.write(store)
        rows, status = writer.add(asked.rows.select("key")), view.status()
    shards = plan(rows, status, view.rows_per_shard, options.retry_failed)
    batch = options.batch_size or BATCH[asked.entity]
    jobs = tasks(store, view, asked, shards, batch, threads=max(cpus - 1, 1))
    begin = time.monotonic()
    outcomes: list[Outcome] = []
    with progress(f"{proper_name(options.encoder)} on {asked.entity}", len(shards.rows), asked.entity) as advance:
        for outcome in pool.run(jobs, min(count, len(shards)), advance):
            outcomes.append(outcome)
            if outcome.error:
                say(f"error: {outcome.error}")
    return summarise(store, view, asked, status, outcomes, time.monotonic() - begin)


def _weights(options: Options) -> Path:
    """Return the encoder's weights on this machine."""
    name = proper_name(options.encoder)
    if options.weights is None and options.encoder not in WEIGHTS:
        raise StepDiffError(f"encoder {name} has no weights of its own: give --weights, a folder or hub id")
    return resolve(options.weights or options.encoder)


def _finished_view(store: Store, options: Options, asked: Manifest, weights: Path) -> View | None:
    """Return the view if it is as the options request it and nothing is missing."""
    name = _view_name(options)
    chosen = (options.layer, options.frames, options.sampling)
    if chosen != (None,) * 3 or name not in store.views(asked.entity):
        return None
    view = store.view(asked.entity, name)
    made = view.provenance
    if (made.encoder, made.weights) != (proper_name(options.encoder), fingerprint(deciding(options.encoder, weights))):
        return None
    if made.dtypes.get("tokens", options.dtype) != options.dtype:
        return None
    rows = store.catalog(asked.entity).rows(asked.rows["key"])
    if (rows < 0).any() or plan(rows, view.status(), view.rows_per_shard, options.retry_failed):
        return None
    return view


def _refuse_hopeless(store: Store, options: Options, changes: Changes) -> None:
    """StepDiffError if no missing clip can be computed and the view has none of the requested clips."""
    keys, name = changes.asked.rows["key"], _view_name(options)
    if name in store.views("clips"):
        rows = store.catalog("clips").rows(keys)
        status = np.zeros(len(rows), np.uint8)
        status[rows >= 0] = store.view("clips", name).status()[rows[rows >= 0]]
        status[keys.is_in(changes.changed["key"].implode()).to_numpy()] = ABSENT
        if (status == OK).any():
            return
        keys = keys.filter(pl.Series((status == ABSENT) | options.retry_failed))
    refuse_all_unreadable(changes.asked, keys.to_list())
