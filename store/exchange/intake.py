"""Import of features from Parquet, Lance or HDF5 files into a view.

An import reads the file that was given, or files in the folder that was given, and nothing else. Whatever makes a
reader look elsewhere is refused before anything is read through it: symbolic links out of the folder
(`refuse_links_out`), base paths of Lance (`store.exchange.lance`), external links, external storage and virtual
datasets of HDF5 (`store.exchange.hdf5_layout`).

Guarantees
- an import reads, and requests, nothing outside the file or folder that was given
- an import that was killed resumes, and ends with the same arrays as an uninterrupted one
- a row that does not fit fails alone: it is recorded with the reason
- float16, float32 and int8 with scales keep every bit
- the provenance in the files of store export is used, and one that contradicts it is refused
- an import holds the keys, and the features of one shard, in memory
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import h5py
import numpy as np
import polars as pl
from jaxtyping import Int, Int64

from common.errors import StepDiffError
from common.io.files import refuse_links_out
from common.progress import progress
from store.catalog.catalog import Catalog, check_rows
from store.catalog.forgotten import are_forgotten
from store.exchange import hdf5_layout
from store.exchange.options import Hdf5ImportOptions, ImportOptions, Readable
from store.feature_store import Store
from store.format.levels import exact_floats
from store.format.quantise import scale_shape
from store.io.writer import Values, ViewWriter
from store.provenance import Feature, Provenance, with_dtype
from store.view import ABSENT, FAILED, OK

MOST_FEATURES = 100
"""of an import, which writes files of each while it holds the store's lock"""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FIELDS = {
    "encoder": "encoder",
    "weights": "weights_sha256",
    "layer": "layer",
    "frames": "frames",
    "crop": "crop",
}
"""field of a provenance -> option"""
_SUFFIXES: Mapping[str, Readable] = {".h5": "hdf5", ".hdf5": "hdf5", ".lance": "lance", ".parquet": "parquet"}


@runtime_checkable
class Source(Protocol):
    """The rows of files."""

    @property
    def keys(self) -> Any:
        """The key of each row."""

    @property
    def kinds(self) -> Mapping[str, Feature]:
        """Shape and dtype of each array: features, and the scales of an int8 feature."""

    def read(self, places: Int[np.ndarray, " P"]) -> tuple[dict[str, np.ndarray], dict[int, str]]:
        """Return arrays of P rows, and why some of the P could not be read."""


@dataclass(frozen=True)
class Given:
    """What is imported."""

    source: Source
    metadata: Callable[[], Iterator[pl.DataFrame]] | None
    """reads that of all rows, in order; None where the files have none"""
    provenance: Provenance | None
    """of store export; None in files of others"""
    versions: dict[str, str]
    """of the libraries that read the files"""
    left_out: list[str] = field(default_factory=list)
    """columns that are neither keys, features nor metadata"""


@dataclass(frozen=True)
class Imported:
    """The outcome of an import."""

    path: str
    store: str
    entity: str
    view: str
    asked: int
    """rows of the files"""
    done: int
    """imported by this run"""
    already: int
    """imported before"""
    failed: int
    """failed in this run or an earlier one"""
    forgotten: int
    """left out, because they were forgotten"""
    seconds: float
    failures: list[dict[str, str]] = field(default_factory=list)
    """key and reason of the failed rows"""
    left_out: list[str] = field(default_factory=list)
    """columns of the files that were not taken"""


def import_hdf5(options: Hdf5ImportOptions) -> Imported:
    """Import what is missing of an HDF5 file as earlier versions did: a provenance in the file is not looked at."""
    return take_in(ImportOptions(**asdict(options), format="hdf5"), noted=False)


def take_in(options: ImportOptions, noted: bool = True) -> Imported:
    """Import what is missing. StepDiffError where the files, the store or the view cannot be used.

    Without `noted` the provenance in the files is not looked at.
    """
    if options.weights_sha256 is not None and not _SHA256.fullmatch(options.weights_sha256):
        raise StepDiffError(f"--weights-sha256 {options.weights_sha256!r} is not a sha256: give 64 hex digits")
    begin = time.monotonic()
    path = Path(options.path)
    with _opened(path, options) as given:
        source = given.source
        keys = pl.Series("key", source.keys, dtype=pl.String)
        _check_keys(path, keys)
        scales = _scales(source.kinds)
        features = {name: kind for name, kind in source.kinds.items() if name not in scales.values()}
        if len(features) > MOST_FEATURES:
            raise StepDiffError(
                f"{path} has {len(features):,} features, a view at most {MOST_FEATURES}: give --features"
            )
        if options.dtype:
            features = with_dtype(features, options.dtype)
        provenance = _provenance(path, options, features, given.provenance if noted else None)
        columns = _checked_columns(path, given.metadata)
        store = Store.open(options.store, create=True)
        _check_fits(path, store.catalog(options.entity), columns)
        info = {"imported_from": path.name, **given.versions}
        with store.writer(options.entity, options.view, provenance, features, info=info, wait=options.wait) as writer:
            view = writer.view
            rows = _add(writer, keys, given.metadata)
            before = view.status()[rows]
            todo = before == ABSENT
            if options.retry_failed:
                todo |= before == FAILED
            forgotten = are_forgotten(store.path, options.entity, rows)
            todo &= ~forgotten
            places = np.flatnonzero(todo)
            with progress(f"import into {options.view}", len(places)) as advance:
                _import(source, scales, writer, rows, places, advance)
    after = view.status()[rows]
    failed = rows[after == FAILED]
    return Imported(
        path=str(path),
        store=str(store.path),
        entity=options.entity,
        view=options.view,
        asked=len(rows),
        done=int(((after == OK) & todo).sum()),
        already=int((before == OK).sum()),
        failed=len(failed),
        forgotten=int(forgotten.sum()),
        seconds=round(time.monotonic() - begin, 3),
        failures=view.failures(np.sort(failed)).to_dicts() if len(failed) else [],
        left_out=given.left_out,
    )


def format_of(path: Path) -> Readable:
    """Return the format of files, by suffix and content; StepDiffError where neither says it, or they do not exist."""
    if not path.exists():
        raise StepDiffError(f"{path} does not exist")
    if (path / "_versions").is_dir():
        return "lance"
    if path.is_dir() and any(path.rglob("*.parquet")):
        return "parquet"
    found = _SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise StepDiffError(f"the format of {path} is not known by its name or content: give --format")
    return found


@contextmanager
def _opened(path: Path, options: ImportOptions) -> Iterator[Given]:
    refuse_links_out(path)
    format = options.format or format_of(path)
    if format == "hdf5":
        if options.columns:
            raise StepDiffError("--columns: HDF5 files have no columns of metadata; leave it out")
        with hdf5_layout.opened(path, options.group, options.layout, options.keys, options.features) as source:
            versions = {"h5py": h5py.version.version, "hdf5": h5py.version.hdf5_version}
            yield Given(_Hdf5(source), None, _noted(path, source.file), versions)
        return
    if options.layout or options.group != "/":
        raise StepDiffError("--layout and --group are for hdf5: leave them out")
    with _rows(format)(path, options.keys, options.features, options.columns) as rows:
        card = rows.layout.card
        provenance = Provenance.from_dict(card.provenance) if card else None
        yield Given(rows, rows.metadata if rows.layout.about else None, provenance, rows.versions, rows.layout.left_out)


def _rows(format: Readable) -> Any:
    """Return what opens the files of a format; only its own libraries are imported."""
    if format == "lance":
        from store.exchange.lance import lance_rows

        return lance_rows
    from store.exchange.parquet import parquet_rows

    return parquet_rows


@dataclass(frozen=True)
class _Hdf5:
    """The clips of an HDF5 file as a source."""

    source: hdf5_layout.Source

    @property
    def keys(self) -> list[str]:
        return self.source.keys

    @property
    def kinds(self) -> dict[str, Feature]:
        return {name: Feature(kind.shape, kind.stored) for name, kind in self.source.kinds.items()}

    def read(self, places: Int[np.ndarray, " P"]) -> tuple[dict[str, np.ndarray], dict[int, str]]:
        return self.source.read(places)


def _noted(path: Path, group: h5py.Group) -> Provenance | None:
    """Return the provenance that an export wrote into an HDF5 file."""
    attributes = group.file.attrs
    if "provenance" not in attributes or "layout" not in attributes:
        return None
    try:
        return Provenance.from_dict(json.loads(attributes["provenance"]))
    except (ValueError, TypeError, RecursionError, StepDiffError, *hdf5_layout.DAMAGE) as error:
        raise StepDiffError(f"the provenance in {path} is damaged ({hdf5_layout.one_line(error)})") from None


def _scales(kinds: Mapping[str, Feature]) -> dict[str, str]:
    """Return int8 feature -> the array of its scales; StepDiffError where it has none of the right shape."""
    found: dict[str, str] = {}
    for name, feature in kinds.items():
        if feature.dtype == "int8":
            shape = scale_shape(feature.shape)
            fit = [s for s in (f"{name}_scale", "scale") if s in kinds and kinds[s] == Feature(shape, "float16")]
            if not fit:
                raise StepDiffError(
                    f"{name} is int8 and has no float16 scales of shape {list(shape)}: name them in --features too, as "
                    "scale"
                )
            found[name] = fit[0]
    return found


def _provenance(
    path: Path, options: ImportOptions, features: Mapping[str, Feature], noted: Provenance | None
) -> Provenance:
    """Return the provenance of the view; StepDiffError where an option is missing or contradicts the files."""
    made = {name: getattr(options, option) for name, option in _FIELDS.items()}
    for name, value in made.items():
        flag = f"--{_FIELDS[name].replace('_', '-')}"
        there = getattr(noted, name) if noted else None
        if value is None and there is None:
            raise StepDiffError(f"{flag} must be given: {path} does not say how its features were computed")
        if value is not None and there is not None and value != there:
            raise StepDiffError(f"{flag} {value!r} contradicts {path}, which says {there!r}: leave it out")
        made[name] = there if value is None else value
    dtypes = {name: feature.dtype for name, feature in features.items()}
    for name, dtype in dtypes.items():
        before = noted.dtypes.get(name, dtype) if noted else dtype
        dtypes[name] = before if before.split(" ")[0] == dtype else f"{dtype} from {before}"
    return Provenance(**made, dtypes=dtypes)


def _checked_columns(path: Path, metadata: Callable[[], Iterator[pl.DataFrame]] | None) -> pl.DataFrame:
    """Read the metadata once, before the store's lock is held, and return their columns without rows.

    Raises StepDiffError where they are damaged, or `check_rows` refuses one.
    """
    columns, first = pl.DataFrame(), 0
    for block in metadata() if metadata else ():
        check_rows(block, str(path), first)
        columns, first = block.clear(), first + len(block)
    return columns


def _check_fits(path: Path, catalog: Catalog, columns: pl.DataFrame) -> None:
    """Raise StepDiffError, before anything is written, where the catalog has other types of columns."""
    try:
        catalog.append(columns.insert_column(0, pl.Series("key", [], pl.String)))  # no row, which checks columns
    except StepDiffError as error:
        raise StepDiffError(f"{path}: {error}, or name the columns to take with --columns") from None


def _add(
    writer: ViewWriter, keys: pl.Series, metadata: Callable[[], Iterator[pl.DataFrame]] | None
) -> Int64[np.ndarray, " keys"]:
    """Give new keys rows, with their metadata; return the row of every key."""
    if metadata is None:
        return writer.add(keys.to_frame())
    start = 0
    for block in metadata():
        writer.add(block.insert_column(0, keys[start : start + len(block)]))
        start += len(block)
    return writer.view.catalog.rows(keys)


def _import(
    source: Source,
    scales: Mapping[str, str],
    writer: ViewWriter,
    rows: Int64[np.ndarray, " keys"],
    places: Int64[np.ndarray, " todo"],
    advance: Callable[[int], None],
) -> None:
    """Write the rows at `places` of the source; `rows` are the rows of all its keys."""
    places = places[np.argsort(rows[places])]

    def imported(some: Int64[np.ndarray, " S"]) -> tuple[Values, Mapping[int, str]]:
        here = places[np.searchsorted(rows[places], some)]
        with np.errstate(over="ignore"):  # a float64 that overflows becomes infinity, and its row fails
            features, reasons = source.read(here)
        for name, scale in scales.items():
            features[name], same = exact_floats(features[name], features.pop(scale))
            for at in np.flatnonzero(~same).tolist():
                reasons.setdefault(at, f"{scale} are not scales that a store makes for these levels of {name}")
        if reasons:
            good = np.setdiff1d(np.arange(len(here)), list(reasons))
            features = {name: values[good] for name, values in features.items()}
        return features, {int(some[at]): reason for at, reason in reasons.items()}

    writer.fill(rows[places], imported, advance)


def _check_keys(path: Path, keys: pl.Series) -> None:
    """Raise StepDiffError where keys are missing or occur twice, or `check_rows` refuses one."""
    missing = keys.is_null() | (keys == "")
    if missing.any():
        raise StepDiffError(f"{path} has no key for row {missing.arg_max()}: give every row one")
    if not keys.is_unique().all():
        twice = keys.filter(keys.is_duplicated())[0]
        first, second = (keys == twice).arg_true()[:2]
        raise StepDiffError(f"{path} has key {twice!r} in rows {first} and {second}: keys are unique")
    check_rows(keys.to_frame(), str(path))
