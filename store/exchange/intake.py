"""Import of features from Parquet, Lance or HDF5 files into a view.

Files may come from strangers: whatever leads out of the file or folder that was given is refused
before anything is read through it, symbolic links here, base paths in `store.exchange.readers`,
links of HDF5 in `store.exchange.hdf5`.

Guarantees
- an import reads, and requests, nothing outside the file or folder that was given
- an import that was killed resumes, and ends with the same arrays as an uninterrupted one
- a row that does not fit fails alone, with the reason; float16, float32 and int8 with scales keep
  every bit
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int64

from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import refuse_links_out
from stepdiff_core.progress import progress
from store.catalog.catalog import Catalog, are_forgotten, check_rows
from store.exchange.arrow import SCALE
from store.exchange.readers import FileRows, opened
from store.feature_store import Store
from store.format.quantise import dequantise, misfits, scale_shape
from store.io.writer import Values, ViewWriter
from store.provenance import Feature, Provenance, RowNumbers, with_dtype
from store.verbs.options import SUFFIXES, ImportOptions, Readable
from store.view import ABSENT, FAILED, OK

MOST_FEATURES = 100
"""of an import, which writes files of each while it holds the store's lock"""
_PROVENANCE = ("encoder", "weights_sha256", "layer", "frames", "crop")
"""options"""


def take_in(options: ImportOptions) -> dict[str, Any]:
    """Import the missing rows. StepDiffError if the files, the store or the view cannot be used.

    Returns how many rows were `asked` for, `done` by this run, there `already`, `failed` in this
    run or an earlier one, and left out because they were `forgotten`; key and reason of `failures`;
    columns that were `left_out`.
    """
    begin = time.monotonic()
    path = Path(options.path)
    refuse_links_out(path)
    format = options.format or format_of(path)
    files = opened(path, format, options.layout, options.keys, options.features, options.columns)
    _check_keys(path, files.keys)
    scales = _scales(files.kinds)
    features = {name: kind for name, kind in files.kinds.items() if name not in scales.values()}
    if len(features) > MOST_FEATURES:
        raise StepDiffError(
            f"{path} has {len(features):,} features, a view at most {MOST_FEATURES}: give "
            "--features"
        )
    if options.dtype:
        features = with_dtype(features, options.dtype)
    provenance = _provenance(path, options, features, files)
    columns = _checked_columns(files)
    store = Store.open(options.store, create=True)
    _check_fits(path, store.catalog(options.entity), columns)
    info = {"imported_from": path.name, **files.source.versions}
    with store.writer(
        options.entity, options.view, provenance, features, info=info, wait=options.wait
    ) as writer:
        view = writer.view
        rows = _add(writer, files)
        before = view.status()[rows]
        forgotten = are_forgotten(store.path, options.entity, rows)
        todo = np.isin(before, [ABSENT, FAILED] if options.retry_failed else [ABSENT]) & ~forgotten
        places = np.flatnonzero(todo)
        with progress(f"import into {options.view}", len(places)) as advance:
            _import(files, scales, writer, rows, places, advance)
    after = view.status()[rows]
    failed = rows[after == FAILED]
    return {
        "path": str(path),
        "store": str(store.path),
        "entity": options.entity,
        "view": options.view,
        "asked": len(rows),
        "done": int(((after == OK) & todo).sum()),
        "already": int((before == OK).sum()),
        "failed": len(failed),
        "forgotten": int(forgotten.sum()),
        "seconds": round(time.monotonic() - begin, 3),
        "failures": view.failures(np.sort(failed)).to_dicts() if len(failed) else [],
        "left_out": files.left_out,
    }


def format_of(path: Path) -> Readable:
    """Return the format of files, by suffix and content; StepDiffError if neither says it, or they
    do not exist."""
    if not path.exists():
        raise StepDiffError(f"{path} does not exist")
    if (path / "_versions").is_dir():
        return "lance"
    if path.is_dir() and any(path.rglob("*.parquet")):
        return "parquet"
    format = SUFFIXES.get(path.suffix.lower())
    if format is None:
        raise StepDiffError(
            f"the format of {path} is not known by its name or content: Parquet, Lance and HDF5 "
            "are imported (give --format if it is one of them); arrays of numpy enter by "
            "Store.writer (docs/guides/your-data.md)"
        )
    return format


def _scales(kinds: Mapping[str, Feature]) -> dict[str, str]:
    """Return int8 feature -> the array of its scales; StepDiffError if their shape or dtype is
    wrong."""
    scales = {name: name + SCALE for name, kind in kinds.items() if kind.dtype == "int8"}
    for name, scale in scales.items():
        shape = scale_shape(kinds[name].shape)
        if kinds[scale] != Feature(shape, "float16"):
            raise StepDiffError(
                f"{name} is int8 and {scale} are not its scales: give float16 of shape "
                f"{list(shape)}"
            )
    return scales


def _provenance(
    path: Path, options: ImportOptions, features: Mapping[str, Feature], files: FileRows
) -> Provenance:
    """Return the provenance of the view; StepDiffError if an option is missing or contradicts the
    files."""
    card = files.card
    noted: dict[str, Any] = card.provenance if card else {**files.source.noted, "dtypes": {}}
    values: dict[str, Any] = {}
    for option in _PROVENANCE:
        name, flag = option.removesuffix("_sha256"), f"--{option.replace('_', '-')}"
        value, there = getattr(options, option), noted.get(name)
        if value is None and there is None:
            raise StepDiffError(
                f"{flag} must be given: {path} does not say how its features were computed"
            )
        if None not in (value, there) and value != there:
            raise StepDiffError(
                f"{flag} {value!r} contradicts {path}, which says {there!r}: leave it out"
            )
        values[name] = there if value is None else value
    dtypes: dict[str, str] = {}
    for name, feature in features.items():
        before = noted["dtypes"].get(name, feature.dtype)
        dtypes[name] = (
            before if before.split(" ")[0] == feature.dtype else f"{feature.dtype} from {before}"
        )
    return Provenance(**values, dtypes=dtypes)


def _checked_columns(files: FileRows) -> pl.DataFrame:
    """Read the metadata once, before the store's lock is held, and return their columns without
    rows.

    Raises StepDiffError if they are damaged, or `check_rows` refuses one.
    """
    columns, first = pl.DataFrame(), 0
    for block in files.metadata():
        check_rows(block, files.where, first)
        columns, first = block.clear(), first + len(block)
    return columns


def _check_fits(path: Path, catalog: Catalog, columns: pl.DataFrame) -> None:
    """Raise StepDiffError, before anything is written, if the catalog has other types of
    columns."""
    try:
        # no row, which checks columns
        catalog.append(columns.insert_column(0, pl.Series("key", [], pl.String)))
    except StepDiffError as error:
        raise StepDiffError(
            f"{path}: {error}, or name the columns to take with --columns"
        ) from None


def _add(writer: ViewWriter, files: FileRows) -> RowNumbers:
    """Give new keys rows, with their metadata; return the row of every key."""
    if not files.columns:
        return writer.add(files.keys.to_frame())
    start = 0
    for block in files.metadata():
        writer.add(block.insert_column(0, files.keys[start : start + len(block)]))
        start += len(block)
    return writer.view.catalog.rows(files.keys)


def _import(
    files: FileRows,
    scales: Mapping[str, str],
    writer: ViewWriter,
    rows: RowNumbers,
    places: Int64[np.ndarray, " todo"],
    advance: Callable[[int], None],
) -> None:
    """Write the rows at `places` of the files; `rows` are the rows of all its keys."""
    places = places[np.argsort(rows[places])]

    def imported(some: Int64[np.ndarray, " S"]) -> tuple[Values, Mapping[int, str]]:
        here = places[np.searchsorted(rows[places], some)]
        # a float64 that overflows becomes infinity, and its row fails
        with np.errstate(over="ignore"):
            features, reasons = files.read(here)
        for name, scale in scales.items():
            levels, factors = features[name], features.pop(scale)
            reasons = misfits(name, levels, factors) | reasons
            if writer.view.features[name].dtype == "int8":
                features["scale"] = factors
            else:
                features[name] = dequantise(levels, factors)
        if reasons:
            good = np.setdiff1d(np.arange(len(here)), list(reasons))
            features = {name: values[good] for name, values in features.items()}
        return features, {int(some[at]): reason for at, reason in reasons.items()}

    writer.fill(rows[places], imported, advance)


def _check_keys(path: Path, keys: pl.Series) -> None:
    """Raise StepDiffError if keys are missing or occur twice, or `check_rows` refuses one."""
    missing = keys.is_null() | (keys == "")
    if missing.any():
        raise StepDiffError(f"{path} has no key for row {missing.arg_max()}: give every row one")
    if (repeated := keys.filter(keys.is_duplicated())).len():
        twice = repeated[0]
        first, second = (keys == twice).arg_true()[:2]
        raise StepDiffError(
            f"{path} has key {twice!r} in rows {first} and {second}: keys are unique"
        )
    check_rows(keys.to_frame(), str(path))
