"""The plan of a run: the shards with rows to compute, the task of a worker for each, and its outcome.

Tasks and outcomes hold names and numbers only.

Guarantees
- a task contains only its own rows, so a manifest of any size travels shard by shard
- a row that is ok is never computed again, a failed one only with `retry_failed`
- every row is in the one shard that contains it; shards are in order
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import polars as pl
from jaxtyping import Int64, UInt8

from featurize.encoders import unusable
from featurize.manifest import Manifest
from featurize.video.decode import Source
from store import Store, View
from store.view import FAILED, OK


@dataclass(frozen=True)
class Shard:
    """The rows to compute in one shard."""

    number: int
    """the shard's place in the view"""
    rows: tuple[int, ...]
    """ascending"""


@dataclass(frozen=True)
class Plan:
    """The shards with rows to compute, in order; the tuple of a shard's rows is made when it is reached."""

    rows: Int64[np.ndarray, " todo"]
    """every row to compute, ascending"""
    rows_per_shard: int

    def __len__(self) -> int:
        """Return the number of shards."""
        return len(self._starts())

    def __iter__(self) -> Iterator[Shard]:
        for start, end in pairwise([*self._starts(), len(self.rows)]):
            rows = self.rows[start:end].tolist()
            yield Shard(rows[0] // self.rows_per_shard, tuple(rows))

    def _starts(self) -> list[int]:
        return np.flatnonzero(np.diff(self.rows // self.rows_per_shard, prepend=-1)).tolist()


def plan(
    rows: Int64[np.ndarray, " asked"],
    status: UInt8[np.ndarray, " all"],
    rows_per_shard: int,
    retry_failed: bool = False,
) -> Plan:
    """Return the shards with rows to compute.

    Args:
        rows: those of the manifest, in any order.
        status: of every row of the catalog.
        rows_per_shard: of the view.
        retry_failed: whether rows that failed are computed again.
    """
    todo = np.zeros(len(status), bool)
    todo[rows] = True
    todo &= status != OK
    if not retry_failed:
        todo &= status != FAILED
    return Plan(np.flatnonzero(todo), rows_per_shard)


def blocks(rows: Iterable[int], first: int, size: int) -> dict[int, tuple[int, ...]]:
    """Return the rows of each batch that has any: batches are fixed runs of `size` rows from `first` on.

    So the rows of a batch depend on the shard only, not on what else is to be computed.
    """
    found: dict[int, list[int]] = {}
    for row in sorted(rows):
        found.setdefault((row - first) // size, []).append(row)
    return {block: tuple(members) for block, members in found.items()}


FILLER = "."
"""takes the place of a text that cannot be encoded in a batch"""


@dataclass(frozen=True)
class Task:
    """A shard's rows to compute. A row is in `rows` or in `failures`, not in both."""

    store: str
    """folder"""
    entity: str
    view: str
    shard: int
    rows: tuple[int, ...]
    """ascending"""
    failures: dict[int, str]
    """row known to be unusable -> why"""
    batch_size: int
    clips: dict[int, Source] = field(default_factory=dict)
    """every one of `rows` -> its clip, where the entity is clips"""
    texts: dict[int, str] = field(default_factory=dict)
    """every row of the batches that hold `rows` -> its text, FILLER where it is unusable, where the
    entity is texts"""
    threads: int = 1
    """threads that decode"""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a shard."""

    shard: int
    repeated: int = 0
    """clips that show fewer frames than the encoder sees"""
    truncated: int = 0
    """texts of more tokens than the encoder sees"""
    error: str | None = None
    """why nothing of it was written"""


def tasks(
    store: Store, view: View, asked: Manifest, shards: Iterable[Shard], batch_size: int, threads: int
) -> Iterator[Task]:
    """Yield the task of every shard; all rows are among those of `asked`."""
    catalog = store.catalog(view.entity)
    numbers = pl.Series("row", catalog.rows(asked.rows["key"]))
    rows = asked.rows.with_columns(numbers).sort("row")
    texts = catalog.frame(["text"])["text"] if view.entity == "texts" else pl.Series(dtype=pl.String)
    for shard in shards:
        first = shard.number * view.rows_per_shard
        clips: dict[int, Source] = {}
        failures: dict[int, str] = {}
        for row in rows[rows["row"].search_sorted(pl.Series(shard.rows))].iter_rows(named=True):
            if reason := asked.failures.get(row["key"]):
                failures[row["row"]] = reason
            elif view.entity == "clips":
                clips[row["row"]] = Source(str(asked.paths[row["video"]]), row["start"], row["end"])
        usable = tuple(row for row in shard.rows if row not in failures)
        near = {
            row: FILLER if unusable(texts[row]) else texts[row]
            for block in (blocks(usable, first, batch_size) if len(texts) else ())
            for row in range(first + block * batch_size, min(first + (block + 1) * batch_size, len(texts)))
        }
        yield Task(
            str(store.path), view.entity, view.name, shard.number, usable, failures, batch_size, clips, near, threads
        )
