"""The records of what wrote each shard: library versions, device, duration.

A writer replaces the file of its shard. `compact` merges the files of a group of shards into one; a shard's own file
has precedence.
"""

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import Place, listed
from store.format.layout import MERGED_SHARDS, ViewPaths, read_json, shard_numbers
from store.format.view_metadata import Write, read_merged_writes, read_writes


def writes_of_shard(paths: ViewPaths, shard: int, rows_per_shard: int) -> list[Write]:
    """Return the record of a shard, empty where it has none. StepDiffError where it is damaged."""
    first = shard * rows_per_shard
    try:
        return read_writes(paths.info(shard), first, rows_per_shard)
    except FileNotFoundError:
        pass
    try:
        return read_merged_writes(paths.merged_info(shard), rows_per_shard).get(shard, [])
    except FileNotFoundError:
        return []


def all_writes(paths: ViewPaths, rows_per_shard: int) -> Iterator[tuple[int, list[Write]]]:
    """Yield every shard that has a record, with it. StepDiffError where one is damaged."""
    names = {path.stem for path in listed(paths.info(0).parent, "*.json")}
    shards = set(shard_numbers(names))
    for shard in sorted(shards):
        yield shard, writes_of_shard(paths, shard, rows_per_shard)
    for group in shard_numbers(name.removeprefix("merged-") for name in names if name.startswith("merged-")):
        merged = read_merged_writes(paths.merged_info(group * MERGED_SHARDS), rows_per_shard)
        yield from ((shard, writes) for shard, writes in merged.items() if shard not in shards)


_FEATURIZE = "batch_size"  # in the info of what featurize writes, and of nothing else
_LOOKED_AT = 8  # records


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
