"""What the driver tells a worker of a shard, and what the worker answers: names and numbers alone.

Guarantees
- a task contains only its own rows, so a manifest of any size travels shard by shard
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import polars as pl

from featurize.encoders import unusable
from featurize.manifest import Manifest
from featurize.plan import Shard, blocks
from store import Store, View

FILLER = "."
"""takes the place of a text that cannot be encoded in a batch"""


@dataclass(frozen=True)
class Source:
    """Where a clip lies."""

    video: str
    """absolute path"""
    start: float
    """seconds"""
    end: float
    """seconds"""


@dataclass(frozen=True)
class Task:
    """The rows to do in a shard. A row is in `rows` or in `failures`, not in both."""

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
    """What became of a shard."""

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
    """The task of every shard, whose rows are all among those of `asked`."""
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
