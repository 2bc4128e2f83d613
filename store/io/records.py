"""The records of what wrote each shard: library versions, device, duration.

A writer replaces the file of its shard. `compact` merges the files of a group of shards into one; a shard's own file
has precedence.

Guarantees
- a record can be read at every moment, also while files are merged
"""

from collections.abc import Iterator

from common.io.files import listed
from store.format.layout import MERGED_SHARDS, ViewPaths, shard_number
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
    names = {path.name for path in listed(paths.info(0).parent, "*.json")}
    own = {shard for name in names if (shard := shard_number(name.removesuffix(".json"))) is not None}
    for shard in sorted(own):
        yield shard, writes_of_shard(paths, shard, rows_per_shard)
    merged_names = (name.removeprefix("merged-") for name in names if name.startswith("merged-"))
    groups = (shard_number(name.removesuffix(".json")) for name in merged_names)
    for group in sorted(group for group in groups if group is not None):
        merged = read_merged_writes(paths.merged_info(group * MERGED_SHARDS), rows_per_shard)
        yield from ((shard, writes) for shard, writes in merged.items() if shard not in own)
