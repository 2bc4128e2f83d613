"""Export of the finished rows of a view to an HDF5 file, and import of features from an HDF5 file into a view.

Guarantees
- float16 and float32 keep every bit; int8 is exported dequantised, or as stored with its scale
- an exported file appears whole or not at all, and replaces no other
- an export holds the rows of one block in memory, and copies no damaged row
- an import that was killed resumes, and ends with the same arrays as an uninterrupted one
- a clip that cannot be imported, or does not fit, is recorded as failed, and changes no other
- an import holds the keys, and the features of one shard, in memory
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import polars as pl
from jaxtyping import Int64

from common.errors import StepDiffError
from common.io.local import LocalPath
from common.progress import progress
from store.catalog.forgotten import are_forgotten
from store.exchange.card import make_card
from store.exchange.hdf5_layout import Source, opened
from store.exchange.options import UNKNOWN_LICENSE, Hdf5ExportOptions, Hdf5ImportOptions
from store.feature_store import Store
from store.format.quantise import BLOCK
from store.io.writer import Values, ViewWriter
from store.provenance import Feature, Provenance, with_dtype
from store.view import ABSENT, FAILED, OK, View

KEYS, SCALE = "key", "scale"
_BLOCK_BYTES = 64 * 2**20
_HEADER_BYTES = 1024
"""of a small dataset besides its values, and of a key, at most"""
_FLOAT16_MOST = float(np.finfo(np.float16).max)
_SHA256 = re.compile(r"[0-9a-f]{64}")

Arrays = Mapping[str, tuple[tuple[int, ...], str]]
"""array of the file -> shape of a row, dtype"""

Block = tuple[list[str], dict[str, np.ndarray]]
"""K keys, and arrays [K, ...]"""


@dataclass(frozen=True)
class Exported:
    """The content of the file."""

    path: str
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
    bytes: int
    """of the file"""


def export_hdf5(options: Hdf5ExportOptions, license: str = UNKNOWN_LICENSE) -> Exported:
    """Write the file. StepDiffError where the view lacks a feature, or the file cannot be written."""
    path = Path(options.path)
    if path.exists():
        raise StepDiffError(f"{path} exists already: remove it, or give another name")
    view = Store.open(options.store).view(options.entity, options.view, check="always")
    arrays = _arrays(view, options)
    status = view.status()
    rows = np.flatnonzero(status == OK)
    forms = {name: Feature(shape, dtype) for name, (shape, dtype) in arrays.items()}
    card = make_card(view, status == OK, "hdf5", forms, (), license, -(-len(status) // view.rows_per_shard) or 1)
    a_row = sum(np.dtype(dtype).itemsize * int(np.prod(shape)) + _HEADER_BYTES for shape, dtype in arrays.values())
    with _whole(path, len(rows) * a_row) as file, progress(f"export of {view.name}", len(rows)) as advance:
        grouped = options.layout == "clips" and len(arrays) > 1
        file.attrs["features"] = [f"{name}={name}" if grouped else name for name in arrays]  # for import-hdf5
        file.attrs["layout"] = options.layout
        file.attrs["provenance"] = json.dumps(view.provenance.as_dict())
        if options.raw:
            file.attrs["channels_per_scale"] = BLOCK
        file.attrs["card"], file.attrs["readme"] = card.as_json(), card.readme(path.name)
        write = _write_clips if options.layout == "clips" else _write_rows
        write(file, arrays, len(rows), _blocks(view, arrays, rows, advance))
    return Exported(
        path=str(path),
        store=str(view.paths.store),
        entity=view.entity,
        view=view.name,
        rows=len(rows),
        failed=card.failed,
        absent=card.absent,
        forgotten=card.forgotten,
        bytes=path.stat().st_size,
    )


def _arrays(view: View, options: Hdf5ExportOptions) -> dict[str, tuple[tuple[int, ...], str]]:
    if options.raw and options.dtype:
        raise StepDiffError("--raw writes what is stored: leave --dtype out")
    arrays = {}
    for name in options.features or tuple(view.features):
        if name not in view.features:
            raise StepDiffError(
                f"no feature {name!r} in view {view.name} of {view.entity}: it has {', '.join(view.features)}"
            )
        feature = view.features[name]
        if options.raw and feature.dtype == "int8":
            arrays[SCALE] = (view.stored[SCALE].shape, "float16")
            arrays[name] = (feature.shape, "int8")
        else:
            arrays[name] = (feature.shape, options.dtype or ("float32" if feature.dtype == "int8" else feature.dtype))
    if options.raw and SCALE not in arrays:
        raise StepDiffError(f"--raw is for int8, and no feature to export of view {view.name} is: leave it out")
    return arrays


def _blocks(
    view: View, arrays: Arrays, rows: Int64[np.ndarray, " rows"], advance: Callable[[int], None]
) -> Iterator[Block]:
    largest = max(feature.row_bytes for feature in view.stored.values())
    count = max(_BLOCK_BYTES // largest, 1)
    for start in range(0, len(rows), count):
        block = rows[start : start + count]
        keys = view.catalog.keys(block)
        values: dict[str, np.ndarray] = {}
        for name, (_, dtype) in arrays.items():
            if dtype == "int8":
                values[name], values[SCALE] = view.read_quantised(name, block)
            elif name != SCALE:
                values[name] = _values(view, name, dtype, block, keys)
        yield keys, values
        advance(len(block))


def _values(view: View, name: str, dtype: str, rows: Int64[np.ndarray, " K"], keys: list[str]) -> np.ndarray:
    stored = view.features[name].dtype
    if stored == dtype:
        return view.read(name, rows)
    values = view.read(name, rows, dtype="float32")
    if dtype == "float16" and stored == "int8":
        values = values.clip(-_FLOAT16_MOST, _FLOAT16_MOST)  # int8 * scale may be slightly larger than the original
    elif dtype == "float16":
        past = np.abs(values).reshape(len(rows), -1).max(axis=1) > _FLOAT16_MOST
        if past.any():
            key = keys[int(np.flatnonzero(past)[0])]
            raise StepDiffError(f"{name} of {key} holds a magnitude past float16: export float32")
    return values.astype(dtype, copy=False)


def _write_rows(file: h5py.File, arrays: Arrays, count: int, blocks: Iterator[Block]) -> None:
    texts = file.create_dataset(KEYS, (count,), h5py.string_dtype())
    datasets = {name: file.create_dataset(name, (count, *shape), dtype) for name, (shape, dtype) in arrays.items()}
    start = 0
    for keys, values in blocks:
        end = start + len(keys)
        texts[start:end] = keys
        for name, dataset in datasets.items():
            dataset[start:end] = values[name]
        start = end


def _write_clips(file: h5py.File, arrays: Arrays, count: int, blocks: Iterator[Block]) -> None:
    for keys, values in blocks:
        for at, key in enumerate(keys):
            if "\0" in key or any(part in ("", ".") for part in key.split("/")):
                raise StepDiffError(f"key {key!r} cannot be the name of an HDF5 dataset: give --layout rows")
            for name, array in values.items():
                try:
                    file.create_dataset(f"{key}/{name}" if len(arrays) > 1 else key, data=array[at])
                except (ValueError, TypeError, KeyError) as error:  # `a` is a clip, and so is `a/b`
                    raise StepDiffError(f"key {key!r} is a group of other clips in HDF5: give --layout rows") from error


@contextmanager
def _whole(path: Path, nbytes: int) -> Iterator[h5py.File]:
    """Yield a new HDF5 file that takes its name at the end."""
    target = LocalPath(path)
    target.parent.make_folder()
    target.parent.remove_dead(deep=False)  # of an export that was killed
    with target.whole(nbytes, new=True) as temp:
        _find_room(temp, nbytes)
        with h5py.File(temp, "w-") as file:
            yield file


def _find_room(temp: Path, nbytes: int) -> None:
    """Raise OSError where the disk has less room than `nbytes`: the HDF5 library may crash on a full disk."""
    fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.posix_fallocate(fd, 0, max(nbytes, 1))
    finally:
        os.close(fd)
        temp.unlink()


@dataclass(frozen=True)
class Imported:
    """The outcome of an import."""

    path: str
    store: str
    entity: str
    view: str
    asked: int
    """clips of the file"""
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
    """key and reason of the failed clips"""


def import_hdf5(options: Hdf5ImportOptions) -> Imported:
    """Import what is missing of a file. StepDiffError where the file, the store or the view cannot be used."""
    if not _SHA256.fullmatch(options.weights_sha256):
        raise StepDiffError(f"--weights-sha256 {options.weights_sha256!r} is not a sha256: give 64 hex digits")
    begin = time.monotonic()
    path = Path(options.path)
    with opened(path, options.group, options.layout, options.keys, options.features) as source:
        _check_keys(path, source.keys)
        features = {name: Feature(kind.shape, kind.stored) for name, kind in source.kinds.items()}
        if options.dtype:
            features = with_dtype(features, options.dtype)
        store = Store.open(options.store, create=True)
        info = {"imported_from": path.name, "h5py": h5py.version.version, "hdf5": h5py.version.hdf5_version}
        provenance = Provenance(
            encoder=options.encoder,
            weights=options.weights_sha256,
            layer=options.layer,
            frames=options.frames,
            crop=options.crop,
            dtypes={name: feature.dtype for name, feature in features.items()},
        )
        with store.writer(options.entity, options.view, provenance, features, info=info, wait=options.wait) as writer:
            view = writer.view
            rows = writer.add(pl.DataFrame({"key": source.keys}))
            before = view.status()[rows]
            todo = before == ABSENT
            if options.retry_failed:
                todo |= before == FAILED
            forgotten = are_forgotten(store.path, options.entity, rows)
            todo &= ~forgotten
            places = np.flatnonzero(todo)
            with progress(f"import into {options.view}", len(places)) as advance:
                _import(source, writer, rows, places, advance)
    after = view.status()[rows]
    failed = {source.keys[place] for place in np.flatnonzero(after == FAILED).tolist()}
    failures = view.failures() if failed else pl.DataFrame(schema={"key": pl.String, "reason": pl.String})
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
        failures=failures.filter(pl.col("key").is_in(failed)).to_dicts(),
    )


def _import(
    source: Source,
    writer: ViewWriter,
    rows: Int64[np.ndarray, " keys"],
    places: Int64[np.ndarray, " todo"],
    advance: Callable[[int], None],
) -> None:
    """Write the clips at `places` of the source; `rows` are the rows of all its clips."""
    places = places[np.argsort(rows[places])]

    def imported(some: Int64[np.ndarray, " S"]) -> tuple[Values, Mapping[int, str]]:
        here = places[np.searchsorted(rows[places], some)]
        with np.errstate(over="ignore"):  # a float64 that overflows becomes infinity, and its clip fails
            features, reasons = source.read(here)
        if reasons:
            good = np.setdiff1d(np.arange(len(here)), list(reasons))
            features = {name: values[good] for name, values in features.items()}
        return features, {int(some[at]): reason for at, reason in reasons.items()}

    writer.fill(rows[places], imported, advance)


def _check_keys(path: Path, keys: list[str]) -> None:
    places: dict[str, int] = {}
    for place, key in enumerate(keys):
        if not key:
            raise StepDiffError(f"{path} has no key for row {place}: give every row one")
        if places.setdefault(key, place) != place:
            raise StepDiffError(f"{path} has key {key!r} in rows {places[key]} and {place}: keys are unique")
