"""Options of the verbs of `python -m store`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Entity = Literal["clips", "texts"]
Dtype = Literal["float16", "float32", "int8"]
Floats = Literal["float16", "float32"]


@dataclass(frozen=True)
class InStore:
    """A command that reads a store."""

    path: str
    """folder of the store"""


@dataclass(frozen=True, kw_only=True)
class OfEntity:
    """A command about the rows of one entity."""

    entity: Entity = "clips"
    """what a row is"""


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A command that holds the lock of a store."""

    wait: bool = False
    """wait while another run writes into the store, instead of failing"""


@dataclass(frozen=True)
class InfoOptions(InStore):
    """Show what a store holds: views, features, finished and failed rows, bytes."""


@dataclass(frozen=True)
class VerifyOptions(InStore):
    """Read every file of a store that carries a checksum, and name the clips that damage touches.

    Covers the catalog, arrays, failures, the records of each shard's writer, annotations with their provenance, and
    index cards with the files that they name. Does not cover lock files, files without a checksum, anything outside
    the store, or whether features are what the encoder computes. Exit status 1 on damage."""


@dataclass(frozen=True)
class PlanOptions:
    """Estimate what a job takes: bytes, shards, files, hours.

    Give --encoder or --like. Hours come from a measured rate, or are unknown."""

    clips: float
    """rows of the view (clips or texts), e.g. 136e6"""
    encoder: str | None = None
    """a known encoder"""
    like: str | None = None
    """STORE/VIEW: an existing view with the same features"""
    entity: Entity = "clips"
    """what a row of --like stands for"""
    dtype: Dtype = "float16"
    """dtype of the largest feature; others are float32, or as in --like"""
    pool: int = 1
    """side of the squares of patches whose tokens are averaged, as in featurize --pool"""
    shard_size: int | None = None
    """MiB of the largest feature in one shard, as in featurize --shard-size. Default: about 256"""
    clips_per_second: float | None = None
    """measured rows per second of one worker"""
    measured_in: str | None = None
    """a store whose shards record how long the encoder took. Default: the store of --like"""
    read_mb_per_second: float | None = None
    """rate at which features will be read. Default: measured on rows of that store, which may be in memory already"""
    workers: int = 1
    """workers that share the job"""


@dataclass(frozen=True)
class DeriveOptions(OfEntity, Waiting, InStore):
    """A command that makes a view from another."""

    view: str
    """view to read"""
    to: str
    """view to create or continue"""


@dataclass(frozen=True)
class RequantiseOptions(DeriveOptions):
    """Create a view from an existing one, with its largest feature in another dtype.

    Its provenance records the source: int8 made from float16 is not int8 made from float32. A second run adds what is
    missing. Rows that failed in the old view are failed in the new one."""

    dtype: Dtype
    """dtype of the largest feature in the new view"""


@dataclass(frozen=True)
class PoolOptions(DeriveOptions):
    """Create a view from an existing one, with the tokens of neighbouring patches averaged.

    Its provenance records the pooling and the source. A second run adds what is missing. Rows that failed in the old
    view are failed in the new one."""

    pool: int
    """side of the squares of patches whose tokens are averaged, e.g. 2"""
    dtype: Dtype | None = None
    """dtype of the tokens in the new view. Default: as in the old view"""


@dataclass(frozen=True)
class DropOptions(OfEntity, Waiting, InStore):
    """Remove a view permanently.

    It disappears at once or not at all, then its files are deleted. The catalog keeps its rows. Lists the indexes
    that were built from it."""

    view: str
    """view to remove"""
    yes: bool = False
    """remove it; without this flag, print what would be removed and exit with status 1"""


@dataclass(frozen=True)
class FailuresOptions(OfEntity, InStore):
    """List the rows that failed, with the reasons."""

    view: str | None = None
    """view to list. Default: all of the entity"""
    limit: int = 20
    """rows to print; --out and --json have all"""
    out: Path | None = None
    """file to write the table to: .parquet, .csv or .jsonl"""
    json: bool = False
    """print one JSON object instead of a table"""


@dataclass(frozen=True)
class RowsOptions(FailuresOptions):
    """List rows with their status in each view."""

    status: Literal["ok", "failed", "absent", "forgotten"] | None = None
    """only rows that have this status in a listed view. Default: all rows"""


@dataclass(frozen=True)
class ForgetOptions(OfEntity, Waiting, InStore):
    """Forget rows: no view has features of them any more, and no run computes them again.

    Their numbers and their places in the catalog remain. Indexes of the views are stale afterwards and are refused
    until they are built again. The bytes of their features are deleted when their shard is written again."""

    keys: tuple[str, ...]
    """ids of the clips (keys of the texts) to forget"""
    reason: str | None = None
    """why, recorded with the rows"""
    undo: bool = False
    """recall forgotten rows: they are absent, and the next run of featurize computes them"""


@dataclass(frozen=True)
class CompactOptions(Waiting, InStore):
    """Merge small files, and delete those that nothing refers to.

    Merges parts of the catalog and failures; deletes temporary files of dead runs, remains of dropped views, and
    shards that were written but never committed. No row moves, and readers may continue."""
