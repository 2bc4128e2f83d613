"""Why rows of a view failed: one file per shard, or one for many shards once they are merged.

A shard's own file has all its reasons; a merged file is for shards that have none.

Guarantees
- a reason can be read at every moment, also while files are merged
"""

from collections.abc import Iterable

import polars as pl

from common.errors import StepDiffError
from common.io import sealed as table
from common.io.places import Place, listed
from store.format.layout import MERGED_SHARDS, ViewPaths

SCHEMA = {"key": pl.String, "reason": pl.String}


def of_shard(paths: ViewPaths, shard: int) -> pl.DataFrame:
    """Return key and reason of rows that failed in a shard, maybe of others too; StepDiffError where damaged."""
    return own if (own := _read(paths.failures(shard))) is not None else _merged(paths, shard)


def of_shards(paths: ViewPaths, shards: Iterable[int]) -> pl.DataFrame:
    """Return key and reason of the rows that failed in some shards, maybe of others too; a key comes once."""
    shards = list(shards)
    there = {path.name for path in listed(paths.failures(0).parent, "*.parquet")}  # one request, not one a shard
    named = [shard for shard in shards if paths.failures(shard).name in there]
    own = {shard: frame for shard in named if (frame := _read(paths.failures(shard))) is not None}
    # merged files last: a file that was merged in the meantime is in them
    groups = {shard // MERGED_SHARDS: shard for shard in shards if shard not in own}
    frames = [*own.values(), *(_merged(paths, shard) for shard in groups.values())]
    return pl.concat([pl.DataFrame(schema=SCHEMA), *frames]).unique("key", keep="first", maintain_order=True)


def _merged(paths: ViewPaths, shard: int) -> pl.DataFrame:
    frame = _read(paths.merged_failures(shard))
    return pl.DataFrame(schema=SCHEMA) if frame is None else frame


def _read(path: Place) -> pl.DataFrame | None:
    """Return the frame in `path`, None where it does not exist. StepDiffError where it is damaged."""
    try:
        frame = table.read(path)
    except StepDiffError:
        if path.exists():
            raise
        return None
    if dict(frame.schema) != SCHEMA:
        raise StepDiffError(
            f"{path} has columns {', '.join(frame.columns)[:100]}, not key and reason: restore the file"
        )
    return frame
