"""The records of what wrote each shard: library versions, device, duration.

A writer replaces the file of its shard. `compact` merges the files of a group of shards into one; a shard's own file
has precedence. A store may come from a stranger: the rows that a record names are checked when it is read.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import Place, listed
from stepdiff.common.io.sealed import BLANK
from store.format.layout import MERGED_SHARDS, ViewPaths, encode_json, read_json, shard_number, shard_numbers

_FEATURIZE = "batch_size"  # in the info of what featurize writes, and of nothing else
_LOOKED_AT = 8  # records


@dataclass(frozen=True)
class Write:
    """Rows written by the same program and device."""

    rows: frozenset[int]
    info: dict[str, Any]
    """library versions, device"""
    date: str | None = None
    """UTC, ISO 8601; None: an earlier version of this program wrote it"""


def writes_of_shard(paths: ViewPaths, shard: int, rows_per_shard: int) -> list[Write]:
    """Return the record of a shard, empty where it has none. StepDiffError where it is damaged."""
    with suppress(FileNotFoundError):
        return _writes(paths.info(shard), read_json(paths.info(shard)).get("writes"), shard, rows_per_shard)
    with suppress(FileNotFoundError):
        return read_merged_writes(paths.merged_info(shard), rows_per_shard).get(shard, [])
    return []


def read_merged_writes(path: Place, rows_per_shard: int) -> dict[int, list[Write]]:
    """Return the records of a group of shards, by shard. StepDiffError where the file is damaged."""
    shards = read_json(path).get("shards")
    records: dict[int, list[Write]] = {}
    for name, writes in shards.items() if isinstance(shards, dict) else ():
        if (shard := shard_number(name)) is None:
            raise StepDiffError(f"{path} names no shard {name[:100]!r}: delete it, and run the command again")
        records[shard] = _writes(path, writes, shard, rows_per_shard)
    return records


def all_writes(paths: ViewPaths, rows_per_shard: int, skip_damaged: bool = False) -> Iterator[tuple[int, list[Write]]]:
    """Yield every shard that has a record, with it. StepDiffError where one is damaged, unless these are skipped."""
    names = {path.stem for path in listed(paths.info(0).parent, "*.json")}
    skipped = (StepDiffError, FileNotFoundError) if skip_damaged else ()
    shards = shard_numbers(names)
    for shard in shards:
        with suppress(*skipped):
            yield shard, writes_of_shard(paths, shard, rows_per_shard)
    for group in shard_numbers(name.removeprefix("merged-") for name in names if name.startswith("merged-")):
        with suppress(*skipped):
            merged = read_merged_writes(paths.merged_info(group * MERGED_SHARDS), rows_per_shard)
            yield from ((shard, merged[shard]) for shard in sorted(merged.keys() - set(shards)))


def encode_writes(shard: int, writes: Iterable[Write]) -> bytes:
    """Return the file of a shard, sealed."""
    return encode_json({"shard": shard, "writes": _spans(writes), "seal": BLANK})


def encode_merged_writes(shards: Mapping[int, Iterable[Write]]) -> bytes:
    """Return the file of a group of shards, sealed."""
    return encode_json({"shards": {str(shard): _spans(shards[shard]) for shard in sorted(shards)}, "seal": BLANK})


def filled_by_featurize(paths: ViewPaths, shard: int | None) -> bool:
    """Return whether featurize wrote a shard, as its record says; where it has none that can be read, another one."""
    own = [] if shard is None else [paths.info(shard), paths.merged_info(shard)]
    others = (path for path in listed(paths.info(0).parent, "*.json"))
    for path in chain(own, islice(others, _LOOKED_AT)):
        if infos := _infos(path, shard if path in own else None):
            return any(_FEATURIZE in info for info in infos)
    return False


def _infos(path: Place, shard: int | None) -> list[dict[str, Any]]:
    """Return what wrote a shard, or any shard that the file has; nothing where it is damaged or does not exist."""
    try:
        about = read_json(path)
    except (StepDiffError, FileNotFoundError):
        return []
    shards = about["shards"] if isinstance(about.get("shards"), dict) else {str(shard): about.get("writes")}
    lists = [writes for number, writes in shards.items() if shard is None or number == str(shard)]
    writes = [write for some in lists if isinstance(some, list) for write in some if isinstance(write, dict)]
    return [info for write in writes if isinstance(info := write.get("info"), dict)]


def _writes(path: Place, writes: Any, shard: int, rows_per_shard: int) -> list[Write]:
    """Return the record of a shard, parsed. StepDiffError where it names rows of others."""
    first, parsed = shard * rows_per_shard, []
    try:
        if not isinstance(writes, list):
            raise TypeError("it has no list of writes")
        for write in writes:
            spans = [range(low, high + 1) for low, high in write["rows"]]
            if not all(first <= span.start < span.stop <= first + rows_per_shard for span in spans):
                raise ValueError(f"it names rows other than {first} to {first + rows_per_shard - 1}")
            info, date = dict(write["info"]), write.get("date")
            parsed.append(Write(frozenset(chain(*spans)), info, date if isinstance(date, str) else None))
        return parsed
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        why = f"{path} does not say what wrote the rows of its shard ({error})"
        raise StepDiffError(f"{why}: delete it, and run the command again") from None


def _spans(writes: Iterable[Write]) -> list[dict[str, Any]]:
    return [
        {"rows": _to_ranges(write.rows), "info": write.info, **({"date": write.date} if write.date else {})}
        for write in writes
        if write.rows
    ]


def _to_ranges(rows: Iterable[int]) -> list[list[int]]:
    """Return rows as [first, last] of every unbroken run."""
    ranges: list[list[int]] = []
    for row in sorted(rows):
        if ranges and row == ranges[-1][1] + 1:
            ranges[-1][1] = row
        else:
            ranges.append([row, row])
    return ranges
