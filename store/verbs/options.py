"""Options of the verbs of `python -m store`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Entity = Literal["clips", "texts"]
Dtype = Literal["float16", "float32", "int8"]
Floats = Literal["float16", "float32"]
Layout = Literal["clips", "rows"]


@dataclass(frozen=True)
class InfoOptions:
    """Show what a store holds: views, features, finished and failed rows, bytes."""

    path: str
    """folder of the store"""


@dataclass(frozen=True)
class VerifyOptions:
    """Read every file of a store that carries a checksum, and name the clips that damage touches.

    Covers the catalog, arrays, failures, the records of each shard's writer, annotations with their provenance, and
    index cards with the files that they name. Does not cover lock files, files without a checksum, anything outside
    the store, or whether features are what the encoder computes. Exit status 1 on damage."""

    path: str
    """folder of the store"""


@dataclass(frozen=True)
class ImportOptions:
    """Copy features from an HDF5 file into a view.

    A second run copies only what is missing. Clips that cannot be read, or do not fit, are recorded as failed with the
    reason; exit status 1 if there are any."""

    path: str
    """HDF5 file: one dataset (or group) per clip, named by its key; or datasets of rows and one of keys"""
    store: str
    """folder of the feature store; created if missing"""
    view: str
    """name of the view; created if missing"""
    encoder: str
    """provenance: name of the frozen encoder that computed the features"""
    weights_sha256: str
    """provenance: sha256, in hex, of the encoder's weights"""
    layer: str
    """provenance: the layer whose output the features are"""
    frames: str
    """provenance: how frames were sampled, `none` for texts"""
    crop: str
    """provenance: how frames were resized and cropped"""
    entity: Entity = "clips"
    """what a row is"""
    features: tuple[str, ...] = ()
    """features of the view, each NAME or NAME=DATASET, a dataset in the group of each clip. Default: in layout rows
    all datasets of floats; in layout clips `tokens`, or `embedding` if it has one axis"""
    layout: Layout | None = None
    """clips: one dataset or group per clip; rows: datasets of rows. Default: rows if a dataset of texts exists"""
    keys: str | None = None
    """dataset of the rows' keys. Default: the only dataset of texts"""
    group: str = "/"
    """group of the file to read"""
    dtype: Dtype | None = None
    """dtype of the largest feature. Default: float16 stays float16, other floats become float32"""
    retry_failed: bool = False
    """retry clips that failed before"""
    wait: bool = False
    """wait while another run writes into the store, instead of failing"""


@dataclass(frozen=True)
class ExportOptions:
    """Copy the finished rows of a view into an HDF5 file.

    The file appears whole or not at all. Failed and absent rows are left out and counted."""

    path: str
    """HDF5 file to create; an existing file is not replaced"""
    store: str
    """folder of the feature store"""
    view: str
    """name of the view"""
    entity: Entity = "clips"
    """what a row is"""
    features: tuple[str, ...] = ()
    """features to export. Default: all"""
    layout: Layout = "clips"
    """clips: one dataset per clip, named by its key (one group per clip for several features); rows: one dataset per
    feature, and the keys in dataset `key`"""
    dtype: Floats | None = None
    """dtype of all features. Default: as stored, and float32 for int8"""
    raw: bool = False
    """write int8 as stored, with a float16 scale per 64 channels in dataset `scale`: value = int8 * scale"""


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
    workers: int = 1
    """workers that share the job"""


@dataclass(frozen=True)
class RequantiseOptions:
    """Create a view from an existing one, with its largest feature in another dtype.

    Its provenance records the source: int8 made from float16 is not int8 made from float32. A second run adds what is
    missing. Rows that failed in the old view are failed in the new one."""

    path: str
    """folder of the store"""
    view: str
    """view to read"""
    to: str
    """view to create or continue"""
    dtype: Dtype
    """dtype of the largest feature in the new view"""
    entity: Entity = "clips"
    """what a row is"""
    wait: bool = False
    """wait while another run writes into the store, instead of failing"""


@dataclass(frozen=True)
class PoolOptions:
    """Create a view from an existing one, with the tokens of neighbouring patches averaged.

    Its provenance records the pooling and the source. A second run adds what is missing. Rows that failed in the old
    view are failed in the new one."""

    path: str
    """folder of the store"""
    view: str
    """view to read"""
    to: str
    """view to create or continue"""
    pool: int
    """side of the squares of patches whose tokens are averaged, e.g. 2"""
    dtype: Dtype | None = None
    """dtype of the tokens in the new view. Default: as in the old view"""
    entity: Entity = "clips"
    """what a row is"""
    wait: bool = False
    """wait while another run writes into the store, instead of failing"""


@dataclass(frozen=True)
class DropOptions:
    """Remove a view permanently.

    It disappears at once or not at all, then its files are deleted. The catalog keeps its rows. Lists the indexes
    that were built from it."""

    path: str
    """folder of the store"""
    view: str
    """view to remove"""
    entity: Entity = "clips"
    """what a row is"""
    yes: bool = False
    """remove it; without this flag, print what would be removed and exit with status 1"""
    wait: bool = False
    """wait while another run writes into the store, instead of failing"""


@dataclass(frozen=True)
class FailuresOptions:
    """List the rows that failed, with the reasons."""

    path: str
    """folder of the store"""
    view: str | None = None
    """view to list. Default: all of the entity"""
    entity: Entity = "clips"
    """what a row is"""
    limit: int = 20
    """rows to print; --out and --json have all"""
    out: Path | None = None
    """file to write the table to: .parquet, .csv or .jsonl"""
    json: bool = False
    """print one JSON object instead of a table"""


@dataclass(frozen=True)
class RowsOptions:
    """List rows with their status in each view."""

    path: str
    """folder of the store"""
    view: str | None = None
    """view to list. Default: all of the entity"""
    status: Literal["ok", "failed", "absent", "forgotten"] | None = None
    """only rows that have this status in a listed view. Default: all rows"""
    entity: Entity = "clips"
    """what a row is"""
    limit: int = 20
    """rows to print; --out and --json have all"""
    out: Path | None = None
    """file to write the table to: .parquet, .csv or .jsonl"""
    json: bool = False
    """print one JSON object instead of a table"""


@dataclass(frozen=True)
class ForgetOptions:
    """Forget rows: no view has features of them any more, and no run computes them again.

    Their numbers and their places in the catalog remain. Indexes of the views are stale afterwards and are refused
    until they are built again. The bytes of their features are deleted when their shard is written again."""

    path: str
    """folder of the store"""
    keys: tuple[str, ...]
    """ids of the clips (keys of the texts) to forget"""
    reason: str | None = None
    """why, recorded with the rows"""
    undo: bool = False
    """recall forgotten rows: they are absent, and the next run of featurize computes them"""
    entity: Entity = "clips"
    """what a row is"""
    wait: bool = False
    """wait while another run writes into the store, instead of failing"""


@dataclass(frozen=True)
class CompactOptions:
    """Merge small files, and delete those that nothing refers to.

    Merges parts of the catalog and failures; deletes temporary files of dead runs, remains of dropped views, and
    shards that were written but never committed. No row moves, and readers may continue."""

    path: str
    """folder of the store"""
    wait: bool = False
    """wait while another run writes into the store, instead of failing"""
