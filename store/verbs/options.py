"""What the verbs of `python -m store` are told."""

from dataclasses import dataclass
from typing import Literal

Entity = Literal["clips", "texts"]
Dtype = Literal["float16", "float32", "int8"]
Floats = Literal["float16", "float32"]
Layout = Literal["clips", "rows"]


@dataclass(frozen=True)
class InfoOptions:
    """Say what a store holds: views, features, rows done and failed, bytes."""

    path: str
    """folder of the store"""


@dataclass(frozen=True)
class VerifyOptions:
    """Read every file of a store that carries a checksum, and name the clips that damage touches.

    Covered are catalog, arrays, failures, what wrote each shard, annotations with their provenance, and index cards
    with the files that they name. Not covered are lock files, files without a checksum, videos, manifests and runs
    outside the store, and whether features are what the encoder computes; the output lists what was left out. Exit
    status 1 on damage."""

    path: str
    """folder of the store"""


@dataclass(frozen=True)
class ImportOptions:
    """Copy features from an HDF5 file into a view.

    Run it again and only what is missing is copied. Clips that cannot be read, or do not fit, are recorded as failed,
    with the reason; exit status 1 where there are any."""

    path: str
    """HDF5 file: a dataset (or group) a clip, whose name is its key, or datasets of rows beside one of keys"""
    store: str
    """folder of the feature store, made where there is none"""
    view: str
    """name of the view, made where there is none"""
    encoder: str
    """provenance: name of the frozen encoder that computed the features"""
    weights_sha256: str
    """provenance: sha256, in hex, of the encoder's weights"""
    layer: str
    """provenance: the layer whose output they are"""
    frames: str
    """provenance: the rule that picked the frames, `none` for texts"""
    crop: str
    """provenance: the rule that resized and cropped them"""
    entity: Entity = "clips"
    """what a row stands for"""
    features: tuple[str, ...] = ()
    """features of the view, each NAME or NAME=DATASET. Where a group is a clip, DATASET is a dataset in it. Default:
    where datasets are rows, all of floats under their own names; where each is a clip, `tokens`, or `embedding` if
    it has one axis"""
    layout: Layout | None = None
    """clips: a dataset or group a clip; rows: datasets of rows. Default: rows where there is a dataset of texts"""
    keys: str | None = None
    """dataset of the rows' keys. Default: the only one of texts"""
    group: str = "/"
    """group of the file to look in"""
    dtype: Dtype | None = None
    """how the largest feature is stored. Default: float16 as float16, other floats as float32, as the others are"""
    retry_failed: bool = False
    """try those again that failed before"""
    wait: bool = False
    """wait while another run writes into the store, instead of giving up"""


@dataclass(frozen=True)
class ExportOptions:
    """Copy the finished rows of a view into an HDF5 file.

    The file appears whole or not at all. Rows that failed or are absent are left out, and counted."""

    path: str
    """HDF5 file to make; one that stands is not replaced"""
    store: str
    """folder of the feature store"""
    view: str
    """name of the view"""
    entity: Entity = "clips"
    """what a row stands for"""
    features: tuple[str, ...] = ()
    """features to export. Default: all of the view"""
    layout: Layout = "clips"
    """clips: a dataset a clip, named by its key (a group a clip, for several features); rows: a dataset a feature,
    and the keys in dataset `key`"""
    dtype: Floats | None = None
    """dtype of all features. Default: as stored, and float32 for int8"""
    raw: bool = False
    """int8 as it is stored, with its float16 scale for every 64 channels in dataset `scale`: value = int8 * scale"""


@dataclass(frozen=True)
class PlanOptions:
    """Say what a job would take: bytes, shards, files, hours.

    Give --encoder or --like. Hours come from a rate that was measured, or are unknown."""

    clips: float
    """rows of the view: clips, or texts, e.g. 136e6"""
    encoder: str | None = None
    """an encoder whose features are known"""
    like: str | None = None
    """STORE/VIEW: the features of a view that stands"""
    entity: Entity = "clips"
    """what a row of --like stands for"""
    dtype: Dtype = "float16"
    """how the largest feature is stored; the others are float32, or as in --like"""
    clips_per_second: float | None = None
    """rows a second of one worker, where you have measured them"""
    measured_in: str | None = None
    """a store whose shards tell how long the encoder took for them. Default: that of --like"""
    workers: int = 1
    """workers that share the job"""


@dataclass(frozen=True)
class RequantiseOptions:
    """Make a new view from one that stands, its largest feature in another dtype.

    Its provenance says what it was made from, since int8 made from float16 is not int8 made from float32. Run it again
    for what is missing. What failed in the old view has failed in the new one."""

    path: str
    """folder of the store"""
    view: str
    """view to read"""
    to: str
    """view to make or to go on with"""
    dtype: Dtype
    """how the new view stores its largest feature"""
    entity: Entity = "clips"
    """what a row stands for"""
    wait: bool = False
    """wait while another run writes into the store, instead of giving up"""


@dataclass(frozen=True)
class DropOptions:
    """Remove a view for good.

    It is gone at once or not at all, then its files are deleted. The catalog keeps its rows. Says which indexes were
    built from it."""

    path: str
    """folder of the store"""
    view: str
    """view to remove"""
    entity: Entity = "clips"
    """what a row stands for"""
    yes: bool = False
    """do it; without, say what would be removed and exit with status 1"""
    wait: bool = False
    """wait while another run writes into the store, instead of giving up"""


@dataclass(frozen=True)
class CompactOptions:
    """Merge small files, and delete those that nothing refers to.

    Merges parts of the catalog and failures; deletes temporary files of dead runs, what is left of dropped views, and
    shards that were written and never committed. No row moves, and readers may go on."""

    path: str
    """folder of the store"""
    wait: bool = False
    """wait while another run writes into the store, instead of giving up"""
