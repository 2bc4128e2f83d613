"""Export of the finished rows of a view to an HDF5 file.

Guarantees
- float16 and float32 keep every bit; int8 is exported dequantised, or as stored with its scale
- an exported file appears whole or not at all, and replaces no other
- an export holds the rows of one block in memory, and copies no damaged row
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Int64

from common.errors import StepDiffError
from common.io.local import LocalPath
from common.progress import progress
from store.exchange.card import make_card
from store.exchange.options import UNKNOWN_LICENSE, Hdf5ExportOptions
from store.feature_store import Store
from store.format.quantise import BLOCK
from store.provenance import Feature
from store.view import OK, View

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
    dataset: str
    """of the first feature; in layout `clips` of the first row"""


def export_hdf5(options: Hdf5ExportOptions, license: str = UNKNOWN_LICENSE) -> Exported:
    """Write the file. StepDiffError where the view lacks a feature, or the file cannot be written."""
    path = Path(options.path)
    if path.exists():
        raise StepDiffError(f"{path} exists already: remove it, or give another name")
    store = Store.open(options.store)
    view = store.view(options.entity, options.view, check="always")
    arrays = _arrays(view, options)
    status = view.status()
    rows = np.flatnonzero(status == OK)
    forms = {name: Feature(shape, dtype) for name, (shape, dtype) in arrays.items()}
    card = make_card(store, view, status == OK, "hdf5", forms, {}, license, -(-len(status) // view.rows_per_shard) or 1)
    a_row = sum(np.dtype(dtype).itemsize * int(np.prod(shape)) + _HEADER_BYTES for shape, dtype in arrays.values())
    with _whole(path, len(rows) * a_row) as file, progress(f"export of {view.name}", len(rows)) as advance:
        grouped = options.layout == "clips" and len(arrays) > 1
        file.attrs["features"] = [f"{name}={name}" if grouped else name for name in arrays]  # for import-hdf5
        file.attrs["layout"] = options.layout
        file.attrs["provenance"] = json.dumps(view.provenance.as_dict())
        if options.raw:
            file.attrs["channels_per_scale"] = BLOCK
        dataset = next(name for name in arrays if name != SCALE or not options.raw)
        if options.layout == "clips":
            dataset = "/".join([*view.catalog.keys(rows[:1]), *([dataset] if grouped else [])])
        file.attrs["card"] = replace(card, store="").as_json()
        file.attrs["readme"] = card.readme(path.name, dataset=dataset)
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
        dataset=dataset,
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
    if KEYS in arrays:
        raise StepDiffError(f"feature {KEYS} has the name of the dataset of keys: give --layout clips")
    texts = file.create_dataset(KEYS, (count,), h5py.string_dtype())
    datasets = {name: file.create_dataset(name, (count, *shape), dtype) for name, (shape, dtype) in arrays.items()}
    start = 0
    for keys, values in blocks:
        end = start + len(keys)
        _check_no_nul(keys)
        texts[start:end] = keys
        for name, dataset in datasets.items():
            dataset[start:end] = values[name]
        start = end


def _write_clips(file: h5py.File, arrays: Arrays, count: int, blocks: Iterator[Block]) -> None:
    for keys, values in blocks:
        _check_no_nul(keys)
        for at, key in enumerate(keys):
            if any(part in ("", ".") for part in key.split("/")):
                raise StepDiffError(f"key {key!r} cannot be the name of an HDF5 dataset: give --layout rows")
            for name, array in values.items():
                try:
                    file.create_dataset(f"{key}/{name}" if len(arrays) > 1 else key, data=array[at])
                except (ValueError, TypeError, KeyError) as error:  # `a` is a clip, and so is `a/b`
                    raise StepDiffError(f"key {key!r} is a group of other clips in HDF5: give --layout rows") from error


def _check_no_nul(keys: list[str]) -> None:
    for key in keys:
        if "\0" in key:
            raise StepDiffError(f"key {key!r} holds NUL, where texts and names of HDF5 end: give --format parquet")


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
