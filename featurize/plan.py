"""Which rows of which shards are to do: rows asked for, what their status says -> shards.

Guarantees
- a row that is ok is never done again; one that failed only with `retry_failed`
- every row to do is in the one shard that holds it; shards come in order
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

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


@dataclass(frozen=True)
class Plan:
    """The shards in which rows are to do, in order. A shard's rows are made as its turn comes."""

    rows: Int64[np.ndarray, " todo"]
    """every row to do, ascending"""
    rows_per_shard: int

    def __len__(self) -> int:
        """How many shards."""
        return len(self._starts())

    def __iter__(self) -> Iterator[Shard]:
        """The shards."""
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
    """The shards in which rows are to do.

    `rows` are those asked for, in any order; `status` is that of every row of the catalog.
    """
    todo = np.zeros(len(status), bool)
    todo[rows] = True
    todo &= status != OK
    if not retry_failed:
        todo &= status != FAILED
    return Plan(np.flatnonzero(todo), rows_per_shard)


def blocks(rows: Iterable[int], first: int, size: int) -> dict[int, tuple[int, ...]]:
    """The rows of each batch that has any: batches are fixed runs of `size` rows from `first` on.

    So which rows share a batch depends on the shard alone, not on what else is to do.
    """
    found: dict[int, list[int]] = {}
    for row in sorted(rows):
        found.setdefault((row - first) // size, []).append(row)
    return {block: tuple(members) for block, members in found.items()}
