"""A repair (`--repair`): the damaged rows of a view are computed again, and nothing else.

The store's lock is held from the search for damage to the last row. First the whole store is read. Then damaged rows
become absent, and files about rows are written again (see `store.damage`). Then those rows are computed,
with the batch size that they were computed with. In memory are the damaged rows, about 300 bytes each.

Guarantees
- exactly the damaged rows of the view are computed, with the same bits
- a killed repair is completed by the same command
- a damaged row whose video cannot be used any more becomes failed; a clip whose file is another one now is refused
  before anything is written
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import polars as pl

from featurize.changes import difference, differing
from featurize.encoders import find_weights, proper_name
from featurize.job import MOST_FAILURES, Computed, compute, failed_lines, made_by, resolved, workers_of
from featurize.manifest import Windows
from featurize.options import Options
from featurize.plan import BATCH, Shards, pending, tasks, together
from featurize.video.media_file import identities
from stepdiff.common.cli.options import incomplete
from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import place
from stepdiff.common.progress import say
from store import Store, View
from store.damage import FileDamage, rewrite_metadata, unfinished, view_damage, withdraw_damaged
from store.snapshots.repair import repair_snapshots
from store.verbs.verify import Damage, remedy, verify
from store.view import FAILED, OK


@dataclass(frozen=True)
class Repaired:
    """What a repair did."""

    entity: str
    view: str
    store: str
    damaged: int  # rows that were damaged, or left absent by a killed repair
    done: int  # of these, computed again
    failed: int  # of these, failed now
    left: int  # of these, absent now: the manifest does not name them, or their shard could not be written
    seconds: float = 0.0
    rewritten: list[str] = field(default_factory=list)
    """files of the view that were written again from what is known: status, records, reasons, metadata"""
    errors: list[str] = field(default_factory=list)  # why shards could not be written
    failures: list[dict[str, str]] = field(default_factory=list)  # key and reason of what failed, of the first 10,000
    not_repaired: list[dict[str, str]] = field(default_factory=list)
    """path, what and remedy of damage that this command cannot repair"""

    def status(self, allow_failed: bool = False) -> int:
        """Return the exit status: 1 where a row is not whole again, or other damage is left."""
        left = self.left + len(self.not_repaired)
        return incomplete({"absent": left, "failed": self.failed, "allowed": allow_failed})

    def lines(self) -> list[str]:
        """Return the summary for people."""
        where = f"view {self.view} of {self.entity} in {self.store}"
        lines = [f"{self.done} of {self.damaged} damaged {self.entity} computed again in {where}"]
        if not self.damaged:
            unreadable = any(f"/{self.entity}/{self.view}/" in one["path"] for one in self.not_repaired)
            lines = [f"no row to repair: {where} {'has files that cannot be read' if unreadable else 'is whole'}"]
        if self.rewritten:
            lines.append(f"{len(self.rewritten)} damaged files about rows written again, such as {self.rewritten[0]}")
        lines += [f"error: {error}" for error in self.errors]
        if self.left:
            lines.append(
                f"{self.left} damaged {self.entity} are absent now, as this command does not name them or could not "
                "write them: repeat it with the manifest that names them"
            )
        if self.failed:
            lines += failed_lines(f"{self.failed} damaged {self.entity} failed:", self.failed, self.failures)
        lines += [f"not repaired: {one['path']} {one['what']}: {one['remedy']}" for one in self.not_repaired]
        return lines


def run(options: Options, asked: Windows) -> Repaired:
    """Repair a view. StepDiffError: options, encoder, store or cluster cannot be used; nothing was written then."""
    for name, given in (("--replace", options.replace), ("--retry-failed", options.retry_failed)):
        if given:
            raise StepDiffError(f"--repair computes damaged rows only: leave out {name}, or repair first")
    if options.shard_size is not None:
        raise StepDiffError("--repair keeps the shards of the view: leave out --shard-size")
    options = resolved(options)
    store = Store.open(place(options.store).expanduser().absolute())
    if store.at is not None:
        raise StepDiffError(
            f"snapshot {store.at} of {store.path} is not repaired: repair the store, without @{store.at}"
        )
    with store.lock(options.wait):
        view = store.view(asked.entity, str(options.view))
        if not made_by(view, options, find_weights(options.encoder, options.weights)):
            raise StepDiffError(
                f"view {view.name} of {view.entity} in {store.path} was made by another encoder, other weights or "
                "other options: repeat the command that filled it, with --repair"
            )
        say(f"reading every byte of {store.path}")
        others = verify(store, without=(view.entity, view.name))
        for one in others:
            if one.path.startswith(f"catalog/{view.entity}") and not one.path.endswith(".keys"):
                raise StepDiffError(f"{store.path}/{one.path} {one.what}: {one.remedy} before a repair")
        return _repair(store, view, options, asked, others)


def _repair(store: Store, view: View, options: Options, asked: Windows, others: list[Damage]) -> Repaired:
    """Find the damage, withdraw it and compute it, under the store's lock."""
    damage, rewritten = list(view_damage(view, len(view.catalog))), list[str]()
    if any(one.kind == "metadata" for one in damage):  # that of arrays is written again first
        rewritten = rewrite_metadata(view, damage)
        damage = list(view_damage(view, len(view.catalog))) if rewritten else damage
    maybe = {
        row for one in damage if one.kind in ("rows", "status") and one.rows is not None for row in one.rows.tolist()
    }
    maybe |= unfinished(view).keys()
    rows, done = np.empty(0, np.int64), Computed()
    if not maybe:
        rewritten += withdraw_damaged(view, damage).rewritten
    else:
        planned = _planned(store, view, asked, maybe)
        if not planned.height:
            raise StepDiffError(
                f"none of the {len(maybe)} damaged {view.entity} of view {view.name}, such as "
                f"{view.catalog.name(min(maybe))}, is named by this command: repeat the one that filled the view"
            )
        with workers_of(options, view.entity, planned.height) as (pool, count, cpus, _):
            provenance, features = pool.call("describe", view.entity, options.dtype)
            store.create_view(view.entity, view.name, provenance, features)  # refuses another provenance
            rewritten += withdraw_damaged(view, damage).rewritten
            records = unfinished(view)
            rows = np.array(sorted(records), np.int64)
            planned = planned.filter(pl.col("row").is_in(rows.tolist()))
            jobs = _tasks(store, view, planned, records, options.batch_size, max(cpus - 1, 1))
            what = f"{proper_name(options.encoder)} on damaged {view.entity}"
            done = compute(pool, jobs, min(count, max(len(jobs), 1)), what, planned.height, view.entity)
    status = view.status(rows)
    failed = rows[status == FAILED]
    left = [(one.path, one.what, one.remedy) for one in others]
    again = "correct that, then run this command again"
    left += [(_relative(one, store), one.what, again) for one in damage if one.kind in ("unreadable", "metadata")]
    for one in repair_snapshots(store, view):
        path = _relative(one, store)
        left.append((path, one.what, remedy(store.path, path)))
    return Repaired(
        entity=view.entity,
        view=view.name,
        store=str(store.path),
        damaged=len(rows),
        done=int((status == OK).sum()),
        failed=len(failed),
        left=int((status != OK).sum()) - len(failed),
        seconds=round(done.seconds, 3),
        rewritten=rewritten,
        errors=done.errors,
        failures=view.failures(failed[:MOST_FAILURES]).to_dicts(),
        not_repaired=[dict(zip(("path", "what", "remedy"), one, strict=True)) for one in left],
    )


def _relative(damage: FileDamage, store: Store) -> str:
    return str(damage.path.relative_to(store.path))  # type: ignore[arg-type]  # both local, or both remote


def _planned(store: Store, view: View, asked: Windows, damaged: set[int]) -> pl.DataFrame:
    """Return those of the damaged rows that the command names, as they are planned.

    Raises StepDiffError if a clip was computed from another file or interval.
    """
    wanted, frames = np.array(sorted(damaged), np.int64), [pl.DataFrame(schema={"row": pl.Int64})]
    for window in asked:
        rows = view.catalog.rows(window.rows["key"])
        here = np.isin(rows, wanted)
        if not here.any():
            continue
        part = replace(window, rows=window.rows.filter(pl.Series(here)))
        if window.entity == "clips":
            videos = set(part.rows["video"])
            part = replace(part, paths={name: path for name, path in window.paths.items() if name in videos})
            changed = differing(store, part, identities(part.paths, quiet=True))
            changed = changed.filter(pl.col("file") | pl.col("interval"))
            for clip in changed.head(1).iter_rows(named=True):
                raise StepDiffError(f"{difference(part, clip, changed.height)} instead of --repair")
        frames.append(pending(part, rows[here], np.ones(part.rows.height, bool)))
    return pl.concat(frames, how="diagonal").sort("row")


def _tasks(
    store: Store,
    view: View,
    rows: pl.DataFrame,
    records: dict[int, dict[str, Any]],
    batch_size: int | Literal["auto"],
    threads: int,
) -> list[Shards]:
    """Return the tasks of rows, with the batch size that each was computed with, unless one is given."""
    if isinstance(batch_size, int):
        sizes = [batch_size] * rows.height
    else:
        infos = (records[row] for row in rows["row"])
        recorded = (info.get("forward_rows") or info.get("batch_size") for info in infos)
        sizes = [size if isinstance(size, int) and size > 0 else BATCH[view.entity] for size in recorded]
    of_each = (
        replace(task, repair=True)
        for size in sorted(set(sizes))
        for task in tasks(store, view, rows.filter(pl.Series([one == size for one in sizes])), size, threads)
    )
    return list(together(of_each, 1))
