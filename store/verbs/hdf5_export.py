"""The finished rows of a view become an HDF5 file.

Guarantees
- the file appears whole or not at all, and replaces none
- float16 and float32 keep every bit; int8 is dequantised, or written as stored with its scale
- in memory are the rows of one block
- no damaged row is copied
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Int64

from common.errors import StepDiffError
from common.io.files import make_folder, named_errors, remove_dead, sync_folder, temporary
from common.progress import progress
from store.feature_store import Store
from store.format.quantise import BLOCK
from store.verbs.options import ExportOptions
from store.view import FAILED, OK, View

KEYS, SCALE = "key", "scale"
_BLOCK_BYTES = 64 * 2**20
_HEADER_BYTES = 1024
"""what a small dataset takes beside its values, and a key, at most"""
_FLOAT16_MOST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Exported:
    """What is in the file."""

    path: str
    store: str
    entity: str
    view: str
    rows: int
    """rows of the file"""
    failed: int
    """rows left out, because they failed"""
    absent: int
    """rows left out, because they are not there yet"""
    bytes: int
    """of the file"""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def export_hdf5(options: ExportOptions) -> Exported:
    """Write the file. StepDiffError where the view has not what is asked for, or the file cannot be written."""
    path = Path(options.path)
    if path.exists():
        raise StepDiffError(f"{path} is there already: remove it, or give another name")
    view = Store.open(options.store).view(options.entity, options.view, check="always")
    arrays = _arrays(view, options)
    status = view.status()
    rows = np.flatnonzero(status == OK)
    a_row = sum(np.dtype(dtype).itemsize * int(np.prod(shape)) + _HEADER_BYTES for shape, dtype in arrays.values())
    with _whole(path, len(rows) * a_row) as file, progress(f"export of {view.name}", len(rows)) as advance:
        file.attrs["features"] = _described(arrays, options)
        file.attrs["layout"] = options.layout
        file.attrs["provenance"] = json.dumps(view.provenance.as_dict())
        if options.raw:
            file.attrs["channels_per_scale"] = BLOCK
        write = _write_clips if options.layout == "clips" else _write_rows
        write(file, arrays, len(rows), _blocks(view, arrays, rows, advance))
    return Exported(
        path=str(path),
        store=str(view.paths.store),
        entity=view.entity,
        view=view.name,
        rows=len(rows),
        failed=int((status == FAILED).sum()),
        absent=len(status) - len(rows) - int((status == FAILED).sum()),
        bytes=path.stat().st_size,
    )


Arrays = Mapping[str, tuple[tuple[int, ...], str]]
"""array of the file -> shape of a row, dtype"""

Block = tuple[list[str], dict[str, np.ndarray]]
"""K keys, and arrays [K, ...]"""


def _arrays(view: View, options: ExportOptions) -> dict[str, tuple[tuple[int, ...], str]]:
    """The arrays to export."""
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


def _described(arrays: Arrays, options: ExportOptions) -> list[str]:
    """What to tell import-hdf5 of the features, so that it finds them again."""
    grouped = options.layout == "clips" and len(arrays) > 1
    return [f"{name}={name}" if grouped else name for name in arrays]


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
    """Rows of a feature in `dtype`."""
    stored = view.features[name].dtype
    if stored == dtype:
        return view.read(name, rows)
    values = view.read(name, rows, dtype="float32")
    if dtype == "float16" and stored == "int8":
        values = values.clip(-_FLOAT16_MOST, _FLOAT16_MOST)  # int8 * scale may be a little past what was quantised
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
    """A new HDF5 file that takes its name at the end."""
    make_folder(path.parent)
    remove_dead(path.parent, deep=False)  # of an export that was killed
    temp = temporary(path.parent)
    try:
        with named_errors(path, nbytes):
            _find_room(temp, nbytes)
            with h5py.File(temp, "w-") as file:
                yield file
            fd = os.open(temp, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
            try:
                os.link(temp, path)
            except FileExistsError:
                raise StepDiffError(f"{path} was made meanwhile: remove it, or give another name") from None
            temp.unlink()
            sync_folder(path.parent)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise


def _find_room(temp: Path, nbytes: int) -> None:
    """OSError where the disk has no room for so many bytes: the HDF5 library may crash on a disk that fills up."""
    fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.posix_fallocate(fd, 0, max(nbytes, 1))
    finally:
        os.close(fd)
        temp.unlink()
