"""The small files of a view: the writer of each shard (versions, device, duration), and why rows
failed.

A writer replaces the file of its shard. `compact` merges the files of a group of shards into one; a
shard's own file has precedence. A store may come from a stranger: the rows that a record names are
checked when it is read.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import polars as pl

from stepdiff_core.errors import StepDiffError
from stepdiff_core.io import sealed as table
from stepdiff_core.io.files import Place, listed
from stepdiff_core.io.sealed import BLANK
from store.catalog.catalog import Catalog
from store.format.layout import (
    MERGED_SHARDS,
    ViewPaths,
    encode_json,
    read_json,
    shard_number,
    shard_numbers,
)


@dataclass(frozen=True)
class Write:
    """Rows written by the same program and device."""

    rows: frozenset[int]
    info: dict[str, Any]
    """library versions, device"""
    date: str | None = None
    """UTC, ISO 8601; None: the record of these rows was lost"""


def writes_of_shard(paths: ViewPaths, shard: int, rows_per_shard: int) -> list[Write]:
    """Return the record of a shard, empty if it has none. StepDiffError if it is damaged."""
    with suppress(FileNotFoundError):
        return _writes(
            paths.info(shard), read_json(paths.info(shard)).get("writes"), shard, rows_per_shard
        )
    with suppress(FileNotFoundError):
        return read_merged_writes(paths.merged_info(shard), rows_per_shard).get(shard, [])
    return []


def read_merged_writes(path: Place, rows_per_shard: int) -> dict[int, list[Write]]:
    """Return the records of a group of shards, by shard. StepDiffError if the file is damaged."""
    shards = read_json(path).get("shards")
    records: dict[int, list[Write]] = {}
    for name, writes in shards.items() if isinstance(shards, dict) else ():
        if (shard := shard_number(name)) is None:
            raise StepDiffError(
                f"{path} names no shard {name[:100]!r}: delete it, and run the command again"
            )
        records[shard] = _writes(path, writes, shard, rows_per_shard)
    return records


def all_writes(paths: ViewPaths, rows_per_shard: int) -> Iterator[tuple[int, list[Write]]]:
    """Yield every shard that has a record, with it. StepDiffError if one is damaged."""
    names = {path.stem for path in listed(paths.info(0).parent, "*.json")}
    shards = shard_numbers(names)
    yield from ((shard, writes_of_shard(paths, shard, rows_per_shard)) for shard in shards)
    for group in shard_numbers(
        name.removeprefix("merged-") for name in names if name.startswith("merged-")
    ):
        merged = read_merged_writes(paths.merged_info(group * MERGED_SHARDS), rows_per_shard)
        yield from ((shard, merged[shard]) for shard in sorted(merged.keys() - set(shards)))


def encode_writes(shard: int, writes: Iterable[Write]) -> bytes:
    """Return the file of a shard, sealed."""
    return encode_json({"shard": shard, "writes": _spans(writes), "seal": BLANK})


def encode_merged_writes(shards: Mapping[int, Iterable[Write]]) -> bytes:
    """Return the file of a group of shards, sealed."""
    return encode_json(
        {"shards": {str(shard): _spans(shards[shard]) for shard in sorted(shards)}, "seal": BLANK}
    )


def _writes(path: Place, writes: Any, shard: int, rows_per_shard: int) -> list[Write]:
    """Return the record of a shard, parsed. StepDiffError if it names rows of others."""
    first, parsed = shard * rows_per_shard, []
    try:
        if not isinstance(writes, list):
            raise TypeError("it has no list of writes")
        for write in writes:
            spans = [range(low, high + 1) for low, high in write["rows"]]
            if not all(first <= span.start < span.stop <= first + rows_per_shard for span in spans):
                raise ValueError(
                    f"it names rows other than {first} to {first + rows_per_shard - 1}"
                )
            info, date = dict(write["info"]), write.get("date")
            parsed.append(
                Write(frozenset(chain(*spans)), info, date if isinstance(date, str) else None)
            )
        return parsed
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        why = f"{path} does not say what wrote the rows of its shard ({error})"
        raise StepDiffError(f"{why}: delete it, and run the command again") from None


def _spans(writes: Iterable[Write]) -> list[dict[str, Any]]:
    return [
        {
            "rows": _ranges(write.rows),
            "info": write.info,
            **({"date": write.date} if write.date else {}),
        }
        for write in writes
        if write.rows
    ]


def _ranges(rows: Iterable[int]) -> list[list[int]]:
    """Return rows as [first, last] of every unbroken run."""
    ascending = np.array(sorted(rows), np.int64)
    runs = np.split(ascending, np.flatnonzero(np.diff(ascending) > 1) + 1)
    return [[int(run[0]), int(run[-1])] for run in runs]


REASONS = {"key": pl.String, "reason": pl.String}
"""columns of a file of failures"""


def failures_of_shard(paths: ViewPaths, shard: int) -> pl.DataFrame:
    """Return key and reason of rows that failed in a shard, maybe of others too; StepDiffError if
    damaged.

    A shard's own file has all its reasons; a merged file is for shards that have none.
    """
    for path in (paths.failures(shard), paths.merged_failures(shard)):
        if (frame := _read(path)) is not None:
            return frame
    return pl.DataFrame(schema=REASONS)


def encode_failures(catalog: Catalog, reasons: Mapping[int, str]) -> bytes:
    """Return the file of failures with these reasons, by row."""
    rows = np.array(sorted(reasons), np.int64)
    columns = {"key": catalog.keys(rows), "reason": [reasons[row] for row in rows.tolist()]}
    return table.encode(pl.DataFrame(columns, schema=REASONS))


def reasons_by_row(catalog: Catalog, failures: pl.DataFrame) -> dict[int, str]:
    """Return row -> reason from the result of `failures_of_shard`."""
    return dict(
        zip(catalog.rows(failures["key"]).tolist(), failures["reason"].to_list(), strict=True)
    )


def failures_of_shards(paths: ViewPaths, shards: Iterable[int]) -> pl.DataFrame:
    """Return key and reason of the rows that failed in some shards, maybe of others too; a key
    comes once."""
    shards = list(shards)
    # one request, not one a shard
    there = {path.name for path in listed(paths.failures(0).parent, "*.parquet")}
    named = [shard for shard in shards if paths.failures(shard).name in there]
    frames_by_shard = {
        shard: frame for shard in named if (frame := _read(paths.failures(shard))) is not None
    }
    # merged files last: a file that was merged in the meantime is in them
    groups = {shard // MERGED_SHARDS: shard for shard in shards if shard not in frames_by_shard}
    merged = (_read(paths.merged_failures(shard)) for shard in groups.values())
    frames = [*frames_by_shard.values(), *(frame for frame in merged if frame is not None)]
    return pl.concat([pl.DataFrame(schema=REASONS), *frames]).unique(
        "key", keep="first", maintain_order=True
    )


def _read(path: Place) -> pl.DataFrame | None:
    """Return the frame in `path`, None if it does not exist. StepDiffError if it is damaged."""
    try:
        frame = table.read(path)
    except StepDiffError:
        if path.exists():
            raise
        return None
    if dict(frame.schema) != REASONS:
        raise StepDiffError(
            f"{path} has columns {', '.join(frame.columns)[:100]}, not key and reason: restore the "
            "file"
        )
    return frame
