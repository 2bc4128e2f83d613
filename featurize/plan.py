"""Which rows of which shards are to do: rows asked for, what their status says -> shards.

Guarantees
- a row that is ok is never done again; one that failed only with `retry_failed`
- every row to do is in the one shard that holds it; shards come in order
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8

from store.view import FAILED, OK


@dataclass(frozen=True)
class Shard:
    """The rows to do in one shard."""

    number: int
    """the shard's place in the view"""
    rows: tuple[int, ...]
    """ascending"""


def plan(
    rows: Int64[np.ndarray, " asked"],
    status: UInt8[np.ndarray, " all"],
    rows_per_shard: int,
    retry_failed: bool = False,
) -> list[Shard]:
    """The shards in which rows are to do.

    `rows` are those asked for, in any order; `status` is that of every row of the catalog.
    """
    rows = np.unique(rows)
    done = status[rows] == OK
    if not retry_failed:
        done |= status[rows] == FAILED
    rows = rows[~done]
    starts = np.flatnonzero(np.diff(rows // rows_per_shard, prepend=-1))
    return [
        Shard(int(part[0]) // rows_per_shard, tuple(part.tolist())) for part in np.split(rows, starts[1:]) if len(part)
    ]


def blocks(rows: Iterable[int], first: int, size: int) -> dict[int, tuple[int, ...]]:
    """The rows of each batch that has any: batches are fixed runs of `size` rows from `first` on.

    So which rows share a batch depends on the shard alone, not on what else is to do.
    """
    found: dict[int, list[int]] = {}
    for row in sorted(rows):
        found.setdefault((row - first) // size, []).append(row)
    return {block: tuple(members) for block, members in found.items()}
