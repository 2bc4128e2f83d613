"""Export of the finished rows of a view to Parquet, Lance, Hugging Face datasets, WebDataset or HDF5.

The rows of whole shards of the view are one part, a file that is written whole. The parts lie in `.unfinished/`, which
no reader looks into and which becomes `data/` when all are written (Lance: one commit at the end). Then the card is
written, and `_export.rows` is removed: an export that has it is not complete. HDF5 is one file, written whole: a killed
export to it begins again.

Guarantees
- a killed export continues, and ends with the same content
- half an export never looks whole
- an export of another view into the same folder is refused, and so is a second run at the same time
- an export of another store is refused, and so is one of another snapshot
- an export does not continue with changed metadata
- a complete export of a store that changed is refused, and so is one of which a file is missing
- a damaged row is never exported
- memory does not grow with the view, but for two bytes a row
"""

import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, get_args, runtime_checkable

import numpy as np
from jaxtyping import Bool

from common.errors import StepDiffError, some
from common.io.files import place, write_text
from common.io.local import LocalPath
from common.io.locks import locked
from common.progress import progress
from store.exchange import card as cards
from store.exchange import webdataset
from store.exchange.card import Card
from store.exchange.options import ExportOptions, Format, Hdf5ExportOptions
from store.feature_store import Store
from store.provenance import Feature
from store.view import OK, View

if TYPE_CHECKING:
    import pyarrow as pa

PART_BYTES = 256 * 2**20
"""bytes of features in a part, at most about, where a shard has fewer"""
_NAMES = {
    "parquet": "part-{:06d}.parquet",
    "huggingface": "part-{:06d}.parquet",
    "webdataset": "features-{:06d}.tar",
}
"""of the files of parts"""
_LOCK = "_export.lock"
_MOST_CARD = 64 * 2**20
_SUFFIXES: Mapping[str, Format] = {".parquet": "parquet", ".lance": "lance", ".h5": "hdf5", ".hdf5": "hdf5"}


@dataclass(frozen=True)
class Exported:
    """The content of an export."""

    path: str
    format: str
    store: str
    entity: str
    view: str
    rows: int
    failed: int
    """rows left out"""
    absent: int
    """rows left out"""
    forgotten: int
    """rows left out"""
    parts: int
    already: int
    """parts that an earlier run wrote"""
    bytes: int
    """of all files"""
    seconds: float
    how_to_open: str


@runtime_checkable
class Parts(Protocol):
    """Where the parts of an export are written."""

    def is_whole(self) -> bool:
        """Return whether all parts are written and readable as one."""

    def has(self, number: int) -> bool:
        """Return whether a part is written."""

    def write(self, number: int, batches: "Iterator[pa.RecordBatch]") -> None:
        """Write a part, whole or not at all."""

    def finish(self) -> None:
        """Make the parts readable as one."""


def export(options: ExportOptions) -> Exported:
    """Export what is missing. StepDiffError where the view lacks a feature, or the files cannot be written."""
    begin = time.monotonic()
    format = chosen_format(options)
    if place(options.path).remote:
        raise StepDiffError(f"{options.path} is not a local path: export to a folder, then copy it")
    store = Store.open(options.store)
    view = store.view(options.entity, options.view, check="always")
    if format == "hdf5":
        return _to_hdf5(view, options, begin)
    if options.layout:
        raise StepDiffError("--layout is for hdf5: leave it out")
    import _stepdiff

    _stepdiff.require("store export", "export", ("pyarrow",))
    from store.exchange import arrow

    path, names = LocalPath(options.path), options.features or None
    chosen = options.columns or _columns_there(path, view)
    schema = arrow.schema(view, names, chosen, options.dtype)
    features = arrow.stored_features(view, options.features or tuple(view.features), options.dtype)
    columns = {field.name: str(field.type) for field in schema if field.name not in (arrow.KEY, *features)}
    if format == "webdataset":
        webdataset.check_names(features)
    a_shard = view.rows_per_shard * sum(feature.row_bytes for feature in features.values())

    def make(ok: Bool[np.ndarray, " rows"], shards_per_part: int) -> Card:
        catalog = arrow.catalog_digest(view.catalog, list(columns), ok)
        return cards.make_card(
            store, view, ok, format, features, columns, options.license, shards_per_part, catalog, not options.columns
        )

    with _only_run(path):
        card, ok = _begin(path, store, view, make, max(PART_BYTES // a_shard, 1))
        already = len(card.parts)
        if ok is not None:
            parts, header = _parts(path, card, schema, features)
            already = sum(parts.is_whole() or parts.has(number) for number in range(len(card.parts)))
            with progress(f"export of {view.name}", card.rows) as advance:
                for number, (first, count) in enumerate(card.parts):
                    if parts.is_whole() or parts.has(number):
                        advance(count)
                        continue
                    start, size = first * view.rows_per_shard, card.shards_per_part * view.rows_per_shard
                    rows = start + np.flatnonzero(ok[start : start + size])
                    batches = arrow.record_batches(view, names, rows, None, list(columns), options.dtype)
                    parts.write(number, _counted(batches, count, path, advance))
            if differs := card.difference(make(ok, card.shards_per_part)):
                raise StepDiffError(f"the store changed while {path} was written ({differs}): remove it, export again")
            parts.finish()
            _check_files(path, card)
            write_text(path / cards.readme_name(format), card.readme(path.name, header))
            (path / cards.ROWS).remove()
    return Exported(
        path=options.path,
        format=format,
        store=str(view.paths.store),
        entity=view.entity,
        view=view.name,
        rows=card.rows,
        failed=card.failed,
        absent=card.absent,
        forgotten=card.forgotten,
        parts=len(card.parts),
        already=already,
        bytes=sum(path.files().values()),
        seconds=round(time.monotonic() - begin, 3),
        how_to_open=cards.how_to_open(format, options.path, next(iter(features)), len(card.parts)),
    )


def chosen_format(options: ExportOptions) -> Format:
    """Return the format of an export; StepDiffError where neither option nor suffix says it."""
    found = options.format or _SUFFIXES.get(Path(options.path).suffix.lower())
    if found is None:
        raise StepDiffError(f"the name {options.path} has no known suffix: give --format {'|'.join(get_args(Format))}")
    return found


@contextmanager
def _only_run(path: LocalPath) -> Iterator[None]:
    """Make the folder, and hold its lock: another run would remove what this one writes. HeldError names it."""
    if path.is_file():
        raise StepDiffError(f"{path} is a file: give the name of a new folder")
    path.make_folder()
    with locked(path / _LOCK, wait=False):
        try:
            yield
        finally:
            (path / _LOCK).remove()
            with suppress(OSError):  # it is empty if nothing could be exported
                path.rmdir()


def _begin(
    path: LocalPath, store: Store, view: View, make: Callable[[Bool[np.ndarray, " rows"], int], Card], count: int
) -> tuple[Card, Bool[np.ndarray, " rows"] | None]:
    """Return the card of the export in `path`, which begins or continues, and which rows it has; None: it is complete.

    The rows are fixed when the export begins: those that finish later are not part of it. `count` shards are a part of
    an export that begins. StepDiffError: `path` holds an export of another content.
    """
    try:
        there = cards.read_card((path / cards.NAME).read_whole(_MOST_CARD))
        path.remove_dead(deep=False)
        mine = cards.source(store)
        differs = cards.differences({name: getattr(there, name) for name in mine}, mine)
        complete = not (path / cards.ROWS).exists()
        ok = view.status() == OK if complete or differs else _read_rows(path / cards.ROWS, len(view.catalog))
    except FileNotFoundError:
        path.remove_dead(deep=False)
        if any(file.name not in (cards.NAME, cards.ROWS, _LOCK) for file in path.iterdir()):
            raise StepDiffError(f"{path} holds other files: give the name of a new folder") from None
        ok = view.status() == OK
        if not ok.any():
            raise StepDiffError(
                f"view {view.name} of {view.entity} has no finished rows: run featurize first"
            ) from None
        card = make(ok, count)
        data = zlib.compress(len(ok).to_bytes(8, "little") + np.packbits(ok).tobytes())
        (path / cards.ROWS).put([data], len(data))
        write_text(path / cards.NAME, card.as_json())
        return card, ok
    except StepDiffError as error:
        raise StepDiffError(f"{path} holds a damaged export ({error}): remove it and export again") from None
    if differs := differs or there.difference(make(ok, there.shards_per_part)):
        raise StepDiffError(f"{path} holds an export that differs: {differs}; give another name, or remove it")
    if complete:
        _check_files(path, there)
    return there, None if complete else ok


def _check_files(path: LocalPath, card: Card) -> None:
    """Raise StepDiffError where the files of parts that were written are gone."""
    if card.format == "lance":
        from store.exchange.lance import files_of

        files = files_of(path)
    else:
        files = [path / "data" / _NAMES[card.format].format(number) for number in range(len(card.parts))]
    if gone := [str(file) for file in files if not file.exists()]:
        raise StepDiffError(f"{some(gone, 1)} of a complete export is missing: restore it, or remove {path} and repeat")


def _columns_there(path: LocalPath, view: View) -> list[str] | None:
    """Return the columns of an export that began in `path` and that the catalog has; None where none began."""
    try:
        card = cards.read_card((path / cards.NAME).read_whole(_MOST_CARD))
    except (OSError, StepDiffError):  # which `_begin` reports
        return None
    return [name for name in card.columns if name in view.catalog.schema()]


def _read_rows(path: LocalPath, most: int) -> Bool[np.ndarray, " rows"]:
    """Return the rows of an export that began; there are at most `most`."""
    try:
        data = zlib.decompressobj().decompress(path.read_whole(_MOST_CARD), 9 + most // 8)
    except zlib.error:
        raise StepDiffError(f"{path.name} is damaged") from None
    count = int.from_bytes(data[:8], "little")
    if len(data) != 8 + -(-count // 8):
        raise StepDiffError(f"{path.name} is damaged")
    return np.unpackbits(np.frombuffer(data, np.uint8, offset=8), count=count).astype(bool)


def _parts(
    path: LocalPath, card: Card, schema: "pa.Schema", features: Mapping[str, Feature]
) -> tuple[Parts, dict[str, Any]]:
    """Return where parts are written, and more fields of the README's header."""
    schema = schema.with_metadata({"stepdiff": replace(card, parts=[], store="").as_json()})
    if card.format == "lance":
        from store.exchange.lance import Fragments

        return Fragments(path, schema, card.rows), {}
    if card.format == "webdataset":
        return Files(path, _NAMES[card.format], lambda to, some: webdataset.write_part(to, some, features)), {}
    from store.exchange import parquet

    if card.format == "parquet":
        return Files(path, _NAMES[card.format], lambda to, some: parquet.write_part(to, schema, some, features)), {}
    own, about = parquet.datasets_schema(schema, features)
    size = card.rows * sum(feature.row_bytes for feature in features.values())
    splits = [{"name": "train", "num_bytes": size, "num_examples": card.rows}]
    header = {
        "dataset_info": {**about, "splits": splits},
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/*.parquet"}]}],
    }

    def write(to: Path, some: "Iterator[pa.RecordBatch]") -> None:
        parquet.write_part(to, own, (parquet.nested(batch, own, features) for batch in some), features)

    return Files(path, _NAMES[card.format], write), header


class Files:
    """Parts that are files of one folder."""

    def __init__(self, path: LocalPath, name: str, write: "Callable[[Path, Iterator[pa.RecordBatch]], None]") -> None:
        """Open the folder of an export; `write` writes a part, whose file is `name` with its number."""
        self._whole, self._unfinished = path / "data", path / ".unfinished"
        self._name, self._write = name, write
        if not self.is_whole():
            with suppress(FileNotFoundError):  # its name in earlier versions
                (path / "data.unfinished").rename(self._unfinished)
            self._unfinished.make_folder()
            self._unfinished.remove_dead(deep=False)

    def is_whole(self) -> bool:
        """Return whether all parts are written."""
        return self._whole.is_dir()

    def has(self, number: int) -> bool:
        """Return whether a part is written."""
        return (self._unfinished / self._name.format(number)).exists()

    def write(self, number: int, batches: "Iterator[pa.RecordBatch]") -> None:
        """Write a part."""
        with (self._unfinished / self._name.format(number)).whole() as temp:
            self._write(temp, batches)

    def finish(self) -> None:
        """Give the folder of the parts its name."""
        if not self.is_whole():
            self._unfinished.rename(self._whole)


def _counted(
    batches: "Iterator[pa.RecordBatch]", count: int, path: LocalPath, advance: Callable[[int], None]
) -> "Iterator[pa.RecordBatch]":
    """Yield the batches; StepDiffError where they have other than `count` rows."""
    for batch in batches:
        yield batch
        count -= batch.num_rows
        advance(batch.num_rows)
    if count:
        raise StepDiffError(f"{count} rows were withdrawn since the export began: remove {path} and export again")


def _to_hdf5(view: View, options: ExportOptions, begin: float) -> Exported:
    """Export as `store.exchange.hdf5` does: int8 as stored unless a dtype is given."""
    from store.exchange.hdf5 import export_hdf5

    if options.columns:
        raise StepDiffError("--columns: an HDF5 export has no columns of the catalog; leave it out")
    names = options.features or tuple(view.features)
    raw = options.dtype is None and any(view.features[n].dtype == "int8" for n in names if n in view.features)
    asked = Hdf5ExportOptions(
        options.path, options.store, options.view, options.entity, options.features,
        options.layout or "clips", options.dtype, raw,
    )  # fmt: skip
    done = asdict(export_hdf5(asked, options.license))
    dataset = done.pop("dataset")
    return Exported(
        **{**done, "path": options.path},
        format="hdf5",
        parts=1,
        already=0,
        seconds=round(time.monotonic() - begin, 3),
        how_to_open=cards.how_to_open("hdf5", options.path, dataset),
    )
