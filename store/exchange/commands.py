"""The commands `python -m store export` and `import`, and their options.

What a command runs is imported then, so that --help is fast.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stepdiff.common.cli.options import parse
from stepdiff.common.errors import some
from store.verbs.options import Dtype, Floats, OfEntity, Waiting

Format = Literal["parquet", "lance", "huggingface", "webdataset"]
Readable = Literal["parquet", "lance"]
SUFFIXES: Mapping[str, Readable] = {".parquet": "parquet", ".lance": "lance"}
UNKNOWN_LICENSE = "unknown: features inherit the licence of the videos"
_SHOWN = 10


@dataclass(frozen=True)
class ExportOptions(OfEntity):
    """Copy the finished rows of a view, with the catalog's metadata, into the files of another library.

    Failed and absent rows are left out and counted. A killed export continues with the same command, if the rows are
    the same: those of a snapshot (--store STORE@NAME) always are. A card in the result describes encoder, provenance,
    counts and how to open it."""

    path: str
    """folder to create; an existing export is not replaced"""
    store: str
    """folder of the feature store"""
    view: str
    """name of the view"""
    format: Format | None = None
    """files to write. Default: by the suffix .parquet or .lance"""
    features: tuple[str, ...] = ()
    """features to export. Default: all"""
    columns: tuple[str, ...] = ()
    """columns of the catalog to export. Default: all"""
    dtype: Floats | None = None
    """dtype of all features; int8 is dequantised. Default: as stored, int8 with its float16 scales"""
    license: str = UNKNOWN_LICENSE
    """license of the features, for the dataset card"""


@dataclass(frozen=True)
class ImportOptions(OfEntity, Waiting):
    """Copy features from Parquet or Lance files into a view.

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
    features: tuple[str, ...] = ()
    """features of the view, each NAME or NAME=COLUMN. Default: all columns of lists of floats"""
    columns: tuple[str, ...] = ()
    """columns to take as metadata of new rows. Default: all that are no lists of numbers"""
    keys: str | None = None
    """column of the rows' keys. Default: `key`, or the only one of texts"""
    dtype: Dtype | None = None
    """dtype of the largest feature. Default: float16 and int8 with scales remain, other floats become float32"""
    retry_failed: bool = False
    """retry rows that failed before"""


def export(argv: list[str]) -> int:
    """Export, and print what was written."""

    def show(done: Any) -> None:
        from store.verbs.info import readable_bytes

        left = [f"{getattr(done, name):,} {name}" for name in ("failed", "absent", "forgotten") if getattr(done, name)]
        out = f" (left out: {', '.join(left)})" if left else ""
        before = "complete already, " if done.already == done.parts else ""
        print(
            f"{done.rows:,} {done.entity} of view {done.view} in {done.path}, {before}{done.format}, "
            f"{readable_bytes(done.bytes)}{out}"
        )
        print("\n".join(f"  {line}" for line in done.how_to_open.splitlines()))

    return parse(ExportOptions, argv, "store export", None, "store.exchange.export:export", show, ("path",))


def import_(argv: list[str]) -> int:
    """Import; the exit status is 1 if any row failed."""

    def show(done: Any) -> None:
        print(
            f"{done.done:,} of {done.asked:,} {done.entity} of {done.path} imported into view {done.view} of "
            f"{done.store} in {done.seconds:.1f} s, {done.already:,} were there already, {done.failed:,} failed"
            + (f", {done.forgotten:,} were forgotten and left out" if done.forgotten else "")
        )
        if done.left_out:
            print(f"  columns left out: {some(done.left_out, _SHOWN)}")
        for failure in done.failures[:_SHOWN]:
            print(f"  {failure['key']}: {failure['reason']}")
        if done.failed > _SHOWN:
            print(f"  ... and {done.failed - _SHOWN:,} more")

    run = "store.exchange.intake:take_in"
    return parse(ImportOptions, argv, "store import", None, run, show, ("path",), lambda done: int(done.failed > 0))
