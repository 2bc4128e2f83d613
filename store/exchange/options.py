"""Options of the verbs that move features in and out of a store."""

from dataclasses import dataclass
from typing import Literal

from store.verbs.options import Dtype, Entity, Floats

Format = Literal["parquet", "lance", "huggingface", "webdataset", "hdf5"]
Readable = Literal["parquet", "lance", "hdf5"]
Layout = Literal["clips", "rows"]
UNKNOWN_LICENSE = "unknown: features inherit the licence of the videos"


@dataclass(frozen=True)
class ExportOptions:
    """Copy the finished rows of a view, with the catalog's metadata, into the files of another library.

    Failed and absent rows are left out and counted. A killed export continues with the same command. A card in the
    result describes encoder, provenance, counts and how to open it."""

    path: str
    """folder to create (hdf5: file); an existing export is not replaced"""
    store: str
    """folder of the feature store"""
    view: str
    """name of the view"""
    format: Format | None = None
    """files to write. Default: by the suffix .parquet, .lance, .h5 or .hdf5"""
    entity: Entity = "clips"
    """what a row is"""
    features: tuple[str, ...] = ()
    """features to export. Default: all"""
    columns: tuple[str, ...] = ()
    """columns of the catalog to export. Default: all; hdf5 has none"""
    dtype: Floats | None = None
    """dtype of all features; int8 is dequantised. Default: as stored, int8 with its float16 scales"""
    license: str = UNKNOWN_LICENSE
    """license of the features, for the dataset card"""
    layout: Layout | None = None
    """hdf5 only. clips: one dataset per clip, named by its key (one group per clip for several features); rows: one
    dataset per feature, and the keys in dataset `key`. Default: clips"""


@dataclass(frozen=True)
class ImportOptions:
    """Copy features from Parquet, Lance or HDF5 files into a view.

    Other columns than key and features become metadata of new clips; those that do not are listed. A second run copies
    only what is missing. Rows that cannot be read, or do not fit, are recorded as failed with the reason; exit status 1
    if there are any."""

    path: str
    """file or folder to read"""
    store: str
    """folder of the feature store; created if missing"""
    view: str
    """name of the view; created if missing"""
    format: Readable | None = None
    """files to read. Default: by suffix and content"""
    encoder: str | None = None
    """provenance: name of the frozen encoder that computed the features. Default, as of the next four: what the files
    say, if store export wrote them"""
    weights_sha256: str | None = None
    """provenance: sha256, in hex, of the encoder's weights"""
    layer: str | None = None
    """provenance: the layer whose output the features are"""
    frames: str | None = None
    """provenance: how frames were sampled, `none` for texts"""
    crop: str | None = None
    """provenance: how frames were resized and cropped"""
    entity: Entity = "clips"
    """what a row is"""
    features: tuple[str, ...] = ()
    """features of the view, each NAME or NAME=COLUMN (hdf5: NAME=DATASET). Default: all columns of lists of floats;
    hdf5: all datasets of floats in layout rows, and in layout clips `tokens`, or `embedding` if it has one axis"""
    columns: tuple[str, ...] = ()
    """columns to take as metadata of new rows; hdf5 has none. Default: all that are no lists of numbers"""
    keys: str | None = None
    """column or dataset of the rows' keys. Default: `key`, or the only one of texts"""
    layout: Layout | None = None
    """hdf5 only. clips: one dataset or group per clip; rows: datasets of rows. Default: rows if a dataset of texts
    exists"""
    group: str = "/"
    """hdf5 only: group of the file to read"""
    dtype: Dtype | None = None
    """dtype of the largest feature. Default: float16 and int8 with scales remain, other floats become float32"""
    retry_failed: bool = False
    """retry rows that failed before"""
    wait: bool = False
    """wait while another run writes into the store, instead of failing"""


@dataclass(frozen=True)
class Hdf5ImportOptions:
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
class Hdf5ExportOptions:
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
