"""The record of a shard's writers: `shards/ENTITY/VIEW/SHARD.json`, parsed and checked in one place.

Guarantees
- a record is of the shard's own rows: a range of others is refused, however long
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from common.errors import StepDiffError
from common.io.places import Place
from common.io.seal import BLANK
from store.format.layout import encode_json, read_json


@dataclass(frozen=True)
class Write:
    """Rows written by the same program and device."""

    rows: frozenset[int]
    info: dict[str, Any]
    """library versions, device"""


def read_writes(path: Place, first: int, count: int) -> list[Write]:
    """Return the record of a shard of rows `first` to `first + count` - 1.

    Raises:
        StepDiffError: the file is damaged, or names other rows.
        FileNotFoundError: it does not exist.
    """
    writes = read_json(path).get("writes")
    if not isinstance(writes, list):
        raise StepDiffError(f"{path} does not say what wrote the shard: delete it, and run the command again")
    return [_parsed(path, write, first, first + count) for write in writes]


def encode_writes(shard: int, writes: Iterable[Write]) -> bytes:
    """Return the file of a shard, sealed."""
    spans = [{"rows": _to_ranges(write.rows), "info": write.info} for write in writes if write.rows]
    return encode_json({"shard": shard, "writes": spans, "seal": BLANK})


def _parsed(path: Place, write: object, first: int, end: int) -> Write:
    rows: set[int] = set()
    fits = isinstance(write, dict) and isinstance(write.get("info"), dict) and isinstance(write.get("rows"), list)
    for span in write["rows"] if fits and isinstance(write, dict) else ():
        fits = (
            isinstance(span, list)
            and len(span) == 2
            and all(type(row) is int for row in span)
            and first <= span[0] <= span[1] < end
        )
        if not fits:
            break
        rows |= set(range(span[0], span[1] + 1))
    if not fits or not isinstance(write, dict):
        raise StepDiffError(f"{path} names rows other than {first} to {end - 1}: delete it, and run the command again")
    return Write(frozenset(rows), write["info"])


def _to_ranges(rows: Iterable[int]) -> list[list[int]]:
    """Return rows as [first, last] of every unbroken run."""
    ranges: list[list[int]] = []
    for row in sorted(rows):
        if ranges and row == ranges[-1][1] + 1:
            ranges[-1][1] = row
        else:
            ranges.append([row, row])
    return ranges
