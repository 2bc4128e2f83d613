"""A repair (`--repair`): the damaged rows of a view are computed again, and nothing else.

The store's lock is held from the search for damage to the last row. First the whole store is read. Then damaged rows
become absent, and files about rows are written again (see `store.damage.withdrawal`). Then those rows are computed,
with the batch size that they were computed with. Rows that a killed repair left absent are marked in the store: the
next repair computes them too.

In memory are the damaged rows, about 300 bytes each. To compute most of a large view again, drop it.

Guarantees
- exactly the damaged rows of the view are computed, with the same bits; a store without damage is left as it is
- a killed repair is completed by the same command
- a damaged row whose video cannot be used any more becomes failed; a clip whose file is another one now is refused
  before anything is written
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int64

from featurize.changes import difference, differing
from featurize.encoders import find_weights, proper_name
from featurize.job import BATCH, compute, made_by, name_of_view, resolved, start_workers
from featurize.manifest import Manifest
from featurize.options import Options
from featurize.plan import Task, pending, tasks
from featurize.summary import MOST_FAILURES, SHOWN, Computed
from featurize.video.media_file import identities
from featurize.windows import Windows
from stepdiff.common.cli.options import incomplete
from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import place
from stepdiff.common.progress import say
from stepdiff.common.workers.cluster import connected
from store import Store, View
from store.damage.view_damage import FileDamage, view_damage
from store.damage.withdrawal import rewrite_metadata, unfinished, withdraw_damaged
from store.snapshots.repair import repair_snapshots
from store.verbs.verify import Damage, remedy, verify
from store.view import FAILED, OK


@dataclass(frozen=True)
class Repaired:
    """What a repair did."""

    entity: str
    view: str
    store: str
    damaged: int
    """rows that were damaged, or left absent by a killed repair"""
    done: int
    """of these, computed again"""
    failed: int
    """of these, failed now"""
    left: int
    """of these, absent now: the manifest does not name them, or their shard could not be written"""
    seconds: float = 0.0
    rewritten: list[str] = field(default_factory=list)
    """files of the view that were written again from what is known: status, records, reasons, metadata"""
    errors: list[str] = field(default_factory=list)
    """why shards could not be written"""
    failures: list[dict[str, str]] = field(default_factory=list)
    """key and reason of what failed, of the first 10,000"""
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
            whole = "is whole" if not self._unreadable() else "has files that cannot be read"
            lines = [f"no row to repair: {where} {whole}"]
        if self.rewritten:
            lines.append(f"{len(self.rewritten)} damaged files about rows written again, such as {self.rewritten[0]}")
        lines += [f"error: {error}" for error in self.errors]
        if self.left:
            lines.append(
                f"{self.left} damaged {self.entity} are absent now, as this command does not name them or could not "
                "write them: repeat it with the manifest that names them"
            )
        if self.failed:
            lines.append(f"{self.failed} damaged {self.entity} failed:")
            lines += [f"  {failure['key']}: {failure['reason']}" for failure in self.failures[:SHOWN]]
            lines += [f"  ... and {self.failed - SHOWN} more"] if self.failed > SHOWN else []
        lines += [f"not repaired: {one['path']} {one['what']}: {one['remedy']}" for one in self.not_repaired]
        return lines

    def _unreadable(self) -> bool:
        return any(f"/{self.entity}/{self.view}/" in one["path"] for one in self.not_repaired)


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
        view = store.view(asked.entity, name_of_view(options))
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
        return _Repair(store, view, options, asked, others).run()


class _Repair:
    """A repair under the store's lock."""

    def __init__(self, store: Store, view: View, options: Options, asked: Windows, others: list[Damage]) -> None:
        self._store, self._view, self._options, self._asked = store, view, options, asked
        self._others = others
        self._rewritten: list[str] = []

    def run(self) -> Repaired:
        """Find the damage, withdraw it and compute it."""
        view = self._view
        found = self._find()
        maybe = _rows_of(found) | unfinished(view).keys()
        if not maybe:
            self._withdraw(found)
            return self._repaired(found, np.empty(0, np.int64), Computed())
        planned = self._planned(maybe)
        if not planned.height:
            raise StepDiffError(
                f"none of the {len(maybe)} damaged {view.entity} of view {view.name}, such as "
                f"{view.catalog.name(min(maybe))}, is named by this command: repeat the one that filled the view"
            )
        with connected(self._options.address, "featurize") as joined:
            pool, count, cpus = start_workers(self._options, view.entity, joined)
            provenance, features = pool.call("describe", view.entity, self._options.dtype)
            self._store.create_view(view.entity, view.name, provenance, features)  # refuses another provenance
            self._withdraw(found)
            damaged = unfinished(view)
            rows = planned.filter(pl.col("row").is_in(list(damaged)))
            jobs = self._tasks(rows, damaged, max(cpus - 1, 1))
            what = f"{proper_name(self._options.encoder)} on damaged {view.entity}"
            done = compute(pool, jobs, min(count, max(len(jobs), 1)), what, rows.height, view.entity)
        return self._repaired(found, np.array(sorted(damaged), np.int64), done)

    def _find(self) -> list[FileDamage]:
        """Return the damage of the view; damaged metadata of arrays is written again first."""
        found = list(view_damage(self._view, len(self._view.catalog)))
        if self._rewritten or not any(damage.kind == "metadata" for damage in found):
            return found
        self._rewritten = rewrite_metadata(self._view, found)
        return self._find() if self._rewritten else found

    def _withdraw(self, found: list[FileDamage]) -> None:
        self._rewritten += withdraw_damaged(self._view, found).rewritten

    def _planned(self, damaged: set[int]) -> pl.DataFrame:
        """Return those of the damaged rows that the command names, as they are planned."""
        wanted, frames = np.array(sorted(damaged), np.int64), []
        for window in self._asked:
            rows = self._view.catalog.rows(window.rows["key"])
            here = np.isin(rows, wanted)
            if here.any():
                part = _part(window, here)
                self._refuse_changed(part)
                frames.append(pending(part, rows[here], np.ones(int(here.sum()), bool)))
        return pl.concat(frames).sort("row") if frames else pl.DataFrame(schema={"row": pl.Int64})

    def _refuse_changed(self, asked: Manifest) -> None:
        """Raise StepDiffError if a clip was computed from another file or interval."""
        if asked.entity != "clips":
            return
        changed = differing(self._store, asked, identities(asked.paths, quiet=True))
        changed = changed.filter(pl.col("file") | pl.col("interval"))
        for clip in changed.head(1).iter_rows(named=True):
            raise StepDiffError(f"{difference(asked, clip, changed.height)} instead of --repair")

    def _tasks(self, rows: pl.DataFrame, damaged: dict[int, dict[str, Any]], threads: int) -> list[Task]:
        """Return the tasks of rows, with the batch size that each was computed with, unless one was given."""
        default = BATCH[self._view.entity]
        sizes = [self._options.batch_size or _batch_size(damaged[row], default) for row in rows["row"].to_list()]
        made: list[Task] = []
        for size in sorted(set(sizes)):
            these = rows.filter(pl.Series([one == size for one in sizes], dtype=pl.Boolean))
            made += [replace(task, repair=True) for task in tasks(self._store, self._view, these, size, threads)]
        return made

    def _repaired(self, found: list[FileDamage], rows: Int64[np.ndarray, " damaged"], done: Computed) -> Repaired:
        view = self._view
        status = view.status(rows)
        failed = rows[status == FAILED]
        unreadable = [damage for damage in found if damage.kind in ("unreadable", "metadata")]
        left = [{"path": one.path, "what": one.what, "remedy": one.remedy} for one in self._others]
        for damage in (*unreadable, *repair_snapshots(self._store, view)):
            path = str(damage.path.relative_to(self._store.path))  # type: ignore[arg-type]  # both local, or both remote
            again = "correct that, then run this command again"
            left.append(
                {
                    "path": path,
                    "what": damage.what,
                    "remedy": again if damage in unreadable else remedy(self._store.path, path),
                }
            )
        return Repaired(
            entity=view.entity,
            view=view.name,
            store=str(self._store.path),
            damaged=len(rows),
            done=int((status == OK).sum()),
            failed=len(failed),
            left=int((status != OK).sum()) - len(failed),
            seconds=round(done.seconds, 3),
            rewritten=self._rewritten,
            errors=done.errors,
            failures=view.failures(failed[:MOST_FAILURES]).to_dicts(),
            not_repaired=left,
        )


def _rows_of(found: list[FileDamage]) -> set[int]:
    """Return the rows that may have to be computed again."""
    return {row for damage in found if damage.kind in ("rows", "status") for row in _list(damage)}


def _list(damage: FileDamage) -> list[int]:
    return [] if damage.rows is None else damage.rows.tolist()


def _part(window: Manifest, here: np.ndarray) -> Manifest:
    """Return some rows of a manifest, with their videos."""
    rows = window.rows.filter(pl.Series(here))
    videos = set(rows["video"]) if window.entity == "clips" else set()
    return replace(window, rows=rows, paths={name: path for name, path in window.paths.items() if name in videos})


def _batch_size(info: dict[str, Any], default: int) -> int:
    size = info.get("batch_size")
    return size if isinstance(size, int) and size > 0 else default
