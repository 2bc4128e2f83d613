"""Options of the verbs of `python -m store`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jsonargparse.typing import restricted_number_type, restricted_string_type

from stepdiff_core.cli.options import WRITTEN, Mebibytes

Entity = Literal["clips", "texts"]
Dtype = Literal["float16", "float32", "int8"]
Floats = Literal["float16", "float32"]
Format = Literal["parquet", "lance", "huggingface", "webdataset", "hdf5"]
Readable = Literal["parquet", "lance", "hdf5"]
Layout = Literal["array", "datasets", "groups"]
SUFFIXES: Mapping[str, Readable] = {
    ".parquet": "parquet",
    ".lance": "lance",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
}
Rate = restricted_number_type("Rate", float, [(">", 0), ("<", math.inf)])
Sha256 = restricted_string_type("Sha256", "[0-9a-f]{64}")
UNKNOWN_LICENSE = "unknown: features inherit the licence of the videos"


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
class VerifyOptions(Waiting, InStore):
    """Read every file of a store that carries a checksum, and name the clips that damage touches.

    Covers the catalog, arrays, failures, the records of each shard's writer, annotations with their
    provenance, and index cards with the files that they name. Does not cover lock files, files
    without a checksum, anything outside the store, or whether features are what the encoder
    computes. Exit status 1 on damage that is not withdrawn."""

    withdraw: bool = False
    """make damaged rows of views absent, so that the command that filled a view computes them
    again; snapshots stay as they are"""


@dataclass(frozen=True)
class StorePlanOptions:
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
    shard_size: int | None = field(default=None, metadata={"type": Mebibytes | None})
    """size of the largest feature in one shard, as in featurize --shard-size. Default: about
    256MiB"""
    clips_per_second: float | None = field(default=None, metadata={"type": Rate | None})
    """measured rows per second of one worker"""
    measured_in: str | None = None
    """a store whose shards record how long the encoder took. Default: the store of --like"""
    read_mb_per_second: float | None = field(default=None, metadata={"type": Rate | None})
    """rate at which features will be read. Default: measured on rows of that store, which may be in
    memory already"""
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

    Its provenance records the source: int8 made from float16 is not int8 made from float32. A
    second run adds what is missing. Rows that failed in the old view are failed in the new one."""

    dtype: Dtype
    """dtype of the largest feature in the new view"""


@dataclass(frozen=True)
class PoolOptions(DeriveOptions):
    """Create a view from an existing one, with the tokens of neighbouring patches averaged.

    Its provenance records the pooling and the source. A second run adds what is missing. Rows that
    failed in the old view are failed in the new one."""

    pool: int
    """side of the squares of patches whose tokens are averaged, e.g. 2"""
    dtype: Dtype | None = None
    """dtype of the tokens in the new view. Default: as in the old view"""


@dataclass(frozen=True)
class DropOptions(OfEntity, Waiting, InStore):
    """Remove a view permanently.

    It disappears at once or not at all, then its files are deleted. The catalog keeps its rows.
    Lists the indexes that were built from it."""

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
    out: Path | None = field(default=None, metadata=WRITTEN)
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

    Their numbers and their places in the catalog remain. Indexes of the views are stale afterwards
    and are refused until they are built again. The bytes of their features are deleted when their
    shard is written again."""

    keys: tuple[str, ...]
    """ids of the clips (keys of the texts) to forget"""
    reason: str | None = None
    """why, recorded with the rows"""
    undo: bool = False
    """recall forgotten rows: they are absent, and the next run of featurize computes them"""


@dataclass(frozen=True)
class CompactOptions(Waiting, InStore):
    """Merge small files, and delete those that nothing refers to.

    Merges parts of the catalog and failures; deletes temporary files of dead runs, remains of
    dropped views, and shards that were written but never committed. No row moves, and readers may
    continue."""


@dataclass(frozen=True)
class StoreExportOptions(OfEntity):
    """Copy the finished rows of a view, with the catalog's metadata, into the files of another
    library.

    Failed and absent rows are left out and counted. A killed export continues with the same command
    (hdf5: begins again), if the rows are the same: a snapshot (--store STORE@NAME) never changes. A
    card in the result describes encoder, provenance, counts and how to open it."""

    path: str = field(metadata=WRITTEN)
    """folder (hdf5: file) to create; an existing export is not replaced"""
    store: str
    """folder of the feature store"""
    view: str
    """name of the view"""
    format: Format | None = None
    """files to write. Default: by the suffix .parquet, .lance, .h5 or .hdf5"""
    features: tuple[str, ...] = ()
    """features to export. Default: all"""
    columns: tuple[str, ...] = ()
    """columns of the catalog to export. Default: all"""
    dtype: Floats | None = None
    """dtype of all features; int8 is dequantised. Default: as stored, int8 with its float16
    scales"""
    license: str = UNKNOWN_LICENSE
    """license of the features, for the dataset card"""


@dataclass(frozen=True)
class ImportOptions(OfEntity, Waiting):
    """Copy features from Parquet, Lance or HDF5 files into a view.

    Other columns than key and features become metadata of new clips; those that do not are listed.
    A second run copies only what is missing. Rows that cannot be read, or do not fit, are recorded
    as failed with the reason; exit status 1 if there are any."""

    path: str
    """file or folder to read"""
    store: str
    """folder of the feature store; created if missing"""
    view: str
    """name of the view; created if missing"""
    format: Readable | None = None
    """files to read. Default: by suffix and content"""
    layout: Layout | None = None
    """of an HDF5 file: `array` (every dataset has a row for each clip, one has the keys),
    `datasets` (a dataset is a clip) or `groups` (a group is a clip). Default: what its names
    show"""
    encoder: str | None = None
    """provenance: name of the frozen encoder that computed the features. Default, as of the next
    four: what the files say, if store export wrote them"""
    weights_sha256: str | None = field(default=None, metadata={"type": Sha256 | None})
    """provenance: sha256, in hex, of the encoder's weights"""
    layer: str | None = None
    """provenance: the layer whose output the features are"""
    frames: str | None = None
    """provenance: how frames were sampled, `none` for texts"""
    crop: str | None = None
    """provenance: how frames were resized and cropped"""
    features: tuple[str, ...] = ()
    """features of the view, each NAME or NAME=COLUMN. Default: all columns of lists of floats"""
    columns: tuple[str, ...] = ()
    """columns to take as metadata of new rows. Default: all that are no lists of numbers"""
    keys: str | None = None
    """column of the rows' keys. Default: `key`, `keys`, or the only one of texts"""
    dtype: Dtype | None = None
    """dtype of the largest feature. Default: float16 and int8 with scales remain, other floats
    become float32"""
    retry_failed: bool = False
    """retry rows that failed before"""


@dataclass(frozen=True)
class TagOptions(InStore):
    """Name what a store holds now, so that it can be read as it is now at any later time.

    A snapshot gives the store's files second names (hard links): it takes no space until the store
    replaces them. In an object store it is a copy. A run may be writing meanwhile. Read it with
    Store.open(PATH, at="NAME"), or give PATH@NAME to any command that reads a store."""

    name: str
    """name of the snapshot: letters, digits, '-' and '_'"""
    note: str = ""
    """text that `store log` shows"""
    delete: bool = False
    """delete the snapshot instead, and what it alone keeps"""


@dataclass(frozen=True)
class LogOptions(InStore):
    """List the snapshots of a store, the newest first, and what changed from each to the next."""


@dataclass(frozen=True)
class LineageOptions(InStore):
    """Say where rows come from, and what was trained on them; or what a head was trained on.

    Of a clip: its metadata, in each view its status, the encoder with its weights, and when and on
    what the row was written; the snapshots that name it; the heads that may have drawn it in
    training. Of a head, given as the folder of its run: the store, snapshot and views that it read,
    how many clips trained it, and the runs before it."""

    names: tuple[str, ...]
    """ids of clips (or texts), or folders of runs of heads.train"""
    heads: str | None = None
    """folder with runs of heads.train, in it or up to two levels below; by default the one that
    contains the store"""
    entity: Entity = "clips"
    """what the ids name: clips or texts"""
